"""Reads a run folder, complete or still growing."""

import gc
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.record.data_record import DataRecord
from openddpm.record.files import complete_lines, damaged_line, parse_json, read_file
from openddpm.record.schema import (
    SCHEMA_VERSION,
    BaselinesRecord,
    CheckpointRow,
    EvaluationRow,
    MetricsRow,
    ReferenceBandRecord,
    RunRecord,
    SamplesRow,
    Verdict,
    Weights,
    weights_in_order,
)
from openddpm.record.writer import (
    BASELINES_FILE,
    CHECKPOINTS_FILE,
    DATA_FILE,
    EVALUATIONS_FILE,
    IMPORTED_FILE,
    METRICS_FILE,
    REFERENCE_BAND_FILE,
    RUN_FILE,
    SAMPLES_FILE,
    VERDICT_FILE,
    list_preview_files,
)

MAX_REASON = 1000  # characters of an error's reason, which may be as long as the file

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class Preview:
    """The preview images of one step, by the weights that made them."""

    step: int
    pictures: dict[Weights, Path]
    """Paths in the order of `weights_in_order`; at least one."""

    @property
    def shown(self) -> Path:
        """The picture to show alone: that of the exported weights, or of the next in order if they have none."""
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
    samples: list[SamplesRow]
    checkpoints: list[CheckpointRow]
    reference_band: ReferenceBandRecord | None
    """None unless the run follows a reference."""


def read_run_record(folder: Path) -> RunRecord:
    """Read run.json.

    Raises:
        UserError: no run there, a damaged record, or another schema version.
    """
    path = folder / RUN_FILE
    content = read_file(path)
    if content is None and (folder / IMPORTED_FILE).is_file():
        raise UserError(
            f"no run in '{folder}': it holds an imported record, which has only a training loss and pictures",
            "`openddpm report` and, as the candidate, `openddpm compare` read it. All else needs a run of openddpm.",
        )
    if content is None:
        raise UserError(f"no run in '{folder}': it has no {RUN_FILE}", "Name the --output_dir of a training run.")
    try:
        fields = parse_json(content)
        check_version(path, fields)
        run = RunRecord.model_validate(fields)
    except ValueError as error:
        raise damaged(path, error) from error
    _check_config(path, run.config)
    return run


def check_version(path: Path, fields: Any) -> None:
    """Refuse a record of another schema version, before the errors that its other fields would give."""
    version = fields.get("schema_version") if isinstance(fields, dict) else SCHEMA_VERSION
    if version == SCHEMA_VERSION or not isinstance(version, int | None):
        return  # validation names what is wrong, if anything
    hint = "Upgrade openddpm: pip install --upgrade openddpm"
    if version is None or version < SCHEMA_VERSION:
        hint = (
            "It was written before the first release of openddpm. Train again, with another --output_dir or with "
            "--overwrite_output_dir; or use the openddpm that wrote it."
        )
    has = "no schema version" if version is None else f"schema version {version}"
    raise UserError(f"'{path}' has {has}; this openddpm reads version {SCHEMA_VERSION}", hint)


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
        data=read_record(folder / DATA_FILE, DataRecord),
        baselines=read_record(folder / BASELINES_FILE, BaselinesRecord),
        verdict=_read_verdict(folder),
        previews=list_previews(folder),
        samples=_read_rows(folder / SAMPLES_FILE, SamplesRow),
        checkpoints=read_checkpoint_rows(folder),
        reference_band=read_record(folder / REFERENCE_BAND_FILE, ReferenceBandRecord),
    )


def read_checkpoint_rows(folder: Path) -> list[CheckpointRow]:
    """Read checkpoints.jsonl; no rows if there is none.

    Raises:
        UserError: a line is damaged.
    """
    return _read_rows(folder / CHECKPOINTS_FILE, CheckpointRow)


def list_previews(folder: Path) -> list[Preview]:
    """Return the previews of a run in the order of their steps."""
    found: dict[int, dict[Weights, Path]] = {}
    for step, weights, path in list_preview_files(folder):
        found.setdefault(step, {})[weights] = path
    return [
        Preview(step, {name: pictures[name] for name in weights_in_order(pictures)})
        for step, pictures in sorted(found.items())
    ]


def log_spaced(steps: Iterable[int], count: int) -> list[int]:
    """Return up to `count` different steps in order, the first and the last among them, even on a logarithmic scale."""
    steps = sorted(set(steps))
    if len(steps) <= count:
        return steps
    logs = {step: math.log(max(step, 1)) for step in steps}
    low, high = logs[steps[0]], logs[steps[-1]]
    marks = [low + (high - low) * index / (count - 1) for index in range(count)]
    return sorted({min(steps, key=lambda step: abs(logs[step] - mark)) for mark in marks})


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """Return the record in a JSON file; None if it does not exist.

    Raises:
        UserError: it is damaged, or cannot be read.
    """
    content = read_file(path)
    try:
        return None if content is None else kind.model_validate(parse_json(content))
    except ValueError as error:
        raise damaged(path, error) from error


def _read_rows(path: Path, kind: type[Record]) -> list[Record]:
    rows = []
    with _without_garbage_collection():
        for number, line in enumerate(complete_lines(path), 1):
            try:
                rows.append(kind.model_validate_json(line))
            except ValueError as error:
                raise damaged_line(path, number, _reason(error)) from error
    return rows


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Do not search all rows of a long record for cycles, again and again as they grow: there are none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _check_config(path: Path, config: dict[str, Any]) -> None:
    """Refuse option values that no run can start with; options that this openddpm does not know may be anything.

    Raises:
        UserError: naming each wrong option.
    """
    odd_names = [name for name in config if not name.isprintable() or len(name) > MAX_REASON]
    known = {name: config[name] for name in TrainConfig.model_fields if name in config}
    try:
        if odd_names:
            raise UserError(f"config: {odd_names[0]!r} is not the name of an option")
        TrainConfig.model_validate({**known, "recipe": None}, strict=True)
    except UserError as error:
        raise damaged(path, error) from error


def _read_verdict(folder: Path) -> Verdict | None:
    """Return the last verdict; None if it is damaged, since it can be derived again from the other files."""
    try:
        return read_record(folder / VERDICT_FILE, Verdict)
    except UserError:
        return None


def damaged(path: Path, error: Exception, hint: str = "Restore the file, or train again.") -> UserError:
    """Return the error that names a file and what is wrong with it."""
    return UserError(f"'{path}' is damaged: {_reason(error)}", hint)


def _reason(error: Exception) -> str:
    """Return what is wrong; for a record that does not fit the schema, the first field that does not."""
    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) if str(part).isprintable() else repr(part) for part in first["loc"]) or "it"
        text = f"{place}: {first['msg']}"
    elif isinstance(error, UserError):
        text = error.found
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]} ..."
