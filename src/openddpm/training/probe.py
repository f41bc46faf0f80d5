"""Steps of the real training, taken on the spot to time them and to fit memory."""

import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

from openddpm.record.schema import RAW
from openddpm.training.loop import micro_batch_loss
from openddpm.training.performance import run_as_it_is
from openddpm.training.run import StepParts

TIMING_SECONDS, TIMING_STEPS = 5.0, 20  # at most, after the first step


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Tell whether a step failed for want of memory, of a device or of this machine."""
    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error))


class Probe:
    """Takes steps on the micro-batch at which a run stands, which stays the same: images, noise, timesteps, dropout.

    Weights are put aside on the CPU, where they take no memory from the steps; `undo` brings them back.
    """

    def __init__(self, parts: StepParts) -> None:
        self.parts = parts
        self._num_images = parts.config.train_batch_size
        weights = parts.state.weights()[RAW].items()
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
        state = self.parts.state
        with torch.no_grad():
            for name, tensor in state.weights()[RAW].items():
                tensor.copy_(self._initial[name])
        state.optimizer.state.clear()
        for group in state.optimizer.param_groups:
            group.pop("step", None)
        if state.scaler is not None:
            state.scaler.load_state_dict(self._scaler)

    def memory_bytes(self) -> int | None:
        """Return the most memory taken so far: of the GPU, or of this process; None where the system does not tell."""
        device = self.parts.accelerator.device
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
            self.step(0.0, 1.0, num_images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return True
        self.parts.state.optimizer.zero_grad()
        if self.parts.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _timed_step(self, num_micro_batches: int) -> float:
        start = time.perf_counter()
        self.step(0.0, 1.0, self._num_images, num_micro_batches)
        if self.parts.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def step(self, learning_rate: float, max_grad_norm: float, num_images: int, num_micro_batches: int = 1) -> float:
        """Take a step as the training loop does, but for the average, and stay where the run stands.

        Returns:
            the loss before it, of the last micro-batch.
        """
        if num_images != self.parts.config.train_batch_size:
            self._no_longer_compiled()
        config = self.parts.config.model_copy(update={"train_batch_size": num_images})
        parts = replace(self.parts, config=config)
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
        state = self.parts.state
        if state.unet._compiled_call_impl is not None:
            run_as_it_is(state.unet)
            state.optimizer.state.clear()  # moments have to lie in memory as weights do

    def _of_the_slowest(self, seconds: float) -> float:
        accelerator = self.parts.accelerator
        return float(accelerator.gather(torch.tensor([seconds], device=accelerator.device)).max())  # type: ignore[union-attr]
