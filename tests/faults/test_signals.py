"""A run that is asked to stop saves where it is, and goes on from there as if it had never stopped."""

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import openddpm.evaluation.previews as previews
from fault_injection import (
    Site,
    Tell,
    act_at,
    moments_file,
    on_training,
    read_moments,
    recorded_moments,
    start,
    tally_of,
    watch,
)
from openddpm.record.reader import read_run_record
from openddpm.training.checkpoint import checkpoint_step, list_checkpoints
from openddpm.training.run import Training
from same_run import published_faults, resumed

Whole = Callable[..., Path]
CONVOLUTIONS = 25  # of the tiny UNet: the moments that one prediction takes


def moments_of_training(whole: Path) -> tuple[int, int]:
    """Return the numbers of the moments before the first step and before the last."""
    moments = [what for _, what in read_moments(moments_file(whole))]
    return moments.index("optimizer") + 1, len(moments) - moments[::-1].index("optimizer done")


def signalled_at(site: Site, number: int, sent: int, note: Path) -> None:
    """Send a signal to this process at a moment, and note the steps done by then."""
    training: list[Training] = []

    def act() -> None:
        note.write_text(str(training[0].state.step))
        os.kill(os.getpid(), sent)

    on_training(training.append)
    watch(site.folder, act_at(number, act))


@pytest.mark.parametrize(
    ("sent", "num_tries"),
    [
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGTERM, 20, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 5, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 2, marks=pytest.mark.slow),
    ],
)
def test_signal_at_random_moments_of_training(site: Site, whole: Whole, sent: signal.Signals, num_tries: int) -> None:
    """A signal lets the step in hand be finished, no more, and saved; the exit status says which signal it was."""
    first, last = moments_of_training(whole())
    generator = random.Random(num_tries)
    with tally_of(f"{sent.name} at a random moment of training") as tally:
        for index in range(num_tries):
            number, name = generator.randrange(first, last), f"{sent.name}-{num_tries}-{index}"
            note = site.folder / f"{name}.step"
            child = start(site, site.command(name), name, lambda n=number, p=note: signalled_at(site, n, sent, p))
            assert child.wait() == 128 + sent, child.text()
            record, step = read_run_record(site.folder / name), int(note.read_text())
            newest = checkpoint_step(list_checkpoints(site.folder / name)[-1])
            assert record.status == "interrupted"
            assert step <= record.progress.step == newest <= step + 1, f"{name}: signal at moment {number}"
            corrupted = published_faults(site.folder / name, keep=3)
            tally.count(f"{name}, moment {number}", corrupted, resumed(site, name, whole()))


def stopped_twice(site: Site, second: int, point: int) -> Tell:
    """Return a fault that sends SIGTERM in the eighth save, and a second signal in the save that answers it."""
    main, points, is_asked = threading.main_thread(), 0, False

    def tell(what: str, save: int) -> None:
        nonlocal points, is_asked
        if save == 8 and not is_asked:
            is_asked = True
            os.kill(os.getpid(), signal.SIGTERM)
        elif is_asked and save and threading.current_thread() is main:
            points += 1
            if points == point:
                os.kill(os.getpid(), second)

    return tell


@pytest.mark.parametrize(
    ("second", "num_tries"),
    [
        pytest.param(signal.SIGINT, 10, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 5, marks=pytest.mark.slow),
    ],
)
def test_second_signal_in_the_last_save(site: Site, whole: Whole, second: signal.Signals, num_tries: int) -> None:
    """A second Ctrl-C ends at once, a second SIGTERM changes nothing; neither leaves a torn checkpoint."""
    generator = random.Random(num_tries)
    with tally_of(f"second {second.name} in the last save") as tally:
        for index in range(num_tries):
            point, name = generator.randrange(1, 70), f"second-{second.name}-{num_tries}-{index}"
            fault = stopped_twice(site, second, point)
            child = start(site, site.command(name), name, lambda f=fault: watch(site.folder, f))
            assert child.wait() == (130 if second == signal.SIGINT else 143), child.text()
            assert "Traceback" not in child.text()
            corrupted = published_faults(site.folder / name, keep=3)
            tally.count(f"{name}, point {point}", corrupted, resumed(site, name, whole()))


def signalled_in_a_preview(site: Site, moments: Path) -> None:
    """Send SIGTERM some predictions into the first preview, and record what is done from then on."""
    sample, record = previews.sample, recorded_moments(moments)
    forwards, is_in_preview, is_asked = 0, False, False

    def sampling(*arguments: object) -> object:
        nonlocal is_in_preview
        is_in_preview = True
        return sample(*arguments)  # type: ignore[arg-type]

    def tell(what: str, save: int) -> None:
        nonlocal forwards, is_asked
        forwards += is_in_preview and what == "forward"
        if is_asked:
            record(what, save)
        elif forwards == 7 * CONVOLUTIONS + 3:
            is_asked = True
            os.kill(os.getpid(), signal.SIGTERM)

    previews.sample = sampling  # type: ignore[assignment]
    watch(site.folder, tell)


def test_sigterm_in_a_preview(site: Site, whole: Whole) -> None:
    """A preview is broken off within a prediction, and made up for, byte for byte, by the resumption."""
    options = {"num_inference_steps": 40, "save_images_epochs": 6}
    moments = site.folder / "preview.txt"
    with tally_of("SIGTERM in a preview") as tally:
        child = start(
            site, site.command("preview", **options), "preview", lambda: signalled_in_a_preview(site, moments)
        )
        assert child.wait() == 143, child.text()
        assert len([what for _, what in read_moments(moments) if what == "forward"]) < CONVOLUTIONS
        assert not list((site.folder / "preview" / "samples").glob("step-*"))
        assert read_run_record(site.folder / "preview").progress.step == 30
        corrupted = published_faults(site.folder / "preview", keep=3)
        tally.count("preview", corrupted, resumed(site, "preview", whole(**options), **options))
