"""Ending and going on, by the command line."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openddpm.observers.display import Display
from openddpm.record.files import read_json_lines
from openddpm.record.reader import read_run_record
from openddpm.record.schema import MetricsRow

Cli = Callable[..., Any]
Flags = Callable[..., list[str]]
Snapshot = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def ends_at_step_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGTERM to this process when step 4 is logged."""

    def logged(self: Display, row: MetricsRow) -> None:
        if row.step == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Display, "logged", logged)


def test_resume_of_a_finished_run_changes_nothing(cli: Cli, finished_run: Path, snapshot: Snapshot) -> None:
    """`openddpm resume` of a finished run exits with 0, says so, and leaves every byte as it was."""
    before = snapshot(finished_run)
    outcome = cli("resume", finished_run)
    assert outcome.status == 0
    assert "already finished" in outcome.out
    assert snapshot(finished_run) == before


@pytest.mark.usefixtures("ends_at_step_4")
def test_an_interrupted_run_is_finished_by_resume(
    cli: Cli, flags: Flags, tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM saves and exits with 143 and the command to type; that command ends with the uninterrupted numbers."""
    folder = tmp_path / "a run"
    outcome = cli("train", *flags(output_dir=folder, logging_dir=tmp_path / "logs"))
    assert outcome.status == 143
    assert f"openddpm resume '{folder}'" in outcome.out
    run = read_run_record(folder)
    assert (run.status, run.progress.step) == ("interrupted", 4)
    assert (folder / "report.html").is_file()

    monkeypatch.undo()
    outcome = cli("resume", folder)
    assert outcome.status == 0
    assert "report.html" in outcome.out
    assert f"tensorboard --logdir {tmp_path / 'logs'}" in outcome.out
    run = read_run_record(folder)
    assert (run.status, run.progress.step, len(run.resumptions)) == ("finished", 11, 1)
    ours, theirs = (
        [(row["step"], row["train_loss"]) for row in read_json_lines(path / "metrics.jsonl")]
        for path in (folder, finished_run)
    )
    assert ours == theirs


@pytest.mark.usefixtures("ends_at_step_4")
def test_resume_from_checkpoint_latest(cli: Cli, flags: Flags, tmp_path: Path, monkeypatch: Any) -> None:
    """The command that was interrupted goes on where --resume_from_checkpoint latest is added, without a run too."""
    command = ["train", *flags(output_dir=tmp_path / "run"), "--resume_from_checkpoint", "latest"]
    assert cli(*command).status == 143
    monkeypatch.undo()
    outcome = cli(*command)
    assert outcome.status == 0
    assert "continuing from step 4" in outcome.err
    assert read_run_record(tmp_path / "run").status == "finished"


def test_overwrite_removes_our_files_only(cli: Cli, flags: Flags, tmp_path: Path) -> None:
    """--overwrite_output_dir begins a new run in the folder, and a untrusted file there survives."""
    command = ["train", *flags(output_dir=tmp_path / "run", max_train_steps=2, save_images_epochs=9)]
    assert cli(*command).status == 0
    first = read_run_record(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    stale = tmp_path / "run" / "samples" / "step-00009999-ema.png"
    stale.write_bytes(b"")
    assert cli(*command).status == 2
    assert cli(*command, "--overwrite_output_dir", "--seed", "1").status == 0
    second = read_run_record(tmp_path / "run")
    assert (second.seed, second.resumptions) == (1, [])
    assert second.run_id != first.run_id
    assert (tmp_path / "run" / "notes.txt").read_text("utf-8") == "mine"
    assert not stale.exists()


def test_two_runs_of_one_name_keep_their_events_apart(cli: Cli, flags: Flags, tmp_path: Path) -> None:
    """A run never removes TensorBoard events of a run of the same name in another folder."""
    for parent in ("one", "two"):
        folder = tmp_path / parent / "model"
        assert cli("train", *flags(output_dir=folder, logging_dir=tmp_path / "logs", max_train_steps=1)).status == 0
    folders = sorted((tmp_path / "logs").iterdir())
    assert [path.name for path in folders] == ["model", "model-2"]
    assert all(list(path.glob("events.out.tfevents.*")) for path in folders)


INTERRUPTED_PROCESS = """
import os, signal, sys
from openddpm.cli.main import main
from openddpm.observers.display import Display
Display.logged = lambda self, row: os.kill(os.getpid(), signal.SIGTERM)
sys.exit(main(sys.argv[1:]))
"""


def test_the_process_ends_with_143(flags: Flags, tmp_path: Path) -> None:
    """As a process, an interrupted run exits with status 143 after it has saved."""
    command = [sys.executable, "-c", INTERRUPTED_PROCESS, "train", *flags(output_dir=tmp_path / "run")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=dict(os.environ), timeout=120)
    assert done.returncode == 143, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-00000002" / "manifest.json").is_file()


def test_a_folder_that_is_no_run_loses_nothing(cli: Cli, flags: Flags, tmp_path: Path) -> None:
    """Without --overwrite_output_dir, training in a folder that has a README.md and samples/ removes neither."""
    folder = tmp_path / "my project"
    (folder / "samples").mkdir(parents=True)
    for name in ("README.md", "samples/mine.txt"):
        (folder / name).write_text("mine", encoding="utf-8")
    cli("train", *flags(output_dir=folder, max_train_steps=1))
    assert [(folder / name).read_text("utf-8") for name in ("README.md", "samples/mine.txt")] == ["mine", "mine"]


def test_train_of_a_finished_run_changes_nothing(cli: Cli, flags: Flags, tmp_path: Path, snapshot: Snapshot) -> None:
    """--resume_from_checkpoint latest on a finished run exits with 0 and leaves every byte as it was."""
    command = ["train", *flags(output_dir=tmp_path / "run", max_train_steps=1), "--resume_from_checkpoint", "latest"]
    assert cli(*command).status == 0
    before = snapshot(tmp_path / "run")
    assert cli(*command).status == 0
    assert snapshot(tmp_path / "run") == before
