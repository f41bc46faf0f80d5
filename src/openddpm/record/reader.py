"""Reads a run folder, whole or still growing."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.record.files import damaged_line, parse_json, read_file, read_json_lines
from openddpm.record.schema import (
    SCHEMA_VERSION,
    BaselinesRecord,
    DataRecord,
    EvaluationRow,
    MetricsRow,
    RunRecord,
    SamplesRow,
    Verdict,
    Weights,
    weights_in_order,
)
from openddpm.record.writer import (
    BASELINES_FILE,
    DATA_FILE,
    EVALUATIONS_FILE,
    METRICS_FILE,
    RUN_FILE,
    SAMPLES_FILE,
    VERDICT_FILE,
    list_preview_files,
)

MAX_REASON = 1000  # characters of what is wrong, which may be as long as the file
MAX_COUNT = 2**53  # up to here every JSON reader keeps whole numbers exactly

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class Preview:
    """The preview images of one step, by the weights that made them."""

    step: int
    pictures: dict[Weights, Path]
    """In the order of `weights_in_order`; at least one."""

    @property
    def shown(self) -> Path:
        """The picture where there is room for one: by the weights that are exported, or the next that have one."""
        return next(iter(self.pictures.values()))


@dataclass(frozen=True)
class RunFolder:
    """All that is recorded of one run."""

    folder: Path
    run: RunRecord
    metrics: list[MetricsRow]
    evaluations: list[EvaluationRow]
    data: DataRecord | None
    baselines: BaselinesRecord | None
    verdict: Verdict | None
    previews: list[Preview]
    samples: list[SamplesRow] = field(default_factory=list)


def read_run_record(folder: Path) -> RunRecord:
    """Read run.json.

    Raises:
        UserError: no run there, a damaged record, or one of a newer schema.
    """
    path = folder / RUN_FILE
    content = read_file(path)
    if content is None:
        raise UserError(f"no run in '{folder}': it has no {RUN_FILE}", "Name the --output_dir of a training run.")
    try:
        fields = parse_json(content)
        version = fields["schema_version"]
        if version > SCHEMA_VERSION:
            raise UserError(
                f"'{path}' has schema version {version}; this openddpm reads up to {SCHEMA_VERSION}",
                "Upgrade openddpm: pip install --upgrade openddpm",
            )
        run = _checked(RunRecord, fields)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    _check_config(path, run.config)
    return run


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
        baselines=_read_record(folder / BASELINES_FILE, BaselinesRecord),
        verdict=_read_verdict(folder),
        previews=list_previews(folder),
        samples=_read_rows(folder / SAMPLES_FILE, SamplesRow),
    )


def list_previews(folder: Path) -> list[Preview]:
    """Return the previews of a run in the order of their steps."""
    found: dict[int, dict[Weights, Path]] = {}
    for step, weights, path in list_preview_files(folder):
        found.setdefault(step, {})[weights] = path
    return [
        Preview(step, {name: pictures[name] for name in weights_in_order(pictures)})
        for step, pictures in sorted(found.items())
    ]


def _read_rows(path: Path, kind: type[Record]) -> list[Record]:
    rows = []
    for number, row in enumerate(read_json_lines(path), 1):
        try:
            rows.append(_checked(kind, row))
        except ValueError as error:
            raise damaged_line(path, number, _reason(error)) from error
    return rows


def _read_record(path: Path, kind: type[Record]) -> Record | None:
    content = read_file(path)
    try:
        return None if content is None else _checked(kind, parse_json(content))
    except ValueError as error:
        raise _damaged(path, error) from error


def _checked(kind: type[Record], fields: Any) -> Record:
    """Return the record that parsed JSON holds.

    Raises:
        ValueError: it does not fit the schema, or has a number that no run arrives at.
    """
    record = kind.model_validate(fields)
    _check_numbers(record)
    return record


def _check_numbers(record: BaseModel) -> None:
    for name, value in vars(record).items():
        if isinstance(value, list | dict):
            for one in value if isinstance(value, list) else value.values():
                _check_number(name, one)
        else:
            _check_number(name, value)


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name}: {value} is no finite number")
    elif isinstance(value, int):
        if not 0 <= value <= MAX_COUNT and name not in _FREE:
            raise ValueError(f"{name}: beyond 0 to {MAX_COUNT}")
    elif isinstance(value, BaseModel):
        _check_numbers(value)


_FREE = ("seed", "config", "environment")  # any whole number; options are checked by themselves


def _check_config(path: Path, config: dict[str, Any]) -> None:
    """Refuse values that no run was begun with; options of another openddpm may be anything.

    Raises:
        UserError: naming each option that is wrong.
    """
    odd_names = [name for name in config if not name.isprintable() or len(name) > MAX_REASON]
    known = {name: config[name] for name in TrainConfig.model_fields if name in config}
    try:
        if odd_names:
            raise UserError(f"config: {odd_names[0]!r} is no name of an option")
        TrainConfig.model_validate({**known, "recipe": None}, strict=True)
    except UserError as error:
        raise _damaged(path, error) from error


def _read_verdict(folder: Path) -> Verdict | None:
    """Return the last verdict, or None if it is damaged: it can be reached again from the rest."""
    try:
        return _read_record(folder / VERDICT_FILE, Verdict)
    except UserError:
        return None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"'{path}' is damaged: {_reason(error)}", "Restore the file, or train again.")


def _reason(error: Exception) -> str:
    """Return what is wrong, of a record that does not fit the schema the first place where it does not."""
    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) if str(part).isprintable() else repr(part) for part in first["loc"]) or "it"
        text = f"{place}: {first['msg']}"
    elif isinstance(error, KeyError):
        text = f"{text} is missing"
    elif isinstance(error, UserError):
        text = error.found
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]} ..."
