"""Checkpoints written in the background: training waits only while its state is copied."""

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

RETRY_SECONDS = 60.0  # assumed: between attempts to save, while training goes on
LAST_RETRY_SECONDS = 5.0  # the same where nothing is left to do but to save
TURN_SECONDS = 1.0  # assumed: that training waits for a save in hand, so that small runs save at the steps they should
PATIENCE_SECONDS = 600.0  # assumed: that a finished run waits for room on the disk
PATIENCE_SECONDS_WHEN_STOPPING = 15.0  # whoever sent the signal may soon send a stronger one


@dataclass(frozen=True)
class SaveOutcome:
    """How the saving of one state ended."""

    progress: Progress
    reason: str | None
    """Why it could not be saved; None if it was."""
    not_pruned: str | None = None
    """Why an older checkpoint could not be removed, which is tried again with the next."""


class Checkpointer:
    """Saves one state at a time, in a thread of the main process, and tells `recorder` how each save ended.

    Args:
        recorder: makes the rows so far durable before a checkpoint is written; is told of saves and of warnings.
        keep: newest checkpoints to keep.
        rank_timeout: seconds that other processes wait for this one.
        published: called in the thread with the folder of each published checkpoint: adds it to the record, exports the
            pipeline.
    """

    def __init__(
        self,
        recorder: Recorder,
        accelerator: Accelerator,
        keep: int,
        rank_timeout: int,
        published: Callable[[Path], None],
    ) -> None:
        self._recorder, self._accelerator = recorder, accelerator
        self._keep, self._rank_timeout, self._published = keep, rank_timeout, published
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._saving: Future[SaveOutcome] | None = None
        self._copies: Tensors = {}
        self._failed_at: float | None = None
        self._was_waited_for = False
        self._has_told_of_waiting = False

    def has_turn(self, step: int) -> bool:
        """Tell whether the save before is done, so that the next may begin. A collective call: all hear the same.

        Training goes on where it is not, and asks again at the next step.
        """
        is_free = self._recorder.is_main and self._is_free()
        if self._recorder.is_main and not (is_free or self._has_told_of_waiting):
            self._has_told_of_waiting = True
            self._recorder.warned(
                f"step {step:,} is not saved: the save before is still being written; the first step after it will be. "
                "Saves come later than --checkpointing_steps says, and where the disk is that slow fewer do"
            )
        return all_reduce_status(self._accelerator, StepStatus(may_save=is_free)).may_save

    def save(self, state: TrainingState, progress: Progress) -> None:
        """Copy the state, which may change as soon as this returns, and begin to write it. A collective call."""
        scalars = state.scalars(self._accelerator)
        if self._recorder.is_main:
            self.collect(wait=True)
            self._copy(state.tensors())
            self._failed_at, self._was_waited_for = None, False
            self._saving = self._thread.submit(self._write, scalars, progress)

    def save_last(self, state: TrainingState, progress: Progress, stop: StopRequest) -> None:
        """Save what a session ends with, and wait for it; where that fails, try again for a while. Collective.

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
                    f"Make room, then go on from the checkpoint before: openddpm resume {self._recorder.folder}",
                )
        self._accelerator.wait_for_everyone()

    def collect(self, wait: bool) -> None:
        """Note how the save that was begun has ended, unless it goes on and is not waited for."""
        if self._saving is not None and (wait or self._saving.done()):
            outcome, self._saving = self._saving.result(), None
            self._failed_at = time.monotonic() if outcome.reason else None
            self._note(outcome)

    def wants_retry(self) -> bool:
        """Tell whether it is time to try again what has failed."""
        return self._failed_at is not None and time.monotonic() - self._failed_at >= RETRY_SECONDS

    def close(self) -> None:
        """Free the thread and the copies."""
        self._thread.shutdown()
        self._copies = {}

    def _is_free(self) -> bool:
        """Tell whether the save before is done; the first time that it is not, wait `TURN_SECONDS` for it."""
        if self._saving is None or self._saving.done():
            return True
        if not self._was_waited_for:
            self._was_waited_for = True
            wait([self._saving], TURN_SECONDS)
        return self._saving.done()

    def _patience(self, stop: StopRequest) -> float:
        """Return for how many seconds the end of a session waits for room; others wait no longer than they may."""
        seconds = PATIENCE_SECONDS_WHEN_STOPPING if stop.signal else PATIENCE_SECONDS
        return seconds if self._accelerator.num_processes == 1 else min(seconds, self._rank_timeout / 2)

    def _write(self, scalars: dict[str, Any], progress: Progress) -> SaveOutcome:
        """Write a checkpoint of the copies, and remove those that are more than are kept."""
        recorder = self._recorder
        try:
            recorder.sync_rows()
            checkpoint = write_checkpoint(recorder.folder, recorder.run.run_id, self._copies, scalars)
            not_pruned = prune_checkpoints(recorder.folder, self._keep)
            self._published(checkpoint)
        except (OSError, SafetensorError, InvalidCheckpoint) as error:
            return SaveOutcome(progress, str(error))
        return SaveOutcome(progress, None, not_pruned)

    def _copy(self, tensors: Tensors) -> None:
        """Copy to the CPU, into memory that is kept: to get it anew takes ten times as long (measured)."""
        for stem, content in tensors.items():
            copies = self._copies.setdefault(stem, {})
            for name, tensor in content.items():
                if name not in copies:
                    copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                copies[name].copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def _note(self, outcome: SaveOutcome) -> None:
        """Note in run.json how far a resumption would get; tell of a save that failed, which is tried again."""
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
