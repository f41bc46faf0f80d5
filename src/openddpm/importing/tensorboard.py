"""A run's TensorBoard events as a partial record."""

import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openddpm.analysis.text import count, listed, number_of
from openddpm.errors import UserError
from openddpm.importing.events import EventFile, LoggedPicture, Scalars, event_files, read_event_file, scalar_tags
from openddpm.importing.tags import is_loss, learning_rate_tags, loss_tag
from openddpm.names import as_text
from openddpm.record.imported import (
    PICTURES_FOLDER,
    ImportedFolder,
    ImportedPicture,
    ImportedRecord,
    ImportedTags,
    check_imported_folder,
    write_imported_folder,
)
from openddpm.record.kept import step_name
from openddpm.record.schema import MAX_COUNT

MAX_LISTED = 20  # folders in an error

Column = NDArray[Any]


@dataclass(frozen=True)
class _Rows:
    """Losses as logged, (N,) each, in the order of the log."""

    steps: Column
    wall_times: Column
    losses: Column
    rates: Column
    """NaN where none was logged."""
    starts: Column
    """Time of the first entry of the file that a row is in."""
    kept: Column
    """False for rows that a restart replaced."""


@dataclass(frozen=True)
class _Steps:
    """Losses by step, (N,) each; the steps increase."""

    steps: Column
    wall_times: Column
    losses: Column
    rates: Column


def import_tensorboard(
    logdir: Path, folder: Path | None, images_per_step: int | None, tag: str | None
) -> ImportedFolder:
    """Write what the events in a folder tell of a run to the folder of an imported record.

    Args:
        logdir: folder with the events of one run, or with one folder of such.
        folder: None for runs/imported-NAME, by the name of the folder with the events.
        images_per_step: over all processes and accumulation; None if it is not known.
        tag: of the training loss; None for the only one that is known to be one.

    Raises:
        UserError: the events are none, of several runs, or of no use; `folder` holds something else or cannot be
            written.
    """
    logs, paths = _one_run(logdir, tag)
    source = f"{logdir.resolve().name}/{logs.relative_to(logdir).as_posix()}".removesuffix("/.")
    name = re.sub(r"[^\w.-]+", "-", logs.resolve().name)
    folder = folder or Path("runs") / f"imported-{name or 'run'}"
    check_imported_folder(folder)
    files = [read_event_file(path) for path in paths]
    files.sort(key=lambda file: (file.first_wall_time is None, file.first_wall_time or 0.0, file.path.name))
    notes = [
        f"The last {number_of(file.unread_bytes, 'byte')} of {as_text(file.path.name)} cannot be read: torn by a crash,"
        " damaged, or not yet written."
        for file in files
        if file.unread_bytes
    ]
    tags = {name for file in files for name in file.scalars}
    loss = loss_tag(tags, tag, source)
    rates = learning_rate_tags(tags - {loss})
    if len(rates) > 1:
        notes.append(f"The learning rate is left out, as there are several: {listed([as_text(one) for one in rates])}.")
    rate = rates[0] if len(rates) == 1 else None
    rows = _rows(files, loss, rate, notes)
    steps = _by_step(rows, loss, notes)
    finite = np.isfinite(steps.losses)
    if not finite.any():
        raise UserError(f"no loss of the tag '{loss}' in '{source}' is finite", "There is no curve to import.")
    if not finite.all():
        notes.append(
            f"The loss is not finite at {number_of(int((~finite).sum()), 'step')}, which the curve leaves out."
        )
    start = float(rows.starts[rows.kept].min())
    pictures, contents = _pictures([one for file in files for one in file.pictures], rows, steps, notes)
    record = ImportedRecord(
        name=as_text(folder.resolve().name),
        source=as_text(source),
        created=datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds"),
        images_per_step=images_per_step,
        tags=ImportedTags(train_loss=as_text(loss), learning_rate=rate and as_text(rate)),
        step=steps.steps[finite].tolist(),
        wall_seconds=np.maximum(steps.wall_times[finite] - start, 0.0).round(3).tolist(),
        train_loss=steps.losses[finite].tolist(),
        learning_rate=[one if math.isfinite(one) else None for one in steps.rates[finite].tolist()],
        not_finite_steps=steps.steps[~finite].tolist(),
        pictures=pictures,
        ignored_tags=[as_text(one) for one in sorted(tags - {loss, rate})],
        notes=notes,
    )
    return write_imported_folder(folder, record, contents)


def _one_run(logdir: Path, tag: str | None) -> tuple[Path, list[Path]]:
    """Return the only folder with events that have a training loss, and its files.

    Raises:
        UserError: there is no such folder, or there are several.
    """
    hint = "Name the folder that the script logs to, as for `tensorboard --logdir`."
    if not logdir.is_dir():
        what = "is a file, not a folder" if logdir.exists() else "does not exist"
        raise UserError(f"'{logdir}' {what}", hint)
    next(logdir.iterdir(), None)  # a search leaves out what cannot be read, this does not
    found = event_files(logdir)
    if not found:
        raise UserError(f"there are no TensorBoard events (files named *tfevents*) in '{logdir}'", hint)
    runs = [
        folder
        for folder, paths in found.items()
        if any(is_loss(one) if tag is None else one == tag for path in paths for one in scalar_tags(path))
    ]
    if not runs:  # the caller says which tags there are
        merged = [path for paths in found.values() for path in paths]
        return logdir, merged
    if len(runs) > 1:
        names = [f"  {as_text(folder)}" for folder in runs[:MAX_LISTED]]
        if len(runs) > MAX_LISTED:
            names.append(f"  and {len(runs) - MAX_LISTED} more")
        raise UserError("\n".join([f"'{logdir}' has the events of several runs:", *names]), "Name one of them.")
    return runs[0], found[runs[0]]


