"""What Windows forbids or lacks, in this process and for good: for a child, or a process of its own.

No file is synced through a descriptor that only reads, no folder is opened, no file that is open or mapped here is
renamed, replaced or removed, there is no fork, no signal but a few, none of the modules that only POSIX has, and the
first rename over any one file fails, as while a virus scanner or a reader holds it. What it cannot show: Windows' own
file system, its paths (os.sep is / still) and its terminal.
"""

import fcntl
import multiprocessing
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LACKING_SIGNALS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGCHLD", "SIGSTOP", "SIGCONT", "SIGKILL")
LACKING_CALLS = ("fork", "forkpty", "uname", "getuid", "geteuid", "getpgid", "killpg", "chown", "mkfifo")
LACKING_CALLS += ("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "register_at_fork")
LACKING_MODULES = ("resource", "pwd", "grp", "termios")  # and fcntl, which what stands in for the locks needs
SIGNALS = (signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGINT, signal.SIGSEGV, signal.SIGTERM)


def sharing_violation(path: Any) -> PermissionError:
    """Return what Windows raises where a file is in use."""
    error = PermissionError(13, "The process cannot access the file because it is being used by another process", path)
    error.winerror = 32  # type: ignore[attr-defined]
    return error


def in_use(below: Path) -> set[str]:
    """Return the files below a folder, or the file itself, that this process has open or mapped."""
    opened = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            opened.append(str(descriptor.readlink()))
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        opened += [line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")]
    whole = str(below)
    return {path for path in opened if path == whole or path.startswith(f"{whole}/")}


def forbid(folder: Path, lock_refusals: bool = True) -> list[str]:
    """Forbid all that for files below `folder`; returns the list of what was met and refused, which grows."""
    met: list[str] = []
    root = str(folder.resolve())
    refused_once: set[str] = set()

    def inside(path: Any) -> Path | None:
        if not isinstance(path, str | os.PathLike):
            return None
        full = Path(path).absolute()
        return full if str(full).startswith(root) else None

    def guarded(call: Callable[..., Any], *, refuses_first: bool = False) -> Callable[..., Any]:
        def act(path: Any, *more: Any, **named: Any) -> Any:
            for one in (path, *more[:1]):
                full = inside(one)
                if full is None:
                    continue
                used = in_use(full)
                if used:
                    met.append(f"{call.__name__} {full.name} while {sorted(Path(name).name for name in used)} in use")
                    raise sharing_violation(one)
            target = inside(more[0]) if more else None
            if refuses_first and target is not None and str(target) not in refused_once:
                refused_once.add(str(target))
                raise sharing_violation(path)
            return call(path, *more, **named)

        return act

    os.replace, os.rename = guarded(os.replace, refuses_first=lock_refusals), guarded(os.rename)
    os.unlink, os.remove, os.rmdir = guarded(os.unlink), guarded(os.remove), guarded(os.rmdir)
    _forbid_folders_and_syncs(root)
    _take_away()
    return met


def _forbid_folders_and_syncs(root: str) -> None:
    opened, synced = os.open, os.fsync

    def opening(path: Any, flags: int, *more: Any, **named: Any) -> int:
        is_temporary = flags & os.O_TMPFILE == os.O_TMPFILE  # for which Windows has another way
        if str(path).startswith(root) and Path(path).is_dir() and not is_temporary:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *more, **named)

    def syncing(descriptor: int) -> None:
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if mode == os.O_RDONLY or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(9, "Bad file descriptor")
        synced(descriptor)

    os.open, os.fsync = opening, syncing
    shutil._use_fd_functions = False  # type: ignore[attr-defined]


def _take_away() -> None:
    for name in LACKING_SIGNALS:
        delattr(signal, name)
    for name in LACKING_CALLS:
        if hasattr(os, name):
            delattr(os, name)
    for name in LACKING_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    heeded, handler_of = signal.signal, signal.getsignal

    def known(number: int) -> int:
        if number not in SIGNALS:
            raise ValueError("invalid signal value")
        return number

    signal.signal = lambda number, handler: heeded(known(number), handler)
    signal.getsignal = lambda number: handler_of(known(number))
    multiprocessing.set_start_method("spawn", force=True)


def forget_modules(package: str = "openddpm") -> None:
    """Have a package imported anew, so that what it does as it is imported is done under this stand-in."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
