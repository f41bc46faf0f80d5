"""Steps of the real training, taken on the spot: to time them, to fit memory, to learn one batch by heart."""

import math
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

from openddpm.analysis.measured_checks import Fit
from openddpm.config import TrainConfig
from openddpm.training.loop import micro_batch_loss
from openddpm.training.run import StepParts
from openddpm.training.speed import run_as_it_is

TIMING_SECONDS, TIMING_STEPS = 5.0, 20  # at most, after the first step
LARGE_MODEL = 10_000_000  # weights; assumed: beyond it the careful learning rate is the lower one
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


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Tell whether a step failed for want of memory, of a device or of this machine."""
    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error))


class Probe:
    """Takes steps on the micro-batch at which a run stands, which stays the same: images, noise, timesteps, dropout.

    Weights are put aside on the CPU, where they take no memory from the steps; `undo` brings them back.
    """

    def __init__(self, parts: StepParts) -> None:
        self._parts = parts
        self._num_images = parts.config.train_batch_size
        weights = parts.state.raw_weights().items()
        self._initial = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights}
        self._scaler: dict[str, Any] = parts.state.scaler.state_dict() if parts.state.scaler else {}

    def fit_memory(self) -> int | None:
        """Return the largest divisor of the batch size that fits into memory, and go on with it; None if none does."""
        for num_images in (n for n in range(self._num_images, 0, -1) if self._num_images % n == 0):
            if self._fits(num_images):
                self._num_images = num_images
                return num_images
        return None

    def seconds_a_step(
        self, num_micro_batches: int = 1, most_seconds: float = TIMING_SECONDS, most_steps: int = TIMING_STEPS
    ) -> float:
        """Return the median time of a step, of one step only where that takes long. Changes no weight.

        A collective call: all processes take as many steps, and return the time of the slowest.
        """
        first = self._of_the_slowest(self._timed_step(num_micro_batches))
        if first > most_seconds:
            return first
        timed: list[float] = []
        for _ in range(min(most_steps, max(1, int(most_seconds / first)))):
            timed.append(self._timed_step(num_micro_batches))
        return self._of_the_slowest(statistics.median(timed))

    def undo(self) -> None:
        """Leave the state as before the first step: weights, and an optimizer and a scaler that have seen nothing."""
        state = self._parts.state
        with torch.no_grad():
            for name, tensor in state.raw_weights().items():
                tensor.copy_(self._initial[name])
        state.optimizer.state.clear()
        for group in state.optimizer.param_groups:
            group.pop("step", None)
        if state.scaler is not None:
            state.scaler.load_state_dict(self._scaler)

    def learn_by_heart(self, settings: Settings, num_images: int, num_steps: int, seconds: float) -> Fit:
        """Train on the first `num_images` of the batch, from the initial weights, until steps or time run out."""
        self._reset(settings)
        losses: list[float] = []
        end = time.perf_counter() + seconds
        while len(losses) <= num_steps and (not losses or (time.perf_counter() < end and math.isfinite(losses[-1]))):
            learning_rate = settings.learning_rate * min(1.0, (len(losses) + 1) / RISE_STEPS)
            losses.append(self._step(learning_rate, settings.max_grad_norm, num_images))
        return Fit(num_images, len(losses) - 1, losses[0], losses[-1])

    def careful_settings(self) -> Settings:
        """Return settings with which any sound model learns."""
        is_large = self._parts.state.unet.num_parameters() > LARGE_MODEL
        return Settings(2e-4 if is_large else 1e-3, (0.9, 0.99), 1e-8, 0.0, 1.0)

    def epsilon_share(self) -> float:
        """Return how long AdamW's last step was, over how long it would have been without epsilon: 1 if it is small."""
        with_epsilon = without = 0.0
        for group in self._parts.state.optimizer.param_groups:
            beta1, beta2 = group.get("betas", (0.0, 0.0))
            for parameter in group["params"]:
                entry = self._parts.state.optimizer.state.get(parameter)
                if not entry or "exp_avg_sq" not in entry:  # frozen, or Muon's, which has no epsilon
                    continue
                step = float(entry["step"] if "step" in entry else group["step"])
                mean = entry["exp_avg"] / (1 - beta1**step)
                root = (entry["exp_avg_sq"] / (1 - beta2**step)).sqrt()
                with_epsilon += float((mean / (root + group["eps"])).square().sum())
                without += float((mean / (root + 1e-12)).square().sum())
        return math.sqrt(with_epsilon / without) if without else 1.0

    def memory_bytes(self) -> int | None:
        """Return the most memory taken so far: of the GPU, or of this process; None where the system does not tell."""
        device = self._parts.accelerator.device
        if device.type == "cuda":
            return torch.cuda.max_memory_reserved(device)
        try:
            import resource
        except ImportError:  # not on Windows
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def _fits(self, num_images: int) -> bool:
        try:
            self._step(0.0, 1.0, num_images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        self._parts.state.optimizer.zero_grad()
        if self._parts.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _timed_step(self, num_micro_batches: int) -> float:
        start = time.perf_counter()
        self._step(0.0, 1.0, self._num_images, num_micro_batches)
        if self._parts.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def _step(self, learning_rate: float, max_grad_norm: float, num_images: int, num_micro_batches: int = 1) -> float:
        """Take a step as the training loop does, but for the average, and stay where the run stands.

        Returns:
            the loss before it, of the last micro-batch.
        """
        if num_images != self._parts.config.train_batch_size:
            self._no_longer_compiled()
        config = self._parts.config.model_copy(update={"train_batch_size": num_images})
        parts = replace(self._parts, config=config)
        state, accelerator = parts.state, parts.accelerator
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate
        for index in range(num_micro_batches):
            with nullcontext() if index == num_micro_batches - 1 else accelerator.no_sync(parts.model):
                loss = micro_batch_loss(parts, index)
                accelerator.backward(loss / num_micro_batches)
        accelerator.clip_grad_norm_(state.unet.parameters(), max_grad_norm)
        state.optimizer.step()
        state.optimizer.zero_grad()
        return float(loss.detach())

    def _no_longer_compiled(self) -> None:
        """Run the UNet as it is from here on: it would be compiled again, for minutes, for every size of a batch."""
        state = self._parts.state
        if state.unet._compiled_call_impl is not None:
            run_as_it_is(state.unet)
            state.optimizer.state.clear()  # moments have to lie in memory as weights do

    def _reset(self, settings: Settings) -> None:
        """Put the initial weights back, and give AdamW `settings` and no memory of earlier steps."""
        self.undo()
        for group in self._parts.state.optimizer.param_groups:
            group.update(betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay)

    def _of_the_slowest(self, seconds: float) -> float:
        accelerator = self._parts.accelerator
        return float(accelerator.gather(torch.tensor([seconds], device=accelerator.device)).max())  # type: ignore[union-attr]
