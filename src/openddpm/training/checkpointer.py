"""Checkpoints written in the background: training waits only for a copy of its state."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from openddpm.errors import UserError
from openddpm.record.schema import Progress
from openddpm.training.checkpoint import InvalidCheckpoint, prune_checkpoints, write_checkpoint
from openddpm.training.distributed import StepStatus, all_reduce_status
from openddpm.training.recorder import Recorder
from openddpm.training.state import Tensors, TrainingState
from openddpm.training.stop import StopRequest

RETRY_SECONDS = 60.0  # assumed: between attempts to save during training
LAST_RETRY_SECONDS = 5.0  # assumed: between attempts to save at the end of a session
SAVE_WAIT_SECONDS = 1.0  # assumed: how long training waits for the previous save, so that short runs save on time
PATIENCE_SECONDS = 600.0  # assumed: how long a finished run waits for free disk space
PATIENCE_SECONDS_WHEN_STOPPING = 15.0  # assumed: the sender of the signal may soon kill the process


@dataclass(frozen=True)
class SaveOutcome:
    """The result of saving one state."""

    progress: Progress
    reason: str | None
    """Why it could not be saved; None if it was saved."""
    not_pruned: str | None = None
    """Why an older checkpoint could not be removed; tried again with the next save."""


class Checkpointer:
    """Saves one state at a time, in a thread of the main process, and reports the result to `recorder`.

    Args:
        recorder: syncs its rows to disk before each checkpoint; gets the results and warnings.
        keep: number of newest checkpoints to keep.
        keep_every: steps between checkpoints that are kept in addition, or None.
        rank_timeout: seconds that other processes wait for this one.
        published: called in the thread with the folder of each published checkpoint: adds it to the record, exports the
            pipeline, keeps the weights of a milestone.
    """

    def __init__(
        self,
        recorder: Recorder,
        accelerator: Accelerator,
        keep: int,
        keep_every: int | None,
        rank_timeout: int,
        published: Callable[[Path], None],
    ) -> None:
        self._recorder, self._accelerator = recorder, accelerator
        self._keep, self._keep_every, self._rank_timeout, self._published = keep, keep_every, rank_timeout, published
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._saving: Future[SaveOutcome] | None = None
        self._copies: Tensors = {}
        self._failed_at: float | None = None
        self._has_waited = False
        self._has_warned = False

    def may_save(self, step: int) -> bool:
        """Tell whether the previous save is done, so that the next may begin. Collective; the same in all processes.

        If not, training goes on and asks again at the next step.
        """
        is_idle = self._recorder.is_main and self._is_idle()
        if self._recorder.is_main and not (is_idle or self._has_warned):
            self._has_warned = True
            self._recorder.warned(
                f"step {step:,} is not saved: the previous checkpoint is still being written; the first step after it "
                "will be saved. With a disk this slow, checkpoints are later and fewer than --checkpointing_steps says"
            )
        return all_reduce_status(self._accelerator, StepStatus(may_save=is_idle)).may_save

    def save(self, state: TrainingState, progress: Progress) -> None:
        """Copy the state and begin to write the copy; the state may change once this returns. A collective call."""
        scalars = state.scalars(self._accelerator)
        if self._recorder.is_main:
            self.collect(wait=True)
            self._copy(state.tensors())
            self._failed_at, self._has_waited = None, False
            self._saving = self._thread.submit(self._write, scalars, progress)

    def save_last(self, state: TrainingState, progress: Progress, stop: StopRequest) -> None:
        """Save the last state of a session and wait for it; on failure, try again for a while. Collective.

        Raises:
            UserError: it could not be saved.
        """
        scalars = state.scalars(self._accelerator)
        if self._recorder.is_main:
            self.collect(wait=True)
            self._copy(state.tensors())
            outcome, start = self._write(scalars, progress), time.monotonic()
            while outcome.reason and time.monotonic() - start < self._patience(stop):
                self._recorder.warned(f"step {progress.step:,} is not saved yet: {outcome.reason}; trying again")
                time.sleep(LAST_RETRY_SECONDS)
                outcome = self._write(scalars, progress)
            self._note(outcome)
            if outcome.reason:
                raise UserError(
                    f"step {progress.step:,} could not be saved: {outcome.reason}",
                    f"Free disk space, then resume from the last checkpoint: openddpm resume {self._recorder.folder}",
                )
        self._accelerator.wait_for_everyone()

    def collect(self, wait: bool) -> None:
        """Report the result of the save in progress, once it is done; if `wait`, wait for it."""
        if self._saving is not None and (wait or self._saving.done()):
            outcome, self._saving = self._saving.result(), None
            self._failed_at = time.monotonic() if outcome.reason else None
            self._note(outcome)

    def wants_retry(self) -> bool:
        """Tell whether it is time to repeat a save that failed."""
        return self._failed_at is not None and time.monotonic() - self._failed_at >= RETRY_SECONDS

    def close(self) -> None:
        """Free the thread and the copies."""
        self._thread.shutdown()
        self._copies = {}

    def _is_idle(self) -> bool:
        """Tell whether the previous save is done; wait up to `SAVE_WAIT_SECONDS` for it, once per save."""
        if self._saving is None or self._saving.done():
            return True
        if not self._has_waited:
            self._has_waited = True
            wait([self._saving], SAVE_WAIT_SECONDS)
        return self._saving.done()

    def _patience(self, stop: StopRequest) -> float:
        """Return how long the last save of a session is repeated, in seconds: less than other processes wait for it."""
        seconds = PATIENCE_SECONDS_WHEN_STOPPING if stop.signal else PATIENCE_SECONDS
        return seconds if self._accelerator.num_processes == 1 else min(seconds, self._rank_timeout / 2)

    def _write(self, scalars: dict[str, Any], progress: Progress) -> SaveOutcome:
        """Write a checkpoint of the copies, and remove the oldest beyond the number to keep."""
        recorder = self._recorder
        try:
            recorder.sync_rows()
            checkpoint = write_checkpoint(recorder.folder, recorder.run.run_id, self._copies, scalars)
            not_pruned = prune_checkpoints(recorder.folder, self._keep, self._keep_every)
            self._published(checkpoint)
        except (OSError, SafetensorError, InvalidCheckpoint) as error:
            return SaveOutcome(progress, str(error))
        return SaveOutcome(progress, None, not_pruned)

    def _copy(self, tensors: Tensors) -> None:
        """Copy to the CPU, into memory that is reused: new memory takes ten times as long (measured)."""
        for stem, content in tensors.items():
            copies = self._copies.setdefault(stem, {})
            for name, tensor in content.items():
                if name not in copies:
                    copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                copies[name].copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def _note(self, outcome: SaveOutcome) -> None:
        """Record how far a resumed run would start, or warn of a failure, which is tried again."""
        step = outcome.progress.step
        if outcome.reason:
            self._recorder.warned(f"step {step:,} could not be saved: {outcome.reason}")
            return
        if outcome.not_pruned:
            self._recorder.warned(
                f"a checkpoint before step {step:,} could not be removed: {outcome.not_pruned}; trying again with the "
                "next"
            )
        self._recorder.checkpointed(outcome.progress)
