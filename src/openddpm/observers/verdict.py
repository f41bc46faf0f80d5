"""Judges the run each time that it is evaluated, writes verdict.json, and tells whoever shows it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from openddpm.analysis.verdict import judge
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import EvaluationRow, MetricsRow, RunRecord, SamplesRow, Verdict
from openddpm.record.writer import RunWriter
from openddpm.training.observer import Observer


class VerdictObserver(Observer):
    """Holds the rows in memory, so that a long record is not read again and again; no error in that ends a run."""

    def __init__(self, tell: Sequence[Callable[[Verdict], None]] = (), console: Console | None = None) -> None:
        self._tell = tell
        self._console = console or Console(stderr=True, highlight=False)
        self._has_news = False
        self._has_failed = False

    def started(self, run: RunRecord, folder: Path) -> None:
        recorded = read_run_folder(folder)
        self._run, self._writer = run, RunWriter(folder)
        self._metrics: list[MetricsRow] = recorded.metrics
        self._evaluations: list[EvaluationRow] = recorded.evaluations
        self._samples: list[SamplesRow] = recorded.samples
        self._baselines = recorded.baselines

    def logged(self, row: MetricsRow) -> None:
        self._metrics.append(row)

    def evaluated(self, row: EvaluationRow) -> None:
        self._evaluations.append(row)
        self._has_news = True

    def sampled(self, row: SamplesRow) -> None:
        self._samples.append(row)

    def record_grown(self) -> None:
        if self._has_news:
            self._has_news = False
            self._judge()

    def ended(self, run: RunRecord) -> None:
        self._run = run
        self._judge()

    def _judge(self) -> None:
        try:
            verdict = judge(self._run, self._metrics, self._evaluations, self._baselines, self._samples)
            for tell in self._tell:
                tell(verdict)
            self._writer.write_verdict(verdict)
        except Exception as error:
            if not self._has_failed:
                self._has_failed = True
                warning = escape(f"no verdict could be told ({type(error).__name__}: {error})")
                self._console.print(f"[bold red]warning:[/] {warning}", soft_wrap=True)
