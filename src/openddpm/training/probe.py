"""Trial steps of the real training, to time them and to find the batch size that fits into memory."""

import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

from openddpm.diffusion.unet import image_shape
from openddpm.record.schema import RAW
from openddpm.training.loop import micro_batch_loss
from openddpm.training.performance import undo_compile
from openddpm.training.run import StepParts

TIMING_SECONDS, TIMING_STEPS = 5.0, 20  # at most, after the first step


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Tell whether a step ran out of memory, of a device or of this machine."""
    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error))


class Probe:
    """Takes steps on the present micro-batch of a run, always with the same images, noise, timesteps and dropout.

    The initial weights are kept on the CPU, so as not to take GPU memory; `undo` restores them.
    """

    def __init__(self, parts: StepParts) -> None:
        self.parts = parts
        self._num_images = parts.config.train_batch_size
        weights = parts.state.weights()[RAW].items()
        self._initial = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights}
        self._scaler: dict[str, Any] = parts.state.scaler.state_dict() if parts.state.scaler else {}

    def fit_memory(self) -> int | None:
        """Return the largest divisor of the batch size that fits into memory, used from then on; None if none fits."""
        for num_images in (n for n in range(self._num_images, 0, -1) if self._num_images % n == 0):
            if self._fits(num_images):
                self._num_images = num_images
                return num_images
        return None

    def seconds_a_step(
        self, num_micro_batches: int = 1, max_seconds: float = TIMING_SECONDS, max_steps: int = TIMING_STEPS
    ) -> float:
        """Return the median time of a step, or of a single one if that is slow. Changes no weights.

        A collective call: all processes take the same number of steps, and return the time of the slowest.
        """
        first = self._max_over_processes(self._timed_step(num_micro_batches))
        if first > max_seconds:
            return first
        timed: list[float] = []
        for _ in range(min(max_steps, max(1, int(max_seconds / first)))):
            timed.append(self._timed_step(num_micro_batches))
        return self._max_over_processes(statistics.median(timed))

    def seconds_a_forward(self, num_images: int) -> float:
        """Return the median time of the uncompiled UNet on `num_images`, as previews call it. A collective call."""
        unet, device = self.parts.state.unet, self.parts.accelerator.device
        noisy = torch.zeros((num_images, *image_shape(unet.config)), device=device)
        timesteps, timed = torch.zeros(num_images, dtype=torch.long, device=device), list[float]()
        with torch.no_grad(), self.parts.accelerator.autocast():
            while not timed or (timed[0] < 1.0 and len(timed) <= 3):  # the first allocates memory
                start = time.perf_counter()
                float(unet.forward(noisy, timesteps).sample.sum())  # which waits for the device
                timed.append(time.perf_counter() - start)
        return self._max_over_processes(statistics.median(timed[1:] or timed))

    def undo(self) -> None:
        """Restore the state before the first step, of weights, optimizer and scaler."""
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
        """Return the peak memory in bytes of the GPU, or of this process; None if the system does not report it."""
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
        """Take a step as the training loop does, but without averages and at the same position.

        Returns:
            the loss of the last micro-batch, before the step.
        """
        if num_images != self.parts.config.train_batch_size:
            self._stop_compiling()
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

    def _stop_compiling(self) -> None:
        """Run the UNet uncompiled from here on: it would be compiled again, for minutes, for every batch size."""
        state = self.parts.state
        if state.unet._compiled_call_impl is not None:
            undo_compile(state.unet)
            state.optimizer.state.clear()  # moments must have the memory layout of the weights

    def _max_over_processes(self, seconds: float) -> float:
        accelerator = self.parts.accelerator
        return float(accelerator.gather(torch.tensor([seconds], device=accelerator.device)).max())  # type: ignore[union-attr]
