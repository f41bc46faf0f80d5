"""Schema of verification.json: what was checked of a run, by which rung, with what result, and where."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from openddpm.errors import UserError
from openddpm.record.files import file_sha256
from openddpm.record.reader import read_record
from openddpm.record.schema import Count, EnvironmentRecord, RecordModel, Seconds, Size
from openddpm.record.writer import DATA_FILE, RUN_FILE, SCHEMAS, VERIFICATION_FILE

VERIFICATION_VERSION: Final = 1

RungName = Literal["files", "data", "initial_weights", "evaluation", "previews", "first_steps", "segments", "whole"]
RungStatus = Literal["exact", "rounding", "failed", "not_checked"]

NEEDED: tuple[RungName, ...] = ("files", "data", "first_steps")
"""Without these a record is not verified, even if nothing failed."""


class Rung(RecordModel):
    """One way of checking a record, and its result."""

    name: RungName
    status: RungStatus
    """"exact": all numbers or bits are equal; "rounding": they differ as little as rounding on another processor makes
    them; "failed"; "not_checked": the text says why."""
    text: str
    """What was compared, and with what result, as a sentence."""
    details: list[str] = Field(default_factory=list)
    """What differs, a sentence each, the first in the record first."""
    seconds: Seconds = 0.0


class VerificationRecord(RecordModel):
    """verification.json: a statement about the record of a run. It says whether the record is consistent with what its
    options produce, and nothing about who trained the model."""

    schema_version: Literal[1] = VERIFICATION_VERSION
    run_id: str
    name: str
    """Name of the run's folder."""
    source: str
    """What was verified: the name of the folder, a Hub id, or a built-in reference."""
    files: dict[str, str]
    """sha256 of each file of the record as it was verified, by name; where it was published afterwards, without the
    files that are published with changes: run.json and data.json lose the paths of their machine."""
    time: str
    """UTC, ISO 8601."""
    environment: EnvironmentRecord | None
    """Where it was verified; null if nothing was computed."""
    trained_on: str
    """Device of the run's latest session."""
    budget_minutes: Seconds
    total_steps: Size
    replayed: list[tuple[Size, Size]]
    """First and last step of each stretch that was computed again; they may overlap. One that begins at step 1 starts
    from the seed, any other from a checkpoint."""
    rungs: list[Rung] = Field(min_length=1)
    """In the order of the ladder."""
    first_divergent_step: Count | None = None
    """First logged step of the record at which a replay differs by more than rounding does."""

    @property
    def replayed_steps(self) -> int:
        """Training steps that were computed again, each counted once."""
        return num_steps_in(self.replayed)

    @property
    def is_failed(self) -> bool:
        """Whether a rung failed."""
        return any(rung.status == "failed" for rung in self.rungs)

    @property
    def is_verified(self) -> bool:
        """Whether nothing failed, and at least the files, the data and the first steps were checked."""
        checked = {rung.name for rung in self.rungs if rung.status in ("exact", "rounding")}
        return not self.is_failed and checked.issuperset(NEEDED)


def num_steps_in(stretches: Iterable[tuple[int, int]]) -> int:
    """Return how many different steps lie in stretches, given by their first and last steps."""
    number, done = 0, 0
    for first, last in sorted(stretches):
        number += max(0, last - max(first - 1, done))
        done = max(done, last)
    return number


def read_verification(folder: Path, run_id: str) -> VerificationRecord | None:
    """Return what was checked of a run, from its folder; None if nothing was, or the record has changed since.

    A damaged file counts as none: the run can be verified again.
    """
    try:
        found = read_record(folder / VERIFICATION_FILE, VerificationRecord)
        if found is None or found.run_id != run_id:
            return None
        here = {name: file_sha256(folder / name) for name in SCHEMAS if (folder / name).is_file()}
    except (UserError, OSError):
        return None
    may_be_missing = {RUN_FILE, DATA_FILE}  # in a published statement
    is_of_this_record = all(here.get(name) == sha256 for name, sha256 in found.files.items())
    return found if is_of_this_record and {*here} - {*found.files} <= may_be_missing else None
