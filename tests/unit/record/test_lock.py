"""The lock of a folder that one process at a time writes to."""

from pathlib import Path

import pytest
from filelock import FileLock

from openddpm.errors import UserError
from openddpm.record.lock import locked


def test_a_second_writer_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """Whoever finds the folder locked is told so, and the first keeps both the folder and its lock."""
    folder, lock_file = tmp_path / "run", tmp_path / "run" / ".lock"
    with locked(folder, lock_file, "first"):
        with pytest.raises(UserError, match="in use"), locked(folder, lock_file, "in use"):
            pass
        with pytest.raises(UserError, match="in use"), locked(folder, lock_file, "in use"):
            pass
    with locked(folder, lock_file, "first"):
        pass


def test_a_folder_that_stays_empty_is_removed_and_no_other(tmp_path: Path) -> None:
    """A new folder goes again unless something was written into it, an old one never, and the lock's file always."""
    (tmp_path / "old").mkdir()
    for name in ("old", "new", "used"):
        folder = tmp_path / name
        with locked(folder, folder / ".lock", "in use"):
            if name == "used":
                (folder / "run.json").touch()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "old",
        "used",
        "used/run.json",
    ]


def test_a_lock_is_given_back_if_the_folder_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder on a disk that takes no files is named, and left unlocked."""

    def full(**options: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    lock = locked(tmp_path / "run", tmp_path / ".lock", "in use")
    with pytest.raises(UserError, match=r"cannot write to '.*run': No space"), lock:
        raise AssertionError("not reached")
    assert list(tmp_path.iterdir()) == []
    FileLock(tmp_path / ".lock").acquire(timeout=0)
