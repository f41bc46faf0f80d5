"""Rebuilds report.html and the model card as the record grows."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from openddpm.record.schema import RunRecord
from openddpm.report.card import write_card
from openddpm.training.observer import Observer

_MAX_SHARE_OF_TIME = 0.02  # assumed: a long run's report takes seconds to build, and previews may come often


class ReportObserver(Observer):
    """Keeps the run folder's pages up to date with its record; a page that cannot be built never ends a run."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._folder: Path | None = None
        self._warned: set[str] = set()
        self._build_at = float("-inf")

    def started(self, run: RunRecord, folder: Path) -> None:
        self._folder = folder

    def record_grown(self) -> None:
        if time.perf_counter() >= self._build_at:
            self._build_report()

    def ended(self, run: RunRecord) -> None:
        self._build_report()
        self._build("README.md", write_card)

    def _build_report(self) -> None:
        from openddpm.report import write_report

        start = time.perf_counter()
        self._build("report.html", write_report)
        end = time.perf_counter()
        self._build_at = end + (end - start) / _MAX_SHARE_OF_TIME

    def _build(self, page: str, write: Callable[[Path], Path]) -> None:
        if self._folder is None:
            return
        try:
            write(self._folder)
        except Exception as error:
            warning = f"{page} could not be built ({type(error).__name__}: {error}); try later: openddpm report"
            if warning not in self._warned:
                self._warned.add(warning)
                self._console.print(
                    f"[bold red]warning:[/] {escape(warning)} {escape(str(self._folder))}", soft_wrap=True
                )
