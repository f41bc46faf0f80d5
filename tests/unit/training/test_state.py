"""The training state: what a checkpoint holds of it, and that it comes back."""

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.training.ema import build_averages
from openddpm.training.optimizer import build_optimizer
from openddpm.training.state import NotFinite, Tensors, TrainingState
from threads_as_processes import by_all

ALONE: Any = SimpleNamespace(gather=lambda tensor: tensor)


def state(optimizer: str = "adamw", seed: int = 0, scaler: Any = None, **options: Any) -> TrainingState:
    """Return the state of a run that begins, with a small network that has buffers too in place of its UNet."""
    torch.manual_seed(seed)
    unet: Any = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3), torch.nn.BatchNorm2d(16))
    unet.to(memory_format=torch.channels_last)
    config = TrainConfig(optimizer=optimizer, learning_rate=1e-2, **options)
    averages, optimizer_of_run = build_averages(config, unet), build_optimizer(unet, config)
    return TrainingState(unet, averages, optimizer_of_run, scaler, 0, 0, 0.0, torch.zeros(()), 0)


def train(run: TrainingState, steps: int) -> None:
    """Train for some steps by made-up gradients, which the step decides."""
    for _ in range(steps):
        generator = torch.Generator().manual_seed(run.step)
        for parameter in run.unet.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        run.optimizer.step()
        run.step, run.images_seen, run.wall_seconds = run.step + 1, run.images_seen + 4, run.wall_seconds + 0.5
        run.loss_sum += 0.25
        run.steps_since_log = run.step % 3
        for average in run.averages.values():
            average.step(run.unet.parameters())
        for buffer in run.unet.buffers():
            buffer += 1


def on_disk(run: TrainingState) -> tuple[Tensors, dict[str, Any]]:
    """Return tensors and scalars as a checkpoint would have them."""
    tensors = {
        stem: {name: tensor.detach().clone().contiguous() for name, tensor in content.items()}
        for stem, content in run.tensors().items()
    }
    return tensors, json.loads(json.dumps(run.scalars(ALONE)))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_restored_run_goes_on_as_it_would_have(optimizer: str) -> None:
    """All comes back, into memory of its own in the layout of the weights; the next steps are the same to the bit."""
    run, restored = state(optimizer), state(optimizer, seed=1)
    assert not run.evaluation_due
    train(run, 5)
    run.evaluation_due = True
    tensors, scalars = on_disk(run)
    assert list(tensors) == ["ema", "unet", "optimizer"]
    assert list(tensors["unet"]) == list(tensors["ema"]) == [*dict(run.unet.named_parameters()), *_buffers(run)]
    assert scalars == {
        **{"images_seen": 20, "step": 5, "wall_seconds": 2.5, "loss_sums": [1.25], "steps_since_log": 2},
        **{"evaluation_due": True, "optimizer_steps": [None] if optimizer == "adamw" else [5, 5], "scaler": None},
    }
    given = copy.deepcopy(tensors)
    restored.restore(given, scalars)
    for tensor, own in zip(_all(given), _all(restored.tensors()), strict=True):
        assert tensor.data_ptr() != own.data_ptr()
    weight = restored.unet[0].weight  # type: ignore[index]
    for values in restored.optimizer.state[weight].values():
        assert values.shape != weight.shape or values.stride() == weight.stride()
    train(run, 2)
    train(restored, 2)
    assert on_disk(run)[1] == on_disk(restored)[1]
    for ours, theirs in zip(_all(run.tensors()), _all(restored.tensors()), strict=True):
        assert torch.equal(ours, theirs)


def test_a_run_without_a_step_comes_back() -> None:
    """Muon, which counts its steps from the first on, goes on from none."""
    run, restored = state("muon"), state("muon", seed=1)
    restored.restore(*on_disk(run))
    train(run, 1)
    train(restored, 1)
    assert all(map(torch.equal, _all(run.tensors()), _all(restored.tensors())))


def _buffers(run: TrainingState) -> list[str]:
    return list(dict(run.unet.named_buffers()))


def _all(tensors: Tensors) -> list[torch.Tensor]:
    return [tensor for content in tensors.values() for tensor in content.values()]


def test_a_checkpoint_of_other_averages_is_refused() -> None:
    """A run without EMA does not take up one with it."""
    with pytest.raises(UserError) as caught:
        state(use_ema=False).restore(*on_disk(state()))
    assert caught.value.found == "the checkpoint has ema, unet, optimizer; the run keeps unet, optimizer"


def test_each_process_has_its_loss_back() -> None:
    """A checkpoint holds the sums of all processes; where they are more or fewer later, each has the mean."""

    def summed(process: Any) -> Any:
        run = state()
        run.loss_sum += 1.0 + 2 * process.process_index
        return run.scalars(process)["loss_sums"]

    assert by_all(2, summed) == [[1.0, 3.0]] * 2
    run = state()
    tensors, scalars = on_disk(run)
    scalars["loss_sums"] = [1.0, 3.0]
    for place, expected in (((0, 2), 1.0), ((1, 2), 3.0), ((3, 4), 2.0), ((), 2.0)):
        run.restore(tensors, scalars, *place)
        assert run.loss_sum.item() == expected


def test_the_loss_scale_comes_back_where_both_have_one() -> None:
    """A run that scales its loss goes on at the scale it had; one that never did begins at its own."""
    scaled, plain = (state(scaler=torch.amp.GradScaler("cpu", init_scale=8.0)), state())
    tensors, scalars = on_disk(scaled)
    assert scalars["scaler"]["scale"] == 8.0
    plain.restore(tensors, scalars)
    other = state(scaler=torch.amp.GradScaler("cpu", init_scale=2.0))
    other.restore(tensors, {**scalars, "scaler": None})
    assert other.scaler is not None and other.scaler.get_scale() == 2.0
    other.restore(tensors, scalars)
    assert other.scaler.get_scale() == 8.0


def test_what_is_not_finite_is_told() -> None:
    """The error says what, at which step, and whether the run may go back."""
    error = NotFinite("found", "hint", "loss", 3, may_go_back=True)
    assert (error.found, error.hint, error.what, error.step, error.may_go_back) == ("found", "hint", "loss", 3, True)
