"""The run as TensorBoard events: scalars, preview images, and the config without secrets."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, MetricsRow, RunRecord
from openddpm.training.observers import Observer


class TensorBoardObserver(Observer):
    """Writes events to LOGGING_DIR/NAME-OF-RUN, so that one TensorBoard shows every run."""

    def __init__(self, logging_dir: Path) -> None:
        self._logging_dir = logging_dir
        self._writer: Any = None

    def started(self, run: RunRecord, folder: Path) -> None:
        step = run.progress.step
        events = self._logging_dir / run.name
        if step == 0:
            for old in events.glob("events.out.tfevents.*"):
                old.unlink()  # of an earlier run of this name, which was overwritten
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
        for name, value in scores.items():
            if value is not None:
                self._writer.add_scalar(f"evaluation_{row.weights}/{name}", value, row.step)

    def previewed(self, preview: Preview) -> None:
        for weights, path in (("ema", preview.ema), ("raw", preview.raw)):
            if path is not None:
                picture = np.asarray(Image.open(path).convert("RGB"))
                self._writer.add_image(f"samples/{weights}", picture, preview.step, dataformats="HWC")
        self._writer.flush()

    def ended(self, run: RunRecord) -> None:
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in run.config.items()
        }
        self._writer.add_hparams(plain, {"hparam/epochs": run.progress.epoch}, run_name=".")
        self._writer.close()
