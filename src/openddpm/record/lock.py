"""Folders that one process at a time writes to."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from openddpm.errors import UserError
from openddpm.record.files import unlink_held_lock

RUN_LOCK = ".lock"
"""Name of the lock of a run folder, which a training process holds."""


def is_locked(lock_file: Path) -> bool:
    """Tell whether another process holds a lock. One that cannot be asked for counts as not held."""
    if not lock_file.exists():
        return False
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


@contextmanager
def locked(folder: Path, lock_file: Path, in_use: str) -> Iterator[None]:
    """Lock a folder, after creating it if needed; a new one that stays empty is removed again.

    Args:
        in_use: message that another process has locked it.

    Raises:
        UserError: another process has locked it, or it cannot be written.
    """
    lock, is_new = FileLock(lock_file), not folder.exists()
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            tempfile.TemporaryFile(dir=folder).close()
        except Timeout:
            raise UserError(in_use, "Wait until it ends, or choose another --output_dir.") from None
        except OSError as error:
            hint = "Choose a folder that you may write to: --output_dir FOLDER."
            raise UserError(f"cannot write to '{folder}': {error.strerror}", hint) from error
        yield
    finally:
        if lock.is_locked:
            unlink_held_lock(lock_file)
            lock.release()
            if is_new:
                with suppress(OSError):  # not empty
                    folder.rmdir()
