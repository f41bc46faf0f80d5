"""openddpm report: one run, or a page of many."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from made_up_run import write_made_up_run
from openddpm.cli.main import main
from openddpm.record.manifest import ManifestCheck, check_manifest, read_manifest, write_manifest

SMALL: dict[str, Any] = {"steps": 40, "rows": 4, "previews": 1}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with two runs, a damaged one, and something else."""
    for name in ("first", "second"):
        write_made_up_run(tmp_path / "runs" / name, name=name, **SMALL)
    for name in ("broken", "other"):
        (tmp_path / "runs" / name).mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{", "utf-8")
    return tmp_path / "runs"


def test_one_run_is_rebuilt(runs: Path) -> None:
    """One run folder has its report and its model card rebuilt, and no page of many runs."""
    assert main(["report", str(runs / "first")]) == 0
    assert (runs / "first" / "report.html").exists()
    assert (runs / "first" / "README.md").exists()
    assert not [*runs.rglob("*index.html")]


def test_rebuilding_a_report_blesses_no_changed_record(runs: Path) -> None:
    """The manifest has the new pages after `report`, and still tells that somebody changed metrics.jsonl before."""
    run = runs / "first"
    assert main(["report", str(run)]) == 0
    assert not (run / "manifest.json").exists()  # nor does `report` make one
    write_manifest(run, ("metrics.jsonl", "run.json", "report.html", "README.md", "curves.png"))
    for page in ("report.html", "README.md", "curves.png"):
        (run / page).write_text("old", "utf-8")
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n", "utf-8")
    assert main(["report", str(run)]) == 0
    manifest = read_manifest(run)
    assert manifest is not None and manifest.keys() >= {"report.html", "README.md", "curves.png"}
    assert check_manifest(run, manifest) == ManifestCheck([], ["metrics.jsonl"], [])


def test_a_folder_of_runs_has_an_index(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that holds runs has them all in its index.html; what cannot be read is named, and stops nothing."""
    assert main(["report", str(runs)]) == 0
    page = (runs / "index.html").read_text("utf-8")
    assert all(name in page for name in ("first", "second", "broken"))
    assert "broken" in capsys.readouterr().out
    assert not [*runs.rglob("report.html")]


def test_one_run_is_counted_as_one(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page with the only run that can be read says "1 run"."""
    assert main(["report", str(runs / "first"), str(runs / "broken"), "--output", str(runs / "page.html")]) == 0
    assert "page of 1 run: " in capsys.readouterr().out


def test_several_runs_have_an_index_here(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several runs, or folders of runs, have one page in the current folder or at --output, each run once."""
    monkeypatch.chdir(tmp_path)
    given = [str(runs / "first"), "runs", str(tmp_path / "nowhere")]
    assert main(["report", *given]) == 0
    page = (tmp_path / "runs-index.html").read_text("utf-8")
    assert page.count('data-curve="') == 2
    assert "nowhere" in page
    assert main(["report", *given, "--output", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").exists()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no run is given"),
        (["first", "--output", "page.html"], "--output"),
        (["nowhere", "elsewhere"], "none of the 2 runs can be read"),
        (["other"], "it has no run.json, and none of its 0 sub-folders has one"),
        (["first", "second", "--output", "first"], "cannot be written"),
    ],
)
def test_wrong_uses_are_explained(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """What cannot be done ends with status 2, the reason and what to do, and writes nothing."""
    monkeypatch.chdir(runs)
    before = {*runs.rglob("*")}
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "->" in error
    assert {*runs.rglob("*")} == before


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text here")
def test_a_folder_whose_name_is_not_utf8_is_on_the_page(tmp_path: Path) -> None:
    """The page links to the report of a run in such a folder by its bytes, and the run itself has its report."""
    odd = tmp_path / os.fsdecode(b"run-\xff")
    for folder in (tmp_path / "first", odd):
        write_made_up_run(folder, **SMALL)
    write_manifest(odd, ("run.json",))
    assert main(["report", str(odd)]) == 0
    assert main(["report", str(tmp_path)]) == 0
    assert 'href="run-%FF/report.html"' in (tmp_path / "index.html").read_text("utf-8")
