"""Averages of the weights: diffusers' EMAModel, with an update in one pass over memory."""

from collections.abc import Callable, Iterable

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel

from openddpm.config import TrainConfig, average_names
from openddpm.record.schema import weights_in_order


def build_averages(config: TrainConfig, unet: UNet2DModel) -> dict[str, EMAModel]:
    """Return the averages that a run keeps, by name, the one that is exported first."""
    return {name: _average(config, unet.parameters()) for name in weights_in_order(average_names(config.model_dump()))}


def decay_schedule(config: TrainConfig) -> Callable[[int], float]:
    """Return the decay of the exported average as a function of the number of steps taken."""
    return _average(config, []).get_decay


def _average(config: TrainConfig, parameters: Iterable[torch.nn.Parameter]) -> EMAModel:
    options = {"decay": config.ema_max_decay, "inv_gamma": config.ema_inv_gamma, "power": config.ema_power}
    return LerpEMA(parameters, use_ema_warmup=True, foreach=True, **options)


class LerpEMA(EMAModel):  # type: ignore[misc]  # diffusers has no types
    """EMAModel with a `step` that interpolates in place, where the library makes a third copy of the weights.

    Both compute average + (1 - decay) * (weight - average), and are equal up to rounding. All else is inherited.
    """

    @torch.no_grad()
    def step(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Update the averages of trained parameters; copy the frozen ones."""
        parameters = list(parameters)
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        pairs = list(zip(self.shadow_params, parameters, strict=True))
        trained = [pair for pair in pairs if pair[1].requires_grad]
        frozen = [pair for pair in pairs if not pair[1].requires_grad]
        if trained:
            averages, weights = zip(*trained, strict=True)
            torch._foreach_lerp_(averages, weights, weight=1 - self.cur_decay_value)
        if frozen:
            averages, weights = zip(*frozen, strict=True)
            torch._foreach_copy_(averages, weights, non_blocking=True)
