"""Writing files so that a reader, or a crash, never meets half of one."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from openddpm.errors import UserError

TEMPORARY = ".openddpm-tmp"

_IN_USE = (5, 32, 33)  # Windows: access denied, a sharing or a lock violation, as while another program has a file open
_WAITS = (0.01, 0.03, 0.1, 0.3, 1.0)  # assumed: seconds; a virus scanner or a reader is done with a file by then


def sync_file(path: Path) -> None:
    """Make a file's content survive a power loss."""
    with path.open("r+b") as file:  # Windows syncs no file that is open for reading alone
        os.fsync(file.fileno())


def replace_path(source: Path, target: Path) -> None:
    """Rename `source` to `target`, over a file that is there; on Windows wait a little for whoever has it open.

    Raises:
        OSError: it cannot be done, or is in use for longer.
    """
    _patiently(lambda: source.replace(target))


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it; on Windows wait a little for whoever has a file of it open.

    Raises:
        OSError: it cannot be done, or is in use for longer; a part of it may be gone.
    """
    _patiently(lambda: shutil.rmtree(folder))


def _patiently(act: Callable[[], object]) -> None:
    for seconds in _WAITS:
        try:
            act()
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IN_USE:
                raise
            time.sleep(seconds)
    act()


def fsync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power loss (a no-op where folders cannot be opened)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace `path` by a file with `content`: temporary file, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replaced_atomically(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` once it is written whole; after an error nothing is left of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace_path(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def unlink_held_lock(lock_file: Path) -> None:
    """Remove the file of a lock while it is held, so that nobody else has it; locks of Windows do so by themselves."""
    with contextlib.suppress(PermissionError):
        lock_file.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of whoever was killed while it wrote in `folder` or just below."""
    for path in (*folder.glob(f".*{TEMPORARY}"), *folder.glob(f"*/.*{TEMPORARY}")):
        path.unlink(missing_ok=True)


def append_whole(path: Path, content: bytes) -> None:
    """Add `content` at the end of a file, or nothing of it.

    Raises:
        OSError: no room; the file is as it was.
    """
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(size)
            raise


def write_json(path: Path, value: Any) -> None:
    """Replace `path` atomically by `value` as indented JSON; NaN and infinities are refused."""
    write_atomically(path, json_text(value))


def json_text(value: Any) -> str:
    """Return what `write_json` writes."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_file(path: Path) -> bytes | None:
    """Return the content of a file, None if there is none.

    Raises:
        UserError: it cannot be read, or is a folder, a device or a pipe.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"'{path}' is no file", "Remove it, or put the file that it stands for in its place.")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}", "Make it readable.") from error


def parse_json(content: bytes) -> Any:
    """Return what JSON says: no more than 200 levels and, unlike with Python's own parser, no NaN, no half characters.

    Raises:
        ValueError: it is no such JSON.
    """
    return from_json(content, allow_inf_nan=False)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a JSON Lines file; a torn last line is left out, a missing file has none.

    Raises:
        UserError: another line is damaged, or the file cannot be read.
    """
    rows = []
    lines = (read_file(path) or b"").split(b"\n")[:-1]  # what follows the last newline is torn
    for number, line in enumerate(lines, 1):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise damaged_line(path, number, str(error)) from error
        if not isinstance(row, dict):
            raise damaged_line(path, number, "not a JSON object")
        rows.append(row)
    return rows


def damaged_line(path: Path, number: int, reason: str) -> UserError:
    """Return the error that names line `number` of a file, counted from 1."""
    return UserError(f"line {number} of '{path}' is damaged: {reason}", "Restore the file, or remove that line.")
