"""What the observers of a run do when things are not as usual."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from made_up_run import a_row, a_run, write_made_up_run
from openddpm.config import TrainConfig
from openddpm.observers import push as push_module
from openddpm.observers.display import Display
from openddpm.observers.manifest import ManifestObserver
from openddpm.observers.push import PushObserver
from openddpm.observers.report import ReportObserver
from openddpm.publishing.hub import HubError
from openddpm.record.data_record import DataRecord, LeftOut
from openddpm.record.manifest import ManifestCheck, check_manifest, read_manifest
from openddpm.record.reader import Preview, read_run_folder
from openddpm.record.schema import Status, Verdict


def test_a_run_that_failed_before_the_start_still_ends(tmp_path: Path) -> None:
    """Observers that never got the start take the end of a failed run without an error of their own."""
    run = a_run(tmp_path / "run").model_copy(update={"status": "failed"})
    ReportObserver().ended(run)
    ManifestObserver().ended(run)
    Display(Console(file=io.StringIO())).ended(run)


def test_a_report_that_cannot_be_built_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the report gives one warning, with the command that tries again, and not raised."""
    folder, output = tmp_path / "[bold] run", io.StringIO()
    observer = ReportObserver(Console(file=output))
    observer.started(a_run(folder), folder)

    def broken(folder: Path) -> Path:
        raise OSError("No space left on device")

    monkeypatch.setattr("openddpm.report.write_report", broken)
    observer.record_grown()
    observer.ended(a_run(folder))
    assert output.getvalue().count("No space left on device") == 1
    assert f"openddpm report {folder}" in output.getvalue()
    assert (folder / "README.md").is_file()


@pytest.mark.parametrize("status", ["finished", "interrupted", "failed"])
def test_a_run_that_ends_has_a_manifest(status: Status, tmp_path: Path) -> None:
    """However a run ended, its manifest lists its record and pages, as they are."""
    folder = write_made_up_run(tmp_path / "run", steps=20, rows=4, previews=1, status=status)
    run = read_run_folder(folder).run
    for observer in (ReportObserver(), ManifestObserver()):
        observer.started(run, folder)
        observer.ended(run)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert {"run.json", "metrics.jsonl", "checkpoints.jsonl", "report.html", "README.md"} < manifest.keys()
    assert check_manifest(folder, manifest) == ManifestCheck([], [], [])


def test_a_manifest_that_cannot_be_written_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk gives one warning, and no manifest."""
    folder, output = write_made_up_run(tmp_path / "[bold] run", steps=20, rows=4, previews=1), io.StringIO()

    def full(path: Path, content: str) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("openddpm.record.manifest.write_atomically", full)
    observer = ManifestObserver(Console(file=output))
    observer.started(a_run(folder), folder)
    observer.ended(a_run(folder))
    assert "manifest.json could not be written (OSError: No space left on device)" in output.getvalue()
    assert not (folder / "manifest.json").exists()


def test_a_push_that_fails_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that fails says how to repeat it; one of a run that did not finish is not tried."""
    calls: list[Path] = []

    def failing(folder: Path, repository: str, token: str | None, private: bool, tell: object) -> str:
        calls.append(folder)
        raise HubError("could not push [1]", "Check the connection.")

    monkeypatch.setattr(push_module, "prepare_repository", lambda config: "me/model")
    monkeypatch.setattr(push_module, "push_run", failing)
    folder, output = tmp_path / "run", io.StringIO()
    observer = PushObserver(TrainConfig(push_to_hub=True), Console(file=output))
    run = a_run(folder)
    observer.started(run, folder)
    observer.ended(run.model_copy(update={"status": "interrupted"}))
    assert calls == []
    observer.ended(run)
    assert calls == [folder]
    assert "could not push [1]" in output.getvalue()
    assert f"openddpm push {folder} --hub_model_id me/model" in output.getvalue()


