"""Memorizing one batch: a quick test of a model and of the run's optimizer settings."""

import math
import time
from dataclasses import dataclass

from openddpm.analysis.checks import LARGE_MODEL
from openddpm.config import TrainConfig
from openddpm.doctor.measured_checks import Fit
from openddpm.training.probe import Probe

WARMUP_STEPS = 5  # the learning rate rises over these from 0, as in a run


@dataclass(frozen=True)
class Settings:
    """Optimizer settings of a trial, at the peak of the learning rate."""

    learning_rate: float
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    max_grad_norm: float


def own_settings(config: TrainConfig) -> Settings:
    """Return the optimizer settings of a run, at the peak of its learning rate."""
    betas = (config.adam_beta1, config.adam_beta2)
    return Settings(config.learning_rate, betas, config.adam_epsilon, config.adam_weight_decay, config.max_grad_norm)


class MemorizingProbe(Probe):
    """A probe that trains on its batch repeatedly."""

    def memorize_batch(self, settings: Settings, num_images: int, num_steps: int, seconds: float) -> Fit:
        """Train on the first `num_images` of the batch, from the initial weights, for `num_steps` or `seconds`."""
        self._reset(settings)
        losses: list[float] = []
        end = time.perf_counter() + seconds
        while len(losses) <= num_steps and (not losses or (time.perf_counter() < end and math.isfinite(losses[-1]))):
            learning_rate = settings.learning_rate * min(1.0, (len(losses) + 1) / WARMUP_STEPS)
            losses.append(self.step(learning_rate, settings.max_grad_norm, num_images))
        return Fit(num_images, len(losses) - 1, losses[0], losses[-1])

    def careful_settings(self) -> Settings:
        """Return settings that work for any sound model."""
        is_large = self.parts.state.unet.num_parameters() >= LARGE_MODEL
        return Settings(2e-4 if is_large else 1e-3, (0.9, 0.99), 1e-8, 0.0, 1.0)

    def epsilon_share(self) -> float:
        """Return the length of AdamW's last step over its length without epsilon: about 1 for a small epsilon."""
        with_epsilon = without = 0.0
        for group in self.parts.state.optimizer.param_groups:
            beta1, beta2 = group.get("betas", (0.0, 0.0))
            for parameter in group["params"]:
                entry = self.parts.state.optimizer.state.get(parameter)
                if not entry or "exp_avg_sq" not in entry:  # frozen, or updated by Muon, which has no epsilon
                    continue
                step = float(entry["step"] if "step" in entry else group["step"])
                mean = entry["exp_avg"] / (1 - beta1**step)
                root = (entry["exp_avg_sq"] / (1 - beta2**step)).sqrt()
                with_epsilon += float((mean / (root + group["eps"])).square().sum())
                without += float((mean / (root + 1e-12)).square().sum())
        return math.sqrt(with_epsilon / without) if without else 1.0

    def _reset(self, settings: Settings) -> None:
        """Restore the initial weights, clear the optimizer's state and give it `settings`."""
        self.undo()
        for group in self.parts.state.optimizer.param_groups:
            group.update(betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay)
