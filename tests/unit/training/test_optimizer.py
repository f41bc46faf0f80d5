"""Optimizers, the learning rate, and the weights that training begins with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from torch.utils._python_dispatch import TorchDispatchMode

from openddpm.config import TrainConfig
from openddpm.diffusion.unet import zero_residuals
from openddpm.errors import UserError
from openddpm.record.schema import Resumption
from openddpm.training.loop import fit
from openddpm.training.optimizer import build_optimizer, learning_rate_schedule
from openddpm.training.setup import prepare
from tiny import TINY_UNET, differing, exact_metrics, newest_tensors, tiny_config, tiny_images

WIDE_UNET = {**TINY_UNET, "sample_size": 8, "block_out_channels": [16, 32]}
ADAM = {"learning_rate": 0.5, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_weight_decay": 0.03, "adam_epsilon": 1e-5}


@pytest.mark.parametrize(("device", "is_fused"), [("cpu", True), ("cuda", True), ("mps", False)])
def test_adamw_has_the_options(device: str, is_fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW is given all that was asked for, and is fused where torch has that."""
    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, **options: (list(parameters), options))
    weight = SimpleNamespace(device=torch.device(device))
    unet: Any = SimpleNamespace(parameters=lambda: iter([weight]))
    options = {"lr": 0.5, "betas": (0.8, 0.9), "weight_decay": 0.03, "eps": 1e-5, "fused": is_fused}
    assert build_optimizer(unet, TrainConfig(**ADAM)) == ([weight], options)


def test_muon_has_the_options() -> None:
    """Both kinds of weights have one learning rate and weight decay; the rest is AdamW's; no kind is there in vain."""
    groups = build_optimizer(UNet2DModel(**WIDE_UNET), TrainConfig(optimizer="muon", **ADAM)).param_groups
    shared = {"lr": 0.5, "weight_decay": 0.03}
    expected: list[dict[str, Any]] = [
        {**shared, "use_muon": True, "use_adjusted_lr": True},
        {**shared, "use_muon": False, "betas": (0.8, 0.9), "eps": 1e-5},
    ]
    assert [{key: group[key] for key in kind} for group, kind in zip(groups, expected, strict=True)] == expected
    unet: Any = torch.nn.Linear(3, 3)
    assert [group["use_muon"] for group in build_optimizer(unet, TrainConfig(optimizer="muon")).param_groups] == [False]


def test_the_learning_rate_follows_from_the_step() -> None:
    """It warms up, falls as asked for to 0 at the end, and is lower from each rollback on, by the factors of all."""
    options = TrainConfig(learning_rate=0.8, lr_scheduler="linear", lr_warmup_steps=4)
    resumptions = [Resumption(step=step, time="", learning_rate_factor=0.5) for step in (6, 8)]
    learning_rate_at = learning_rate_schedule(options, 12, resumptions)
    expected = [0.0, 0.2, 0.4, 0.6, 0.8, 0.7, 0.6 / 2, 0.5 / 2, 0.4 / 4, 0.3 / 4, 0.2 / 4, 0.1 / 4, 0.0]
    assert [learning_rate_at(step) for step in range(13)] == pytest.approx(expected)


def test_muon_takes_all_weights_once() -> None:
    """Muon steps along matrices, AdamW along the rest, and every weight belongs to one of them."""
    unet = UNet2DModel(**WIDE_UNET)
    optimizer = build_optimizer(unet, TrainConfig(optimizer="muon", learning_rate=1e-3))
    groups = {group["use_muon"]: group["params"] for group in optimizer.param_groups}
    names = {id(parameter): name for name, parameter in unet.named_parameters()}
    assert sorted(names[id(p)] for group in groups.values() for p in group) == sorted(names.values())
    by_muon = {names[id(parameter)] for parameter in groups[True]}
    assert "mid_block.resnets.0.conv1.weight" in by_muon and "conv_in.weight" in by_muon
    assert not any("norm" in name or name.endswith("bias") or "conv_out" in name for name in by_muon)


def test_muon_steps_are_orthogonal(tmp_path: Path) -> None:
    """After a step of Muon the change of a matrix has singular values that are all alike, AdamW's not."""
    spreads = {}
    for name in ("muon", "adamw"):
        torch.manual_seed(0)
        unet = UNet2DModel(**WIDE_UNET)
        weight = unet.mid_block.resnets[0].conv1.weight
        before = weight.detach().clone()
        optimizer = build_optimizer(unet, TrainConfig(optimizer=name, learning_rate=1e-2, adam_weight_decay=0.0))
        (unet(torch.randn(4, 3, 8, 8), torch.arange(4)).sample - 1).square().mean().backward()
        optimizer.step()
        values = torch.linalg.svdvals((weight.detach() - before).flatten(1))
        spreads[name] = float(values[0] / values[-1])
    assert spreads["muon"] < 3 < spreads["adamw"]


