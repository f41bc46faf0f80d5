"""Schema of verification.json: what was checked of a run, by which rung, with what result, and where."""

from typing import Final, Literal

from pydantic import Field

from openddpm.record.schema import Count, EnvironmentRecord, RecordModel, Seconds, Size

VERIFICATION_FILE = "verification.json"
VERIFICATION_VERSION: Final = 1

RungName = Literal["files", "data", "initial_weights", "first_steps", "segments", "evaluation", "previews", "whole"]
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
    """sha256 of each file of the record as it was verified, by name."""
    time: str
    """UTC, ISO 8601."""
    environment: EnvironmentRecord | None
    """Where it was verified; null if nothing was computed."""
    trained_on: str
    """Device of the run's latest session."""
    budget_minutes: Seconds
    total_steps: Size
    replayed_steps: Count
    """Training steps that were computed again."""
    rungs: list[Rung] = Field(min_length=1)
    """In the order of the ladder."""
    first_divergent_step: Count | None = None
    """First logged step of the record at which a replay differs by more than rounding does."""

    @property
    def is_failed(self) -> bool:
        """Whether a rung failed."""
        return any(rung.status == "failed" for rung in self.rungs)

    @property
    def is_verified(self) -> bool:
        """Whether nothing failed, and at least the files, the data and the first steps were checked."""
        checked = {rung.name for rung in self.rungs if rung.status in ("exact", "rounding")}
        return not self.is_failed and checked.issuperset(NEEDED)
