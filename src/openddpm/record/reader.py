"""Reads a run folder, whole or still growing."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from openddpm.errors import UserError
from openddpm.record.files import read_json_lines
from openddpm.record.schema import SCHEMA_VERSION, DataRecord, EvaluationRow, MetricsRow, RunRecord
from openddpm.record.writer import DATA_FILE, EVALUATIONS_FILE, METRICS_FILE, RUN_FILE


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
        raise UserError(f"'{path}' is damaged: {error}", "Restore the file, or train again.") from error


def read_run_folder(folder: Path) -> RunFolder:
    """Read every record file of a run; files that the run has not written yet count as empty."""
    run = read_run_record(folder)
    data_path = folder / DATA_FILE
    try:
        return RunFolder(
            folder=folder,
            run=run,
            metrics=[MetricsRow.model_validate(row) for row in read_json_lines(folder / METRICS_FILE)],
            evaluations=[EvaluationRow.model_validate(row) for row in read_json_lines(folder / EVALUATIONS_FILE)],
            data=DataRecord.model_validate_json(data_path.read_text("utf-8")) if data_path.exists() else None,
            previews=list_previews(folder),
        )
    except (ValueError, ValidationError) as error:
        raise UserError(f"the record in '{folder}' is damaged: {error}", "Restore the file that it names.") from error


def list_previews(folder: Path) -> list[Preview]:
    """Return the previews of a run in the order of their steps."""
    found: dict[int, dict[str, Path]] = {}
    for path in (folder / "samples").glob("step-*-*.png"):
        _, step, weights = path.stem.split("-")
        found.setdefault(int(step), {})[weights] = path
    return [Preview(step, kinds.get("ema"), kinds.get("raw")) for step, kinds in sorted(found.items())]
