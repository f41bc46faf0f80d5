"""TensorBoard's event files: the numbers and pictures in them, up to the first record that cannot be read."""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util.tensor_util import make_ndarray

from openddpm.errors import UserError
from openddpm.names import as_text

FRAMING = 16  # bytes of a record besides its event: length, and checksums of length and event
LAST_WALL_TIME = 253_402_300_799.0  # seconds since 1970: the end of the year 9999, where datetime ends


@dataclass
class Scalars:
    """The values of one tag, in the order of the file; NaN and infinities included."""

    steps: "array[int]" = field(default_factory=lambda: array("q"))
    wall_times: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))


@dataclass(frozen=True)
class LoggedPicture:
    """A picture as it was logged, which need not be one."""

    tag: str
    wall_time: float
    content: bytes


@dataclass
class EventFile:
    """What was read of one file."""

    path: Path
    first_wall_time: float | None = None
    """The earliest; a log that was converted is written after what it tells of."""
    scalars: dict[str, Scalars] = field(default_factory=dict)
    pictures: list[LoggedPicture] = field(default_factory=list)
    unread_bytes: int = 0
    """From the first record on that is torn or damaged."""


def event_files(folder: Path) -> dict[Path, list[Path]]:
    """Return the event files in a folder and below, by the folder that each is in.

    Raises:
        UserError: the folder cannot be read.
    """
    found: dict[Path, list[Path]] = {}
    try:
        for path in sorted(folder.rglob("*tfevents*")):
            if path.is_file() and not path.name.endswith(".profile-empty"):
                found.setdefault(path.parent, []).append(path)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be read: {error.strerror}", "Make it readable.") from error
    return found


def scalar_tags(path: Path) -> Iterator[str]:
    """Yield the tag of each number in a file, again and again; reading ends when the caller has enough."""
    for event in _events(EventFile(path)):
        for value in event.summary.value:
            if _number(value) is not None:
                yield value.tag


def read_event_file(path: Path) -> EventFile:
    """Read the numbers and pictures of a file.

    Raises:
        UserError: it cannot be read at all.
    """
    file = EventFile(path)
    for event in _events(file):
        if file.first_wall_time is None or event.wall_time < file.first_wall_time:
            file.first_wall_time = event.wall_time
        for value in event.summary.value:
            if contents := _pictures(value):
                file.pictures += [LoggedPicture(value.tag, event.wall_time, content) for content in contents]
            elif (number := _number(value)) is not None:
                column = file.scalars.setdefault(value.tag, Scalars())
                column.steps.append(event.step)
                column.wall_times.append(event.wall_time)
                column.values.append(number)
    return file


def _events(file: EventFile) -> Iterator[Any]:
    """Yield the events of a file until one is torn or damaged, and note how many bytes are left."""
    try:
        file.unread_bytes = file.path.stat().st_size
        file.path.open("rb").close()
    except OSError as error:
        raise UserError(f"'{as_text(file.path)}' cannot be read: {error.strerror}", "Make it readable.") from error
    for record in RawEventFileLoader(str(file.path)).Load():  # checks the checksums, and ends at a wrong one
        try:
            event = Event.FromString(record)
        except DecodeError:
            return
        if not (math.isfinite(event.wall_time) and 0 <= event.wall_time <= LAST_WALL_TIME):
            return
        file.unread_bytes = max(0, file.unread_bytes - len(record) - FRAMING)  # it may have grown since
        yield event


def _pictures(value: Any) -> list[bytes]:
    """Return the encoded pictures of a value: one as torch writes it, or those that follow TensorFlow 2's two sizes."""
    if value.HasField("image"):
        return [value.image.encoded_image_string]
    strings = list(value.tensor.string_val) if value.HasField("tensor") else []
    is_list_of_pictures = len(strings) > 2 and all(size.isdigit() for size in strings[:2])
    return strings[2:] if is_list_of_pictures else []


def _number(value: Any) -> float | None:
    """Return the number of a summary value, as torch or as TensorFlow 2 writes it; None if it is anything else."""
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or value.tensor.tensor_shape.dim:
        return None
    try:
        number = make_ndarray(value.tensor)
        return float(number) if number.dtype.kind in "fiu" else None
    except Exception:  # a malformed tensor gives errors of almost any kind
        return None
