"""Checkpoints written in the background: training waits only while its state is copied; when the loop saves."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from openddpm.errors import UserError
from openddpm.record.schema import Progress
from openddpm.training.checkpoint import InvalidCheckpoint, prune_checkpoints, write_checkpoint
from openddpm.training.distributed import StepStatus, all_reduce_status
from openddpm.training.state import Tensors
from openddpm.training.stop import StopRequest

if TYPE_CHECKING:
    from openddpm.training.run import Training

RETRY_SECONDS = 60.0  # assumed: between attempts to save, while training goes on
LAST_RETRY_SECONDS = 5.0  # the same where nothing is left to do but to save
TURN_SECONDS = 1.0  # assumed: that training waits for a save in hand, so that small runs save at the steps they should


@dataclass(frozen=True)
class SaveOutcome:
    """How the saving of one state ended."""

    progress: Progress
    reason: str | None
    """Why it could not be saved; None if it was."""
    not_pruned: str | None = None
    """Why an older checkpoint could not be removed, which is tried again with the next."""


class Saver:
    """Saves one state at a time, in a thread of its own.

    Args:
        before: called in that thread before a checkpoint is written: makes the rows so far durable.
        after: called there with the folder of the published checkpoint: adds it to the record, exports the pipeline.
    """

    def __init__(
        self, run_folder: Path, run_id: str, keep: int, before: Callable[[], None], after: Callable[[Path], None]
    ) -> None:
        self._run_folder, self._run_id, self._keep = run_folder, run_id, keep
        self._before, self._after = before, after
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._saving: Future[SaveOutcome] | None = None
        self._copies: Tensors = {}
        self._failed_at: float | None = None
        self._was_waited_for = False
        self.has_told_of_waiting = False
        """Whether somebody was told that saves come later than they are due."""

    def is_free(self) -> bool:
        """Tell whether the save before is done; the first time that it is not, wait `TURN_SECONDS` for it."""
        if self._saving is None or self._saving.done():
            return True
        if not self._was_waited_for:
            self._was_waited_for = True
            wait([self._saving], TURN_SECONDS)
        return self._saving.done()

    def begin(self, tensors: Tensors, scalars: dict[str, Any], progress: Progress) -> None:
        """Copy the state, which may change as soon as this returns, and begin to write it."""
        assert self._saving is None, "collect the outcome of the save before"
        self._copy(tensors)
        self._failed_at, self._was_waited_for = None, False
        self._saving = self._thread.submit(self._save, scalars, progress)

    def collect(self, wait: bool) -> SaveOutcome | None:
        """Return how the save that was begun has ended; None if there is none, or it goes on and is not waited for."""
        if self._saving is None or not (wait or self._saving.done()):
            return None
        outcome, self._saving = self._saving.result(), None
        self._failed_at = time.monotonic() if outcome.reason else None
        return outcome

    def save_last(
        self,
        tensors: Tensors,
        scalars: dict[str, Any],
        progress: Progress,
        patience: Callable[[], float],
        tell: Callable[[str], None],
    ) -> SaveOutcome:
        """Save the last state of a session, and wait for it, trying again for as many seconds as `patience` says.

        Args:
            tell: called with each reason that is not yet the last.
        """
        self._copy(tensors)
        outcome, start = self._save(scalars, progress), time.monotonic()
        while outcome.reason and time.monotonic() - start < patience():
            tell(outcome.reason)
            time.sleep(LAST_RETRY_SECONDS)
            outcome = self._save(scalars, progress)
        return outcome

    def wants_retry(self) -> bool:
        """Tell whether it is time to try again what has failed."""
        return self._failed_at is not None and time.monotonic() - self._failed_at >= RETRY_SECONDS

    def close(self) -> None:
        """Free the thread and the copies."""
        self._thread.shutdown()
        self._copies = {}

    def _save(self, scalars: dict[str, Any], progress: Progress) -> SaveOutcome:
        try:
            self._before()
            checkpoint = write_checkpoint(self._run_folder, self._run_id, self._copies, scalars)
            not_pruned = prune_checkpoints(self._run_folder, self._keep)
            self._after(checkpoint)
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


PATIENCE_SECONDS = 600.0  # assumed: that a finished run waits for room on the disk
PATIENCE_SECONDS_WHEN_STOPPING = 15.0  # whoever sent the signal may soon send a stronger one


def has_turn(training: "Training") -> bool:
    """Tell whether the save before is done, so that the next may begin. A collective call: all hear the same.

    Training goes on where it is not, and asks again at the next step.
    """
    saver, recorder = training.saver, training.recorder
    is_free = recorder.is_main and saver.is_free()
    if recorder.is_main and not (is_free or saver.has_told_of_waiting):
        saver.has_told_of_waiting = True
        recorder.warned(
            f"step {training.state.step:,} is not saved: the save before is still being written; the first step after "
            "it will be. Saves come later than --checkpointing_steps says, and where the disk is that slow fewer do"
        )
    return all_reduce_status(training.accelerator, StepStatus(may_save=is_free)).may_save


def save(training: "Training", stop: StopRequest, is_last: bool) -> None:
    """Begin to save, in the main process; wait for the last one of a session, and for the one before it.

    Raises:
        UserError: the last state could not be saved.
    """
    state, saver, recorder, progress = training.state, training.saver, training.recorder, training.progress()
    scalars = state.scalars(training.accelerator)
    reason = None
    if recorder.is_main:
        note_save(training, saver.collect(wait=True))
        if not is_last:
            saver.begin(state.tensors(), scalars, progress)
        else:
            outcome = saver.save_last(
                state.tensors(),
                scalars,
                progress,
                patience=lambda: _patience(training, stop),
                tell=lambda reason: recorder.warned(f"step {state.step:,} is not saved yet: {reason}; trying again"),
            )
            note_save(training, outcome)
            reason = outcome.reason
    if reason:
        raise UserError(
            f"step {state.step:,} could not be saved: {reason}",
            f"Make room, then go on from the checkpoint before: openddpm resume {recorder.folder}",
        )
    if is_last:
        training.accelerator.wait_for_everyone()


def _patience(training: "Training", stop: StopRequest) -> float:
    """Return for how many seconds the end of a session waits for room; other processes wait no longer than they may."""
    seconds = PATIENCE_SECONDS_WHEN_STOPPING if stop.signal else PATIENCE_SECONDS
    return seconds if training.accelerator.num_processes == 1 else min(seconds, training.config.rank_timeout / 2)


def note_save(training: "Training", outcome: SaveOutcome | None) -> None:
    """Note in run.json how far a resumption would get; tell of a save that failed, which is tried again."""
    if outcome is None:
        return
    if outcome.reason:
        training.recorder.warned(f"step {outcome.progress.step:,} could not be saved: {outcome.reason}")
        return
    if outcome.not_pruned:
        training.recorder.warned(
            f"a checkpoint before step {outcome.progress.step:,} could not be removed: {outcome.not_pruned}; trying "
            "again with the next"
        )
    training.recorder.checkpointed(outcome.progress)
