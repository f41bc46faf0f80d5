"""Signals and rollbacks that meet something else that is going on."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from test_exact_resume import EndAt

import openddpm.training.loop as loop
import openddpm.training.update as update
from openddpm.api import resume, train
from openddpm.errors import UserError
from openddpm.record.files import read_json_lines
from openddpm.record.reader import read_run_record
from openddpm.training.checkpoint import checkpoints_folder
from openddpm.training.run import Training
from openddpm.training.state import NotFinite
from tiny import tiny_config, tiny_images, write_tiny_folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["at once", "a step later"])
def heard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """When it is heard that a step is bad; the options of a run in which nothing asks for it before."""
    if request.param == "at once":
        return {}
    monkeypatch.setattr(update, "LATE_DEVICES", ("cpu",))
    return {"logging_steps": 100}


class NotFiniteAt:
    """Makes the loss of one step NaN, as often as asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, times: int, also: Any = lambda: None) -> None:
        plain, left = loop.micro_batch_loss, [None] * times

        def loss(training: Training, accumulation_index: int) -> torch.Tensor:
            value = plain(training, accumulation_index)
            if training.state.step == step - 1 and left:
                left.pop()
                also()
                return value * float("nan")
            return value

        monkeypatch.setattr(loop, "micro_batch_loss", loss)


def _steps_back(run: Path) -> list[int]:
    return [entry.step for entry in read_run_record(run).resumptions if entry.rolled_back_from is not None]


def test_a_signal_that_comes_while_processes_agree_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIGTERM between the question and the answer of a step's agreement ends the run at that step."""
    step_status = update.step_status

    def interrupted(training: Training, *arguments: Any) -> Any:
        word = step_status(training, *arguments)
        if training.state.step == 4:
            signal.raise_signal(signal.SIGTERM)
        return word

    monkeypatch.setattr(update, "step_status", interrupted)
    result = train(tiny_config(tmp_path), dataset=tiny_images())
    assert (result.status, result.signal) == ("interrupted", signal.SIGTERM)
    assert read_run_record(tmp_path / "run").progress.step == 5


def test_an_evaluation_made_up_for_twice_stands_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes back once more to a checkpoint saved during an evaluation finds its evaluations exactly once."""
    images = str(write_tiny_folder(tmp_path / "images"))
    plain, has_rung = loop.evaluate, []

    def interrupted(training: Training, stop: Any) -> None:
        if training.state.step == 12 and not has_rung:
            has_rung.append(True)
            signal.raise_signal(signal.SIGTERM)
        plain(training, stop)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    assert train(tiny_config(tmp_path, dataset=images)).status == "interrupted"
    assert resume(tmp_path / "run").status == "finished"
    evaluations = (tmp_path / "run" / "evaluations.jsonl").read_bytes()
    assert resume(tmp_path / "run").status == "finished"  # which has nothing left to do
    assert (tmp_path / "run" / "evaluations.jsonl").read_bytes() == evaluations
    assert resume(tmp_path / "run", accept_changes=True, max_train_steps=14).status == "finished"
    for name in ("evaluations.jsonl", "samples.jsonl"):
        rows = [(row["step"], row["weights"]) for row in read_json_lines(tmp_path / "run" / name)]
        assert len(rows) == len(set(rows)) and (14, "ema") in rows
        assert (12, "ema") in rows or name == "samples.jsonl"  # a longer run has no preview there


def test_a_shorter_run_than_was_done_is_refused(tmp_path: Path) -> None:
    """A length that is passed already is refused before anything is written."""
    images = str(write_tiny_folder(tmp_path / "images"))
    train(tiny_config(tmp_path, dataset=images))
    before = (tmp_path / "run" / "run.json").read_bytes()
    for shorter in ({"max_train_steps": 5}, {"num_epochs": 1, "train_batch_size": 1}):
        with pytest.raises(UserError, match="the run has done 12 steps, more than"):
            resume(tmp_path / "run", accept_changes=True, **shorter)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_rollback_passes_over_what_cannot_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: dict[str, int]
) -> None:
    """Neither the state right before the error nor a damaged checkpoint is gone back to."""

    def damage() -> None:
        (checkpoints_folder(tmp_path / "run") / "step-00000006" / "state.json").write_text("{}")

    NotFiniteAt(monkeypatch, step=10, times=1, also=damage)
    config = tiny_config(tmp_path, checkpointing_steps=3, max_rollbacks=1, **heard)
    assert train(config, dataset=tiny_images()).status == "finished"
    assert _steps_back(tmp_path / "run") == [3]  # not to 9, which is right before it, nor to 6


def test_rollback_of_an_own_unet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: dict[str, int]) -> None:
    """The gradient of the faulty step is not left in a UNet of the caller's."""
    from diffusers import UNet2DModel

    from tiny import TINY_UNET

    NotFiniteAt(monkeypatch, step=8, times=1)
    unet = UNet2DModel(sample_size=8, in_channels=3, out_channels=3, **TINY_UNET)
    config = tiny_config(tmp_path, checkpointing_steps=3, max_rollbacks=1, **heard)
    assert train(config, dataset=tiny_images(), unet=unet).status == "finished"
    assert _steps_back(tmp_path / "run") == [6]


def test_no_rollback_after_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: dict[str, int]) -> None:
    """A run that was asked to stop in the faulty step ends with it."""
    NotFiniteAt(monkeypatch, step=8, times=1, also=lambda: signal.raise_signal(signal.SIGTERM))
    config = tiny_config(tmp_path, checkpointing_steps=3, max_rollbacks=1, **heard)
    with pytest.raises(NotFinite):
        train(config, dataset=tiny_images())
    assert _steps_back(tmp_path / "run") == []


def test_longer_by_epochs(tmp_path: Path) -> None:
    """Epochs asked of a run that was given in steps decide its length, from Python as on the command line."""
    images = str(write_tiny_folder(tmp_path / "images"))
    train(tiny_config(tmp_path, dataset=images), observers=[EndAt(4, crash=False)])
    resume(tmp_path / "run", accept_changes=True, num_epochs=3)
    assert read_run_record(tmp_path / "run").total_steps == 15
