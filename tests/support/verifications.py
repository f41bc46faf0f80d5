"""Statements of `openddpm verify`, without verifying anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openddpm.record.files import file_sha256, write_json
from openddpm.record.reader import read_run_record
from openddpm.record.schema import EnvironmentRecord, SpeedRecord
from openddpm.record.verification import Rung, RungName, RungStatus, VerificationRecord
from openddpm.record.writer import SCHEMAS, VERIFICATION_FILE

CLIMBED: Mapping[RungName, RungStatus] = {
    "files": "exact",
    "data": "exact",
    "initial_weights": "exact",
    "first_steps": "rounding",
    "segments": "not_checked",
    "evaluation": "exact",
    "previews": "rounding",
}
SPEED = SpeedRecord(
    images_on_device=False, tf32=False, autotune=False, deterministic=False, compile_mode=None, compile_seconds=0.0
)


class Silent:
    """Hears of the progress of a verification, and says nothing."""

    def working(self, name: str, done: int, total: int) -> None:
        """Take no note of a part that is done."""

    def finished(self, rung: Rung) -> None:
        """Take no note of a rung that is done."""


def a_verification(statuses: Mapping[RungName, RungStatus] | None = None, **changes: Any) -> VerificationRecord:
    """Return a statement with rungs of these statuses; the first steps were computed again, unless told."""
    here = EnvironmentRecord(
        device="a device",
        device_type="cpu",
        cpu_threads=2,
        python="3.11.7",
        platform="Linux",
        packages={"torch": "2"},
        speed=SPEED,
    )
    values: dict[str, Any] = {
        "run_id": "3f6c0d5e9a1b4c27",
        "name": "faces",
        "source": "faces",
        "files": {"run.json": "a" * 64, "metrics.jsonl": "b" * 64, "data.json": "c" * 64},
        "time": "2026-03-14T09:26:53+00:00",
        "environment": here,
        "trained_on": "another device",
        "budget_minutes": 5.0,
        "total_steps": 400,
        "replayed": [(1, 60)],
        "rungs": [
            Rung(name=name, status=status, text=f"What came out of {name}.", seconds=2.0)
            for name, status in (CLIMBED if statuses is None else statuses).items()
        ],
    }
    return VerificationRecord(**{**values, **changes})


def write_verification_of(folder: Path, **changes: Any) -> VerificationRecord:
    """Write verification.json for the run in `folder`, of its files as they are; return it."""
    run = read_run_record(folder)
    files = {name: file_sha256(folder / name) for name in SCHEMAS if (folder / name).is_file()}
    found = a_verification(**{"run_id": run.run_id, "name": run.name, "files": files, **changes})
    write_json(folder / VERIFICATION_FILE, found.model_dump())
    return found
