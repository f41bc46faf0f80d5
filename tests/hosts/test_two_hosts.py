"""Two hosts compute what one does, and say at the start what they do not share."""

from typing import Any

import pytest

from fault_injection import Child, Site, start, start_ranks
from same_run import differences
from tiny import differing, exact_metrics, newest_tensors, write_tiny_folder
from two_hosts import ADDRESSES, INTERFACE, PORT, Host, two_hosts, why_not

STEPS = 8
OPTIONS = {"max_train_steps": STEPS, "checkpointing_steps": 4}
SEPARATE = {"rank_timeout": 60}


def start_on(site: Site, hosts: tuple[Host, Host], command: list[str], name: str) -> list[Child]:
    """Fork a process on each host, which find each other over the network between them."""
    shared = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": str(PORT), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    return [
        start(
            *(site, command, f"{name}-{rank}", host.enter),
            **{**shared, "RANK": str(rank), "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": INTERFACE},
        )
        for rank, host in enumerate(hosts)
    ]


@pytest.mark.skipif(bool(why_not()), reason=str(why_not()))
def test_numbers_are_those_of_one_host(site: Site) -> None:
    """Two processes on two hosts are, to the bit, two on one, and one with twice the accumulation."""
    with two_hosts(site.folder) as hosts:
        apart = start_on(site, hosts.both, site.command("apart", **OPTIONS), "apart")
        assert [child.wait() for child in apart] == [0, 0], apart[0].text() + apart[1].text()
    together = start_ranks(site, site.command("together", **OPTIONS), "together")
    alone = start(site, site.command("alone", **OPTIONS, gradient_accumulation_steps=2), "alone")
    assert [child.wait() for child in (*together, alone)] == [0, 0, 0]
    assert differences(site.folder / "apart", site.folder / "together", site.folder / "logs") == []
    assert exact_metrics(site.folder / "apart") == exact_metrics(site.folder / "alone")
    assert differing(newest_tensors(site.folder / "apart"), newest_tensors(site.folder / "alone")) == []


def start_apart(site: Site, name: str, **options: Any) -> list[Child]:
    """Fork two processes of a run, each with an output folder of its own: NAME, and NAME-of-b."""
    own = {1: ["--output_dir", str(site.folder / f"{name}-of-b")]}
    return start_ranks(site, site.command(name, **OPTIONS, **SEPARATE, **options), name, own_options=own)


def test_a_folder_of_its_own_is_said_at_the_start(site: Site) -> None:
    """Hosts that share no folder can train, which is said; they cannot go on, which is said before anything is done."""
    children = start_apart(site, "unshared")
    assert [child.wait() for child in children] == [0, 0], children[0].text()
    note = children[0].text().split("note: ")[1].splitlines()[0]
    assert "unshared' is not seen by process 1 on" in note and "a file system that they share" in note
    assert "note: " not in children[1].text() and not (site.folder / "unshared-of-b").exists()

    before = {path: path.stat().st_mtime_ns for path in (site.folder / "unshared").rglob("*") if path.is_file()}
    for child in start_apart(site, "unshared", resume_from_checkpoint="latest"):
        assert child.wait() == 2, child.text()
        assert "the processes do not find the same run" in child.text() and "Traceback" not in child.text()
        assert "run: 'none' in process 1 on" in child.text()
    assert {path: path.stat().st_mtime_ns for path in before} == before

    for options in ({"resume_from_checkpoint": "latest"}, {"max_rollbacks": 1}):
        for child in start_apart(site, "unshared-new", **options):
            assert child.wait() == 2, child.text()
            assert f"--{next(iter(options))} reads checkpoints from it" in child.text()
    assert not (site.folder / "unshared-new").exists()


def test_other_options_or_images_on_a_host_are_refused(site: Site) -> None:
    """A host that was given another command, or has other images, is named before training begins."""
    others = write_tiny_folder(site.folder / "fewer", count=20)
    for index, (options, said) in enumerate(
        [
            (["--learning_rate", "0.5"], "learning_rate: 0.5 in process 1"),
            (["--dataset", str(others)], "the processes do not find the same images or UNet"),
        ]
    ):
        command = site.command(f"other-{index}", **OPTIONS, **SEPARATE)
        for child in start_ranks(site, command, f"other-{index}", own_options={1: options}):
            assert child.wait() == 2, child.text()
            assert said in child.text() and "Traceback" not in child.text()
        assert not (site.folder / f"other-{index}").exists()
