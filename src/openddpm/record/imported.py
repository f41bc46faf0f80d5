"""imported.json: a partial record of a run that another script trained, made from the log of that script."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from openddpm.errors import UserError
from openddpm.names import name_below
from openddpm.record.files import (
    TEMPORARY,
    parse_json,
    read_file,
    remove_folder,
    replace_path,
    write_atomically,
    write_json,
)
from openddpm.record.reader import check_version, damaged
from openddpm.record.schema import SCHEMA_VERSION, Count, RecordModel, Seconds, Size
from openddpm.record.writer import IMPORTED_FILE, RUN_FILE

MISSING = (
    "the held-out loss and the skill, and what baselines lose on the same images",
    "which images it was trained on, and how many",
    "the UNet, its noise schedule and what it predicts",
    "options, seed, software and hardware",
    "weights and checkpoints",
    "a verdict, as a training loss alone supports none",
)
"""What an imported record does not tell."""

PICTURES_FOLDER, PAGES = "samples", ("report.html", "compare.html")
_PICTURE_FILE = rf"{PICTURES_FOLDER}/step-[0-9]{{8,16}}(?:-[0-9]{{1,6}})?\.png"
_OURS = re.compile(rf"{_PICTURE_FILE}|{PICTURES_FOLDER}|{'|'.join(map(re.escape, (IMPORTED_FILE, *PAGES)))}")
"""Everything that an imported record may have in its folder."""


class ImportedTags(RecordModel):
    """Names that the columns have in the log."""

    train_loss: str
    learning_rate: str | None
    """Null if the log has none, or several."""


class ImportedPicture(RecordModel):
    """A picture of the log."""

    step: Count
    """Steps done when it was made; 0 before the first."""
    tag: str
    """Its name in the log."""
    file: Annotated[str, StringConstraints(pattern=f"^{_PICTURE_FILE}$")]
    """Path of the PNG in the folder of imported.json: samples/step-00000500.png, or -2, -3 and so on for more of a
    step."""


class ImportedRecord(RecordModel):
    """imported.json: what the log of another script tells of a run.

    The columns are lists of the same length, an entry for each step with a loss, in the order of the steps.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str
    """Name of the folder that holds the record."""
    source: str
    """Folder of the log, without the path to it."""
    created: str
    """Time of the first entry of the log, UTC, ISO 8601."""
    images_per_step: Size | None
    """Images that a step consumes, over all processes and accumulation; null if it is not known."""
    tags: ImportedTags
    step: list[Size] = Field(min_length=1)
    """Steps done, this one included."""
    wall_seconds: list[Seconds]
    """Time since the first entry of the log, pauses included."""
    train_loss: list[float]
    """As logged: of one batch or the mean of several, which a log does not tell."""
    learning_rate: list[float | None]
    """Null where none was logged."""
    not_finite_steps: list[Size]
    """Steps whose loss was NaN or infinite, which the columns leave out."""
    pictures: list[ImportedPicture]
    """In the order of their steps."""
    ignored_tags: list[str]
    """Names of numbers in the log that were not taken."""
    notes: list[str]
    """What was changed or guessed on the way, a sentence each."""

    @model_validator(mode="after")
    def _check_columns(self) -> "ImportedRecord":
        if not len(self.step) == len(self.wall_seconds) == len(self.train_loss) == len(self.learning_rate):
            raise ValueError("step, wall_seconds, train_loss and learning_rate differ in length")
        for name, steps in (("step", self.step), ("not_finite_steps", self.not_finite_steps)):
            if any(later <= earlier for earlier, later in pairwise(steps)):
                raise ValueError(f"{name} does not increase")
        if not {*self.step}.isdisjoint(self.not_finite_steps):
            raise ValueError("step and not_finite_steps have a step in common")
        return self


@dataclass(frozen=True)
class ImportedFolder:
    """An imported record and the folder that its pictures are in."""

    folder: Path
    record: ImportedRecord


def is_imported(folder: Path) -> bool:
    """Tell whether a folder holds an imported record, and no run."""
    return (folder / IMPORTED_FILE).is_file() and not (folder / RUN_FILE).exists()


def read_imported_folder(folder: Path) -> ImportedFolder:
    """Read an imported record.

    Raises:
        UserError: there is none, it is damaged, or it has another schema version.
    """
    path = folder / IMPORTED_FILE
    content = read_file(path)
    if content is None:
        raise UserError(f"no imported record in '{folder}': it has no {IMPORTED_FILE}", "Import the log first.")
    try:
        fields = parse_json(content)
        check_version(path, fields)
        return ImportedFolder(folder, ImportedRecord.model_validate(fields))
    except ValueError as error:
        raise damaged(path, error, "Import the log again.") from error


def check_imported_folder(folder: Path) -> None:
    """Check that an imported record may be written to `folder`: it is empty, missing, or holds nothing but another one.

    Raises:
        UserError: naming what else it holds.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"'{folder}' is a file", "Choose another --output_dir.")
    names = [name_below(path, folder) for path in sorted(folder.rglob("*"))] if folder.is_dir() else []
    found = [name for name in names if TEMPORARY not in name]
    others = [name for name in found if not _OURS.fullmatch(name)]
    if others or (found and IMPORTED_FILE not in found):
        named = ", ".join((others or found)[:3])
        raise UserError(
            f"'{folder}' holds more than an imported record: {named}", "Choose another --output_dir, or move it away."
        )


def write_imported_folder(folder: Path, record: ImportedRecord, pictures: Mapping[str, bytes]) -> ImportedFolder:
    """Write an imported record, in place of another one that the folder may hold.

    Args:
        pictures: content of each of `record.pictures`, by `file`.

    Raises:
        UserError: as `check_imported_folder`, or the folder cannot be written.
    """
    check_imported_folder(folder)
    staging = folder / f".import{TEMPORARY}"
    try:
        if staging.exists():  # of an import that was killed
            remove_folder(staging)
        for file, content in pictures.items():
            write_atomically(staging / file, content)
        write_json(staging / IMPORTED_FILE, record.model_dump())
        (folder / IMPORTED_FILE).unlink(missing_ok=True)  # first, since it marks the other files as a record's
        for page in PAGES:
            (folder / page).unlink(missing_ok=True)
        if (folder / PICTURES_FOLDER).is_dir():
            remove_folder(folder / PICTURES_FOLDER)
        if pictures:
            replace_path(staging / PICTURES_FOLDER, folder / PICTURES_FOLDER)
        replace_path(staging / IMPORTED_FILE, folder / IMPORTED_FILE)
        staging.rmdir()
    except OSError as error:
        raise UserError(f"'{folder}' cannot be written: {error.strerror}", "Choose another --output_dir.") from error
    return ImportedFolder(folder, record)
