"""Updates the weights and their averages by the gradient of a step, and never by a number that is not finite.

Whether all numbers are finite is known on the device. To read it before the weights are touched, the host waits until
the device has done all it was given, which is idle then until it is given more. Fused AdamW can pass over a step by
itself, told by a tensor on the device (`found_inf`, made for torch.amp.GradScaler): then the host reads it while the
device computes the step after.
"""

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch.nn.utils import get_total_norm

from openddpm.training.distributed import StepStatus
from openddpm.training.not_finite import agreed_status, not_finite
from openddpm.training.run import Training
from openddpm.training.stop import StopRequest

LATE_DEVICES = ("cuda",)  # a CPU is never ahead of itself: there is nothing to win


class Update:
    """Reads all numbers of a step before it touches a weight; several processes agree on them."""

    def __init__(self, training: Training, stop: StopRequest) -> None:
        self._training = training
        self._stop = stop
        self._parameters = list(training.state.unet.parameters())

    def step(self, losses: list[torch.Tensor]) -> tuple[StepStatus, torch.Tensor]:
        """Clip the gradient, and update the weights and their averages by it.

        Args:
            losses: of this process's micro-batches, () float32 each.

        Returns:
            what all processes say of the step; the norm of the gradient before it was clipped, () float32.

        Raises:
            NotFinite: a number of this step is not finite, or, heard of late, one of the step before it.
        """
        training, state = self._training, self._training.state
        grad_norm = training.accelerator.clip_grad_norm_(self._parameters, training.config.max_grad_norm)
        status = agreed_status(training, losses, grad_norm, self._stop.signal)
        if not status.is_finite:
            self._fail(losses, status.signal)
        state.optimizer.step()
        state.optimizer.zero_grad()
        self._average()
        return status, grad_norm

    def settle(self) -> None:
        """Bring weights and averages to where the steps so far lead; called before anything is made of them.

        Raises:
            NotFinite: the last step was passed over. The position of the run is that before it again.
        """

    def _average(self) -> None:
        for average in self._training.state.averages.values():
            average.step(self._parameters)

    def _fail(self, losses: list[torch.Tensor], signal: int | None) -> NoReturn:
        self._training.checkpointer.collect(wait=True)  # before anybody looks for the way back
        raise not_finite(self._training, losses, may_go_back=signal is None)


@dataclass(frozen=True)
class _Unsettled:
    """A step that was taken, or passed over, on the device; the host does not know which."""

    images_seen: int
    step: int
    losses: list[torch.Tensor]


class LateUpdate(Update):
    """Has fused AdamW pass over a step that is not finite, and hears of it once the step after is under way.

    The averages follow the weights only once it is known that they were updated, and the next update waits for that,
    too: so what was trained on after a bad step reaches neither.
    """

    def __init__(self, training: Training, stop: StopRequest) -> None:
        super().__init__(training, stop)
        on_gpu = training.accelerator.device.type == "cuda"
        self._was_passed_over = torch.zeros((), pin_memory=on_gpu)  # pinned: the copy into it waits for nothing
        self._has_arrived = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]  # that copy
        self._unsettled: _Unsettled | None = None

    def step(self, losses: list[torch.Tensor]) -> tuple[StepStatus, torch.Tensor]:
        """Do as `Update.step`, but let AdamW divide the gradient, and hear of this step with the next or `settle`."""
        state, max_norm = self._training.state, self._training.config.max_grad_norm
        grad_norm = get_total_norm([weight.grad for weight in self._parameters if weight.grad is not None]).float()
        found_inf = torch.stack([*losses, grad_norm]).isfinite().all().logical_not().float()
        grad_scale = ((grad_norm + 1e-6) / max_norm).clamp(min=1.0)  # one over the factor of clip_grad_norm_

        self.settle()  # the device is busy with all of the above

        self._was_passed_over.copy_(found_inf, non_blocking=True)
        if self._has_arrived is not None:
            self._has_arrived.record()
        self._unsettled = _Unsettled(state.images_seen, state.step, losses)
        optimizer = state.optimizer.optimizer  # Accelerate's wrapper has it do the step
        optimizer.found_inf, optimizer.grad_scale = found_inf, grad_scale
        try:
            state.optimizer.step()
        finally:
            del optimizer.found_inf, optimizer.grad_scale
        state.optimizer.zero_grad()
        return StepStatus(signal=self._stop.signal, wants_save=self._training.checkpointer.wants_retry()), grad_norm

    def settle(self) -> None:
        """Hear how the last step went, and let the averages follow."""
        step, self._unsettled = self._unsettled, None
        if step is None:
            return
        if self._has_arrived is not None:
            self._has_arrived.synchronize()
        if self._was_passed_over.item():
            self._training.state.images_seen, self._training.state.step = step.images_seen, step.step
            self._fail(step.losses, self._stop.signal)
        self._average()


def update_of(training: Training, stop: StopRequest) -> Update:
    """Return what updates the weights of a run: late, where that saves waiting and keeps the same promise.

    Several processes agree at every step, which is a wait anyway. Under fp16 the scaler passes over steps itself. Muon
    and AdamW that is not fused do not know of `found_inf`.
    """
    state, accelerator = training.state, training.accelerator
    optimizer = getattr(state.optimizer, "optimizer", None)
    is_fused = isinstance(optimizer, torch.optim.AdamW) and all(group["fused"] for group in optimizer.param_groups)
    is_alone = accelerator.num_processes == 1
    may_be_late = is_fused and is_alone and state.scaler is None and accelerator.device.type in LATE_DEVICES
    return (LateUpdate if may_be_late else Update)(training, stop)
