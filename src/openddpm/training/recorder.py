"""Writes the record of a run and tells the observers; in processes other than the main one it does nothing."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, MetricsRow, Progress, RunRecord, Status
from openddpm.record.writer import RunWriter
from openddpm.training.observers import Observer


class Recorder:
    """The one place through which a run reaches its folder and its onlookers."""

    def __init__(self, run: RunRecord, folder: Path, observers: Sequence[Observer], is_main: bool) -> None:
        self.run = run
        self.folder = folder
        self.is_main = is_main
        self.has_started = False
        self._writer = RunWriter(folder) if is_main else None
        self._observers = observers if is_main else ()

    def started(self) -> None:
        """Write run.json and announce the start."""
        self.has_started = True
        self._update()
        for observer in self._observers:
            observer.started(self.run, self.folder)

    def logged(self, row: MetricsRow) -> None:
        """Append to metrics.jsonl."""
        if self._writer:
            self._writer.append_metrics(row)
        for observer in self._observers:
            observer.logged(row)

    def evaluated(self, row: EvaluationRow) -> None:
        """Append to evaluations.jsonl."""
        if self._writer:
            self._writer.append_evaluation(row)
        for observer in self._observers:
            observer.evaluated(row)

    def previewed(self, preview: Preview) -> None:
        """Announce preview images, which are written by now."""
        for observer in self._observers:
            observer.previewed(preview)

    def grown(self, progress: Progress) -> None:
        """Note in run.json how far the run is, and announce the growth of the record."""
        self._update(progress=progress)
        for observer in self._observers:
            observer.record_grown()

    def sync_rows(self) -> None:
        """Make the rows so far as durable as the checkpoint that follows."""
        if self._writer:
            self._writer.sync_rows()

    def checkpointed(self, progress: Progress) -> None:
        """Note in run.json how far a resumption would get."""
        self._update(progress=progress)

    def diverged(self) -> None:
        """Note in run.json that the loss is no longer a number, of which metrics.jsonl can hold none."""
        self._update(failure="loss_not_finite")

    def ended(self, status: Status) -> None:
        """Write the final status and announce the end."""
        self._update(status=status)
        with ExitStack() as stack:  # one that fails keeps none of the others from being told
            for observer in reversed(self._observers):
                stack.callback(observer.ended, self.run)

    def _update(self, **changes: Any) -> None:
        self.run = self.run.model_copy(update=changes)
        if self._writer:
            self._writer.write_run(self.run)
