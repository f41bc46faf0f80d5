"""When the loop saves: what is told of it, and how long the end of a sitting waits for it."""

from openddpm.errors import UserError
from openddpm.training.ranks import Word, agree
from openddpm.training.run import Training
from openddpm.training.saver import SaveOutcome
from openddpm.training.stop import StopRequest

PATIENCE_SECONDS = 600.0  # assumed: that a finished run waits for room on the disk
PATIENCE_SECONDS_WHEN_STOPPING = 15.0  # whoever sent the signal may soon send a stronger one


def has_turn(training: Training) -> bool:
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
    return agree(training.accelerator, Word(may_save=is_free)).may_save


def save(training: Training, stop: StopRequest, is_last: bool) -> None:
    """Begin to save, in the main process; wait for the last one of a sitting, and for the one before it.

    Raises:
        UserError: the last state could not be saved.
    """
    state, saver, recorder, progress = training.state, training.saver, training.recorder, training.progress()
    scalars = state.scalars(training.accelerator)
    fault = None
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
                tell=lambda fault: recorder.warned(f"step {state.step:,} is not saved yet: {fault}; trying again"),
            )
            note_save(training, outcome)
            fault = outcome.fault
    if fault:
        raise UserError(
            f"step {state.step:,} could not be saved: {fault}",
            f"Make room, then go on from the checkpoint before: openddpm resume {recorder.folder}",
        )
    if is_last:
        training.accelerator.wait_for_everyone()


def _patience(training: Training, stop: StopRequest) -> float:
    """Return for how many seconds the end of a sitting waits for room; other processes wait no longer than they may."""
    seconds = PATIENCE_SECONDS_WHEN_STOPPING if stop.signal else PATIENCE_SECONDS
    return seconds if training.accelerator.num_processes == 1 else min(seconds, training.config.rank_timeout / 2)


def note_save(training: Training, outcome: SaveOutcome | None) -> None:
    """Note in run.json how far a resumption would get; tell of a save that failed, which is tried again."""
    if outcome is None:
        return
    if outcome.fault:
        training.recorder.warned(f"step {outcome.progress.step:,} could not be saved: {outcome.fault}")
        return
    if outcome.not_pruned:
        training.recorder.warned(
            f"a checkpoint before step {outcome.progress.step:,} could not be removed: {outcome.not_pruned}; trying "
            "again with the next"
        )
    training.recorder.checkpointed(outcome.progress)
