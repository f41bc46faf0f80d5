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
"""Beside the events: the path of the run folder that they are of."""

ROOM_BYTES = 1_000_000  # free on the disk, below which nothing is written; assumed: more than a preview takes


class TensorBoard:
    """Writes events to LOGGING_DIR/NAME-OF-RUN, so that one TensorBoard shows every run.

    Accelerate's own class would die of a full disk, and has no way to take back the steps that a resumption repeats.
    """

    name = "tensorboard"
    takes_back_steps = True

    def __init__(self, logging_dir: Path) -> None:
        """Find, before anything is trained, that events can be written to `logging_dir`.

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
        """Begin a file of events, from which TensorBoard takes back later steps of the run than it goes on from."""
        step = run.progress.step
        events = _events_folder(self._logging_dir, run.name, folder)
        if step == 0:
            for old in events.glob("events.out.tfevents.*"):
                old.unlink()  # of the run that stood in this run folder before
        self._events, self._writer = events, SummaryWriter(str(events), purge_step=step + 1 if step else None)
        self._options = options
        rows = [f"| {name} | {value} |" for name, value in options.items()]
        self.text("config", "\n".join(["| option | value |", "|---|---|", *rows]), 0)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add a point to each curve."""
        self._write(lambda writer: [writer.add_scalar(name, value, step) for name, value in values.items()])

    def text(self, name: str, text: str, step: int) -> None:
        """Add a text, which is shown as Markdown."""
        self._write(lambda writer: writer.add_text(name, text, step))

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Add a picture."""
        pixels = np.asarray(picture)
        self._write(lambda writer: [writer.add_image(name, pixels, step, dataformats="HWC"), writer.flush()])

    def finish(self, run: RunRecord) -> None:
        """Add the options as hyper-parameters, and write what is left."""
        scores = {"hparam/epochs": run.progress.epoch}
        self._write(lambda writer: writer.add_hparams(self._options, scores, run_name="."))
        self._write(lambda writer: writer.close())

    def _write(self, add: Callable[[Any], Any]) -> None:
        """Give SummaryWriter something to write, or keep it until there is room: its thread dies of a full disk.

        Where it died all the same, the next call begins a new file.
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
