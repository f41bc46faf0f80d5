"""The run folder at the start of a session."""

from pathlib import Path

import pytest

from openddpm.api import resume, train
from openddpm.errors import UserError
from openddpm.observers.report import ReportObserver
from openddpm.record.manifest import ManifestCheck, check_manifest, read_manifest
from openddpm.record.public import published_names
from openddpm.record.reader import read_checkpoint_rows
from openddpm.record.schema import MetricsRow, RunRecord
from openddpm.training.observer import Observer
from tiny import tiny_config, write_tiny_folder


class Looking(Observer):
    """Notes whether there is a manifest, and fails at a step."""

    def __init__(self, fails_at: int | None = None) -> None:
        self._fails_at = fails_at
        self.seen: list[bool] = []

    def started(self, run: RunRecord, folder: Path) -> None:
        self._folder = folder

    def logged(self, row: MetricsRow) -> None:
        self.seen.append((self._folder / "manifest.json").exists())
        if row.step == self._fails_at:
            raise UserError("a test")


def told(run: Path) -> ManifestCheck:
    """Return how the files of a run compare with its manifest."""
    manifest = read_manifest(run)
    assert manifest is not None
    return check_manifest(run, manifest, published_names(run, read_checkpoint_rows(run), None))


def test_a_run_in_progress_has_no_manifest(tmp_path: Path) -> None:
    """A run that begins, is resumed or replaces another one has none until it ends: killed, it leaves no stale one."""
    images = str(write_tiny_folder(tmp_path / "images"))
    options = {"max_train_steps": 4, "checkpointing_steps": 2, "logging_steps": 1, "milestones": 2}
    config, run = tiny_config(tmp_path, dataset=images, **options), tmp_path / "run"
    looking = Looking(fails_at=3)
    with pytest.raises(UserError, match="a test"):
        train(config, observers=[looking])
    assert looking.seen == [False] * 3
    assert told(run) == ManifestCheck([], [], [])  # it failed

    looking = Looking()
    train(config.model_copy(update={"resume_from_checkpoint": "latest"}), observers=[looking])
    assert looking.seen and not any(looking.seen)
    assert told(run) == ManifestCheck([], [], [])
    looking = Looking()
    train(config.model_copy(update={"overwrite_output_dir": True}), observers=[looking])
    assert looking.seen == [False] * 4
    assert told(run) == ManifestCheck([], [], [])


def test_a_finished_run_is_resumed_without_blessing_what_was_changed(tmp_path: Path) -> None:
    """With nothing left to do, resume restores the pipeline of the checkpoint, and the manifest tells the rest."""
    images = str(write_tiny_folder(tmp_path / "images"))
    train(tiny_config(tmp_path, dataset=images, max_train_steps=2, logging_steps=1))
    run = tmp_path / "run"
    (run / "unet" / "config.json").write_text("{}", "utf-8")
    (run / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for name in ("metrics.jsonl", "data.json"):
        (run / name).write_text((run / name).read_text("utf-8").replace("{", "{ ", 1), "utf-8")
    resume(run)
    assert told(run) == ManifestCheck([], ["data.json", "metrics.jsonl"], [])


def test_the_pages_that_end_a_run_are_in_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is written after the last report and card."""
    order: list[str] = []
    ended = ReportObserver.ended

    def noted(self: ReportObserver, run: RunRecord) -> None:
        order.append(str((tmp_path / "run" / "manifest.json").exists()))
        ended(self, run)

    monkeypatch.setattr(ReportObserver, "ended", noted)
    images = str(write_tiny_folder(tmp_path / "images"))
    train(tiny_config(tmp_path, dataset=images, max_train_steps=2))
    assert order == ["False"]
    assert {"report.html", "README.md", "curves.png"} <= (read_manifest(tmp_path / "run") or {}).keys()
