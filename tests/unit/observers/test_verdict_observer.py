"""The verdict as the run goes: written, shown, and no danger to the run."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from made_up_run import made_up_samples, write_made_up_run
from openddpm.analysis.verdict import judge
from openddpm.observers.display import Display
from openddpm.observers.verdict import VerdictObserver
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import Verdict


def test_each_evaluation_is_judged_once_both_weights_are_in(tmp_path: Path) -> None:
    """verdict.json always is what the rows so far say, also after a resumption, and observers are told once each."""
    folder = write_made_up_run(tmp_path / "run", evaluations=12, status="running")
    recorded = read_run_folder(folder)
    told: list[Verdict] = []
    observer = VerdictObserver(tell=[told.append])
    (folder / "evaluations.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in recorded.evaluations[:8]))
    (folder / "samples.jsonl").unlink()
    samples = [made_up_samples(row.step, row.weights) for row in recorded.evaluations]
    observer.started(recorded.run, folder)
    for index, row in enumerate(recorded.evaluations[8:], 9):
        observer.evaluated(row)
        observer.sampled(samples[index - 1])
        if index % 2 == 0:
            observer.record_grown()
            rows = recorded.metrics, recorded.evaluations[:index], recorded.baselines, samples[8:index]
            expected = judge(recorded.run, *rows)
            assert told[-1] == expected == read_run_folder(folder).verdict
    observer.record_grown()  # a preview without an evaluation
    assert len(told) == 8


def test_the_end_is_judged_by_its_status(tmp_path: Path) -> None:
    """The last verdict knows that the run is over."""
    folder = write_made_up_run(tmp_path / "run", evaluations=12, status="running")
    run = read_run_folder(folder).run
    observer = VerdictObserver()
    observer.started(run, folder)
    observer.ended(run.model_copy(update={"status": "finished"}))
    verdict = read_run_folder(folder).verdict
    assert verdict is not None and verdict.code == "finished"


def test_a_fault_in_judging_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told once, by its kind, and the run goes on without a verdict."""
    folder = write_made_up_run(tmp_path / "run", status="running")
    (folder / "verdict.json").unlink(missing_ok=True)
    monkeypatch.setattr("openddpm.observers.verdict.judge", lambda *_: [][0])
    output = io.StringIO()
    observer = VerdictObserver(console=Console(file=output))
    run = read_run_folder(folder).run
    observer.started(run, folder)
    observer.ended(run)
    observer.ended(run)
    assert output.getvalue().count("IndexError") == 1 and not (folder / "verdict.json").exists()


def verdict(code: str, sentence: str) -> Verdict:
    """Return a verdict, with markup in its words."""
    return Verdict.model_validate({"code": code, "sentence": sentence, "evidence": [], "step": 1, "images_seen": 16})


def test_a_log_file_has_a_verdict_when_it_changes_and_at_the_end(tmp_path: Path) -> None:
    """Where output goes to a file, a verdict that stays the same is not repeated at each evaluation."""
    folder = write_made_up_run(tmp_path / "run", status="running")
    output = io.StringIO()
    display = Display(Console(file=output, force_terminal=False, width=200))
    run = read_run_folder(folder).run
    display.started(run, folder)
    for code in ("too_early", "learning", "learning", "memorizing"):
        display.judged(verdict(code, f"Words on [bold]{code}"))
    display.ended(run)
    display.judged(verdict("memorizing", "Last words"))
    lines = [line for line in output.getvalue().splitlines() if "ords" in line]
    assert lines == [
        "verdict: Words on [bold]too_early",
        "verdict: Words on [bold]learning",
        "verdict: Words on [bold]memorizing",
        "verdict: Last words",
    ]
