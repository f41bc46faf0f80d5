"""A run that goes on with another number of processes, and two that want one folder."""

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import openddpm.training.loop as loop
from fault_injection import Site, act_at, start, start_ranks, tally_of, watch
from openddpm.diffusion.process import DiffusionProcess
from openddpm.record.reader import read_run_record
from openddpm.training.checkpoint import list_checkpoints
from openddpm.training.run import Training
from same_run import differences, published_faults, resumed
from tiny import exact_evaluations, exact_metrics

Whole = Callable[..., Path]
STEPS = 30


def draws_noted(path: Path) -> None:
    """Write, for each micro-batch that this process trains on, its number and what was drawn for it."""
    plain, add_noise = loop.micro_batch_loss, DiffusionProcess.add_noise
    number: tuple[int, int] | None = None

    def noising(self: DiffusionProcess, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> Any:
        if number:
            drawn = [hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in (images, noise)]
            with path.open("a") as file:
                file.write(json.dumps([*number, *drawn, timesteps.tolist()]) + "\n")
        return add_noise(self, images, noise, timesteps)

    def micro_batch_loss(training: Training, accumulation_index: int) -> torch.Tensor:
        nonlocal number
        accelerator = training.accelerator
        number = (training.state.step, accumulation_index * accelerator.num_processes + accelerator.process_index)
        loss = plain(training, accumulation_index)
        number = None
        return loss

    loop.micro_batch_loss, DiffusionProcess.add_noise = micro_batch_loss, noising  # type: ignore[method-assign]


def stopping(site: Site, path: Path, at_step: int | None) -> Callable[[], None]:
    """Return a fault that notes draws, and sends SIGTERM before a step of this session is taken."""
    steps = 0

    def tell(what: str, save: int) -> None:
        nonlocal steps
        steps += what == "optimizer"
        if what == "optimizer" and steps == at_step:
            os.kill(os.getpid(), signal.SIGTERM)

    def install() -> None:
        draws_noted(path)
        watch(site.folder, tell)

    return install


@pytest.mark.slow
def test_one_then_two_then_one_process(site: Site) -> None:
    """The same images, noise and timesteps in each micro-batch, the same losses to rounding; the record tells of it."""
    options = {"max_train_steps": STEPS, "gradient_accumulation_steps": 2}
    note, command = site.folder / "world.draws", site.command("world", **options)
    alone = stopping(site, site.folder / "world-whole.draws", None)
    assert start(site, site.command("world-whole", **options), "world-whole", alone).wait() == 0
    assert start(site, command, "world", stopping(site, note, 9)).wait() == 143
    latest = ["--resume_from_checkpoint", "latest"]
    faults = {0: stopping(site, note, None), 1: stopping(site, note, 8)}  # it is the other one that is asked to stop
    two = start_ranks(site, [*command, *latest], "world-two", faults)
    assert [child.wait() for child in two] == [143, 143], two[0].text()
    assert start(site, [*command, *latest], "world-one", stopping(site, note, None)).wait() == 0

    notes = (site.folder / f"{name}.draws" for name in ("world", "world-whole"))
    draws, wanted = (sorted(path.read_text().splitlines()) for path in notes)
    assert draws == wanted and len(draws) == 2 * STEPS
    run, whole = site.folder / "world", site.folder / "world-whole"
    close_to(exact_metrics(run), exact_metrics(whole))
    close_to(exact_evaluations(run), exact_evaluations(whole))
    record = read_run_record(run)
    assert [entry.step for entry in record.resumptions] == [9, 18]
    changes = ["number of processes: 2, but 1 in the run", "number of processes: 1, but 2 in the run"]
    assert [entry.changes for entry in record.resumptions] == [[change] for change in changes]
    assert (record.status, record.session.num_processes) == ("finished", 1)


def close_to(ours: Any, theirs: Any) -> None:
    """See that numbers, however nested, are the same but for rounding."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            close_to(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            close_to(one, other)
    else:
        assert ours == (pytest.approx(theirs, rel=1e-5, abs=1e-5) if isinstance(theirs, float) else theirs)


REFUSED = "another run is using"


def stop_self_in_save(site: Site, save: int) -> None:
    """Stand still, as if for long, in the middle of a save."""
    watch(site.folder, act_at(12, lambda: os.kill(os.getpid(), signal.SIGSTOP), save=save))


@pytest.mark.parametrize("save", [3, pytest.param(12, marks=pytest.mark.slow)], ids=["a save", "the last save"])
def test_a_second_run_is_refused(site: Site, whole: Whole, save: int) -> None:
    """While a run stands in the midst of a save, its folder is refused to others: a start, a restart, a resumption."""
    name = f"two-{save}"
    run, first = site.folder / name, start(site, site.command(name), name, lambda: stop_self_in_save(site, save))
    with tally_of("two runs in one folder") as tally:
        try:
            first.wait_until_stopped()
            before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
            commands = [site.command(name), [*site.command(name), "--overwrite_output_dir"], ["resume", str(run)]]
            for number, command in enumerate(commands):
                second = start(site, command, f"{name}-second-{number}")
                assert second.wait() == 2 and REFUSED in second.text() and "Traceback" not in second.text()
            assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
            os.kill(first.pid, signal.SIGCONT)
            assert first.wait() == 0, first.text()
        finally:
            first.end()
        tally.count(name, [], differences(run, whole(), site.folder / "logs"))


@pytest.mark.slow
def test_a_killed_run_leaves_its_folder_free(site: Site, whole: Whole) -> None:
    """A run that was killed while it stood in a save keeps nobody from going on with it."""
    first = start(site, site.command("locked"), "locked", lambda: stop_self_in_save(site, 4))
    first.wait_until_stopped()
    first.end()
    with tally_of("killed while it holds the lock") as tally:
        corrupted = published_faults(site.folder / "locked", keep=3)
        tally.count("locked", corrupted, resumed(site, "locked", whole()))
    assert len(list_checkpoints(site.folder / "locked")) == 3
