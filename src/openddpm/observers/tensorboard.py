"""The run as TensorBoard events: scalars, preview images, and the config without secrets."""

import itertools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from openddpm.errors import UserError
from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, MetricsRow, RunRecord, SamplesRow, Verdict
from openddpm.training.observer import Observer

OWNER_FILE = "run-folder.txt"
"""Beside the events: the path of the run folder that they are of."""

ROOM_BYTES = 1_000_000  # free on the disk, below which nothing is written; assumed: more than a preview takes


class TensorBoardObserver(Observer):
    """Writes events to LOGGING_DIR/NAME-OF-RUN, so that one TensorBoard shows every run."""

    def __init__(self, logging_dir: Path) -> None:
        """Find, before anything is trained, that events can be written to `logging_dir`.

        Raises:
            UserError: they cannot.
        """
        self._logging_dir = logging_dir.expanduser()
        self._events: Path | None = None
        self._writer: Any = None
        self._waiting: list[Callable[[Any], Any]] = []
        self._has_news = False
        try:
            self._logging_dir.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._logging_dir).close()
        except OSError as error:
            hint = "Choose a folder that you may write to."
            raise UserError(f"cannot write to --logging_dir '{logging_dir}': {error.strerror}", hint) from error

    def started(self, run: RunRecord, folder: Path) -> None:
        step = run.progress.step
        events = _events_folder(self._logging_dir, run.name, folder)
        if step == 0:
            for old in events.glob("events.out.tfevents.*"):
                old.unlink()  # of the run that stood in this run folder before
        self._events, self._writer = events, SummaryWriter(str(events), purge_step=step + 1 if step else None)
        rows = [f"| {name} | {value} |" for name, value in run.config.items()]
        text = "\n".join(["| option | value |", "|---|---|", *rows])
        self._write(lambda writer: writer.add_text("config", text, 0))

    def logged(self, row: MetricsRow) -> None:
        names = ("train_loss", "learning_rate", "grad_norm", "ema_decay", "images_per_second", "epoch")
        self._write_scalars("train", {name: getattr(row, name) for name in names}, row.step)

    def evaluated(self, row: EvaluationRow) -> None:
        scores = {"heldout_loss": row.heldout_loss, "train_loss": row.fixed_train_loss, "skill": row.skill}
        scores |= {f"{band}_loss": score.loss for band, score in row.bands.items()}
        scores |= {f"{band}_skill": score.skill for band, score in row.bands.items()}
        self._write_scalars(f"evaluation_{row.weights}", scores, row.step)
        self._has_news = True

    def sampled(self, row: SamplesRow) -> None:
        self._write_scalars(f"samples_{row.weights}", {k: one.samples for k, one in row.statistics.items()}, row.step)

    def judged(self, verdict: Verdict) -> None:
        """Write a verdict as text, and, of a new evaluation, the numbers that it rests on."""
        text = f"**{verdict.code}** {verdict.sentence}"
        self._write(lambda writer: writer.add_text("verdict", text, verdict.step))
        if not self._has_news:  # the end of a session judges its last evaluation again
            return
        self._has_news = False
        self._write_scalars("verdict", {entry.name: entry.value for entry in verdict.evidence}, verdict.step)

    def previewed(self, preview: Preview) -> None:
        for weights, path in preview.pictures.items():
            self._write_picture(f"samples/{weights}", np.asarray(Image.open(path).convert("RGB")), preview.step)
        self._write(lambda writer: writer.flush())

    def ended(self, run: RunRecord) -> None:
        if self._events is None:  # the run failed before this observer was told of its start
            return
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in run.config.items()
        }
        scores = {"hparam/epochs": run.progress.epoch}
        self._write(lambda writer: writer.add_hparams(plain, scores, run_name="."))
        self._write(lambda writer: writer.close())

    def _write_scalars(self, group: str, values: dict[str, float | None], step: int) -> None:
        known = {f"{group}/{name}": value for name, value in values.items() if value is not None}
        self._write(lambda writer: [writer.add_scalar(name, value, step) for name, value in known.items()])

    def _write_picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._write(lambda writer: writer.add_image(name, pixels, step, dataformats="HWC"))

    def _write(self, add: Callable[[Any], Any]) -> None:
        """Give SummaryWriter something to write, or keep it until there is room: its thread dies of a full disk.

        Raises:
            OSError: it died all the same; the next call begins a new file.
        """
        self._waiting.append(add)
        if self._events is None or shutil.disk_usage(self._events).free < ROOM_BYTES:
            return
        try:
            self._writer = self._writer or SummaryWriter(str(self._events))
            while self._waiting:
                self._waiting[0](self._writer)
                del self._waiting[0]
        except OSError:
            self._writer = None
            raise


def _events_folder(logging_dir: Path, name: str, run_folder: Path) -> Path:
    """Return LOGGING_DIR/NAME, or NAME-2 and so on where the events of another run folder of that name stand."""
    ours = str(run_folder.resolve())
    for number in itertools.count(1):
        events = logging_dir / (name if number == 1 else f"{name}-{number}")
        owner = events / OWNER_FILE
        if not owner.exists() and not any(events.glob("events.out.tfevents.*")):
            events.mkdir(parents=True, exist_ok=True)
            owner.write_text(ours, encoding="utf-8")
        if owner.exists() and owner.read_text(encoding="utf-8") == ours:
            return events
    raise AssertionError("unreachable")