def _rows(files: Sequence[EventFile], loss: str, rate: str | None, notes: list[str]) -> _Rows:
    """Return all losses, with those marked that a restart from a checkpoint replaced.

    Raises:
        UserError: steps are counted anew within a file, as in each epoch; or none is possible.
    """
    parts = [part for file in files if loss in file.scalars for part in [_columns(file, loss, rate)] if len(part[0])]
    logged = sum(len(file.scalars[loss].steps) for file in files if loss in file.scalars)
    if not parts:
        raise UserError(f"every step of '{loss}' is negative or too large", "Log the number of steps so far.")
    steps, wall_times, losses, rates, starts = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    if odd := logged - len(steps):
        notes.append(f"Left out: {number_of(odd, 'row')} with a negative or too large step.")
    begins = np.concatenate([_begins(part[0], loss) for part in parts])
    firsts = np.minimum.accumulate(steps[begins][::-1])[::-1]  # the lowest step that a beginning, or a later one, has
    later = np.append(firsts[1:], MAX_COUNT)[np.cumsum(begins) - 1]
    kept = steps < later
    if not kept.all():
        notes.append(
            f"Replaced: {number_of(int((~kept).sum()), 'row')}, from step {count(int(steps[~kept].min()))} on, as the"
            " script began again at an earlier step."
        )
    return _Rows(steps, wall_times, losses, rates, starts, kept)


def _columns(file: EventFile, loss: str, rate: str | None) -> tuple[Column, ...]:
    """Return the first five columns of `_Rows` of a file, without rows whose step is impossible."""
    logged, rated = file.scalars[loss], file.scalars.get(rate, Scalars()) if rate else Scalars()
    rates = dict(zip(rated.steps, rated.values, strict=True))
    columns = (
        np.array(logged.steps),
        np.array(logged.wall_times),
        np.array(logged.values),
        np.array([rates.get(step, math.nan) for step in logged.steps]),
        np.full(len(logged.steps), file.first_wall_time),
    )
    usable = (columns[0] >= 0) & (columns[0] < MAX_COUNT)
    return tuple(column[usable] for column in columns)


def _begins(steps: Column, loss: str) -> Column:
    """Return whether the script began at each row of a file, or began again at an earlier step.

    Raises:
        UserError: it began again at the first step, which no restart from a checkpoint does.
    """
    begins = np.diff(steps, prepend=MAX_COUNT) < 0
    again = steps[1:][begins[1:]]
    if (again <= steps[0]).any():
        raise UserError(
            f"the steps of '{loss}' begin again at {again.min()} within one file, as if counted in each epoch",
            "Log the number of all steps so far, or name another tag by --loss_tag TAG.",
        )
    return begins


def _by_step(rows: _Rows, loss: str, notes: list[str]) -> _Steps:
    """Return a row for each step: the mean of its losses, and the last of the other numbers.

    Raises:
        UserError: all rows have the same step.
    """
    steps, place, times = np.unique(rows.steps[rows.kept], return_inverse=True, return_counts=True)
    if len(steps) < 2 and rows.kept.sum() > 1:
        raise UserError(
            f"all {int(rows.kept.sum()):,} values of '{loss}' have the same step", "Log each with its number of steps."
        )
    if (times > 1).any():
        notes.append(
            f"{number_of(int((times > 1).sum()), 'step')} with several losses, as with gradient accumulation, have the"
            " mean of these."
        )
    last = np.empty(len(steps), dtype=np.int64)
    last[place] = np.arange(len(place))
    losses = np.bincount(place, weights=rows.losses[rows.kept]) / times
    if steps[0] == 0:
        notes.append("The log counts its steps from 0: each is taken to be one more.")
        steps = steps + 1
    return _Steps(steps, rows.wall_times[rows.kept][last], losses, rows.rates[rows.kept][last])


def _pictures(
    logged: Sequence[LoggedPicture], rows: _Rows, steps: _Steps, notes: list[str]
) -> tuple[list[ImportedPicture], dict[str, bytes]]:
    """Return the pictures at the steps that were done when they were made, and their contents by file.

    The step that a picture has in a log may be that of the epoch, so its time places it.
    """
    order = np.argsort(rows.wall_times, kind="stable")
    times = rows.wall_times[order]
    shift = int(steps.steps[0] - rows.steps[rows.kept].min())
    placed: list[tuple[int, LoggedPicture]] = []
    broken = replaced = 0
    for picture in logged:
        index = int(np.searchsorted(times, picture.wall_time, side="right")) - 1
        if index >= 0 and not rows.kept[order[index]]:
            replaced += 1
        elif not _is_png(picture.content):
            broken += 1
        else:
            placed.append((int(rows.steps[order[index]]) + shift if index >= 0 else 0, picture))
    if placed:
        notes.append("Pictures are placed by their time, at the last loss logged before them.")
    if replaced:
        notes.append(f"{number_of(replaced, 'picture')} of replaced steps were left out.")
    if broken:
        notes.append(f"{number_of(broken, 'picture')} that cannot be read as PNG were left out.")
    pictures, contents, at_step = [], dict[str, bytes](), Counter[int]()
    for step, picture in sorted(placed, key=lambda pair: pair[0]):
        at_step[step] += 1
        file = f"{PICTURES_FOLDER}/{step_name(step)}{f'-{at_step[step]}' if at_step[step] > 1 else ''}.png"
        contents[file] = picture.content
        pictures.append(ImportedPicture(step=step, tag=as_text(picture.tag), file=file))
    return pictures, contents


def _is_png(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.load()
    except Exception:  # Pillow's decoders raise errors of almost any kind
        return False
    return True
