"""A run killed at any moment, and gone on with, is the run left alone."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fault_injection import Site, act_at, kill_self, moments_file, read_moments, start, tally_of, watch
from same_run import differences, published_faults, resumed

KILLED = -9
KEEP = 2
PRUNING = {"checkpoints_total_limit": KEEP}
SAVE = 5  # the one that is looked at closely: older checkpoints are removed in it, and younger ones follow

Whole = Callable[..., Path]


def watching(site: Site, tell: Callable[[str, int], None]) -> Callable[[], None]:
    """Return the fault that tells of a run's moments."""
    return lambda: watch(site.folder, tell)


@pytest.mark.slow
def test_forked_runs_are_runs(site: Site, whole: Whole) -> None:
    """A forked run that is watched has the numbers of one made by a process of its own, to the bit."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "openddpm", *site.command("own-process")]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=240)
    assert differences(site.folder / "own-process", whole(), site.folder / "logs") == []
    assert {save for save, _ in read_moments(moments_file(whole()))} == set(range(13)), "each of 12 saves was seen"


@pytest.mark.slow
def test_differences_are_seen(site: Site, whole: Whole) -> None:
    """Two runs that differ by their seeds alone are told apart by everything that is compared."""
    found = differences(whole(seed=1, evaluation_seed=1), whole(), site.folder / "logs")
    kinds = {text.split()[0] for text in found}
    assert kinds >= {"metrics:", "evaluations:", "tensor", "preview", "events:", "baselines.json"}


@pytest.mark.parametrize(
    "num_tries", [2, pytest.param(50, marks=pytest.mark.slow)], ids=["a few moments", "50 moments"]
)
def test_killed_at_random_moments(site: Site, whole: Whole, num_tries: int) -> None:
    """Killed anywhere from its first file to its last, in one in three tries twice, a run loses nothing but time."""
    fresh = whole(cache_dir=site.folder / "cache-of-its-own")
    moments = [what for _, what in read_moments(moments_file(fresh))]
    with tally_of("SIGKILL at a random moment") as tally:
        for index, number in enumerate(random_moments(moments, num_tries)):
            name = f"random-{num_tries}-{index}"
            options = {"cache_dir": site.folder / f"cache-{name}", "logging_steps": 3 if index % 5 == 4 else 1}
            what = f"{name}, before moment {number} of {len(moments)}, {moments[number - 1]}"
            child = start(site, site.command(name, **options), name, watching(site, act_at(number, kill_self)))
            assert child.wait() == KILLED, child.text()
            corrupted = published_faults(site.folder / name, keep=3)
            again = number * 7919 % len(moments) + 1 if index % 3 == 2 else 0
            fault = watching(site, act_at(again, kill_self))
            left_alone = whole(logging_steps=options["logging_steps"])
            tally.count(what, corrupted, resumed(site, name, left_alone, fault, **options))


def random_moments(moments: list[str], num_tries: int) -> Iterator[int]:
    """Yield numbers, from 1: one in four before the first step, one in four past the last, the others in between."""
    first, last = moments.index("optimizer"), len(moments) - moments[::-1].index("optimizer")
    generator = random.Random(num_tries)
    parts = [(0, first), (first, last), (first, last), (last, len(moments))]
    for index in range(num_tries):
        low, high = parts[index % 4]
        yield generator.randrange(low, high) + 1


@pytest.mark.parametrize("stride", [40, pytest.param(1, marks=pytest.mark.slow)], ids=["some points", "every point"])
def test_killed_at_each_point_of_a_save(site: Site, whole: Whole, stride: int) -> None:
    """Killed before each thing that a save does, from the sync of the rows to the export, a run loses nothing."""
    points = [what for save, what in read_moments(moments_file(whole(**PRUNING))) if save == SAVE]
    assert len(points) >= 12
    for number in range(1, len(points) + 1, stride):
        with tally_of(f"SIGKILL in a save, before {number:02d} {points[number - 1]}") as tally:
            name = f"save-{stride}-{number}"
            kill = act_at(number, kill_self, save=SAVE)
            child = start(site, site.command(name, **PRUNING), name, watching(site, kill))
            assert child.wait() == KILLED, child.text()
            corrupted = published_faults(site.folder / name, KEEP)
            tally.count(points[number - 1], corrupted, resumed(site, name, whole(**PRUNING), **PRUNING))
