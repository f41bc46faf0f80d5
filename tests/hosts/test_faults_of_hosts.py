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

from fault_injection import Site, start_ranks, tally_of
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
ENVIRONMENT = {"GLOO_SOCKET_IFNAME": INTERFACE, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""With the store shared, a host that comes back waits for what the other has said to those before it (torch 2.13)."""
KEEP = 3


@pytest.fixture
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
    return run_on(host, command, site.folder / f"{name}-{host.name}.log", **ENVIRONMENT)


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


def test_the_host_of_the_rendezvous_dies(site: Site, hosts: TwoHosts, whole: Path) -> None:
    """The other host ends by itself; the same command on both goes on, whatever has been left behind."""
    name, launch = "dies-first", [*C10D, "--nnodes=2", "--max-restarts=3"]
    run = site.folder / name
    with tally_of("host of the rendezvous killed; both started again") as tally:
        a, b = (torchrun(site, host, name, launch, rank_timeout=10) for host in hosts.both)
        wait_for_step(run, MIDDLE, a, b)
        hosts.a.kill_everything()
        assert a.wait() == -signal.SIGKILL and b.wait() != 0
        assert LOST in b.text()
        programs = [torchrun(site, host, name, launch, rank_timeout=10) for host in hosts.both]
        assert [program.wait() for program in programs] == [0, 0], programs[0].text() + programs[1].text()
        tally.count(name, published_faults(run, KEEP), differences(run, whole, site.folder / "logs"))


def test_a_host_dies_and_comes_back_later(site: Site, hosts: TwoHosts) -> None:
    """With --nnodes 1:2 the one that is left goes on alone, to rounding, and takes the other in again when it comes."""
    name, launch, longer = "alone", [*C10D, "--nnodes=1:2", "--max-restarts=3", "--rdzv-conf=last_call_timeout=5"], 300
    run = site.folder / name
    with tally_of("host killed, the other goes on alone (--nnodes 1:2), and is joined again: to rounding") as tally:
        a, b = (torchrun(site, host, name, launch, rank_timeout=10, max_train_steps=longer) for host in hosts.both)
        wait_for_step(run, MIDDLE, a, b)
        hosts.b.kill_everything()
        assert b.wait() == -signal.SIGKILL
        wait_until(lambda: len(restarted_at(run)) == 1, "the first restart", a)
        b = torchrun(site, hosts.b, name, launch, rank_timeout=10, max_train_steps=longer)
        assert [a.wait(), b.wait()] == [0, 0], a.text() + b.text()
        changes = [line for entry in read_run_record(run).resumptions for line in entry.changes]
        assert changes == ["number of processes: 1, but 2 in the run", "number of processes: 2, but 1 in the run"]
        children = start_ranks(site, site.command("longer", **{**OPTIONS, "max_train_steps": longer}), "longer")
        assert [child.wait() for child in children] == [0, 0], children[0].text()
        apart = furthest_apart(run, site.folder / "longer")
        tally.count(name, published_faults(run, KEEP), [f"losses differ by {apart:.1e}"] if apart > 1e-3 else [])


def furthest_apart(run: Path, whole: Path) -> float:
    """Return the largest difference of a training loss, as a share of it."""
    rows = zip(exact_metrics(run), exact_metrics(whole), strict=True)
    return max(abs(row["train_loss"] / wanted["train_loss"] - 1) for row, wanted in rows)


def test_a_short_cut_of_the_network(site: Site, hosts: TwoHosts, whole: Path) -> None:
    """Seconds without a network cost seconds: nothing is restarted."""
    name, launch = "cut-short", [*C10D, "--nnodes=2", "--max-restarts=3"]
    run = site.folder / name
    with tally_of("network cut for seconds") as tally:
        a, b = (torchrun(site, host, name, launch) for host in hosts.both)
        wait_for_step(run, MIDDLE, a, b)
        hosts.cut()
        wait_until(lambda: max(a.retries_of_tcp(), b.retries_of_tcp()) >= 4, "retries of TCP", a, b)
        step = step_reached(run)
        hosts.mend()
        assert [a.wait(), b.wait()] == [0, 0], a.text() + b.text()
        assert step < STEPS and restarted_at(run) == [] and LOST not in a.text() + b.text()
        tally.count(name, published_faults(run, KEEP), differences(run, whole, site.folder / "logs"))


def test_a_long_cut_of_the_network(site: Site, hosts: TwoHosts, whole: Path) -> None:
    """Longer than --rank_timeout: both sides say so and stop; with the network back, a restart goes on."""
    name, launch = "cut-long", [*C10D, "--nnodes=2", "--max-restarts=3"]
    run = site.folder / name
    with tally_of("network cut for longer than --rank_timeout") as tally:
        a, b = (torchrun(site, host, name, launch, rank_timeout=5) for host in hosts.both)
        wait_for_step(run, MIDDLE, a, b)
        hosts.cut()
        a.wait_for(LOST)
        b.wait_for(LOST)
        hosts.mend()
        if b.wait() != 0:  # it may have given up the rendezvous meanwhile
            b = torchrun(site, hosts.b, name, launch, rank_timeout=5)
        assert [a.wait(), b.wait()] == [0, 0], a.text() + b.text()
        assert len(restarted_at(run)) >= 1
        tally.count(name, published_faults(run, KEEP), differences(run, whole, site.folder / "logs"))


def test_a_folder_of_its_own(site: Site, whole: Path) -> None:
    """A host whose output folder is not the other's is named at the start; nothing is trained, nothing left."""
    (site.folder / "of-b").mkdir()
    (site.folder / "seen-apart").mkdir()
    own = (site.folder / "of-b", site.folder / "seen-apart")
    with tally_of("the folder is not shared: said at the start") as tally, two_hosts(site.folder, {1: own}) as hosts:
        launch = [*C10D, "--nnodes=2"]
        programs = [torchrun(site, host, "seen-apart/run", launch, rank_timeout=10) for host in hosts.both]
        for program in programs:
            assert program.wait() != 0
            assert "is not seen by process 1 on 'host-b', unlike process 0 on 'host-a'" in program.text()
        left = [str(path) for folder in own for path in folder.rglob("*") if path.suffix != ".log"]
        tally.count("unshared", [], left)


def job_script() -> str:
    """Return the script for Slurm that the docs print."""
    page = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    scripts = [block for block in re.findall(r"^```bash\n(.*?)^```$", page, flags=re.S | re.M) if "#SBATCH" in block]
    assert len(scripts) == 1
    return scripts[0]


def stand_in(folder: Path, hosts: TwoHosts) -> Path:
    """Write `srun` and `scontrol` as the script needs them: tasks on two hosts that signals are passed on to."""
    folder.mkdir()
    tasks = [f'{shlex.join(host.command([]))} "$@" & tasks+=($!)' for host in hosts.both]
    forward = [f"trap 'kill -{name} \"${{tasks[@]}}\" 2>/dev/null' {name}" for name in ("USR1", "TERM")]
    wait = 'status=0\nfor task in "${tasks[@]}"; do\n  while kill -0 $task 2>/dev/null; do wait $task; last=$?; done'
    scripts = {
        "srun": "\n".join(
            ["tasks=()", *forward, *tasks, wait, "  [ $last -eq 0 ] || status=$last\ndone\nexit $status"]
        ),
        "scontrol": f'if [ "$1" = show ]; then printf "%s\\n" {" ".join(NAMES)}; else echo "$@" >> {folder}/asked; fi',
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM], ids=lambda sent: sent.name)
def test_the_job_script_of_the_docs(site: Site, hosts: TwoHosts, whole: Path, sent: signal.Signals) -> None:
    """Signalled before its time is up, a job saves and is put in the queue again; begun again, it goes on."""
    name = f"slurm-{sent.name}"
    run, scheduler = site.folder / name, stand_in(site.folder / f"{name}-scheduler", hosts)
    script, asked = scheduler / "train.sbatch", scheduler / "asked"
    script.write_text(job_script())
    path = f"{scheduler}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "host-[a-b]", "SLURM_JOB_NUM_NODES": "2"}
    command = ["bash", str(script), *site.command(name, **OPTIONS)[1:]]
    with tally_of(f"Slurm's {sent.name} before the time is up; the job begun again") as tally:
        first = run_on(None, command, site.folder / f"{name}.log", **job, **ENVIRONMENT)
        wait_for_step(run, MIDDLE, first)
        os.kill(first.process.pid, sent)
        assert first.wait() != 0
        assert read_run_record(run).status == "interrupted", first.text()
        assert MIDDLE <= read_run_record(run).progress.step < STEPS
        assert asked.exists() == (sent == signal.SIGUSR1) and (not asked.exists() or asked.read_text() == "requeue 7\n")
        again = run_on(None, command, site.folder / f"{name}.log", **job, **ENVIRONMENT)
        assert again.wait() == 0, again.text()
        tally.count(name, published_faults(run, KEEP), differences(run, whole, site.folder / "logs"))


def test_accelerate_on_two_hosts(site: Site, hosts: TwoHosts, whole: Path) -> None:
    """accelerate launch, as the docs print it, makes the same run on CPUs too."""
    name = "accelerate"
    launch = ["--multi_gpu", "--num_machines=2", "--num_processes=2", f"--main_process_ip={NAMES[0]}"]
    launch += [f"--main_process_port={PORT}", "--rdzv_backend=c10d", "--max_restarts=3"]
    with tally_of("two hosts, undisturbed: accelerate launch") as tally:
        programs = [
            run_on(
                host,
                [
                    *(sys.executable, "-m", "accelerate.commands.launch", *launch, f"--machine_rank={host.index}"),
                    *(str(ROOT / "main.py"), *site.command(name, **OPTIONS)[1:], *LATEST),
                ],
                site.folder / f"{name}-{host.name}.log",
                **ENVIRONMENT,
            )
            for host in hosts.both
        ]
        assert [program.wait() for program in programs] == [0, 0], programs[0].text() + programs[1].text()
        run = site.folder / name
        tally.count(name, published_faults(run, KEEP), differences(run, whole, site.folder / "logs"))
