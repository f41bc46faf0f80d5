"""The update of weights and averages by the gradient of a step, skipped if a number is not finite.

Whether all numbers are finite is computed on the device. If the host reads that before the update, the device is idle
until the host gives it more work. Fused AdamW can skip a step by itself, controlled by a tensor on the device
(`found_inf`, made for torch.amp.GradScaler): then the host reads it while the device computes the next step.
"""

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch.nn.utils import get_total_norm

from openddpm.training.distributed import StepStatus
from openddpm.training.not_finite import not_finite, step_status
from openddpm.training.run import Training
from openddpm.training.stop import StopRequest

LATE_DEVICES = ("cuda",)  # a CPU gains nothing: host and device are the same


class Update:
    """Checks all numbers of a step, in all processes, before it updates the weights."""

    def __init__(self, training: Training, stop: StopRequest) -> None:
        self._training = training
        self._stop = stop
        self._parameters = list(training.state.unet.parameters())

    def step(self, losses: list[torch.Tensor]) -> tuple[StepStatus, torch.Tensor]:
        """Clip the gradient, and update the weights and averages.

        Args:
            losses: of this process's micro-batches, () float32 each.

        Returns:
            the combined status of all processes; the norm of the gradient before clipping, () float32.

        Raises:
            NotFinite: a number of this step is not finite, or, if read late, of the previous step.
        """
        training, state = self._training, self._training.state
        grad_norm = training.accelerator.clip_grad_norm_(self._parameters, training.config.max_grad_norm)
        status = step_status(training, losses, grad_norm, self._stop.signal)
        if not status.is_finite:
            self._fail(losses, status.signal)
        state.optimizer.step()
        state.optimizer.zero_grad()
        self._average()
        return status, grad_norm

    def settle(self) -> None:
        """Complete the last step; called before weights or averages are used.

        Raises:
            NotFinite: the last step was skipped. The position of the run is again that before it.
        """

    def _average(self) -> None:
        for average in self._training.state.averages.values():
            average.step(self._parameters)

    def _fail(self, losses: list[torch.Tensor], signal: int | None) -> NoReturn:
        self._training.checkpointer.collect(wait=True)  # before a rollback looks for a checkpoint
        raise not_finite(self._training, losses, may_go_back=signal is None)


@dataclass(frozen=True)
class _Unsettled:
    """A step that the device has taken or skipped; the host does not know which."""

    images_seen: int
    step: int
    losses: list[torch.Tensor]


class LateUpdate(Update):
    """Has fused AdamW skip a step that is not finite, and reads that during the next step.

    The averages, and the next update of the weights, wait until the update is known to have been made: nothing
    computed after a bad step reaches weights or averages.
    """

    def __init__(self, training: Training, stop: StopRequest) -> None:
        super().__init__(training, stop)
        on_gpu = training.accelerator.device.type == "cuda"
        self._was_skipped = torch.zeros((), pin_memory=on_gpu)  # pinned, for an asynchronous copy
        self._has_arrived = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]  # that copy
        self._unsettled: _Unsettled | None = None

    def step(self, losses: list[torch.Tensor]) -> tuple[StepStatus, torch.Tensor]:
        """Do as `Update.step`, but let AdamW scale the gradient, and check this step in the next or in `settle`."""
        state, max_norm = self._training.state, self._training.config.max_grad_norm
        grad_norm = get_total_norm([weight.grad for weight in self._parameters if weight.grad is not None]).float()
        found_inf = torch.stack([*losses, grad_norm]).isfinite().all().logical_not().float()
        grad_scale = ((grad_norm + 1e-6) / max_norm).clamp(min=1.0)  # the inverse of the factor in clip_grad_norm_

        self.settle()  # the device is busy with all of the above

        self._was_skipped.copy_(found_inf, non_blocking=True)
        if self._has_arrived is not None:
            self._has_arrived.record()
        self._unsettled = _Unsettled(state.images_seen, state.step, losses)
        optimizer = state.optimizer.optimizer  # the one inside Accelerate's wrapper
        optimizer.found_inf, optimizer.grad_scale = found_inf, grad_scale
        try:
            state.optimizer.step()
        finally:
            del optimizer.found_inf, optimizer.grad_scale
        state.optimizer.zero_grad()
        return StepStatus(signal=self._stop.signal, wants_save=self._training.checkpointer.wants_retry()), grad_norm

    def settle(self) -> None:
        """Check the last step, and update the averages."""
        step, self._unsettled = self._unsettled, None
        if step is None:
            return
        if self._has_arrived is not None:
            self._has_arrived.synchronize()
        if self._was_skipped.item():
            self._training.state.images_seen, self._training.state.step = step.images_seen, step.step
            self._fail(step.losses, self._stop.signal)
        self._average()


def update_of(training: Training, stop: StopRequest) -> Update:
    """Return the update of a run: a `LateUpdate` if that is possible and saves waiting.

    Several processes wait for each other at every step anyway. Under fp16 the scaler skips steps itself. Muon and
    AdamW without fusing do not have `found_inf`.
    """
    state, accelerator = training.state, training.accelerator
    optimizer = getattr(state.optimizer, "optimizer", None)
    is_fused = isinstance(optimizer, torch.optim.AdamW) and all(group["fused"] for group in optimizer.param_groups)
    is_alone = accelerator.num_processes == 1
    may_be_late = is_fused and is_alone and state.scaler is None and accelerator.device.type in LATE_DEVICES
    return (LateUpdate if may_be_late else Update)(training, stop)
