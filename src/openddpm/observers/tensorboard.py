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
from openddpm.record.schema import RunRecord

OWNER_FILE = "run-folder.txt"
"""File beside the events with the path of their run folder."""

MIN_FREE_BYTES = 1_000_000  # with less on the disk nothing is written; assumed: more than a preview takes


class TensorBoard:
    """Writes events to LOGGING_DIR/NAME-OF-RUN, so that one TensorBoard shows every run.

    Accelerate's class fails on a full disk, and cannot remove the steps that a resumption repeats.
    """

    name = "tensorboard"
    replaces_steps = True

    def __init__(self, logging_dir: Path) -> None:
        """Check before training that events can be written to `logging_dir`.

        Raises:
            UserError: they cannot.
        """
        self._logging_dir = logging_dir.expanduser()
        self._events: Path | None = None
        self._writer: Any = None
        self._waiting: list[Callable[[Any], Any]] = []
        try:
            self._logging_dir.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._logging_dir).close()
        except OSError as error:
            hint = "Choose a folder that you may write to."
            raise UserError(f"cannot write to --logging_dir '{logging_dir}': {error.strerror}", hint) from error

    def start(self, run: RunRecord, folder: Path, options: dict[str, bool | int | float | str]) -> None:
        """Begin a file of events; TensorBoard then removes events of steps after the one that the run resumes from."""
        step = run.progress.step
        events = _events_folder(self._logging_dir, run.name, folder)
        if step == 0:
            for old in events.glob("events.out.tfevents.*"):
                old.unlink()  # of an earlier run in this run folder
        self._events, self._writer = events, SummaryWriter(str(events), purge_step=step + 1 if step else None)
        self._options = options
        rows = [f"| {name} | {value} |" for name, value in options.items()]
        self.text("config", "\n".join(["| option | value |", "|---|---|", *rows]), 0)

    def scalars(self, values: dict[str, float], step: int) -> None:
        self._write(lambda writer: [writer.add_scalar(name, value, step) for name, value in values.items()])

    def text(self, name: str, text: str, step: int) -> None:
        """Add a text, shown as Markdown."""
        self._write(lambda writer: writer.add_text(name, text, step))

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        pixels = np.asarray(picture)
        self._write(lambda writer: [writer.add_image(name, pixels, step, dataformats="HWC"), writer.flush()])

    def finish(self, run: RunRecord) -> None:
        """Add the options as hyper-parameters, and write what is waiting."""
        scores = {"hparam/epochs": run.progress.epoch}
        self._write(lambda writer: writer.add_hparams(self._options, scores, run_name="."))
        self._write(lambda writer: writer.close())

    def _write(self, add: Callable[[Any], Any]) -> None:
        """Give SummaryWriter something to write, or keep it until the disk has space: a full disk ends its thread.

        If the thread ends all the same, the next call begins a new file.
        """
        self._waiting.append(add)
        if self._events is None or shutil.disk_usage(self._events).free < MIN_FREE_BYTES:
            return
        try:
            self._writer = self._writer or SummaryWriter(str(self._events))
            while self._waiting:
                self._waiting[0](self._writer)
                del self._waiting[0]
        except OSError:
            self._writer = None


def _events_folder(logging_dir: Path, name: str, run_folder: Path) -> Path:
    """Return LOGGING_DIR/NAME, or NAME-2 and so on if that has the events of another run folder of this name."""
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
