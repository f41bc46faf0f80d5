"""What the observers of a run do when things are not as usual."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from made_up_run import write_made_up_run
from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.observers import push as push_module
from openddpm.observers.display import Display
from openddpm.observers.push import PushObserver
from openddpm.observers.report import ReportObserver
from openddpm.observers.tensorboard import TensorBoardObserver
from openddpm.publishing.hub import HubError
from openddpm.record.reader import Preview, read_run_folder
from openddpm.record.schema import DataRecord, LeftOut, MetricsRow, Progress, RunRecord


def a_run(folder: Path, name: str = "run", step: int = 0, total_steps: int = 100) -> RunRecord:
    """Return the record of a run at `step`."""
    made_up = write_made_up_run(folder, steps=40, rows=4, previews=1, name=name, total_steps=total_steps)
    progress = Progress(step=step, images_seen=step * 32, epoch=0.0)
    return read_run_folder(made_up).run.model_copy(update={"progress": progress})


def a_row(step: int, loss: float = 0.5, seconds: float = 0.0) -> MetricsRow:
    """Return a logged line."""
    return MetricsRow(
        step=step,
        images_seen=step * 32,
        epoch=0.1,
        wall_seconds=seconds,
        train_loss=loss,
        learning_rate=1e-3,
        grad_norm=None,
        ema_decay=None,
        images_per_second=100.0,
    )


def steps_in(events: Path) -> list[int]:
    """Return the steps of the training loss that TensorBoard shows."""
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars("train/train_loss")]


def write_events(logs: Path, run: RunRecord, folder: Path, steps: range) -> None:
    """Let an observer see `steps`."""
    observer = TensorBoardObserver(logs)
    observer.started(run, folder)
    for step in steps:
        observer.logged(a_row(step))
    observer.ended(run)


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    """After a resumption TensorBoard shows each step once, though steps after the checkpoint were logged before it."""
    folder = tmp_path / "run"
    write_events(tmp_path / "logs", a_run(folder), folder, range(1, 7))
    write_events(tmp_path / "logs", a_run(folder, step=4), folder, range(5, 9))
    assert steps_in(tmp_path / "logs" / "run") == list(range(1, 9))


def test_a_run_that_begins_again_has_its_own_events_alone(tmp_path: Path) -> None:
    """A run that begins again in the same folder leaves no events of the one before."""
    folder = tmp_path / "run"
    write_events(tmp_path / "logs", a_run(folder), folder, range(1, 7))
    write_events(tmp_path / "logs", a_run(folder), folder, range(1, 3))
    assert steps_in(tmp_path / "logs" / "run") == [1, 2]


def test_a_stranger_of_the_same_name_keeps_its_events(tmp_path: Path) -> None:
    """Events of a run of the same name in another folder, or of another program, are left as they are."""
    strange = tmp_path / "logs" / "run" / "events.out.tfevents.1.host.1.0"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"")
    for parent in ("one", "two"):
        folder = tmp_path / parent / "run"
        write_events(tmp_path / "logs", a_run(folder), folder, range(1, 3))
    assert strange.exists()
    assert steps_in(tmp_path / "logs" / "run-2") == steps_in(tmp_path / "logs" / "run-3") == [1, 2]


def test_logs_that_cannot_be_written_are_told_first(tmp_path: Path) -> None:
    """A logging folder that cannot be made is told when the observer is made, before anything is trained."""
    (tmp_path / "a-file").touch()
    with pytest.raises(UserError, match="--logging_dir"):
        TensorBoardObserver(tmp_path / "a-file" / "logs")


def test_a_run_that_failed_before_the_start_still_ends(tmp_path: Path) -> None:
    """Observers that were never told of the start take the end of a failed run without an error of their own."""
    run = a_run(tmp_path / "run").model_copy(update={"status": "failed"})
    TensorBoardObserver(tmp_path / "logs").ended(run)
    ReportObserver().ended(run)
    Display(Console(file=io.StringIO())).ended(run)


def test_a_report_that_cannot_be_built_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the report is told once, with the command that tries again, and not raised."""
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


def test_a_push_that_fails_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push that fails says how to repeat it; one of a run that did not finish is not tried."""
    calls: list[Path] = []

    def failing(folder: Path, repository: str, token: str | None, private: bool) -> str:
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
    """What lies beside the images is told by count before training, and a warning comes first if it is more."""
    run = a_run(tmp_path / "run")
    left_out = [LeftOut(reason=".heic files", count=7), LeftOut(reason="split 'test'", count=3, is_data=False)]
    for num_images, is_warning in ((6, True), (8, False)):
        data = DataRecord(num_images=num_images, counts={}, images=[], left_out=left_out)
        (tmp_path / "data.json").write_text(data.model_dump_json())
        output = io.StringIO()
        Display(Console(file=output)).started(run, tmp_path)
        said = output.getvalue()
        assert ("more was left out than taken" in said) == is_warning
        assert "7  .heic files" in said and "3  split 'test'" in said
        assert said.index("left out") < said.index("7  .heic files")
