"""What may be other than it was when a run is gone on with, and what becomes of it."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from test_exact_resume import EndAt

from openddpm.api import resume, train
from openddpm.errors import UserError
from openddpm.record.reader import read_run_record
from tiny import differing, exact_metrics, newest_tensors, tiny_config, write_tiny_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A place with images, in which a run stands at step 5 of 12."""
    torch.set_num_threads(1)
    images = write_tiny_folder(tmp_path / "images")
    result = train(tiny_config(tmp_path, dataset=str(images)), observers=[EndAt(5, crash=False)])
    assert result.signal == signal.SIGTERM
    return tmp_path


def _last_changes(run: Path) -> list[str]:
    return read_run_record(run).resumptions[-1].changes


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"learning_rate": 5e-4}, "learning_rate: 0.0005, but 0.001 in the run"),
        ({"max_train_steps": 15}, "max_train_steps: 15, but 12 in the run"),
        ({"random_flip": False}, "random_flip: no, but yes in the run"),
        ({"evaluation_seed": 1}, "evaluation_seed: 1, but 0 in the run"),
    ],
)
def test_changes_have_to_be_accepted(folder: Path, changes: dict[str, Any], difference: str) -> None:
    """An option that changes numbers is refused, with the difference; accepted, it is in force and in the record."""
    run, before = folder / "run", exact_metrics(folder / "run")
    with pytest.raises(UserError, match=difference):
        resume(run, **changes)
    assert exact_metrics(run) == before and read_run_record(run).resumptions == []
    assert resume(run, accept_changes=True, **changes).status == "finished"
    record = read_run_record(run)
    assert _last_changes(run) == [difference]
    assert record.config[next(iter(changes))] == next(iter(changes.values()))
    assert exact_metrics(run)[:5] == before and len(exact_metrics(run)) == changes.get("max_train_steps", 12)


def test_other_images_have_to_be_accepted(folder: Path) -> None:
    """Images that are not those of the run are refused; accepted, the run goes on with them and says so."""
    others = write_tiny_folder(folder / "others", count=23)
    with pytest.raises(UserError, match="not those of the run"):
        resume(folder / "run", dataset=str(others))
    assert resume(folder / "run", dataset=str(others), accept_changes=True).status == "finished"
    record = read_run_record(folder / "run")
    assert record.dataset.num_images == 23
    assert len(_last_changes(folder / "run")) == 1 and record.dataset.sha256 in _last_changes(folder / "run")[0]


def test_a_finished_run_is_trained_for_longer(folder: Path) -> None:
    """A finished run goes on if it is given more steps, accepted, and all of it stands in one record."""
    run = folder / "run"
    resume(run)
    rows = exact_metrics(run)
    with pytest.raises(UserError, match="max_train_steps: 20, but 12 in the run"):
        resume(run, max_train_steps=20)
    assert read_run_record(run).status == "finished"
    assert resume(run, max_train_steps=20, accept_changes=True).status == "finished"
    assert [row["step"] for row in exact_metrics(run)] == list(range(1, 21))
    assert exact_metrics(run)[:12] == rows
    assert read_run_record(run).progress.step == 20


def test_another_model_is_never_accepted(folder: Path) -> None:
    """Weights fit no other model, average or prediction: these are refused whatever is accepted."""
    changes = (
        *({"model": "unet-16", "resolution": 16}, {"resolution": 16}, {"use_ema": False}),
        *({"prediction_type": "v_prediction"}, {"zero_init_residuals": True}),
    )
    for change in changes:
        with pytest.raises(UserError, match="its weights fit no other"):
            resume(folder / "run", accept_changes=True, **change)
    assert read_run_record(folder / "run").resumptions == []


def test_acceptance_is_for_one_sitting(folder: Path) -> None:
    """What was accepted once has to be accepted again for the next change."""
    run = folder / "run"
    config = tiny_config(folder, dataset=str(folder / "images"), learning_rate=5e-4, accept_changes=True)
    config = config.model_copy(update={"resume_from_checkpoint": "latest"})
    assert train(config, observers=[EndAt(8, crash=False)]).status == "interrupted"
    with pytest.raises(UserError, match=r"learning_rate: 0\.002, but 0\.0005 in the run"):
        resume(run, learning_rate=2e-3)
    assert resume(run).status == "finished"
    assert _last_changes(run) == []


def test_accepting_no_change_changes_nothing(folder: Path) -> None:
    """--accept_changes without a change is a resumption like any other, to the bit."""
    train(tiny_config(folder, "whole", dataset=str(folder / "images")))
    resume(folder / "run", accept_changes=True)
    assert exact_metrics(folder / "run") == exact_metrics(folder / "whole")
    assert differing(newest_tensors(folder / "run"), newest_tensors(folder / "whole")) == []


def test_a_finished_run_takes_no_change_without_more_steps(folder: Path) -> None:
    """Options that no step would be trained with are refused, and neither record nor scheduler is touched."""
    run = folder / "run"
    assert resume(run).status == "finished"
    files = [run / "run.json", run / "scheduler" / "scheduler_config.json"]
    before = [file.read_bytes() for file in files]
    for change in ({"preview_solver": "unipc"}, {"beta_schedule": "squaredcos_cap_v2"}, {"num_train_timesteps": 500}):
        with pytest.raises(UserError, match="finished after 12 steps: give it more"):
            resume(run, accept_changes=True, **change)
    assert [file.read_bytes() for file in files] == before
    assert resume(run).status == "finished"