def test_the_display_in_a_log_file(tmp_path: Path) -> None:
    """Where output is no terminal, the display writes plain whole lines, now and then, markup in names as text."""
    folder, output = tmp_path / ("[red]" + "long " * 20), io.StringIO()
    display = Display(Console(file=output, width=40))
    display.started(a_run(folder, name=folder.name, total_steps=60), folder)
    for step in range(10, 70, 10):
        display.logged(a_row(step, seconds=step))
    display.previewed(Preview(60, {"ema": folder / "samples" / "a.png"}))
    display.ended(a_run(folder, step=60))
    lines = output.getvalue().splitlines()
    assert lines[0].startswith(f"{folder.name}: ")
    steps = [line for line in lines if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["10/60", "30/60", "50/60", "60/60"]
    assert "left" not in steps[0]
    assert "0:00:30 left" in steps[1]
    assert f"preview: {folder / 'samples' / 'a.png'}" in lines


def test_the_display_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal the live view shows progress, loss, rate, held-out loss and the last preview."""
    folder, output = tmp_path / "run", io.StringIO()
    display = Display(Console(file=output, width=120, force_terminal=True, color_system=None))
    display.started(a_run(folder), folder)
    display.logged(a_row(10, loss=0.25, seconds=1))
    display.evaluated(read_run_folder(folder).evaluations[0].model_copy(update={"heldout_loss": 0.125}))
    display.previewed(Preview(10, {"ema": folder / "a.png"}))
    display.logged(a_row(20, loss=0.25, seconds=2))
    display.ended(a_run(folder, step=20))
    shown = output.getvalue()
    for part in ("20/100", "0.2500", "100 images/s", "held-out ema 0.1250", "a.png", "0:00:08 left"):
        assert part in shown


def verdict(code: str, sentence: str, warning: str = "") -> Verdict:
    """Return a verdict, with markup in its words."""
    evidence = [{"name": "it", "kind": "warning", "text": warning}] if warning else []
    return Verdict.model_validate(
        {"code": code, "sentence": sentence, "evidence": evidence, "step": 1, "images_seen": 16}
    )


def test_a_log_file_has_a_verdict_when_it_changes_and_at_the_end(tmp_path: Path) -> None:
    """Where output goes to a file, a verdict that stays the same is not repeated at each evaluation."""
    folder = write_made_up_run(tmp_path / "run", status="running")
    output = io.StringIO()
    display = Display(Console(file=output, force_terminal=False, width=200))
    run = read_run_folder(folder).run
    display.started(run, folder)
    for code in ("too_early", "learning", "learning", "memorizing"):
        display.judged(verdict(code, f"Words on [bold]{code}"))
        display.record_grown()
    display.record_grown()  # a preview without an evaluation
    display.judged(verdict("memorizing", "Last words", "Mind your words"))
    display.ended(run)
    lines = [line for line in output.getvalue().splitlines() if "ords" in line or "at step" in line]
    assert lines == [
        "verdict: Words on [bold]too_early",
        "verdict: Words on [bold]learning",
        "verdict: Words on [bold]memorizing",
        f"{run.status} at step {run.progress.step:,}: {lines[3].partition(': ')[2]}",
        "verdict: Last words",
        "  Mind your words",
    ]


def test_an_end_that_was_not_judged_has_no_verdict(tmp_path: Path) -> None:
    """A verdict on an earlier evaluation is not shown again as that of the end."""
    folder = write_made_up_run(tmp_path / "run", status="running")
    output = io.StringIO()
    display = Display(Console(file=output, force_terminal=False, width=200))
    run = read_run_folder(folder).run
    display.started(run, folder)
    display.judged(verdict("learning", "It is learning"))
    display.record_grown()
    display.ended(run)
    assert output.getvalue().count("It is learning") == 1


@pytest.mark.parametrize(
    ("warmup", "scheduler", "told"), [(60, "cosine", True), (59, "cosine", False), (60, "constant", False)]
)
def test_a_warm_up_longer_than_the_run_is_noted(tmp_path: Path, warmup: int, scheduler: str, told: bool) -> None:
    """A warm-up that the run does not live to see the end of is noted at the start."""
    run, output = a_run(tmp_path / "run", total_steps=60), io.StringIO()
    config = {**run.config, "lr_warmup_steps": warmup, "lr_scheduler": scheduler}
    Display(Console(file=output)).started(run.model_copy(update={"config": config}), tmp_path)
    assert ("--lr_warmup_steps" in output.getvalue()) == told


def test_what_is_left_out_is_told_at_the_start(tmp_path: Path) -> None:
    """What lies beside the images is counted before training, and a warning comes first if it is more."""
    run = a_run(tmp_path / "run")
    left_out = [LeftOut(reason=".heic files", count=7), LeftOut(reason="split 'test'", count=3, is_data=False)]
    for num_images, is_warning in ((6, True), (8, False)):
        data = DataRecord(num_images=num_images, counts={}, images=[], left_out=left_out)
        (tmp_path / "data.json").write_text(data.model_dump_json())
        output = io.StringIO()
        Display(Console(file=output)).started(run, tmp_path)
        said = output.getvalue()
        assert ("more was left out than used" in said) == is_warning
        assert "7  .heic files" in said and "3  split 'test'" in said
        assert said.index("left out") < said.index("7  .heic files")
