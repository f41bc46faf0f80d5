"""Evaluation by several processes, tried with threads in place of processes."""

import copy
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from openddpm.record.files import read_json_lines
from openddpm.record.writer import RunWriter
from openddpm.training.evaluate import evaluate
from openddpm.training.recorder import Recorder
from openddpm.training.run import Training
from openddpm.training.setup import prepare
from openddpm.training.stop import StopRequest
from threads_as_processes import by_all
from tiny import tiny_config, tiny_images


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    """A run before its last step's evaluation and preview, raw weights unlike the average."""
    training = prepare(tiny_config(tmp_path), tiny_images(), times_steps=False)
    training.state.step = training.total_steps
    training.state.evaluation_due = True
    with torch.no_grad():
        for parameter in training.state.unet.parameters():
            parameter += 0.01
    yield training
    training.close()


def _part_of(training: Training, process: Any, folder: Path) -> Training:
    """Return the run as one of several processes has it, which writes to `folder`."""
    writer = RunWriter(folder) if process.is_main_process else None
    recorder = Recorder(training.recorder.run, folder, (), writer)
    state, unet = replace(training.state), copy.deepcopy(training.frozen_unet)
    return replace(training, accelerator=process, recorder=recorder, state=state, frozen_unet=unet)


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [{**row, "seconds": None} for row in read_json_lines(folder / "evaluations.jsonl")]


def test_processes_share_an_evaluation(training: Training, tmp_path: Path) -> None:
    """The rows of three processes are those of one, to 1e-6, written once; the previews are the main process's."""

    def act(process: Any) -> bool:
        part = _part_of(training, process, tmp_path / f"by-{process.num_processes}-{process.process_index}")
        evaluate(part, StopRequest())
        return part.state.evaluation_due

    assert by_all(1, act) == [False] and by_all(3, act) == [False] * 3
    alone, shared = _rows(tmp_path / "by-1-0"), _rows(tmp_path / "by-3-0")
    assert [row["weights"] for row in shared] == ["ema", "raw"] and shared[0]["skill"] != shared[1]["skill"]
    for ours, theirs in zip(shared, alone, strict=True):
        for name in ("heldout_loss", "fixed_train_loss", "skill", "skill_error", "train_skill", "by_timestep"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6)
    written = {path.parents[1].name for path in tmp_path.glob("by-3-*/samples/*.png")}
    assert written == {"by-3-0"} and not list(tmp_path.glob("by-3-[12]/*.jsonl"))


@pytest.mark.parametrize("told", [[0], [1], [0, 1, 2]])
def test_a_signal_to_any_process_breaks_it_off_for_all(training: Training, tmp_path: Path, told: list[int]) -> None:
    """Nobody waits for a share that never comes: nothing is recorded, and the evaluation stays due everywhere."""

    def act(process: Any) -> bool:
        part, stop = _part_of(training, process, tmp_path / f"by-{process.process_index}"), StopRequest()
        stop.signal = signal.SIGTERM if process.process_index in told else None
        evaluate(part, stop)
        return part.state.evaluation_due

    assert by_all(3, act) == [True] * 3
    assert not list(tmp_path.glob("by-*/*.jsonl")) and not list(tmp_path.glob("by-*/samples/*.png"))
