import threading
import time
from pathlib import Path

import pytest
import torch

from openddpm.api import train
from openddpm.record.schema import Progress
from openddpm.training import checkpointer as saver_module
from openddpm.training.checkpoint import checkpoint_step, list_checkpoints
from openddpm.training.checkpointer import Saver
from openddpm.training.recorder import Recorder
from tiny import tiny_config, write_tiny_folder

TENSORS = {
    "unet": {"weight": torch.arange(6.0).reshape(2, 3), "norm": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer": {
        "weight/exp_avg": torch.ones(2, 3).to(memory_format=torch.contiguous_format),
        "weight/step": torch.tensor(2.0),
    },
}


def progress_at(step: int) -> Progress:
    """Return where a run of one image a step stands."""
    return Progress(step=step, images_seen=step, epoch=0.0)


def test_memory_of_the_copies_is_kept(tmp_path: Path) -> None:
    """A second save copies into the memory of the first."""
    saver = Saver(tmp_path, "run", 2, lambda: None, lambda folder: None)
    places = []
    for step in (1, 2):
        saver.begin(TENSORS, {"step": step}, progress_at(step))
        outcome = saver.collect(wait=True)
        assert outcome is not None and outcome.reason is None
        places.append([tensor.data_ptr() for content in saver._copies.values() for tensor in content.values()])
    saver.close()
    assert places[0] == places[1]


def test_a_checkpoint_that_cannot_be_removed_is_told_and_no_failed_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an old checkpoint is in use, the new one counts as saved, and what stays is said."""
    saver = Saver(tmp_path, "run", 1, lambda: None, lambda folder: None)

    def in_use(folder: Path) -> None:
        raise PermissionError(13, "in use", str(folder))

    monkeypatch.setattr("openddpm.training.checkpoint.remove_folder", in_use)
    outcomes = []
    for step in (1, 2):
        saver.begin(TENSORS, {"step": step}, progress_at(step))
        outcomes.append(saver.collect(wait=True))
    saver.close()
    assert [outcome and outcome.reason for outcome in outcomes] == [None, None]
    assert outcomes[0] and outcomes[0].not_pruned is None
    assert outcomes[1] and "in use" in str(outcomes[1].not_pruned)
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
    monkeypatch.setattr(saver_module, "TURN_SECONDS", 0.0)
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
