"""What a record says of the starts of a run and of its checkpoints, through interruptions."""

import hashlib
import io
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import openddpm.training.setup as setup
from openddpm.api import resume, train
from openddpm.observers.display import Display
from openddpm.record.files import read_json_lines
from openddpm.record.reader import read_run_folder, read_run_record
from openddpm.record.schema import CheckpointRow
from openddpm.record.writer import RunWriter
from openddpm.report import write_report
from openddpm.report.facts import header_facts
from openddpm.training.checkpoint import MANIFEST, STATE, checkpoint_step, list_checkpoints
from tiny import tiny_config, write_tiny_folder


def on_machine(monkeypatch: pytest.MonkeyPatch, name: str, **machine: Any) -> None:
    """Have sessions begin on a machine of another name."""
    described = setup.environment
    monkeypatch.setattr(
        setup, "environment", lambda *given: described(*given).model_copy(update={"device": name, **machine})
    )


def test_each_start_is_a_session_with_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is resumed elsewhere has both machines in its record; terminal and report name the present one."""
    images = str(write_tiny_folder(tmp_path / "images"))
    config = tiny_config(tmp_path, dataset=images, checkpointing_steps=5)
    on_machine(monkeypatch, "first machine")
    train(config)
    on_machine(monkeypatch, "second machine", device_type="cuda")
    said = io.StringIO()
    monkeypatch.setattr("openddpm.api.Display", lambda console: Display(Console(file=said, width=200)))
    assert resume(tmp_path / "run", max_train_steps=20, accept_changes=True).status == "finished"
    record = read_run_record(tmp_path / "run")
    assert [session.environment.device for session in record.sessions] == ["first machine", "second machine"]
    assert [(session.first_step, session.last_step) for session in record.sessions] == [(0, 12), (12, 20)]
    assert [session.num_processes for session in record.sessions] == [1, 1]
    assert record.sessions[0].environment.pace is not None and record.session.environment.pace is None
    assert record.session.time == record.resumptions[-1].time
    assert "on cuda" in said.getvalue() and "continuing from step 12" in said.getvalue()
    assert not {"environment", "num_processes"} & json.loads((tmp_path / "run" / "run.json").read_text()).keys()
    facts = header_facts(read_run_folder(tmp_path / "run"), datetime.now(timezone.utc)).facts
    assert [fact.value for fact in facts if fact.label == "device"] == ["second machine"]
    page = write_report(tmp_path / "run").read_text("utf-8")
    assert "first machine" in page and "Environment of the last session" in page
    assert "| device | second machine |" in (tmp_path / "run" / "README.md").read_text("utf-8")


def test_every_checkpoint_has_a_line(tmp_path: Path) -> None:
    """Of 40 checkpoints with 3 kept there are 40 lines; those kept say what lies there, the newest what is exported."""
    images = str(write_tiny_folder(tmp_path / "images"))
    train(tiny_config(tmp_path, dataset=images, max_train_steps=40, checkpointing_steps=1, checkpoints_total_limit=3))
    run = tmp_path / "run"
    rows = read_run_folder(run).checkpoints
    assert [row.step for row in rows] == list(range(1, 41))
    assert [row.images_seen for row in rows] == [4 * step for step in range(1, 41)]
    kept = list_checkpoints(run)
    assert [checkpoint_step(path) for path in kept] == [38, 39, 40]
    for path, row in zip(kept, rows[-3:], strict=True):
        assert row.sha256 == {file.name: sha256(file) for file in path.iterdir() if file.name != MANIFEST}
        assert {"unet.safetensors", "ema.safetensors", STATE} <= row.sha256.keys()
        assert row.exported_sha256 == row.sha256["ema.safetensors"]
    assert rows[-1].exported_sha256 == sha256(run / "unet" / "diffusion_pytorch_model.safetensors")


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_an_average_the_raw_weights_are_exported(tmp_path: Path) -> None:
    """The line of a checkpoint without averaged weights names the digest of the raw ones."""
    images = str(write_tiny_folder(tmp_path / "images"))
    train(tiny_config(tmp_path, dataset=images, max_train_steps=2, use_ema=False))
    row = read_run_folder(tmp_path / "run").checkpoints[-1]
    assert row.exported_sha256 == row.sha256["unet.safetensors"]
    assert row.exported_sha256 == sha256(tmp_path / "run" / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_line_that_a_kill_took_is_written_by_the_resumption(tmp_path: Path) -> None:
    """A run killed between a checkpoint and its line, and one gone back, have each step once."""
    images = str(write_tiny_folder(tmp_path / "images"))
    train(tiny_config(tmp_path, dataset=images, checkpointing_steps=4))
    run, lines = tmp_path / "run", tmp_path / "run" / "checkpoints.jsonl"
    whole = lines.read_bytes()
    lines.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]) + b'{"step": 12, "ima')
    resume(run)
    assert lines.read_bytes() == whole
    resume(run, resume_from_checkpoint="step-00000004")
    assert [row["step"] for row in read_json_lines(lines)] == [4, 8, 12]
    assert lines.read_bytes().splitlines()[0] == whole.splitlines()[0]


def test_a_disk_that_is_full_when_the_line_is_due_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the line of a checkpoint finds no room training goes on, and the line comes with the next."""
    plain, failed = RunWriter.append, []

    def full_once(writer: RunWriter, row: Any) -> None:
        if isinstance(row, CheckpointRow) and not failed:
            failed.append(row.step)
            writer._waiting["checkpoints.jsonl"] += (row.model_dump_json() + "\n").encode()
            raise OSError(28, "No space left on device")
        plain(writer, row)

    monkeypatch.setattr(RunWriter, "append", full_once)
    images = str(write_tiny_folder(tmp_path / "images"))
    assert train(tiny_config(tmp_path, dataset=images, checkpointing_steps=4)).status == "finished"
    assert failed == [4]
    assert [row.step for row in read_run_folder(tmp_path / "run").checkpoints] == [4, 8, 12]
