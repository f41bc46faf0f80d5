"""openddpm verify"""

import json as json_module
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from openddpm.cli.arguments import Flag, OptionalPath, OptionalText, call

if TYPE_CHECKING:
    from openddpm.record.reader import RunFolder
    from openddpm.record.verification import Rung, RungName, VerificationRecord

_Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

DEFAULT_BUDGET = 5.0
SHOWN_DETAILS = 5  # of a rung that failed, on the terminal


def run(arguments: list[str]) -> int:
    """Parse `arguments` and verify."""
    return call(_verify, "verify", arguments)


def _verify(
    run: _Run,
    /,
    budget: float = DEFAULT_BUDGET,
    whole: Flag = False,
    against: OptionalText = None,
    dataset: OptionalText = None,
    page: OptionalPath = None,
    json: Flag = False,
) -> int:
    """Is the record of a run what its options really produce? Checks it by a ladder, from files to training again.

    Exit status: 0 if nothing failed, and files, data and first steps were checked; 1 if a rung failed; 2 if too little
    could be checked. It tells whether a record is consistent, not who made it: docs/verify.md.

    Args:
        run: The run folder, a run on the Hub, or the name of a built-in reference (its first run).
        budget: Minutes for training parts of the run again and drawing its previews again; a line of the first steps, a
            segment's and a preview are made in any case.
        whole: Train the whole run again as well, however long that takes.
        against: Another run of the same seed and options, such as your own: tells at which step the two part, and which
            of them has what training gives, by a replay from the last checkpoint that both share. Nothing else is done;
            exit status 0 if they do not part, 1 if they do.
        dataset: Where the images are, if not where the record says: a folder, a file or a Hub id.
        page: HTML file to write the ladder to (default: verify.html in the run's folder, or here for a run that is not
            in a folder of yours; verification.json beside it).
        json: Print the statement as JSON, for programs, and write no files unless --page is given.
    """
    from openddpm.analysis.verification import conclusion
    from openddpm.errors import UserError
    from openddpm.names import as_text
    from openddpm.record.writer import VERIFICATION_PAGE
    from openddpm.references import open_run, open_runs
    from openddpm.references.sources import folder_of, is_built_in

    if not 0 <= budget < float("inf"):
        raise UserError(f"--budget is {budget}", "Give a number of minutes, 0 or more.")
    record = open_runs(run)[0] if is_built_in(run) else open_run(run, whole=True)
    if against is not None:
        if budget != DEFAULT_BUDGET or whole or page is not None:
            raise UserError(
                "--against was given with --budget, --whole or --page",
                "It trains the steps that it needs and writes no page: give it alone, or with --dataset or --json.",
            )
        return _bisect(record, run, against, dataset, json)
    from openddpm.record.lock import RUN_LOCK, is_locked
    from openddpm.verification.ladder import verify  # imports torch

    if record.run.status == "running" and is_locked(record.folder / RUN_LOCK):
        raise UserError(f"'{run}' is still training, and its files change meanwhile", "Verify it when it has ended.")

    is_local = folder_of(run).is_dir() and not is_built_in(run)
    if page is not None or not json:
        page = (record.folder if is_local else Path()) / VERIFICATION_PAGE if page is None else page
        _check_place(page, record)
    with _Lines(is_quiet=json) as listener:
        source = record.folder.resolve().name if is_local else run
        found = verify(record, source, listener, budget, dataset, whole, is_fetched=not is_local)
    if json:
        print(found.model_dump_json(indent=1))
    else:
        print(as_text(conclusion(found)))
    if page is not None:
        _write(page, found, record)
        if not json:
            print(f"page: {as_text(str(page))}")
    return 1 if found.is_failed else 0 if found.is_verified else 2


