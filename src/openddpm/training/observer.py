"""The interface of observers, which get the events of a run."""

from pathlib import Path

from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, Following, MetricsRow, RunRecord, SamplesRow, Verdict


class Observer:
    """Receives the events of a run, in the main process only. Subclass it and override the methods you need.

    An OSError raised by a method, such as of a full disk, is ignored; any other exception ends the run.
    """

    def started(self, run: RunRecord, folder: Path) -> None:
        """Training starts, or resumes at `run.progress`."""

    def logged(self, row: MetricsRow) -> None:
        """A line was added to metrics.jsonl."""

    def evaluated(self, row: EvaluationRow) -> None:
        """A line was added to evaluations.jsonl."""

    def sampled(self, row: SamplesRow) -> None:
        """A line was added to samples.jsonl."""

    def previewed(self, preview: Preview) -> None:
        """Preview images were written."""

    def judged(self, verdict: Verdict) -> None:
        """A verdict was reached: after each evaluation, and at the end."""

    def followed(self, following: Following) -> None:
        """The run was compared with the reference that it follows: at the start, whenever its state changes, and
        before each verdict."""

    def record_grown(self) -> None:
        """An evaluation or preview was added to the record: time to rebuild the report."""

    def warned(self, message: str) -> None:
        """Something failed, but training goes on."""

    def ended(self, run: RunRecord) -> None:
        """Training has ended, with `run.status`."""