def test_muon_computes_in_float32_on_a_cpu() -> None:
    """No part of a step of Muon is in half precision, which a CPU may have no units for; each is that of float64."""
    unet = UNet2DModel(**WIDE_UNET)
    before = {name: parameter.detach().double() for name, parameter in unet.named_parameters()}
    optimizer = build_optimizer(unet, TrainConfig(optimizer="muon", learning_rate=1.0, adam_weight_decay=0.0))
    for parameter in unet.parameters():
        parameter.grad = torch.randn_like(parameter)
    half = _HalfPrecision()
    with half:
        optimizer.step()
    assert half.operations == []
    shapes = set()
    for parameter in optimizer.param_groups[0]["params"]:
        name = next(name for name, one in unet.named_parameters() if one is parameter)
        step = (before[name] - parameter.detach().double()).flatten(1)
        shapes.add((step.shape[0] > step.shape[1], step.shape[0] < step.shape[1]))
        momentum = parameter.grad.double().flatten(1)  # Nesterov's is a multiple of the gradient at the first step
        expected = 0.2 * max(step.shape) ** 0.5 * zero_power_via_newton_schulz_5(momentum, dtype=torch.float64)
        torch.testing.assert_close(step, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert len(shapes) == 3  # tall, wide and square


class _HalfPrecision(TorchDispatchMode):
    """Notes operations that give bfloat16 or float16."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(one, torch.Tensor) and one.dtype in (torch.bfloat16, torch.float16) for one in _flat(result)):
            self.operations.append(str(func))
        return result


def _flat(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (list, tuple)) else [result]


def test_muon_resumes_to_the_bit(tmp_path: Path) -> None:
    """A run by Muon that ends early and goes on has the losses and tensors of one left alone, steps counted on."""
    torch.set_num_threads(1)
    options = {"optimizer": "muon", "zero_init_residuals": True, "checkpointing_steps": 5, "lr_scheduler": "constant"}
    fit(prepare(tiny_config(tmp_path, "whole", **options), dataset=tiny_images()))
    fit(prepare(tiny_config(tmp_path, "parts", **options, max_train_steps=5), dataset=tiny_images()))
    going_on = {"resume_from_checkpoint": "latest", "accept_changes": True}
    fit(prepare(tiny_config(tmp_path, "parts", **options, **going_on), dataset=tiny_images()))
    assert differing(newest_tensors(tmp_path / "whole"), newest_tensors(tmp_path / "parts")) == []
    assert exact_metrics(tmp_path / "whole") == exact_metrics(tmp_path / "parts")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_in_channels_last_resume_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    """Moments come back in the order of memory that weights have, whatever that is."""

    def train(name: str, **options: Any) -> None:
        torch.manual_seed(0)
        unet = UNet2DModel(**{**WIDE_UNET, "dropout": 0.0}).to(memory_format=torch.channels_last)
        config = tiny_config(tmp_path, name, optimizer=optimizer, lr_scheduler="constant", **options)
        fit(prepare(config, dataset=tiny_images(), unet=unet))

    torch.set_num_threads(1)
    train("whole")
    train("parts", max_train_steps=5)
    train("parts", resume_from_checkpoint="latest", accept_changes=True)
    assert differing(newest_tensors(tmp_path / "whole"), newest_tensors(tmp_path / "parts")) == []


def test_a_given_unet_keeps_its_weights(tmp_path: Path) -> None:
    """Zeroed residual blocks are refused for a UNet that is given, rather than asked for and not made."""
    config = tiny_config(tmp_path, zero_init_residuals=True)
    with pytest.raises(UserError, match="zero_init_residuals does not apply to a UNet"):
        prepare(config, dataset=tiny_images(), unet=UNet2DModel(**WIDE_UNET))


def test_zeroed_residuals_add_nothing() -> None:
    """At first the prediction is 0 whatever comes in, each residual block passes on what it gets, and all can learn."""
    unet = UNet2DModel(**{**WIDE_UNET, "dropout": 0.0})
    zero_residuals(unet)
    noisy, time = torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    assert unet(noisy, time).sample.abs().max() == 0
    hidden = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(unet.mid_block.resnets[0](hidden, torch.randn(2, 64)), hidden)
    torch.testing.assert_close(unet.mid_block.attentions[0](hidden), hidden)
    optimizer = torch.optim.SGD(unet.parameters(), lr=0.1)
    for _ in range(3):
        (unet(noisy, time).sample - noisy).square().mean().backward()
        optimizer.step()
    still = [name for name, parameter in unet.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert [name for name in still if not name.endswith("to_k.bias")] == []  # which softmax ignores


@pytest.mark.parametrize("zeroed", [True, False])
def test_the_option_decides(tmp_path: Path, zeroed: bool) -> None:
    """A run begins with zeroed residual blocks only where it was asked to."""
    training = prepare(tiny_config(tmp_path, zero_init_residuals=zeroed), dataset=tiny_images())
    training.close()
    assert bool(training.state.unet.conv_out.weight.any()) is not zeroed
