"""openddpm verify: what it prints, where its page and its statement are, and its exit status."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from made_up_run import write_made_up_run
from openddpm.cli.main import main
from openddpm.record.manifest import check_manifest, read_manifest, write_manifest
from openddpm.record.verification import RungName, RungStatus, VerificationRecord
from verifications import CLIMBED, a_verification


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run."""
    return write_made_up_run(tmp_path / "run", steps=400, rows=4, previews=1)


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the ladder finds, and what it was asked; it climbs at once."""
    asked: dict[str, Any] = {"found": a_verification()}

    def climb(record: Any, source: str, listener: Any, *_: object, **__: object) -> VerificationRecord:
        asked["source"] = source
        found: VerificationRecord = asked["found"].model_copy(update={"source": source})
        for rung in found.rungs:
            listener.working(rung.name, 0, 0)
            listener.finished(rung)
        return found

    monkeypatch.setattr("openddpm.verification.ladder.verify", climb)
    return asked


@pytest.mark.parametrize(
    ("statuses", "status", "first"),
    [
        (CLIMBED, 0, "Verified as far"),
        ({**CLIMBED, "data": "failed"}, 1, "Not verified"),
        ({"files": "exact"}, 2, "Too"),
    ],
)
def test_the_exit_status_is_the_answer(
    statuses: dict[RungName, RungStatus],
    status: int,
    first: str,
    run: Path,
    verified: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """0 verified, 1 a rung failed, 2 too little checked; the sentence and where the page is are printed."""
    verified["found"] = a_verification(statuses)
    assert main(["verify", str(run)]) == status
    printed = capsys.readouterr()
    assert printed.out.startswith(first)
    assert printed.out.endswith(f"page: {run / 'verify.html'}\n")
    assert ("FAILED" in printed.err) == (status == 1)


def test_page_and_statement_lie_in_the_folder_of_the_run(run: Path, verified: dict[str, Any]) -> None:
    """The page has the ladder and the curves of the run; the statement names the folder, without the path to it."""
    assert main(["verify", str(run)]) == 0
    assert verified["source"] == "run"
    found = VerificationRecord.model_validate_json((run / "verification.json").read_text("utf-8"), strict=True)
    assert found.source == "run"
    page = (run / "verify.html").read_text("utf-8")
    assert "plank-not_asked" in page and '"name":"training loss"' in page


def test_the_manifest_has_the_last_page_and_statement(run: Path, verified: dict[str, Any]) -> None:
    """A run that is verified again is not a changed one: its manifest has the new digests of these files alone."""
    write_manifest(run, ["run.json"])
    (run / "run.json").write_bytes((run / "run.json").read_bytes() + b" ")
    for statuses in (CLIMBED, {**CLIMBED, "data": "failed"}):
        verified["found"] = a_verification(statuses)
        main(["verify", str(run)])
        listed = read_manifest(run)
        assert listed is not None and {*listed} == {"run.json", "verification.json", "verify.html"}
        assert check_manifest(run, listed).altered == ["run.json"]


def test_json_writes_nothing_unless_a_page_is_named(
    run: Path, verified: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--json prints the statement alone and leaves the folder as it was; with --page, page and statement are there."""
    before = sorted(run.iterdir())
    assert main(["verify", str(run), "--json"]) == 0
    printed = capsys.readouterr()
    assert VerificationRecord.model_validate(json.loads(printed.out)).rungs == a_verification().rungs
    assert printed.err == ""
    assert sorted(run.iterdir()) == before
    page = tmp_path / "there.html"
    assert main(["verify", str(run), "--json", "--page", str(page)]) == 0
    assert page.is_file() and (tmp_path / "verification.json").is_file()
    assert sorted(run.iterdir()) == before


def test_a_page_that_cannot_be_written_is_one_message(
    run: Path, verified: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A page below a file ends with status 2 and what to do."""
    page = run / "run.json" / "page.html"
    assert main(["verify", str(run), "--page", str(page)]) == 2
    assert f"'{page}' cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--budget", "2"], ["--whole"], ["--page", "page.html"]])
def test_against_refuses_what_it_would_ignore(
    options: list[str], run: Path, verified: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """--against trains only the steps that it needs and writes no page, and says so where more is asked."""
    assert main(["verify", str(run), "--against", str(run), *options]) == 2
    assert "--against was given with" in capsys.readouterr().err


def test_the_statement_of_another_run_is_not_replaced(
    run: Path, verified: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page in the folder of another run would replace that run's statement: refused before anything is done."""
    other = write_made_up_run(tmp_path / "other", steps=400, rows=4, previews=1)
    assert main(["verify", str(run), "--page", str(other / "page.html")]) == 2
    assert "folder of another run" in capsys.readouterr().err and not (other / "verification.json").exists()


def test_the_page_is_not_written_where_the_statement_goes(
    run: Path, verified: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page named verification.json would be replaced by the statement beside it: refused before anything is done."""
    assert main(["verify", str(run), "--page", str(tmp_path / "verification.json")]) == 2
    assert "name of the statement" in capsys.readouterr().err and not (tmp_path / "verification.json").exists()


def test_a_run_that_still_trains_is_refused(
    run: Path, verified: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of a run that is going on change while they are read; a leftover lock of a killed run is none."""
    values = json.loads((run / "run.json").read_text("utf-8"))
    (run / "run.json").write_text(json.dumps(values | {"status": "running"}), "utf-8")
    (run / ".lock").touch()
    assert main(["verify", str(run), "--json"]) == 0
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin and holder.stdout and holder.stdout.readline()
    assert main(["verify", str(run), "--json"]) == 2
    assert "still training" in capsys.readouterr().err
    holder.communicate()


HOLD_LOCK = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_file_of_somebody_else_is_not_replaced_by_the_statement(
    run: Path, verified: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verification.json beside the page that is no statement stays as it is; an earlier statement is replaced."""
    (tmp_path / "verification.json").write_text("mine", "utf-8")
    assert main(["verify", str(run), "--page", str(tmp_path / "page.html")]) == 2
    assert (tmp_path / "verification.json").read_text("utf-8") == "mine"
    assert main(["verify", str(run)]) == main(["verify", str(run)]) == 0
    assert "no statement" in capsys.readouterr().err


@pytest.mark.parametrize(("page", "words"), [("", "names no file"), (".", "names no file"), ("sub", "is a folder")])
def test_a_page_that_is_no_file_is_refused_before_anything_is_done(
    page: str, words: str, run: Path, verified: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty name, or that of a folder, ends with status 2 and what to do."""
    (tmp_path / "sub").mkdir()
    given = str(tmp_path / page) if page == "sub" else page
    assert main(["verify", str(run), "--page", given]) == 2
    assert words in capsys.readouterr().err and "source" not in verified


def test_a_name_that_is_too_long_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no file can have ends with status 2."""
    assert main(["verify", "a" * 300]) == 2
    assert "cannot be read" in capsys.readouterr().err
