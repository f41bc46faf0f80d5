"""File writing that survives crashes: a reader never meets half of a file."""

import contextlib
import hashlib
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
    """Rename `source` to `target`, replacing an existing file; on Windows wait a little for a program that has it open.

    Raises:
        OSError: the rename failed, or the file stays in use.
    """
    _retry_while_in_use(lambda: source.replace(target))


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it; on Windows wait a little for a program that has a file of it open.

    Raises:
        OSError: the removal failed, or a file stays in use; a part of the folder may be gone.
    """
    _retry_while_in_use(lambda: shutil.rmtree(folder))


def _retry_while_in_use(action: Callable[[], object]) -> None:
    for seconds in _WAITS:
        try:
            action()
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IN_USE:
                raise
            time.sleep(seconds)
    action()


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
    """Yield a temporary file that replaces `path` once it is completely written, and is removed after an error."""
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


def link_or_copy(source: Path, target: Path) -> None:
    """Replace `target` by a hard link to `source`, which takes no space, or by a copy if the file system has no links.

    Raises:
        OSError: the disk is full; `target` is unchanged.
    """
    temporary = target.with_name(f".{target.name}{TEMPORARY}")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            sync_file(temporary)
        replace_path(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # a rename between two links to one file does nothing


def unlink_held_lock(lock_file: Path) -> None:
    """Remove the file of a lock that is held, so that no other process can hold it; Windows does so by itself."""
    with contextlib.suppress(PermissionError):
        lock_file.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while writing in `folder` or its sub-folders."""
    for path in (*folder.glob(f".*{TEMPORARY}"), *folder.glob(f"*/.*{TEMPORARY}")):
        path.unlink(missing_ok=True)


def append_whole(path: Path, content: bytes) -> None:
    """Append `content` to a file, completely or not at all.

    Raises:
        OSError: the disk is full; the file is unchanged.
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
    """Return the content of a file; None if it does not exist.

    Raises:
        UserError: it cannot be read, or is a folder, a device or a pipe.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"'{path}' is not a file", "Remove it, or replace it by the file that should be there.")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}", "Make it readable.") from error


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text; unlike Python's own parser, refuse NaN, lone surrogates and over 200 levels.

    Raises:
        ValueError: it is not such JSON.
    """
    return from_json(content, allow_inf_nan=False)


def complete_lines(path: Path) -> list[bytes]:
    """Return the lines of a JSON Lines file without a torn last one; none if the file is missing.

    Raises:
        UserError: the file cannot be read.
    """
    return (read_file(path) or b"").split(b"\n")[:-1]  # what follows the last newline is torn


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the values of the complete lines of a JSON Lines file.

    Raises:
        UserError: a line is damaged, or the file cannot be read.
    """
    rows = []
    for number, line in enumerate(complete_lines(path), 1):
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
