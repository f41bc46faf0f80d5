"""One of two processes dies or hangs: the other ends by itself and says why, and both go on as if nothing had been."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fault_injection import Child, Site, act_at, kill_self, moments_file, read_moments, start_ranks, tally_of, watch
from same_run import published_faults, resumed

Whole = Callable[..., Path]
KILLED = -9
NAMED = "openddpm: another process of this run has ended or no longer answers"
OPTIONS = {"max_train_steps": 30, "logging_steps": 1}
SECONDS_TO_END = 60.0
KEEP = 3


def num_moments(whole: Path, rank: int) -> int:
    """Return how many moments a rank has before the last step of its undisturbed run."""
    moments = [what for _, what in read_moments(moments_file(whole, rank))]
    return len(moments) - moments[::-1].index("optimizer")


def ends_named(child: Child) -> bool:
    """Tell whether a rank ends soon, by the message and the exit status of an error that is the user's to mend."""
    status = child.wait(SECONDS_TO_END)
    return status == 2 and NAMED in child.text() and "Traceback" not in child.text()


@pytest.mark.parametrize(
    ("rank", "num_tries"),
    [(1, 1), pytest.param(0, 20, marks=pytest.mark.slow), pytest.param(1, 20, marks=pytest.mark.slow)],
)
def test_one_rank_killed(site: Site, whole: Whole, rank: int, num_tries: int) -> None:
    """The rank that is left names what happened and ends; two new ones go on, and lose nothing but time."""
    generator, count = random.Random(rank + num_tries), num_moments(whole(ranks=2, **OPTIONS), rank)
    options = {**OPTIONS, "rank_timeout": 30}
    with tally_of(f"SIGKILL of rank {rank} of 2") as tally:
        for index in range(num_tries):
            number, name = generator.randrange(1, count), f"rank-{rank}-{num_tries}-{index}"
            fault = {rank: lambda n=number: watch(site.folder, act_at(n, kill_self))}
            children = start_ranks(site, site.command(name, **options), name, fault)
            assert children[rank].wait() == KILLED, children[rank].text()
            left = children[1 - rank]
            assert ends_named(left), f"{name}, moment {number} of {count}:\n{left.text()[-3000:]}"
            corrupted = published_faults(site.folder / name, KEEP)
            again = resumed(site, name, whole(ranks=2, **OPTIONS), ranks=2, **OPTIONS)
            tally.count(f"{name}, moment {number}", corrupted, again)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_stalled(site: Site, whole: Whole, rank: int) -> None:
    """A rank that hangs is taken for dead after --rank_timeout, by the same message."""
    count, name = num_moments(whole(ranks=2, **OPTIONS), rank), f"stalled-{rank}"
    with tally_of(f"SIGSTOP of rank {rank} of 2") as tally:
        stall = {rank: lambda: watch(site.folder, act_at(count // 2, lambda: os.kill(os.getpid(), signal.SIGSTOP)))}
        children = start_ranks(site, site.command(name, **OPTIONS, rank_timeout=5), name, stall)
        try:
            children[rank].wait_until_stopped()
            assert ends_named(children[1 - rank]), children[1 - rank].text()
        finally:
            children[rank].end()
        corrupted = published_faults(site.folder / name, KEEP)
        tally.count(name, corrupted, resumed(site, name, whole(ranks=2, **OPTIONS), ranks=2, **OPTIONS))
