"""Runs that an older openddpm began, and this one goes on with."""

import json
from pathlib import Path

import pytest

from openddpm import UserError, train
from openddpm.api import resume
from openddpm.record.reader import read_run_record
from tiny import tiny_config, write_tiny_folder


def older_run(folder: Path, **options: int | str) -> Path:
    """Train, and take from the record what an older openddpm did not write."""
    images = str(write_tiny_folder(folder / "images"))
    run = train(tiny_config(folder, dataset=images, max_train_steps=2, **options)).folder
    record = json.loads((run / "run.json").read_text("utf-8"))
    del record["model"]["signal_left"]
    (run / "run.json").write_text(json.dumps(record), "utf-8")
    return run


def test_other_betas_are_not_gone_on_with_unasked(tmp_path: Path) -> None:
    """Betas that were not scaled to the timesteps are others than now: a change to accept, once, that is recorded."""
    run = older_run(tmp_path, num_train_timesteps=200)
    with pytest.raises(UserError, match=r"betas: 0\.0005 to 0\.1, but 0\.0001 to 0\.02 in the run") as refusal:
        resume(run)
    assert "--accept_changes" in refusal.value.todo
    assert resume(run, accept_changes=True, max_train_steps=3).status == "finished"
    record = read_run_record(run)
    assert any(change.startswith("betas: ") for change in record.resumptions[0].changes)
    assert record.model.signal_left == pytest.approx(0.0055, abs=1e-4)
    assert resume(run).status == "finished"


@pytest.mark.parametrize(
    "options", [{}, {"num_train_timesteps": 200, "beta_schedule": "squaredcos_cap_v2"}], ids=["1000", "cosine"]
)
def test_the_same_betas_are_no_change(options: dict[str, int | str], tmp_path: Path) -> None:
    """1000 timesteps, and cosine noise of any number, are as they were in an older run."""
    run = older_run(tmp_path, **options)
    assert resume(run, accept_changes=True, max_train_steps=3).status == "finished"
    assert read_run_record(run).resumptions[0].changes == ["max_train_steps: 3, but 2 in the run"]
