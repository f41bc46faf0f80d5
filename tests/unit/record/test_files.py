import fcntl
import io
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openddpm.errors import UserError
from openddpm.record.files import (
    TEMPORARY,
    append_whole,
    fsync_folder,
    parse_json,
    read_file,
    read_json_lines,
    remove_folder,
    remove_leftovers,
    sync_file,
    unlink_held_lock,
    write_atomically,
    write_json,
)


@pytest.mark.parametrize("content", ["Grüße\n", b"\x00\xff"])
def test_files_are_written_whole(content: bytes | str, tmp_path: Path) -> None:
    """A file gets just the content given, text as UTF-8, folders on the way are made, and nothing else is left."""
    path = tmp_path / "deep" / "deeper" / "file"
    write_atomically(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert [other.name for other in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_crash_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing stops before the rename, the old file is there as it was and no temporary one beside it."""
    path = tmp_path / "run.json"
    write_atomically(path, "old")

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "rename": (Path, "replace")}[step], crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is complete and synced before it takes the name, and the folder is synced after."""
    path, events = tmp_path / "file", []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        is_folder = os.path.isdir(f"/dev/fd/{descriptor}")  # noqa: PTH112 - Path would resolve it
        events.append("folder" if is_folder else f"{os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> Path:
        events.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_atomically(path, "12345")
    assert events == ["5 bytes", "rename", "folder"]


def test_a_synced_folder_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that syncs thousands of times has no more files open for it, also where syncing fails."""
    opened: list[int] = []
    open_, close = os.open, os.close
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(open_(*arguments)) or opened[-1])
    monkeypatch.setattr(os, "close", lambda descriptor: (opened.remove(descriptor), close(descriptor)))
    fsync_folder(tmp_path)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        fsync_folder(tmp_path)
    assert opened == []


def test_folders_that_cannot_be_opened_are_left_alone(tmp_path: Path) -> None:
    """Where a folder cannot be opened for syncing, nothing happens."""
    fsync_folder(tmp_path / "missing")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"loss": [-float("inf")]}, object()])
def test_what_is_no_json_is_refused_before_writing(value: Any, tmp_path: Path) -> None:
    """Numbers that are not finite, and what is no JSON at all, never replace a file."""
    path = tmp_path / "run.json"
    write_json(path, {"old": True})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, value)
    assert json.loads(path.read_text()) == {"old": True}


def test_json_is_readable(tmp_path: Path) -> None:
    """JSON files are indented, in plain letters, and end with a newline."""
    write_json(tmp_path / "a.json", {"name": "Grüße"})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n "name": "Grüße"\n}\n'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, []),
        (b"", []),
        (b'{"step": 1}\n', [1]),
        (b'{"step": 1}\n{"step": 2}\n', [1, 2]),
        (b'{"step": 1}\n{"step": 2', [1]),
        (b'{"step": 1}\n{"step": 2}', [1]),
        (b'{"step": 1}\n\xf0\x9f', [1]),
        (b'{"st', []),
    ],
    ids=["missing", "empty", "one", "two", "torn", "torn before the newline", "torn character", "torn only line"],
)
def test_a_torn_last_line_is_left_out(content: bytes | None, expected: list[int], tmp_path: Path) -> None:
    """All whole lines are read; what follows the last newline was cut off in writing and is left out."""
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert [row["step"] for row in read_json_lines(path)] == expected


@pytest.mark.parametrize("line", [b'{"step": 1', b"[1]", b"", b"\0\0\0", b"\xff"])
def test_damage_elsewhere_is_named(line: bytes, tmp_path: Path) -> None:
    """A damaged line that is not the last is a UserError with the file and the line's number."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"line 2 of '.*metrics\.jsonl' is damaged") as error:
        read_json_lines(path)
    assert error.value.hint


def in_use(times: int, act: Callable[..., Any], winerror: int = 32) -> Callable[..., Any]:
    """Return `act`, failing so many times first, as where another program has a file open on Windows."""
    left = [times]

    def refused(*arguments: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            error = PermissionError(13, "in use")
            error.winerror = winerror  # type: ignore[attr-defined]
            raise error
        return act(*arguments, **named)

    return refused


def test_a_file_that_is_in_use_for_a_while_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows renames over no file that is open: a reader that is done soon costs a wait, not the file."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    write_atomically(tmp_path / "run.json", "old")
    monkeypatch.setattr(Path, "replace", in_use(4, Path.replace))
    write_atomically(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text("utf-8") == "new" and len(waits) == 4
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(shutil, "rmtree", in_use(2, shutil.rmtree, winerror=5))
    remove_folder(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"] and len(waits) == 6


def test_a_file_that_stays_in_use_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that never lets go ends in the system's error, and leaves no temporary file; other errors at once."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    write_atomically(tmp_path / "run.json", "old")
    for winerror, num_waits in ((5, 5), (32, 5), (33, 5), (3, 0), (None, 0)):
        waits.clear()
        monkeypatch.setattr(Path, "replace", in_use(99, Path.replace, winerror))
        with pytest.raises(PermissionError):
            write_atomically(tmp_path / "run.json", "new")
        assert len(waits) == num_waits
    assert (tmp_path / "run.json").read_text("utf-8") == "old" and len(list(tmp_path.iterdir())) == 1


def test_files_are_synced_as_windows_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is synced through a descriptor that only reads, which Windows refuses, and its content stays."""
    fsync, synced = os.fsync, []

    def refusing(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY and not stat.S_ISDIR(
            os.fstat(descriptor).st_mode
        ):
            raise OSError(9, "Bad file descriptor")
        synced.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    write_atomically(tmp_path / "file", "content")
    sync_file(tmp_path / "file")
    assert len(synced) == 3 and (tmp_path / "file").read_text("utf-8") == "content"


class _Disk:
    """A file that takes a few bytes at a time, and no more once there is no room."""

    def __init__(self, path: Path, room: int) -> None:
        self.file, self.room = open(path, "ab", buffering=0), room  # noqa: SIM115 - closed by `with`

    def __enter__(self) -> "_Disk":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def tell(self) -> int:
        return self.file.tell()

    def truncate(self, size: int) -> int:
        return self.file.truncate(size)

    def write(self, content: Any) -> int:
        part = bytes(content[: min(3, self.room)])
        if not part:
            raise OSError(28, "No space left on device")
        self.room -= len(part)
        return self.file.write(part)


@pytest.mark.parametrize(("room", "expected"), [(8, b"before12345678"), (7, b"before")])
def test_what_is_appended_is_whole_or_not_there(
    room: int, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content that is taken in parts gets there whole; where a part does not, none of it stays and that is told."""
    path = tmp_path / "rows"
    path.write_bytes(b"before")
    disk = _Disk(path, room)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *_, **__: disk)
        if room < 8:
            with pytest.raises(OSError, match="No space"):
                append_whole(path, b"12345678")
        else:
            append_whole(path, b"12345678")
    assert path.read_bytes() == expected


def test_what_is_appended_is_not_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to the system at once, without a buffer of Python's: what is taken of it is known."""
    files: list[Any] = []
    opening = Path.open

    def noted(path: Path, *arguments: Any, **named: Any) -> Any:
        files.append(opening(path, *arguments, **named))
        return files[-1]

    monkeypatch.setattr(Path, "open", noted)
    append_whole(tmp_path / "rows", b"1")
    append_whole(tmp_path / "rows", b"2")
    assert [type(file) for file in files] == [io.FileIO] * 2
    assert (tmp_path / "rows").read_bytes() == b"12"


def test_leftovers_go_and_nothing_else(tmp_path: Path) -> None:
    """Temporary files of a killed process go, in a folder and just below; those of others, and all else, stay."""
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    gone = [tmp_path / f".run.json.12{TEMPORARY}", tmp_path / "sub" / f".a.3{TEMPORARY}"]
    kept = [tmp_path / f"run{TEMPORARY}", tmp_path / ".run.json.12", tmp_path / "sub" / "deep" / f".a.3{TEMPORARY}"]
    for path in (*gone, *kept):
        path.touch()
    remove_leftovers(tmp_path)
    assert [path.exists() for path in (*gone, *kept)] == [False, False, True, True, True]


def test_a_held_lock_is_removed_where_the_system_lets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a lock goes; one that is gone already, or that Windows keeps, is no error."""
    path = tmp_path / ".lock"
    path.touch()
    monkeypatch.setattr(Path, "unlink", in_use(1, Path.unlink))
    unlink_held_lock(path)
    assert path.exists()
    unlink_held_lock(path)
    unlink_held_lock(path)
    assert not path.exists()


def test_what_cannot_be_read_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in place of a file, and a file that may not be read, are named; a missing one is nothing."""
    assert read_file(tmp_path / "missing") is None
    (tmp_path / "file").write_bytes(b"content")
    assert read_file(tmp_path / "file") == b"content"
    with pytest.raises(UserError, match="is not a file"):
        read_file(tmp_path)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        read_file(tmp_path / "file")


def test_json_has_only_numbers_that_are_some() -> None:
    """NaN and infinities, which Python's own parser takes, are refused."""
    assert parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    for text in (b"NaN", b"-Infinity"):
        with pytest.raises(ValueError, match=r"expected|invalid"):
            parse_json(text)


def test_a_damaged_first_line_is_counted_from_one(tmp_path: Path) -> None:
    """Lines are counted from 1, and a line that is JSON but no object is told as such."""
    for content, found in ((b"{\n", "line 1 of"), (b"{}\n3\n", r"line 2 of '.*' is damaged: not a JSON object")):
        (tmp_path / "rows").write_bytes(content)
        with pytest.raises(UserError, match=found):
            read_json_lines(tmp_path / "rows")
