"""An interrupted run, gone on with, is the uninterrupted run."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import openddpm.training.update as update
from openddpm.record.reader import read_run_folder, read_run_record
from openddpm.record.schema import MetricsRow, PreviewPlan
from openddpm.training.loop import TrainResult, fit
from openddpm.training.observer import Observer
from openddpm.training.setup import prepare
from tiny import differing, exact_evaluations, exact_metrics, exact_samples, newest_tensors, tiny_config, tiny_images


class _Crash(Exception):
    pass


class EndAt(Observer):
    """Ends the run at a step, by the signal a scheduler sends or by an exception out of nowhere."""

    def __init__(self, step: int, crash: bool) -> None:
        self._step, self._crash = step, crash

    def logged(self, row: MetricsRow) -> None:
        if row.step == self._step:
            if self._crash:
                raise _Crash("out of nowhere")
            signal.raise_signal(signal.SIGTERM)


def _train(folder: Path, name: str, observers: tuple[Observer, ...] = (), **options: Any) -> TrainResult:
    torch.set_num_threads(1)
    config = tiny_config(folder, name, **options)
    return fit(prepare(config, dataset=tiny_images(), observers=observers))


# 24 images less 4 held out are 20 in an epoch: batches of 4 end at its boundary after 5 steps (or 5 of 4 x 4 = 80).
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("ended_at", [3, 5, 8])
def test_resume_after_sigterm_is_exact(tmp_path: Path, accumulation: int, ended_at: int) -> None:
    """A run saved on SIGTERM, inside an epoch or at its boundary, ends as one left alone, to the bit."""
    options = {"gradient_accumulation_steps": accumulation}
    _train(tmp_path, "whole", **options)
    result = _train(tmp_path, "cut", (EndAt(ended_at, crash=False),), **options)
    assert (result.status, result.signal) == ("interrupted", signal.SIGTERM)
    assert read_run_record(tmp_path / "cut").progress.step == ended_at
    assert _train(tmp_path, "cut", resume_from_checkpoint="latest", **options).status == "finished"
    assert exact_metrics(tmp_path / "cut") == exact_metrics(tmp_path / "whole")
    assert differing(newest_tensors(tmp_path / "cut"), newest_tensors(tmp_path / "whole")) == []


@pytest.mark.parametrize(
    ("logging_steps", "late"), [pytest.param(1, False, id="1"), pytest.param(3, False, id="3"), (3, True)]
)
def test_resume_after_a_crash_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_steps: int, late: bool
) -> None:
    """A run that crashed past its checkpoint repeats those steps and logs each once, also between logged lines.

    So does one whose average follows a step later, as on a GPU.
    """
    if late:
        monkeypatch.setattr(update, "LATE_DEVICES", ("cpu",))
    options = {"checkpointing_steps": 4, "logging_steps": logging_steps, "save_images_epochs": 1}
    _train(tmp_path, "whole", **options)
    with pytest.raises(_Crash):
        _train(tmp_path, "cut", (EndAt(6, crash=True),), **options)
    assert read_run_record(tmp_path / "cut").status == "failed"
    _train(tmp_path, "cut", resume_from_checkpoint="latest", **options)
    record = read_run_record(tmp_path / "cut")
    assert (record.status, [entry.step for entry in record.resumptions]) == ("finished", [4])
    assert exact_metrics(tmp_path / "cut") == exact_metrics(tmp_path / "whole")
    assert differing(newest_tensors(tmp_path / "cut"), newest_tensors(tmp_path / "whole")) == []
    assert exact_evaluations(tmp_path / "cut") == exact_evaluations(tmp_path / "whole")
    assert exact_samples(tmp_path / "cut") == exact_samples(tmp_path / "whole") != []
    for name in ("samples/step-00000005-ema.png", "samples/step-00000012-raw.png"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_resumed_run_makes_the_previews_it_planned(tmp_path: Path) -> None:
    """A run that nobody told when to make previews goes on with those that it planned and recorded, also where options
    have changed by which none would be planned."""
    options: dict[str, Any] = {"save_images_epochs": None}
    _train(tmp_path, "run", (EndAt(6, crash=False),), **options)
    assert read_run_record(tmp_path / "run").previews == PreviewPlan(steps=[5, 10])
    options |= {"num_inference_steps": 20, "accept_changes": True}
    _train(tmp_path, "run", resume_from_checkpoint="latest", **options)
    assert read_run_record(tmp_path / "run").previews == PreviewPlan(steps=[5, 10])
    assert [row.step for row in read_run_folder(tmp_path / "run").samples if row.weights == "ema"] == [5, 10, 12]


def test_resume_from_a_named_checkpoint_forgets_what_came_after(tmp_path: Path) -> None:
    """Going back to an older checkpoint drops later rows and checkpoints, and repeats them to the bit."""
    options = {"checkpointing_steps": 4}
    _train(tmp_path, "run", **options)
    rows, tensors = exact_metrics(tmp_path / "run"), newest_tensors(tmp_path / "run")
    _train(tmp_path, "run", (EndAt(6, crash=False),), resume_from_checkpoint="step-00000004", **options)
    names = [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert names == ["step-00000004", "step-00000006"]
    assert exact_metrics(tmp_path / "run") == rows[:6]
    _train(tmp_path, "run", resume_from_checkpoint="latest", **options)
    assert exact_metrics(tmp_path / "run") == rows
    assert differing(newest_tensors(tmp_path / "run"), tensors) == []


def test_without_ema_resume_is_exact(tmp_path: Path) -> None:
    """A run without EMA resumes to the bit, and previews its raw weights only."""
    options = {"use_ema": False, "save_images_epochs": 1}
    _train(tmp_path, "whole", **options)
    _train(tmp_path, "cut", (EndAt(7, crash=False),), **options)
    _train(tmp_path, "cut", resume_from_checkpoint="latest", **options)
    assert differing(newest_tensors(tmp_path / "cut"), newest_tensors(tmp_path / "whole")) == []
    assert not list((tmp_path / "cut" / "samples").glob("*-ema.png"))


def test_other_images_are_refused_on_resume(tmp_path: Path) -> None:
    """A data set that is no longer the one of the run stops a resume before anything is touched."""
    _train(tmp_path, "run", (EndAt(3, crash=False),))
    before = exact_metrics(tmp_path / "run")
    config = tiny_config(tmp_path, "run", resume_from_checkpoint="latest")
    with pytest.raises(Exception, match="not those of the run"):
        prepare(config, dataset=tiny_images()[::-1])
    assert exact_metrics(tmp_path / "run") == before


def test_checkpoints_leave_the_run_unchanged(tmp_path: Path) -> None:
    """Saving at every step changes no weight and no loss."""
    _train(tmp_path, "never")
    _train(tmp_path, "always", checkpointing_steps=1, checkpoints_total_limit=2)
    assert exact_metrics(tmp_path / "always") == exact_metrics(tmp_path / "never")
    assert differing(newest_tensors(tmp_path / "always"), newest_tensors(tmp_path / "never")) == []
    assert len(list((tmp_path / "always" / "checkpoints").iterdir())) == 2
