"""Run sources: a run folder, a folder of run folders, a built-in reference, or a run on the Hugging Face Hub."""

import os
import re
from pathlib import Path

from openddpm.errors import UserError, closest
from openddpm.names import as_text
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.record.writer import IMPORTED_FILE, RUN_FILE

BUILT_IN = Path(__file__).parent / "builtin"

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\S+)?")


def is_built_in(source: str) -> bool:
    """Return whether a run source is the name of a built-in reference, which wins over a folder of that name."""
    return re.fullmatch(r"[\w.-]*\w", source) is not None and os.path.isdir(BUILT_IN / source)  # noqa: PTH112 - never raises


def folder_of(source: str) -> Path:
    """Return the folder that a run source names if it is local."""
    return BUILT_IN / source if is_built_in(source) else Path(os.path.expanduser(source))  # noqa: PTH111 - never raises


def open_runs(source: str, whole: bool = False) -> list[RunFolder]:
    """Read the runs that a run source names: at least one, in the order of their folders' names.

    Args:
        source: a run folder; a folder whose sub-folders are run folders, others being ignored; the name of a built-in
            reference; or a run on the Hub, USER/NAME or USER/NAME@REVISION. A folder wins over the Hub.
        whole: whether to download weights, all previews and some checkpoints of a run on the Hub, too.

    Raises:
        UserError: there is no such source, or it holds no run; a record is damaged; or the Hub does not give it.
    """
    path = folder_of(source)
    try:
        exists = bool(source) and path.exists()
    except OSError as error:  # a name that is too long
        raise UserError(f"'{as_text(source[:80])}' cannot be read: {error.strerror}", "Give a run folder.") from error
    if exists:
        return [read_run_folder(folder) for folder in _run_folders(path)]
    if path.is_symlink():
        found = f"'{as_text(source)}' is a link to '{as_text(path.readlink())}', where nothing is"
        raise UserError(found, "Restore what it leads to, or name a run folder.")
    if not _HUB_ID.fullmatch(source):
        names = sorted(folder.name for folder in BUILT_IN.iterdir()) if BUILT_IN.is_dir() else []
        found = f"'{as_text(source)}' is neither a folder, nor a built-in reference, nor a name on the Hub"
        raise UserError(found, f"Give a run folder, USER/NAME, or a built-in name; {closest(source, names)}.")
    from openddpm.publishing.fetch import fetch_record

    try:
        return [read_run_folder(fetch_record(source, whole=whole))]
    except UserError as error:
        hint = f"If you mean a folder, check its path; if a run on the Hub: {error.hint}"
        raise type(error)(f"there is no folder '{as_text(source)}', and {error.found}", hint) from error


def _run_folders(path: Path) -> list[Path]:
    """Return `path` if it is a run folder, else its sub-folders that are."""
    if (path / RUN_FILE).is_file() or (path / IMPORTED_FILE).is_file():  # the reader says why the latter is no run
        return [path]
    hint = f"Give a run folder, which has a {RUN_FILE}, or a folder with run folders in it."
    if not path.is_dir():
        raise UserError(f"'{as_text(path)}' is a file, not a folder", hint)
    try:
        below = sorted(folder for folder in path.iterdir() if folder.is_dir())
        runs = [folder for folder in below if (folder / RUN_FILE).is_file()]
    except OSError as error:
        place = error.filename or path
        raise UserError(f"'{as_text(place)}' cannot be read: {error.strerror}", "Make it readable.") from error
    if not runs:
        found = f"no run in '{as_text(path)}': it has no {RUN_FILE}, and none of its {len(below)} sub-folders has one"
        raise UserError(found, hint)
    return runs
