"""The run in the terminal: progress, rate, time left, smoothed loss, held-out loss and the last preview's path."""

import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from openddpm.analysis import left_out
from openddpm.analysis.checks import check_plan, count_previews
from openddpm.analysis.data_checks import counts_text
from openddpm.analysis.text import duration, number_of
from openddpm.names import as_text
from openddpm.record.data_record import DataRecord
from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, Following, MetricsRow, RunRecord, Verdict
from openddpm.record.writer import DATA_FILE
from openddpm.training.observer import Observer

_SMOOTHING = 0.9  # share of the shown loss that each logged line keeps
_PLAIN_EVERY_SECONDS = 15.0  # between lines if the output is not a terminal
_FOLLOWING_STYLES = dict.fromkeys(("same_bits", "same_run", "another_seed"), "green") | {"behind": "red"}  # else dim
_VERDICT_EVERY_SECONDS = 60.0  # between verdicts there, unless it changes
_MOST_DIFFERENCES = 5  # from a reference, shown at the start
_VERDICT_STYLES = {"learning": "green", "finished": "green", "plateaued": "yellow", "too_early": "dim"}  # else red


class Display(Observer):
    """A live view on a terminal; occasional plain lines if output goes to a file."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("[bold]training"), BarColumn(None), MofNCompleteColumn(), TextColumn("steps"),
            TimeElapsedColumn(), TextColumn("{task.fields[left]}"), expand=True, console=self._console,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=None, left="")
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._loss: float | None = None
        self._heldout: dict[str, float | None] = {}
        self._preview: Path | None = None
        self._row: MetricsRow | None = None
        self._plain_at = float("-inf")
        self._verdict: Verdict | None = None
        self._shown_code: str | None = None
        self._following: Following | None = None
        self._verdict_at = float("-inf")
        self._has_news = False
        self._rates: list[tuple[float, int]] = []

    def started(self, run: RunRecord, folder: Path) -> None:
        self._total = run.total_steps
        self._folder = folder
        dataset, model = run.dataset, run.model
        say = self._say
        environment = run.session.environment
        takes = f", about {duration(environment.pace.planned_seconds)} here" if environment.pace else ""
        say(
            f"[bold]{escape(run.name)}[/]: {number_of(dataset.num_train, 'training image')} ({dataset.num_heldout:,} "
            f"held out) of {dataset.size}x{dataset.image_shape[0]}, "
            f"{number_of(model.num_parameters, 'parameter')}, {number_of(run.total_steps, 'step')} on "
            f"{environment.device_type}{takes}"
        )
        if run.resumptions:
            last = run.resumptions[-1]
            for skipped in last.skipped_checkpoints:
                say(f"[bold red]checkpoint not valid, skipped:[/] {escape(skipped)}")
            for change in last.changes:
                say(f"[bold]changed:[/] {escape(change)}")
            if last.rolled_back_from is not None:
                say(f"[bold red]rolled back[/] from step {last.rolled_back_from:,}, with a lower learning rate")
            say(f"continuing from step {last.step:,}")
        elif run.config["resume_from_checkpoint"]:
            say(f"[bold]nothing to resume in {escape(str(folder))} yet: starting a new run[/]")
        kinds = "held-out and training images" if dataset.num_heldout else "training images (none is held out)"
        say(
            f"evaluation: {number_of(run.evaluation.num_fixed_samples, 'fixed sample')} (image, timestep, noise) "
            f"of {kinds}, about every {number_of(run.evaluation.evaluation_steps, 'step')}"
        )
        config = run.config
        images, steps = number_of(config["eval_batch_size"], "image"), number_of(config["num_inference_steps"], "step")
        say(f"previews: {count_previews(run):,}, each of {images} in {steps} of {config['preview_solver']}")
        data = folder / DATA_FILE
        record = DataRecord.model_validate_json(data.read_bytes()) if data.exists() else None
        self._say_left_out(record)
        if record is not None and (counted := counts_text(record)):
            say(escape(counted))
        for finding in check_plan(run, record):
            if (finding.severity != "note" or finding.name == "duplicates") and finding.name != "left_out":
                say(f"[bold]{finding.severity}:[/] {escape(f'{finding.what}. {finding.hint}')}")
        self._progress.update(self._task, total=run.total_steps, completed=run.progress.step)
        if self._console.is_terminal:
            self._live.start()

    def _say_left_out(self, data: DataRecord | None) -> None:
        """Say what the data set's source holds and is left out."""
        if data is None or not left_out.without_texts(data):
            return
        if left_out.is_more_than_taken(data):
            self._say(f"[bold red]warning:[/] {left_out.WARNING}")
        self._say(f"[bold]{left_out.headline(data)}[/]")
        for line, is_data in left_out.lines(data):
            self._say(f"[bold yellow]{escape(line)}[/]" if is_data else escape(line))

    def logged(self, row: MetricsRow) -> None:
        self._row = row
        self._loss = (
            row.train_loss if self._loss is None else _SMOOTHING * self._loss + (1 - _SMOOTHING) * row.train_loss
        )
        self._rates = [*self._rates[-30:], (row.wall_seconds, row.step)]
        self._progress.update(self._task, completed=row.step, left=self._time_left())
        if self._console.is_terminal:
            self._live.update(self._view())
        elif row.wall_seconds - self._plain_at >= _PLAIN_EVERY_SECONDS or row.step == self._total:
            self._plain_at = row.wall_seconds
            self._say(
                f"step {row.step:,}/{self._total:,}  loss {self._loss:.4f}{self._heldout_text()}  "
                f"{row.images_per_second:,.0f} images/s{self._time_left()}"
            )

    def evaluated(self, row: EvaluationRow) -> None:
        self._heldout[row.weights] = row.heldout_loss

    def previewed(self, preview: Preview) -> None:
        self._preview = preview.shown
        if not self._console.is_terminal:
            self._say(f"preview: {escape(str(self._preview))}{self._heldout_text()}")

    def judged(self, verdict: Verdict) -> None:
        self._verdict, self._has_news = verdict, True

    def followed(self, following: Following) -> None:
        """Show what differs from the reference at the start, and the state when it changes."""
        before, self._following = self._following, following
        if before is None:
            for difference in following.differences[:_MOST_DIFFERENCES]:
                self._say(f"differs from {escape(following.reference)}: {escape(difference)}")
            if len(following.differences) > _MOST_DIFFERENCES:
                self._say(f"  and {len(following.differences) - _MOST_DIFFERENCES} more differences: verdict.json")
        if before is None or before.state != following.state:
            self._say(self._following_text())

    def record_grown(self) -> None:
        """Show a new verdict: in the live view, or as a line if it changed or none was shown for a while."""
        if self._verdict is None or not self._has_news:
            return
        self._has_news = False
        if self._console.is_terminal and self._row:
            self._live.update(self._view())
        elif self._verdict.code != self._shown_code or time.monotonic() - self._verdict_at >= _VERDICT_EVERY_SECONDS:
            self._shown_code, self._verdict_at = self._verdict.code, time.monotonic()
            self._say(self._verdict_text())

    def warned(self, message: str) -> None:
        self._say(f"[bold red]warning:[/] {escape(message)}")

    def ended(self, run: RunRecord) -> None:
        self._live.stop()
        progress = run.progress
        self._say(
            f"[bold]{run.status}[/] at step {progress.step:,}: {number_of(progress.images_seen, 'image')}, "
            f"{progress.epoch:.1f} epochs{self._heldout_text()}"
        )
        if self._following:
            self._say(self._following_text())
        if self._verdict and self._has_news:
            self._say(self._verdict_text())
            for evidence in self._verdict.evidence:
                if evidence.kind == "warning":
                    self._say(f"  {escape(evidence.text)}")

    def _say(self, line: str) -> None:
        self._console.print(as_text(line), soft_wrap=True)  # a line of a log file is a line

    def _view(self) -> Table:
        assert self._row is not None
        lines = Table.grid(padding=(0, 2))
        lines.add_row(self._progress)
        lines.add_row(
            f"loss [bold]{self._loss:.4f}[/]{self._heldout_text()}  "
            f"learning rate {self._row.learning_rate:.1e}  {self._row.images_per_second:,.0f} images/s  "
            f"epoch {self._row.epoch:.1f}"
        )
        if self._verdict:
            lines.add_row(self._verdict_text())
        if self._following:
            lines.add_row(self._following_text())
        if self._preview:
            lines.add_row(escape(f"last preview: {self._preview}   report: {self._folder / 'report.html'}"))
        return lines

    def _verdict_text(self) -> str:
        assert self._verdict is not None
        style = _VERDICT_STYLES.get(self._verdict.code, "red")
        text = f"[bold {style}]verdict:[/] {escape(self._verdict.sentence)}"
        if self._verdict.forecast:
            text += f" {escape(self._verdict.forecast.text)}"
        return text

    def _following_text(self) -> str:
        assert self._following is not None
        style = _FOLLOWING_STYLES.get(self._following.state, "dim")
        return f"[bold {style}]following {escape(self._following.reference)}:[/] {escape(self._following.text)}"

    def _heldout_text(self) -> str:
        known = {weights: loss for weights, loss in self._heldout.items() if loss is not None}
        return "".join(f"  held-out {weights} {loss:.4f}" for weights, loss in known.items())

    def _time_left(self) -> str:
        """Return the time left at the rate of the last logged lines, pauses included; empty while it is not known."""
        (first_seconds, first_step), (seconds, step) = self._rates[0], self._rates[-1]
        if step == first_step:
            return ""
        left = int((seconds - first_seconds) / (step - first_step) * (self._total - step))
        return f"  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
