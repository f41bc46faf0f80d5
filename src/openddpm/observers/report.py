"""Rebuilds report.html and the model card as the record grows."""

from pathlib import Path

from openddpm.publishing.card import write_card
from openddpm.record.schema import RunRecord
from openddpm.training.observers import Observer


class ReportObserver(Observer):
    """Keeps the run folder's pages in step with its record; a page that cannot be built never ends a run."""

    def started(self, run: RunRecord, folder: Path) -> None:
        self._folder = folder

    def record_grown(self) -> None:
        from openddpm.analysis.report import write_report

        write_report(self._folder)

    def ended(self, run: RunRecord) -> None:
        self.record_grown()
        write_card(self._folder)