def _check_place(page: Path, record: "RunFolder") -> None:
    """Check, before long work, that a page and the statement beside it replace nothing but earlier ones of this run.

    Raises:
        UserError: they would.
    """
    from openddpm.errors import UserError
    from openddpm.record.reader import read_record
    from openddpm.record.verification import VerificationRecord
    from openddpm.record.writer import RUN_FILE, VERIFICATION_FILE
    from openddpm.report.page import check_page

    if not page.name:
        raise UserError("--page names no file", "Name an HTML file.")
    statement = page.with_name(VERIFICATION_FILE)
    try:
        if statement.is_file():
            read_record(statement, VerificationRecord)
    except UserError as error:
        found = f"'{statement}' is there already, and is no statement of openddpm verify"
        raise UserError(found, "Name an HTML file in another folder by --page.") from error
    if page == statement:
        raise UserError(f"--page is '{page}', the name of the statement beside it", "Name an HTML file.")
    if page.parent.resolve() != record.folder.resolve() and (page.parent / RUN_FILE).exists():
        found = f"'{page.parent}' is the folder of another run, whose {VERIFICATION_FILE} would be replaced"
        raise UserError(found, "Name an HTML file elsewhere by --page.")
    check_page(page)


def _bisect(record: "RunFolder", source: str, against: str, dataset: str | None, is_json: bool) -> int:
    """Tell where two runs part."""
    from openddpm.errors import UserError
    from openddpm.names import as_text
    from openddpm.references import open_run
    from openddpm.verification.bisection import find_parting
    from openddpm.verification.materials import NotHere

    with _Lines(is_quiet=is_json) as listener:

        def tell(step: int) -> None:
            listener.working("segments", step, 0)

        try:
            other = open_run(against, whole=True)
            found = find_parting(record, other, (source, against), dataset, tell)
        except NotHere as error:
            raise UserError(f"their steps cannot be trained here: {error}", "Do it where that can be.") from error
    answer = {"first_divergent_step": found.step, "replayed_steps": found.replayed_steps, "text": found.text}
    print(json_module.dumps(answer, indent=1) if is_json else as_text(found.text))
    return 0 if found.step is None else 1


class _Lines:
    """Prints each rung when it is done, and a progress bar on a terminal meanwhile."""

    def __init__(self, is_quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._is_quiet = is_quiet
        self._console = Console(file=sys.stderr, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        is_shown = not is_quiet and self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, transient=True, disable=not is_shown)
        self._task = self._progress.add_task("", total=None)
        self._name: str | None = None

    def __enter__(self) -> "_Lines":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def working(self, name: "RungName", done: int, total: int) -> None:
        """Show how far a rung is."""
        from openddpm.analysis.verification import TITLES

        if name != self._name:
            self._name = name
            self._progress.reset(self._task, description=TITLES[name], total=total or None)
        self._progress.update(self._task, completed=done, total=total or None)

    def finished(self, rung: "Rung") -> None:
        """Print a rung."""
        from openddpm.analysis.verification import TITLES, WORDS
        from openddpm.names import as_text

        if not self._is_quiet:
            word = WORDS[rung.status].upper() if rung.status == "failed" else WORDS[rung.status]
            line = f"{TITLES[rung.name]:16} {word:18} {rung.text} ({rung.seconds:.0f} s)"
            details = rung.details[1 : SHOWN_DETAILS + 1] if rung.status == "failed" else []
            for text in (line, *(f"{'':16} {'':18} {detail}" for detail in details)):
                self._progress.console.print(as_text(text), markup=False, soft_wrap=True)


def _write(page: Path, found: "VerificationRecord", record: "RunFolder") -> None:
    """Write the page, and verification.json beside it."""
    from openddpm.errors import UserError
    from openddpm.record.files import write_json
    from openddpm.record.manifest import manifest_renewed
    from openddpm.record.public import VERIFICATION_FILES
    from openddpm.record.writer import VERIFICATION_FILE
    from openddpm.report.verification import write_verification

    is_beside_the_record = page.parent.resolve() == record.folder.resolve()
    try:
        with manifest_renewed(page.parent, VERIFICATION_FILES) if is_beside_the_record else nullcontext():
            write_verification(page, found, record)
            write_json(page.with_name(VERIFICATION_FILE), found.model_dump())
    except OSError as error:
        raise UserError(f"'{page}' cannot be written: {error.strerror}", "Name another file by --page.") from error
