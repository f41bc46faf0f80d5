"""openddpm report"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from openddpm.cli.arguments import OptionalPath, call

if TYPE_CHECKING:
    from openddpm.record.reader import RunFolder

_Runs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]

INDEX_OF_FOLDER, INDEX_OF_RUNS = "index.html", "runs-index.html"


def run(arguments: list[str]) -> int:
    """Parse `arguments` and rebuild the report, or write the page of many runs."""
    return call(_report, "report", arguments)


def _report(runs: _Runs, /, output: OptionalPath = None) -> int:
    """Rebuild report.html and the model card of a run from its record, or write one page of many runs.

    An imported record has a report.html, too, of what little it holds.

    Several runs, or a folder that holds runs, get a page with all their loss curves, samples, verdicts and the options
    that differ; nothing in the runs changes. Needs no GPU and no torch.

    Args:
        runs: The run folder; or several, or a folder that holds run folders.
        output: HTML file for the page of many runs (default: index.html in the folder that holds them, or
            runs-index.html here if several are given).
    """
    from openddpm.errors import UserError

    if not runs:
        raise UserError("no run is given", "Name a run folder, several, or a folder that holds run folders.")
    folders = [folder for given in runs for folder in _run_folders(given)]
    if folders != [runs[0]]:
        default = Path(INDEX_OF_RUNS) if len(runs) > 1 else runs[0] / INDEX_OF_FOLDER
        return _write_index(output or default, folders)
    if output is not None:
        hint = "Leave it out, or name several runs."
        raise UserError("--output is for the page of many runs; a run's own report is in its folder", hint)
    return _rebuild(runs[0])


def _run_folders(path: Path) -> list[Path]:
    """Return the run folders in `path`; `path` itself if it is one, or if there are none."""
    if _may_hold_a_run(path):
        return [path]
    below = [folder for folder in path.iterdir() if folder.is_dir()] if path.is_dir() else []
    return sorted(folder for folder in below if _may_hold_a_run(folder)) or [path]


def _may_hold_a_run(folder: Path) -> bool:
    """Tell whether a folder holds a run, or cannot be entered, as its reader then says."""
    from openddpm.record.writer import IMPORTED_FILE, RUN_FILE

    try:
        return any((folder / mark).exists() for mark in (RUN_FILE, IMPORTED_FILE))
    except PermissionError:
        return True


def _rebuild(folder: Path) -> int:
    from openddpm.errors import UserError
    from openddpm.record.imported import is_imported, read_imported_folder
    from openddpm.record.manifest import manifest_renewed
    from openddpm.record.public import PAGES
    from openddpm.record.reader import read_run_folder
    from openddpm.record.writer import RUN_FILE
    from openddpm.report import write_report
    from openddpm.report.card import write_card

    if folder.is_dir() and not _may_hold_a_run(folder):
        num_below = sum(one.is_dir() for one in folder.iterdir())
        found = f"no run in '{folder}': it has no {RUN_FILE}, and none of its {num_below} sub-folders has one"
        raise UserError(found, "Name the --output_dir of a training run, or a folder that holds run folders.")
    if is_imported(folder):
        from openddpm.report.imported import write_imported_report

        print(f"report: {write_imported_report(read_imported_folder(folder))}")
        return 0
    record = read_run_folder(folder)
    with manifest_renewed(folder, PAGES):
        print(f"report: {write_report(folder, record)}\ncard:   {write_card(folder, record)}")
    return 0


def _write_index(page: Path, folders: list[Path]) -> int:
    """Write the page of the runs that can be read, with the reason for each of the others."""
    from openddpm.analysis.text import number_of
    from openddpm.errors import UserError
    from openddpm.names import as_text
    from openddpm.record.reader import read_run_folder
    from openddpm.report.index import write_index

    found: list[RunFolder] = []
    unreadable: list[str] = []
    for folder in {folder.resolve(): folder for folder in folders}.values():
        try:
            found.append(read_run_folder(folder))
        except (UserError, OSError) as error:
            unreadable.append(error.found if isinstance(error, UserError) else as_text(str(error)))
    if not found:
        raise UserError(f"none of the {len(unreadable)} runs can be read: {unreadable[0]}", "Name run folders.")
    write_index(page, found, unreadable)
    for reason in unreadable:
        print(f"not read: {reason}")
    print(f"page of {number_of(len(found), 'run')}: {as_text(page)}")
    return 0
