"""A host dies, the network is cut, the time is up: torchrun and the job script of the docs go on by themselves."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fault_injection import Site, start, start_ranks, tally_of
from openddpm.record.files import read_json_lines
from openddpm.record.reader import read_run_record
from same_run import differences, published_faults
from tiny import exact_metrics
from two_hosts import INTERFACE, NAMES, PORT, Host, Program, TwoHosts, run_on, two_hosts, wait_until, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=str(why_not()))]

ROOT = Path(__file__).parents[2]
STEPS = 200
MIDDLE = 60
OPTIONS = {"max_train_steps": STEPS, "checkpointing_steps": 20, "save_images_epochs": 20}
LATEST = ["--resume_from_checkpoint", "latest"]
LOST = "openddpm: another process of this run has ended or no longer answers"
C10D = ["--rdzv-backend=c10d", f"--rdzv-endpoint={NAMES[0]}:{PORT}", "--rdzv-id=a-run"]
KEEP = 3


@pytest.fixture(scope="module")
def hosts(site: Site) -> Iterator[TwoHosts]:
    """Two hosts, on which nothing runs."""
    with two_hosts(site.folder) as pair:
        yield pair


@pytest.fixture(scope="module")
def whole(site: Site) -> Path:
    """The folder of an undisturbed run by two processes on one host."""
    children = start_ranks(site, site.command("whole", **OPTIONS), "whole")
    assert [child.wait() for child in children] == [0, 0], children[0].text()
    return site.folder / "whole"


def torchrun(site: Site, host: Host, name: str, launch: Sequence[str], **options: Any) -> Program:
    """Start a run's processes on a host by torchrun; it logs to NAME-HOST.log."""
    train = site.command(name, **{**OPTIONS, **options})
    command = [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "openddpm", *train, *LATEST]
    return run_on(host, command, site.folder / f"{name}-{host.name}.log", GLOO_SOCKET_IFNAME=INTERFACE)


def step_reached(run: Path) -> int:
    """Return the last step that stands in metrics.jsonl."""
    with suppress(OSError):
        return len((run / "metrics.jsonl").read_bytes().splitlines())
    return 0


def wait_for_step(run: Path, step: int, *programs: Program) -> None:
    """Return once the run has taken that step."""
    wait_until(lambda: step_reached(run) >= step, f"step {step} of {run.name}", *programs)


def restarted_at(run: Path) -> list[int]:
    """Return the steps from which the run has gone on."""
    return [entry.step for entry in read_run_record(run).resumptions]


def test_torchrun_on_two_hosts(site: Site, hosts: TwoHosts, whole: Path) -> None:
    """Begun by torchrun on each host, with the options that make it go on by itself, it is the run of one host."""
    with tally_of("two hosts, undisturbed: c10d, static") as tally:
        for name, launch in (
            ("c10d", lambda rank: [*C10D, "--nnodes=2"]),
            ("static", lambda rank: ["--nnodes=2", f"--node-rank={rank}", f"--master-addr={NAMES[0]}"]),
        ):
            programs = [torchrun(site, host, name, [*launch(host.index), "--max-restarts=3"]) for host in hosts.both]
            assert [program.wait() for program in programs] == [0, 0], programs[0].text() + programs[1].text()
            run = site.folder / name
            tally.count(name, published_faults(run, KEEP), differences(run, whole, site.folder / "logs"))


@pytest.mark.parametrize("is_powered_off", [False, True], ids=["crash", "power cut"])
def test_a_host_dies(site: Site, hosts: TwoHosts, whole: Path, is_powered_off: bool) -> None:
    """The host that is left waits for the other to be started again, and both go on, losing nothing but time."""
    name = "dies-off" if is_powered_off else "dies"
    run, launch = site.folder / name, [*C10D, "--nnodes=2", "--max-restarts=3"]
    with tally_of(f"host without the rendezvous killed ({'without' if is_powered_off else 'with'} a goodbye)") as tally:
        a, b = (torchrun(site, host, name, launch, rank_timeout=10) for host in hosts.both)
        wait_for_step(run, MIDDLE, a, b)
        if is_powered_off:
            hosts.cut()
        hosts.b.kill_everything()
        assert b.wait() == -signal.SIGKILL
        a.wait_for(LOST)
        if is_powered_off:
            hosts.mend()
        b = torchrun(site, hosts.b, name, launch, rank_timeout=10)
        assert [a.wait(), b.wait()] == [0, 0], a.text() + b.text()
        assert len(restarted_at(run)) >= 1
        tally.count(name, published_faults(run, KEEP), differences(run, whole, site.folder / "logs"))
