"""Reads a run folder, whole or still growing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from openddpm.errors import UserError
from openddpm.record.files import read_json_lines
from openddpm.record.schema import (
    SCHEMA_VERSION,
    DataRecord,
    EvaluationRow,
    MetricsRow,
    RulersRecord,
    RunRecord,
    Verdict,
)
from openddpm.record.writer import (
    DATA_FILE,
    EVALUATIONS_FILE,
    METRICS_FILE,
    RULERS_FILE,
    RUN_FILE,
    VERDICT_FILE,
    list_preview_files,
)

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class Preview:
    """The preview images of one step, by the weights that made them."""

    step: int
    ema: Path | None
    raw: Path | None


@dataclass(frozen=True)
class RunFolder:
    """All that is recorded of one run."""

    folder: Path
    run: RunRecord
    metrics: list[MetricsRow]
    evaluations: list[EvaluationRow]
    data: DataRecord | None
    rulers: RulersRecord | None
    verdict: Verdict | None
    previews: list[Preview]


def read_run_record(folder: Path) -> RunRecord:
    """Read run.json.

    Raises:
        UserError: no run there, a damaged record, or one of a newer schema.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise UserError(f"no run in '{folder}': it has no {RUN_FILE}", "Name the --output_dir of a training run.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
        if version > SCHEMA_VERSION:
            raise UserError(
                f"'{path}' has schema version {version}; this openddpm reads up to {SCHEMA_VERSION}",
                "Upgrade openddpm: pip install --upgrade openddpm",
            )
        return RunRecord.model_validate(content)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise _damaged(path, error) from error


def read_run_folder(folder: Path) -> RunFolder:
    """Read every record file of a run; files that the run has not written yet count as empty.

    Raises:
        UserError: as `read_run_record`, or a damaged file, which it names.
    """
    return RunFolder(
        folder=folder,
        run=read_run_record(folder),
        metrics=_read_rows(folder / METRICS_FILE, MetricsRow),
        evaluations=_read_rows(folder / EVALUATIONS_FILE, EvaluationRow),
        data=_read_record(folder / DATA_FILE, DataRecord),
        rulers=_read_record(folder / RULERS_FILE, RulersRecord),
        verdict=_read_verdict(folder),
        previews=list_previews(folder),
    )


def list_previews(folder: Path) -> list[Preview]:
    """Return the previews of a run in the order of their steps."""
    found: dict[int, dict[str, Path]] = {}
    for step, weights, path in list_preview_files(folder):
        found.setdefault(step, {})[weights] = path
    return [Preview(step, kinds.get("ema"), kinds.get("raw")) for step, kinds in sorted(found.items())]


def _read_rows(path: Path, kind: type[Record]) -> list[Record]:
    try:
        return [kind.model_validate(row) for row in read_json_lines(path)]
    except ValidationError as error:
        raise _damaged(path, error) from error


def _read_record(path: Path, kind: type[Record]) -> Record | None:
    try:
        return kind.model_validate_json(path.read_bytes()) if path.exists() else None
    except ValidationError as error:
        raise _damaged(path, error) from error


def _read_verdict(folder: Path) -> Verdict | None:
    """Return the last verdict, or None if it is damaged: it can be reached again from the rest."""
    try:
        return _read_record(folder / VERDICT_FILE, Verdict)
    except UserError:
        return None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"'{path}' is damaged: {error}", "Restore the file, or train again.")
