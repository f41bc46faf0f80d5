"""Writes a run folder. Each run has one writer: the main process."""

import json
import re
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import BaseModel

from openddpm.record.data_record import DataRecord
from openddpm.record.files import append_whole, read_file, read_json_lines, sync_file, write_atomically, write_json
from openddpm.record.kept import MILESTONES_FOLDER, list_milestones
from openddpm.record.schema import (
    WEIGHTS_NAME,
    BaselinesRecord,
    CheckpointRow,
    EvaluationRow,
    MetricsRow,
    ReferenceBandRecord,
    RunRecord,
    SamplesRow,
    Verdict,
)

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
SAMPLES_FILE = "samples.jsonl"
CHECKPOINTS_FILE = "checkpoints.jsonl"
DATA_FILE = "data.json"
BASELINES_FILE = "baselines.json"
VERDICT_FILE = "verdict.json"
TRACKERS_FILE = "trackers.json"
REFERENCE_BAND_FILE = "reference_band.json"
MANIFEST_FILE = "manifest.json"
VERIFICATION_FILE = "verification.json"
VERIFICATION_PAGE = "verify.html"
IMPORTED_FILE = "imported.json"
"""Marks the folder of an imported record, which is no run's."""
RUN_FILES = (
    *(RUN_FILE, METRICS_FILE, EVALUATIONS_FILE, DATA_FILE, BASELINES_FILE, VERDICT_FILE),
    *("samples", "checkpoints", "model_index.json", "unet", "scheduler", "report.html", "README.md", "curves.png"),
    *("generated", SAMPLES_FILE, CHECKPOINTS_FILE, TRACKERS_FILE, REFERENCE_BAND_FILE, MILESTONES_FOLDER),
    *("compare.html", MANIFEST_FILE, VERIFICATION_FILE, VERIFICATION_PAGE),
)
"""Everything a run may leave in its folder."""

ROW_FILES = (METRICS_FILE, EVALUATIONS_FILE, SAMPLES_FILE, CHECKPOINTS_FILE)
"""JSON Lines, which grow as the run does."""

SCHEMAS: dict[str, type[BaseModel]] = {
    RUN_FILE: RunRecord,
    METRICS_FILE: MetricsRow,
    EVALUATIONS_FILE: EvaluationRow,
    SAMPLES_FILE: SamplesRow,
    CHECKPOINTS_FILE: CheckpointRow,
    BASELINES_FILE: BaselinesRecord,
    DATA_FILE: DataRecord,
    VERDICT_FILE: Verdict,
    REFERENCE_BAND_FILE: ReferenceBandRecord,
}
"""Schema of each file of the record, or of a line of it."""

FILE_OF = {kind: name for name, kind in SCHEMAS.items()}

TRAINING_DATA_PICTURE = "samples/training-data.png"
PREVIEW_NAME = re.compile(rf"step-(?P<step>\d+)-(?P<weights>{WEIGHTS_NAME})\.png")


class RunWriter:
    """Writer that appends rows and replaces JSON files so that the record stays valid if the process is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting = dict.fromkeys(ROW_FILES, b"")
        """Lines that could not be written yet."""
        self._appending = Lock()
        self._noted_checkpoints: set[Any] | None = None
        """Steps that checkpoints.jsonl has; None until it is read."""
        (folder / "samples").mkdir(parents=True, exist_ok=True)

    def write(self, record: BaseModel) -> None:
        """Replace the JSON file that has this kind of record."""
        write_json(self.folder / FILE_OF[type(record)], record.model_dump())

    def append(self, row: BaseModel) -> None:
        """Add a line to the file that has this kind of row; if that fails it is added before the next."""
        line = json.dumps(row.model_dump(), allow_nan=False) + "\n"
        name = FILE_OF[type(row)]
        with self._appending:
            self._waiting[name] += line.encode()
            self._write_waiting(name)

    def append_checkpoint(self, row: CheckpointRow) -> None:
        """Add a line to checkpoints.jsonl, unless its step has one from before a failure or a kill.

        Raises:
            OSError: it could not be written; it is added before the next.
        """
        if self._noted_checkpoints is None:
            self._noted_checkpoints = {line.get("step") for line in read_json_lines(self.folder / CHECKPOINTS_FILE)}
        if row.step not in self._noted_checkpoints:
            self._noted_checkpoints.add(row.step)
            self.append(row)

    def sync_rows(self) -> None:
        """Make the rows so far survive a power loss: a checkpoint must not outlive the lines before it.

        Raises:
            OSError: a line cannot be written or synced.
        """
        with self._appending:
            for name in self._waiting:
                self._write_waiting(name)
        for name in ROW_FILES:
            if (self.folder / name).exists():
                sync_file(self.folder / name)

    def _write_waiting(self, name: str) -> None:
        if self._waiting[name]:
            append_whole(self.folder / name, self._waiting[name])
            self._waiting[name] = b""

    def forget_after(self, step: int, evaluation_due: bool = False) -> None:
        """Drop rows, previews and milestones of later steps, and torn lines, so that no step is recorded twice.

        Args:
            evaluation_due: whether `step` is to be evaluated again, so that its own evaluation and samples go too.
        """
        for later, path in list_milestones(self.folder).items():
            if later > step:
                path.unlink()
        for name in ROW_FILES:
            rows = read_json_lines(self.folder / name)
            last = step - 1 if evaluation_due and name in (EVALUATIONS_FILE, SAMPLES_FILE) else step
            kept = [row for row in rows if not (isinstance(row.get("step"), int) and row["step"] > last)]
            content = read_file(self.folder / name)
            if len(kept) < len(rows) or content is None or not content.endswith(b"\n"):  # else it stays, byte for byte
                write_atomically(self.folder / name, "".join(json.dumps(row) + "\n" for row in kept))
            if len(kept) < len(rows):
                (self.folder / VERDICT_FILE).unlink(missing_ok=True)  # it was based on them
        for later, _, path in list_preview_files(self.folder):
            if later > step:
                path.unlink()


def list_preview_files(folder: Path) -> list[tuple[int, str, Path]]:
    """Return (step, weights, path) of each preview image in a run folder, in the order of their names."""
    paths = sorted((folder / "samples").glob("step-*.png"))
    matches = [(PREVIEW_NAME.fullmatch(path.name), path) for path in paths]
    return [(int(match["step"]), match["weights"], path) for match, path in matches if match]
