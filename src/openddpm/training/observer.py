"""What the training loop announces, and to whom."""

from pathlib import Path

from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, MetricsRow, RunRecord, SamplesRow, Verdict


class Observer:
    """Looks on while a run is trained, in the main process only. Subclass it and override what you care for.

    An OSError that a method lets out, of a full disk for one, is passed over; any other exception ends the run.
    """

    def started(self, run: RunRecord, folder: Path) -> None:
        """Training begins, or goes on from `run.progress`."""

    def logged(self, row: MetricsRow) -> None:
        """A line was added to metrics.jsonl."""

    def evaluated(self, row: EvaluationRow) -> None:
        """A line was added to evaluations.jsonl."""

    def sampled(self, row: SamplesRow) -> None:
        """A line was added to samples.jsonl."""

    def previewed(self, preview: Preview) -> None:
        """Preview images were written."""

    def judged(self, verdict: Verdict) -> None:
        """The run was judged: after an evaluation, and once more just before the end."""

    def record_grown(self) -> None:
        """Enough was added to the record to rebuild what is made from it."""

    def warned(self, message: str) -> None:
        """Something failed that does not end the run."""

    def ended(self, run: RunRecord) -> None:
        """Training is over; `run.status` says how."""
