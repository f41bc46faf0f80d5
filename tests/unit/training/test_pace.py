"""The time of a step, measured before a run is planned: it leaves no trace, and plans what --max_minutes asks for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.training import pace, probe, setup
from openddpm.training.loop import fit
from openddpm.training.pace import Pace, keep_threads
from openddpm.training.probe import Probe
from openddpm.training.setup import prepare
from openddpm.training.timetable import MOST_PREVIEWS, forward_cost, make_timetable
from tiny import differing, exact_metrics, newest_tensors, tiny_config, tiny_images


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that fixes what a step is said to take, in seconds."""

    def fix(seconds: float) -> None:
        monkeypatch.setattr(Probe, "seconds_a_step", lambda self, *how, **most: seconds)

    return fix


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_timing_leaves_no_trace(tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose steps were timed before it has the losses and tensors of one that begins at once."""
    torch.set_num_threads(1)
    timed = fit(prepare(tiny_config(tmp_path, "timed", optimizer=optimizer), dataset=tiny_images())).folder
    monkeypatch.setattr(setup, "measure_pace", lambda parts: Pace(1.0))
    at_once = fit(prepare(tiny_config(tmp_path, "at-once", optimizer=optimizer), dataset=tiny_images())).folder
    assert differing(newest_tensors(timed), newest_tensors(at_once)) == []
    assert exact_metrics(timed) == exact_metrics(at_once)


def test_a_step_that_is_not_finite_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first loss is not a number, the run still begins with the weights that it would have begun with."""
    sound = prepare(tiny_config(tmp_path, "sound"), dataset=tiny_images())
    sound.close()
    whole = probe.micro_batch_loss
    monkeypatch.setattr(probe, "micro_batch_loss", lambda parts, index: whole(parts, index) * float("nan"))
    training = prepare(tiny_config(tmp_path, "poisoned"), dataset=tiny_images())
    training.close()
    for name, weight in sound.state.weights()["raw"].items():
        assert torch.equal(weight, training.state.weights()["raw"][name])


def test_a_batch_beyond_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that does not fit ends the run before it begins, with the batch that fits, and threads as they were."""
    whole = probe.micro_batch_loss

    def of_two_at_most(parts: Any, index: int) -> torch.Tensor:
        torch.set_num_threads(2)
        if parts.config.train_batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(parts, index)

    torch.set_num_threads(1)
    monkeypatch.setattr(probe, "micro_batch_loss", of_two_at_most)
    with pytest.raises(UserError) as refused:
        prepare(tiny_config(tmp_path, train_batch_size=4), dataset=tiny_images())
    assert "a training step of 4 images does not fit into memory" in str(refused.value)
    assert "--train_batch_size 2 --gradient_accumulation_steps 2 fits" in str(refused.value)
    assert torch.get_num_threads() == 1


def test_what_fails_before_a_run_is_ready_gives_back_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error after the steps were timed leaves no thread that loads images, no compiled UNet, and the folder free."""
    cleanup: list[str] = []
    monkeypatch.setattr(setup.BatchStream, "close", lambda self: cleanup.append("stream"))
    monkeypatch.setattr(setup, "undo_compile", lambda unet: cleanup.append("unet"))

    def full(*parts: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(setup, "begin_folder", full)
        prepare(tiny_config(tmp_path), dataset=tiny_images())
    assert sorted(cleanup) == ["stream", "unet"]
    prepare(tiny_config(tmp_path), dataset=tiny_images()).close()


def test_the_first_step_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step of 30 seconds, in which a GPU chooses its algorithms, says nothing of the others."""
    seconds = iter([30.0])
    monkeypatch.setattr(Probe, "_timed_step", lambda self, num_micro_batches: next(seconds, 0.06))
    monkeypatch.setattr(pace, "LONG_SECONDS", float("inf"))  # as on a GPU
    training = prepare(tiny_config(tmp_path), dataset=tiny_images())
    training.close()
    assert training.recorder.run.session.environment.pace.step_seconds == 0.06


def test_accumulated_steps_have_one_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of three micro-batches is timed with three of them, and one step of the optimizer."""
    counted = {"losses": 0, "updates": 0}
    whole = probe.micro_batch_loss

    def counting(parts: Any, index: int) -> torch.Tensor:
        counted["losses"] += 1
        return whole(parts, index)

    monkeypatch.setattr(probe, "micro_batch_loss", counting)
    hook = register_optimizer_step_post_hook(lambda *_: counted.update(updates=counted["updates"] + 1))
    prepare(tiny_config(tmp_path, gradient_accumulation_steps=3), dataset=tiny_images()).close()
    hook.remove()
    assert counted["losses"] == 3 * counted["updates"] > 0


@pytest.mark.parametrize("mixed", ["no", "bf16"])
def test_previews_take_the_measured_time(tmp_path: Path, mixed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planned time of previews and evaluation follows the time of a forward pass, whatever a step takes."""
    monkeypatch.setattr(Probe, "seconds_a_step", lambda self, *how, **most: 0.5)
    monkeypatch.setattr(Probe, "seconds_a_forward", lambda self, num_images: 0.25 * num_images)
    training = prepare(tiny_config(tmp_path, mixed_precision=mixed, max_train_steps=6), dataset=tiny_images())
    training.close()
    pace, table = training.recorder.run.session.environment.pace, training.timetable
    denoised = table.pauses_in_steps * table.global_batch_size / forward_cost(training.config)  # images
    assert pace is not None
    assert pace.planned_seconds == pytest.approx(6 * 0.5 + 0.25 * denoised, abs=0.1)


@pytest.mark.parametrize("minutes", [0.001, 0.4, 3, 90])
def test_as_many_steps_are_planned_as_fit(minutes: float) -> None:
    """One step more would take longer than the minutes, previews and evaluation included; at least one is planned."""
    config, measured = TrainConfig(recipe="avatars-16", max_minutes=minutes), Pace(0.15)
    steps = measured.steps_in(minutes, config, 5488, 1)
    assert steps == 1 or measured.total_seconds(make_timetable(config, steps, 5488, 1)) <= 60 * minutes
    assert measured.total_seconds(make_timetable(config, steps + 1, 5488, 1)) > 60 * minutes


def test_minutes_in_which_no_step_fits_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A plan that takes longer than was asked for says so, and how long; one that fits says nothing."""
    table = make_timetable(TrainConfig(), 1, 5488, 1)
    seconds = Pace(2.0).total_seconds(table)
    assert Pace(2.0).remarks(table, seconds / 60) == Pace(2.0).remarks(table, None) == []
    prepare(tiny_config(tmp_path, max_train_steps=None, max_minutes=1e-9), dataset=tiny_images()).close()
    assert "--max_minutes 1e-09 is too short: one step" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", [1e5, 1e7])
def test_many_minutes_are_planned_at_once(minutes: float) -> None:
    """Minutes that nobody lives to see are planned as others are: in no time, and with previews that can be listed."""
    config = TrainConfig(max_minutes=minutes)
    steps = Pace(0.05).steps_in(minutes, config, 5488, 1)
    assert steps > 0.9 * 60 * minutes / 0.05
    assert len(make_timetable(config, steps, 5488, 1).preview_steps) < MOST_PREVIEWS


def test_minutes_are_recorded_as_steps(tmp_path: Path, unhurried: Callable[[float], None]) -> None:
    """The record has the steps that were planned, and the same command goes on with them whatever a step takes then."""
    unhurried(1.0)
    options = {
        "max_train_steps": None,
        "max_minutes": 1.0,
        "save_images_epochs": 1000,
        "resume_from_checkpoint": "latest",
    }
    folder = fit(prepare(tiny_config(tmp_path, **options), dataset=tiny_images())).folder
    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["max_minutes"] is None
    assert 1 < record["total_steps"] == record["config"]["max_train_steps"] == record["progress"]["step"]
    assert record["sessions"][0]["environment"]["pace"]["planned_seconds"] <= 60
    unhurried(0.1)
    training = prepare(tiny_config(tmp_path, **options), dataset=tiny_images())
    training.close()
    assert training.total_steps == record["total_steps"] and training.was_finished


def test_minutes_and_steps_contradict_each_other() -> None:
    """Both lengths are refused; minutes beside a recipe win over its steps."""
    with pytest.raises(UserError, match="max_minutes: found 3 as well as max_train_steps 100; give only one"):
        TrainConfig(max_minutes=3, max_train_steps=100)
    assert TrainConfig(recipe="avatars-16", max_minutes=3).max_train_steps is None


class _Timed:
    """A stand-in for Probe: a step takes `by_threads` seconds."""

    def __init__(self, by_threads: dict[int, float]) -> None:
        self._by_threads = by_threads

    def seconds_a_step(self, num_micro_batches: int, *most: float) -> float:
        """Return the time of a step with the threads that torch has."""
        return self._by_threads[torch.get_num_threads()]


@pytest.mark.parametrize(
    ("cores_used", "alone", "chosen"),
    [(1.3, 0.25, 1), (1.3, 0.5, 2), (1.9, 0.25, 2)],
    ids=["faster alone", "no faster alone", "nobody else there"],
)
def test_threads_that_wait_for_other_work_are_left_out(
    cores_used: float, alone: float, chosen: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fewer threads are taken, and it is said, only where cores are taken by others and a step is faster for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seconds = pace._with_fewer_threads(_Timed({1: alone, 2: 0.5}), 1, 0.5, cores_used)  # type: ignore[arg-type]
        assert torch.get_num_threads() == chosen and seconds == (alone if chosen == 1 else 0.5)
    finally:
        torch.set_num_threads(before)
    assert ("2.0 times as fast" in capsys.readouterr().err) is (chosen == 1)


def test_a_run_goes_on_with_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are rounded as before an interruption, unless the environment says how many threads there are."""
    training = prepare(tiny_config(tmp_path), dataset=tiny_images())
    training.close()
    session = training.recorder.run.session
    session = session.model_copy(update={"environment": session.environment.model_copy(update={"cpu_threads": 1})})
    before, accelerator = torch.get_num_threads(), training.accelerator
    of_two_processes = session.model_copy(update={"num_processes": 2})
    try:
        for given, earlier, expected in (("2", session, 2), (None, of_two_processes, 2), (None, session, 1)):
            torch.set_num_threads(2)
            monkeypatch.setenv("OMP_NUM_THREADS", given) if given else monkeypatch.delenv("OMP_NUM_THREADS", False)
            keep_threads(earlier, accelerator)
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
