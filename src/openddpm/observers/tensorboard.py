"""The run as TensorBoard events: scalars, preview images, and the config without secrets."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from openddpm.errors import UserError
from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, MetricsRow, RunRecord, Verdict
from openddpm.training.observers import Observer

OWNER_FILE = "run-folder.txt"
"""Beside the events: the path of the run folder that they are of."""


class TensorBoardObserver(Observer):
    """Writes events to LOGGING_DIR/NAME-OF-RUN, so that one TensorBoard shows every run."""

    def __init__(self, logging_dir: Path) -> None:
        """Find, before anything is trained, that events can be written to `logging_dir`.

        Raises:
            UserError: they cannot.
        """
        self._logging_dir = logging_dir.expanduser()
        self._writer: Any = None
        try:
            self._logging_dir.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._logging_dir).close()
        except OSError as error:
            todo = "Choose a folder that you may write to."
            raise UserError(f"cannot write to --logging_dir '{logging_dir}': {error.strerror}", todo) from error

    def started(self, run: RunRecord, folder: Path) -> None:
        step = run.progress.step
        events = _events_folder(self._logging_dir, run.name, folder)
        if step == 0:
            for old in events.glob("events.out.tfevents.*"):
                old.unlink()  # of the run that stood in this run folder before
        self._writer = SummaryWriter(str(events), purge_step=step + 1 if step else None)
        rows = [f"| {name} | {value} |" for name, value in run.config.items()]
        self._writer.add_text("config", "\n".join(["| option | value |", "|---|---|", *rows]), 0)

    def logged(self, row: MetricsRow) -> None:
        names = ("train_loss", "learning_rate", "grad_norm", "ema_decay", "images_per_second", "epoch")
        for name in names:
            if (value := getattr(row, name)) is not None:
                self._writer.add_scalar(f"train/{name}", value, row.step)

    def evaluated(self, row: EvaluationRow) -> None:
        scores = {"heldout_loss": row.heldout_loss, "train_loss": row.train_loss, "skill": row.skill}
        scores |= {f"{band}_loss": score.loss for band, score in row.bands.items()}
        scores |= {f"{band}_skill": score.skill for band, score in row.bands.items()}
        for name, value in scores.items():
            if value is not None:
                self._writer.add_scalar(f"evaluation_{row.weights}/{name}", value, row.step)

    def judged(self, verdict: Verdict) -> None:
        """Write a new verdict as text, and the numbers that it rests on."""
        self._writer.add_text("verdict", f"**{verdict.code}** {verdict.sentence}", verdict.step)
        for evidence in verdict.evidence:
            if evidence.value is not None:
                self._writer.add_scalar(f"verdict/{evidence.name}", evidence.value, verdict.step)

    def previewed(self, preview: Preview) -> None:
        for weights, path in (("ema", preview.ema), ("raw", preview.raw)):
            if path is not None:
                picture = np.asarray(Image.open(path).convert("RGB"))
                self._writer.add_image(f"samples/{weights}", picture, preview.step, dataformats="HWC")
        self._writer.flush()

    def ended(self, run: RunRecord) -> None:
        if self._writer is None:  # the run failed before this observer was told of its start
            return
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in run.config.items()
        }
        self._writer.add_hparams(plain, {"hparam/epochs": run.progress.epoch}, run_name=".")
        self._writer.close()


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
