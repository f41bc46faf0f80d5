"""One batch memorized: what a model, and the run's own optimizer settings, can do on the spot."""

import math
import time
from dataclasses import dataclass

from openddpm.analysis.checks import LARGE_MODEL
from openddpm.config import TrainConfig
from openddpm.doctor.measured_checks import Fit
from openddpm.training.probe import Probe

RISE_STEPS = 5  # over which the learning rate rises from 0, as it does in a run


@dataclass(frozen=True)
class Settings:
    """What AdamW is given."""

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
    """A probe that trains on its batch, again and again."""

    def memorize_batch(self, settings: Settings, num_images: int, num_steps: int, seconds: float) -> Fit:
        """Train on the first `num_images` of the batch, from the initial weights, until steps or time run out."""
        self._reset(settings)
        losses: list[float] = []
        end = time.perf_counter() + seconds
        while len(losses) <= num_steps and (not losses or (time.perf_counter() < end and math.isfinite(losses[-1]))):
            learning_rate = settings.learning_rate * min(1.0, (len(losses) + 1) / RISE_STEPS)
            losses.append(self.step(learning_rate, settings.max_grad_norm, num_images))
        return Fit(num_images, len(losses) - 1, losses[0], losses[-1])

    def careful_settings(self) -> Settings:
        """Return settings with which any sound model learns."""
        is_large = self.parts.state.unet.num_parameters() >= LARGE_MODEL
        return Settings(2e-4 if is_large else 1e-3, (0.9, 0.99), 1e-8, 0.0, 1.0)

    def epsilon_share(self) -> float:
        """Return how long AdamW's last step was, over how long it would have been without epsilon: 1 if it is small."""
        with_epsilon = without = 0.0
        for group in self.parts.state.optimizer.param_groups:
            beta1, beta2 = group.get("betas", (0.0, 0.0))
            for parameter in group["params"]:
                entry = self.parts.state.optimizer.state.get(parameter)
                if not entry or "exp_avg_sq" not in entry:  # frozen, or Muon's, which has no epsilon
                    continue
                step = float(entry["step"] if "step" in entry else group["step"])
                mean = entry["exp_avg"] / (1 - beta1**step)
                root = (entry["exp_avg_sq"] / (1 - beta2**step)).sqrt()
                with_epsilon += float((mean / (root + group["eps"])).square().sum())
                without += float((mean / (root + 1e-12)).square().sum())
        return math.sqrt(with_epsilon / without) if without else 1.0

    def _reset(self, settings: Settings) -> None:
        """Put the initial weights back, and give AdamW `settings` and no memory of earlier steps."""
        self.undo()
        for group in self.parts.state.optimizer.param_groups:
            group.update(betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay)
