"""Writes the record of a run and tells the observers; in processes other than the main one it does nothing."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from openddpm.analysis.verdict import judge
from openddpm.record.reader import Preview, RunFolder, read_run_folder
from openddpm.record.schema import CheckpointRow, EvaluationRow, MetricsRow, Progress, RunRecord, SamplesRow, Status
from openddpm.record.writer import RUN_FILE, VERDICT_FILE, RunWriter
from openddpm.training.observer import Observer
from openddpm.training.state import NotFinite


class Recorder:
    """The one place through which a run reaches its folder and its observers; it judges the run as the record grows.

    Args:
        writer: of the run folder; None in processes other than the main one.
    """

    def __init__(self, run: RunRecord, folder: Path, observers: Sequence[Observer], writer: RunWriter | None) -> None:
        self.run = run
        self.folder = folder
        self.is_main = writer is not None
        self._writer = writer
        self._observers = observers if writer else ()
        self._failing: set[str] = set()
        self._recorded: RunFolder | None = None
        """What the verdict rests on, in memory, so that a long record is not read again and again."""
        self._is_evaluated = False

    def started(self) -> None:
        """Write run.json and announce the start."""
        self._update()
        self._tell("started", self.run, self.folder)
        with self._judging():
            self._recorded = read_run_folder(self.folder) if self._writer else None

    def logged(self, row: MetricsRow) -> None:
        """Append to metrics.jsonl."""
        if self._writer:
            self._attempt("a line of metrics.jsonl", self._writer.append_metrics, row)
        if self._recorded:
            self._recorded.metrics.append(row)
        self._tell("logged", row)

    def evaluated(self, row: EvaluationRow) -> None:
        """Append to evaluations.jsonl."""
        if self._writer:
            self._attempt("a line of evaluations.jsonl", self._writer.append_evaluation, row)
        if self._recorded:
            self._recorded.evaluations.append(row)
        self._is_evaluated = True
        self._tell("evaluated", row)

    def sampled(self, row: SamplesRow) -> None:
        """Append to samples.jsonl."""
        if self._writer:
            self._attempt("a line of samples.jsonl", self._writer.append_samples, row)
        if self._recorded:
            self._recorded.samples.append(row)
        self._tell("sampled", row)

    def previewed(self, preview: Preview) -> None:
        """Announce preview images, which are written by now."""
        self._tell("previewed", preview)

    def grown(self, progress: Progress) -> None:
        """Note in run.json how far the run is, judge what was evaluated, and announce the growth of the record."""
        self._update_progress(progress)
        if self._is_evaluated:
            self._is_evaluated = False
            self._judge()
        self._tell("record_grown")

    def sync_rows(self) -> None:
        """Make the rows so far as durable as the checkpoint that follows.

        Raises:
            OSError: they are not on disk.
        """
        if self._writer:
            self._writer.sync_rows()

    def checkpointed(self, progress: Progress) -> None:
        """Note in run.json how far a resumption would get, unless training has got further since."""
        if progress.step > self.run.progress.step:
            self._update_progress(progress)

    def note_checkpoint(self, row: CheckpointRow) -> None:
        """Append to checkpoints.jsonl, unless the step stands there.

        Raises:
            OSError: it could not be written; it is added before the next.
        """
        if self._writer:
            self._writer.append_checkpoint(row)

    def failed(self, error: NotFinite) -> None:
        """Note in run.json which number is no longer finite, of which metrics.jsonl can hold none."""
        self._update(failure=f"{error.what}_not_finite", failure_text=error.found)

    def warned(self, message: str) -> None:
        """Tell of something that failed and does not end the run."""
        self._tell("warned", message)

    def ended(self, status: Status) -> None:
        """Write the final status, judge the run by it, and announce the end."""
        self._update(status=status)
        with ExitStack() as stack:  # one that fails keeps none of the others from being told
            for observer in reversed(self._observers):
                stack.enter_context(suppress(OSError))
                stack.callback(observer.ended, self.run)
            self._judge()

    def _judge(self) -> None:
        """Reach a verdict, write it and tell it."""
        verdict, recorded = None, self._recorded
        with self._judging():
            if recorded:
                verdict = judge(self.run, recorded.metrics, recorded.evaluations, recorded.baselines, recorded.samples)
        if verdict and self._writer:
            self._attempt(VERDICT_FILE, self._writer.write_verdict, verdict)
            self._tell("judged", verdict)

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Train on without a verdict where an error keeps it from being reached; tell of the first."""
        try:
            yield
        except Exception as error:
            if "a verdict" not in self._failing:
                self._failing.add("a verdict")
                self.warned(f"no verdict could be told ({type(error).__name__}: {error})")

    def _update_progress(self, progress: Progress) -> None:
        session = self.run.session.model_copy(update={"last_step": progress.step})
        self._update(progress=progress, sessions=[*self.run.sessions[:-1], session])

    def _update(self, **changes: Any) -> None:
        self.run = self.run.model_copy(update=changes)
        if self._writer:
            self._attempt(RUN_FILE, self._writer.write_run, self.run)

    def _attempt(self, what: str, write: Callable[[Any], None], record: Any) -> None:
        """Write, and train on where the disk has no room: what could not be written is tried again with the next."""
        try:
            write(record)
        except OSError as error:
            if what not in self._failing:
                self._failing.add(what)
                self.warned(f"{what} could not be written: {error}; trying again")
        else:
            self._failing.discard(what)

    def _tell(self, event: str, *details: Any) -> None:
        """Call a method of every observer; a full disk or a closed terminal, met there, keeps nothing from going on."""
        for observer in self._observers:
            with suppress(OSError):
                getattr(observer, event)(*details)
