"""Writing the record of a run and notifying its observers, in the main process only."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from openddpm.analysis.verdict import judge
from openddpm.comparison.following import Follower
from openddpm.record.reader import Preview, RunFolder, read_run_folder
from openddpm.record.schema import (
    CheckpointRow,
    EvaluationRow,
    Following,
    MetricsRow,
    Progress,
    RunRecord,
    SamplesRow,
    Status,
)
from openddpm.record.writer import FILE_OF, REFERENCE_BAND_FILE, RUN_FILE, VERDICT_FILE, RunWriter
from openddpm.references import Reference
from openddpm.training.observer import Observer
from openddpm.training.state import NotFinite

Row = MetricsRow | EvaluationRow | SamplesRow


class Recorder:
    """Writes the record, notifies the observers, and judges the run after evaluations.

    Args:
        writer: of the run folder; None in processes other than the main one, where all methods do nothing.
        reference: that the run is compared with, if it follows one.
    """

    def __init__(
        self,
        run: RunRecord,
        folder: Path,
        observers: Sequence[Observer],
        writer: RunWriter | None,
        reference: Reference | None = None,
    ) -> None:
        self.run = run
        self.folder = folder
        self.is_main = writer is not None
        self._writer = writer
        self._observers = observers if writer else ()
        self._failing: set[str] = set()
        self._recorded: RunFolder | None = None
        """The record in memory, as input of the verdict, so that a long one is not read repeatedly."""
        self._reference = reference
        self._follower: Follower | None = None
        self._following: Following | None = None
        """The state of which the observers were last notified."""
        self._is_evaluated = False

    def started(self) -> None:
        """Write run.json and notify of the start."""
        self._update()
        self._notify("started", self.run, self.folder)
        with self._judging():
            self._recorded = read_run_folder(self.folder) if self._writer else None
            self._follow()

    def logged(self, row: MetricsRow) -> None:
        """Append to metrics.jsonl."""
        self._add(row, "metrics", "logged")
        self._compare(row)

    def evaluated(self, row: EvaluationRow) -> None:
        """Append to evaluations.jsonl."""
        self._add(row, "evaluations", "evaluated")
        self._is_evaluated = True
        self._compare(row)

    def sampled(self, row: SamplesRow) -> None:
        """Append to samples.jsonl."""
        self._add(row, "samples", "sampled")

    def previewed(self, preview: Preview) -> None:
        """Notify of preview images, already written."""
        self._notify("previewed", preview)

    def grown(self, progress: Progress) -> None:
        """Update the progress in run.json, judge the run if it was evaluated, and notify of the new rows."""
        self._update_progress(progress)
        if self._is_evaluated:
            self._is_evaluated = False
            self._judge()
        self._notify("record_grown")

    def sync_rows(self) -> None:
        """Sync all rows to disk, before the checkpoint that follows.

        Raises:
            OSError: they could not be written.
        """
        if self._writer:
            self._writer.sync_rows()

    def checkpointed(self, progress: Progress) -> None:
        """Update the progress in run.json to that of a checkpoint, unless it is further already."""
        if progress.step > self.run.progress.step:
            self._update_progress(progress)

    def note_checkpoint(self, row: CheckpointRow) -> None:
        """Append to checkpoints.jsonl, unless the step is already there.

        Raises:
            OSError: it could not be written; it is added before the next row.
        """
        if self._writer:
            self._writer.append_checkpoint(row)

    def failed(self, error: NotFinite) -> None:
        """Record in run.json whether the loss or the gradient is not finite, which metrics.jsonl cannot hold."""
        self._update(failure=f"{error.what}_not_finite", failure_text=error.found)

    def warned(self, message: str) -> None:
        """Notify of a failure that does not end the run."""
        self._notify("warned", message)

    def ended(self, status: Status) -> None:
        """Write the final status, judge the run, and notify of the end."""
        self._update(status=status)
        with ExitStack() as stack:  # all are notified, even if one fails
            for observer in reversed(self._observers):
                stack.enter_context(suppress(OSError))
                stack.callback(observer.ended, self.run)
            self._judge()

    def _add(self, row: Row, rows: str, event: str) -> None:
        """Append a row to its file and to these rows of the record in memory, and notify of it."""
        if self._writer:
            self._attempt(f"a line of {FILE_OF[type(row)]}", self._writer.append, row)
        if self._recorded:
            getattr(self._recorded, rows).append(row)
        self._notify(event, row)

    def _follow(self) -> None:
        """Begin to compare the run with its reference; without one, remove what an earlier session left of one."""
        if self._writer and not self._reference:
            (self.folder / REFERENCE_BAND_FILE).unlink(missing_ok=True)
        if self._reference and self._recorded and self._writer:
            self._follower = Follower(self._reference.name, self._reference.runs, self._recorded)
            self._attempt(REFERENCE_BAND_FILE, self._writer.write, self._follower.band_record())
            self._notify_of_following()

    def _compare(self, row: MetricsRow | EvaluationRow) -> None:
        """Compare the run with its reference after a new row; notify if the state changes."""
        if self._follower:
            with self._judging():
                self._follower.add(row)
                self._notify_of_following(only_if_changed=True)

    def _notify_of_following(self, only_if_changed: bool = False) -> None:
        if self._follower:
            before, self._following = self._following, self._follower.following()
            if not only_if_changed or before is None or before.state != self._following.state:
                self._notify("followed", self._following)

    def _judge(self) -> None:
        """Judge the run, write the verdict and notify of it."""
        verdict, recorded = None, self._recorded
        with self._judging():
            if recorded:
                self._notify_of_following()
                verdict = judge(self.run, recorded.metrics, recorded.evaluations, recorded.baselines, recorded.samples)
                verdict = verdict.model_copy(update={"following": self._following})
        if verdict and self._writer:
            self._attempt(VERDICT_FILE, self._writer.write, verdict)
            self._notify("judged", verdict)

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Continue without a verdict after an error in judging; warn of the first."""
        try:
            yield
        except Exception as error:
            if "a verdict" not in self._failing:
                self._failing.add("a verdict")
                self.warned(f"the run could not be judged ({type(error).__name__}: {error})")

    def _update_progress(self, progress: Progress) -> None:
        session = self.run.session.model_copy(update={"last_step": progress.step})
        self._update(progress=progress, sessions=[*self.run.sessions[:-1], session])

    def _update(self, **changes: Any) -> None:
        self.run = self.run.model_copy(update=changes)
        if self._writer:
            self._attempt(RUN_FILE, self._writer.write, self.run)

    def _attempt(self, what: str, write: Callable[[Any], None], record: Any) -> None:
        """Write, and continue after an OSError, with a warning: the next write includes what is missing."""
        try:
            write(record)
        except OSError as error:
            if what not in self._failing:
                self._failing.add(what)
                self.warned(f"{what} could not be written: {error}; trying again")
        else:
            self._failing.discard(what)

    def _notify(self, event: str, *details: Any) -> None:
        """Call a method of every observer, ignoring an OSError, such as of a full disk or a closed terminal."""
        for observer in self._observers:
            with suppress(OSError):
                getattr(observer, event)(*details)
