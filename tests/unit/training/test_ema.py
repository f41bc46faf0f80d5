"""The average of the weights is diffusers' own, computed in fewer passes."""

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel

from openddpm.config import TrainConfig
from openddpm.training.ema import LerpEMA, build_averages
from tiny import TINY_UNET


def _weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3, 3, 3), (7,), (), (4, 6)]
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    weights[1].requires_grad_(False)
    return weights


def test_average_is_that_of_diffusers() -> None:
    """Through warm-up and at the highest decay, averages agree to rounding; those of frozen weights are copies."""
    weights = _weights()
    options = {"decay": 0.95, "use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75, "foreach": True}
    ours, theirs = LerpEMA(weights, **options), EMAModel(weights, **options)
    generator, decays = torch.Generator().manual_seed(1), []
    for _ in range(80):
        for weight in weights:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        ours.step(weights)
        theirs.step(weights)
        assert (ours.cur_decay_value, ours.optimization_step) == (theirs.cur_decay_value, theirs.optimization_step)
        decays.append(ours.cur_decay_value)
        torch.testing.assert_close(ours.shadow_params, theirs.shadow_params, rtol=1e-6, atol=1e-6)
        assert torch.equal(ours.shadow_params[1], weights[1])
    assert decays[0] == 0.0 and decays[-1] == 0.95
    assert not torch.allclose(ours.shadow_params[0], weights[0])


def test_average_of_frozen_weights_alone() -> None:
    """Where no weight is trained, all averages are copies; where all are, there is nothing to copy."""
    for is_trained in (False, True):
        weights = [weight.requires_grad_(is_trained) for weight in _weights()]
        ema = LerpEMA(weights, foreach=True)
        for weight in weights:
            weight.data += 1
        ema.step(weights)  # its decay is 0
        assert all(torch.equal(average, weight) for average, weight in zip(ema.shadow_params, weights, strict=True))


def test_a_run_averages_as_its_options_say() -> None:
    """Decay and warm-up are those asked for; without EMA there is no average."""
    unet = UNet2DModel(sample_size=8, **TINY_UNET)
    config = TrainConfig(ema_max_decay=0.6, ema_inv_gamma=2.0, ema_power=0.5)
    options = {"decay": 0.6, "use_ema_warmup": True, "inv_gamma": 2.0, "power": 0.5, "foreach": True}
    averages = build_averages(config, unet)
    ours, theirs = vars(averages["ema"]), vars(EMAModel(unet.parameters(), **options))
    assert len(ours.pop("shadow_params")) == len(theirs.pop("shadow_params"))
    assert (list(averages), ours) == (["ema"], theirs)
    assert build_averages(TrainConfig(use_ema=False), unet) == {}
