import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from openddpm.api import train
from openddpm.record.schema import Progress
from openddpm.training import checkpointer as checkpointer_module
from openddpm.training.checkpoint import checkpoint_step, list_checkpoints
from openddpm.training.checkpointer import Checkpointer
from openddpm.training.recorder import Recorder
from tiny import tiny_config, write_tiny_folder

TENSORS = {
    "unet": {"weight": torch.arange(6.0).reshape(2, 3), "norm": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer": {
        "weight/exp_avg": torch.ones(2, 3).to(memory_format=torch.contiguous_format),
        "weight/step": torch.tensor(2.0),
    },
}


class FakeRecorder:
    """What a checkpointer makes of a recorder: notes the steps it is told of, and the warnings."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.is_main, self.run = folder, True, SimpleNamespace(run_id="run")
        self.steps: list[int] = []
        self.warnings: list[str] = []

    def sync_rows(self) -> None:
        pass

    def checkpointed(self, progress: Progress) -> None:
        self.steps.append(progress.step)

    def warned(self, text: str) -> None:
        self.warnings.append(text)


def save_steps(folder: Path, keep: int) -> tuple[FakeRecorder, list[list[int]]]:
    """Save steps 1 and 2 of a run of one image a step; return what was told, and where each save's copies lay."""
    recorder, places = FakeRecorder(folder), []
    checkpointer = Checkpointer(cast(Recorder, recorder), cast(Any, None), keep, None, 1800, lambda folder: None)
    for step in (1, 2):
        state: Any = SimpleNamespace(tensors=lambda: TENSORS, scalars=lambda accelerator, step=step: {"step": step})
        checkpointer.save(state, Progress(step=step, images_seen=step, epoch=0.0))
        checkpointer.collect(wait=True)
        copies = checkpointer._copies.values()
        places.append([tensor.data_ptr() for content in copies for tensor in content.values()])
    checkpointer.close()
    return recorder, places


def test_memory_of_the_copies_is_kept(tmp_path: Path) -> None:
    """A second save copies into the memory of the first."""
    recorder, places = save_steps(tmp_path, keep=2)
    assert (recorder.steps, recorder.warnings) == ([1, 2], [])
    assert places[0] == places[1]


def test_a_checkpoint_that_cannot_be_removed_is_told_and_no_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an old checkpoint is in use, the new one counts as saved, and what stays is said."""

    def in_use(folder: Path) -> None:
        raise PermissionError(13, "in use", str(folder))

    monkeypatch.setattr("openddpm.training.checkpoint.remove_folder", in_use)
    recorder, _ = save_steps(tmp_path, keep=1)
    assert recorder.steps == [1, 2]
    (warning,) = recorder.warnings
    assert warning.startswith("a checkpoint before step 2 could not be removed: ") and "in use" in warning
    assert [checkpoint_step(folder) for folder in list_checkpoints(tmp_path)] == [1, 2]


def test_a_save_waits_its_turn_and_training_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the save of step 2 is being written training goes on; the next comes right after it, which is said."""
    write_tiny_folder(tmp_path / "images")
    may_write, said = threading.Event(), []
    sync_rows, logged = Recorder.sync_rows, Recorder.logged

    def held(self: Recorder) -> None:
        assert may_write.wait(60)
        sync_rows(self)

    def freeing(self: Recorder, row: object) -> None:
        logged(self, row)  # type: ignore[arg-type]
        if row.step == 7:  # type: ignore[attr-defined]
            may_write.set()
            deadline = time.monotonic() + 60
            while not list_checkpoints(tmp_path / "run") and time.monotonic() < deadline:
                pass

    monkeypatch.setattr(Recorder, "sync_rows", held)
    monkeypatch.setattr(Recorder, "logged", freeing)
    monkeypatch.setattr(Recorder, "warned", lambda self, text: said.append(text))
    monkeypatch.setattr(checkpointer_module, "SAVE_WAIT_SECONDS", 0.0)
    config = tiny_config(tmp_path, dataset=str(tmp_path / "images"), max_train_steps=12, checkpointing_steps=2)
    assert train(config.model_copy(update={"checkpoints_total_limit": 10})).status == "finished"
    steps = [checkpoint_step(folder) for folder in list_checkpoints(tmp_path / "run")]
    assert steps[0] == 2 and not {4, 6} & set(steps) and steps[1] in (7, 8, 9, 10) and steps[-1] == 12
    assert next(text for text in said if "still being written" in text).startswith("step 4 is not saved")
    assert sum("still being written" in text for text in said) == 1


def test_small_runs_save_at_the_steps_they_should(tmp_path: Path) -> None:
    """A save that is done soon is waited for, so that the steps of checkpoints are those that were asked for."""
    write_tiny_folder(tmp_path / "images")
    config = tiny_config(tmp_path, dataset=str(tmp_path / "images"), max_train_steps=5, checkpointing_steps=1)
    train(config.model_copy(update={"checkpoints_total_limit": 10}))
    assert [checkpoint_step(folder) for folder in list_checkpoints(tmp_path / "run")] == [1, 2, 3, 4, 5]
