"""A disk that has no room costs a run nothing but what it says; one that stays full costs the last state alone."""

import ctypes
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fault_injection import Site, Tally, fork, tally_of, watch
from openddpm.cli.main import main
from openddpm.training import checkpointer
from openddpm.training.checkpoint import list_checkpoints
from openddpm.training.recorder import Recorder
from same_run import differences, leftovers, published_faults

Whole = Callable[..., Path]
DISK_BYTES = 24_000_000
_NEWUSER, _NEWNS = 0x10000000, 0x00020000  # of <linux/sched.h>


def mount_disk(folder: Path) -> None:
    """Mount a small disk of memory that this process and its children alone see.

    Raises:
        OSError: the system does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWUSER | _NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={DISK_BYTES}".encode()):
        raise OSError(ctypes.get_errno(), "mount")


@pytest.fixture(autouse=True, scope="module")
def _may_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("disk")
    if fork(lambda: mount_disk(folder), folder.with_suffix(".log")).wait():
        pytest.skip("the system lets no process mount a disk of its own")


@dataclass
class Ballast:
    """Fills a disk as a run does one thing, and frees it as it does another."""

    disk: Path
    fill_at: tuple[str, int]
    """What is being done, by the start of its name, for which time."""
    free_at: tuple[str, int] | None
    counts: dict[str, int] = field(default_factory=dict)

    def tell(self, what: str, save: int) -> None:
        """Hear of a moment."""
        for act, at in ((self.fill, self.fill_at), (self.free, self.free_at)):
            if at and what.startswith(at[0]):
                key = f"{act.__name__} {at[0]}"
                self.counts[key] = self.counts.get(key, 0) + 1
                if self.counts[key] == at[1]:
                    act()

    def fill(self) -> None:
        """Leave not a byte."""
        size = 1 << 20
        with (self.disk / "ballast").open("ab", buffering=0) as file:
            while size:
                try:
                    size = size if file.write(bytes(size)) == size else size // 2
                except OSError:
                    size //= 2

    def free(self) -> None:
        """Give the room back."""
        (self.disk / "ballast").unlink()


def run_on_disk(site: Site, name: str, command: list[str], ballast: Ballast) -> list[int]:
    """Run a command on a small disk, and again once there is room if it fails; return the exit statuses.

    The disk is the run folder. What stands there when the first has ended is copied to NAME-first, at last to NAME.
    """
    disk, log, outcome = ballast.disk, site.folder / f"{name}.log", site.folder / f"{name}.status"
    disk.mkdir(parents=True)

    def impatient() -> int:
        checkpointer.RETRY_SECONDS, checkpointer.LAST_RETRY_SECONDS = 0.05, 0.05
        checkpointer.PATIENCE_SECONDS = 1.0
        warned = Recorder.warned
        Recorder.warned = lambda self, text: (ballast.tell(f"warned {text}", 0), warned(self, text))[1]  # type: ignore
        watch(site.folder, ballast.tell)
        if ballast.fill_at == ("start", 1):
            ballast.fill()
        return main(command)

    def session() -> None:
        mount_disk(disk)
        statuses = [fork(impatient, log).wait()]
        shutil.copytree(disk, site.folder / f"{name}-first", ignore=lambda *_: ["ballast"])
        if statuses != [0]:
            (disk / "ballast").unlink()
            again = [*command, "--resume_from_checkpoint", "latest"]
            statuses.append(fork(lambda: main(again), log.with_name(f"{name}-resumed.log")).wait())
        shutil.copytree(disk, site.folder / name, ignore=lambda *_: ["ballast"])
        outcome.write_text(" ".join(map(str, statuses)))

    child = fork(session, site.folder / f"{name}-disk.log")
    assert child.wait() == 0, child.text()
    return [int(status) for status in outcome.read_text().split()]


def count_in(tally: Tally, site: Site, name: str, whole: Path, left_out: tuple[str, ...] = ()) -> None:
    """Count a try, whose run is the one left alone but for previews of the steps `left_out`."""
    run = site.folder / name
    if (run / "logs").exists():
        shutil.copytree(run / "logs" / name, site.folder / "logs" / name)
    text = (site.folder / f"{name}.log").read_text("utf-8")
    untold = [f"no preview of the {kind} weights at step {int(step)}: " for step in left_out for kind in ("ema", "raw")]
    assert all(text.count(words) == 1 for words in untold)
    wanted = {f"preview step-{step}-{weights}.png on one side" for step in left_out for weights in ("ema", "raw")}
    found = set(differences(run, whole, site.folder / "logs"))
    assert wanted <= found
    tally.count(name, published_faults(run, keep=3), sorted(found - wanted))


def said_once(text: str, kinds: list[str]) -> bool:
    """Tell whether of each kind there is a warning, and one alone, and no traceback."""
    return all(text.count(f"warning: {kind}") == 1 for kind in kinds) and "Traceback" not in text


LINE = "a line of metrics.jsonl could not be written"
ROW = "a line of evaluations.jsonl could not be written"
CASES = [
    pytest.param(
        "lines", ("optimizer done", 16), ("optimizer done", 29), [LINE], (), {}, id="lines", marks=pytest.mark.slow
    ),
    pytest.param(
        *("checkpoint", ("save_file", 14), ("optimizer done", 24), ["step 15 could not be saved"], (), {}),
        id="checkpoint",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        *("preview", ("open samples/.step-00000030", 1), ("optimizer done", 34)),
        *([], ("00000030",), {"checkpointing_steps": 7}),
        id="preview",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        *("evaluation", ("optimizer done", 15), ("optimizer done", 18), [ROW], ("00000015",), {}),
        id="evaluation",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        *("last checkpoint", ("save_file", 68), ("warned step 60 is not saved", 1), ["step 60 is not saved yet"]),
        *((), {}),
        id="last checkpoint",
    ),
    pytest.param(
        *("events too", ("optimizer done", 16), ("optimizer done", 29), [LINE], ()),
        {"logging_dir": "logs"},
        id="events on the same disk",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("what", "fill_at", "free_at", "kinds", "left_out", "options"), CASES)
def test_room_ends_for_a_while(
    site: Site,
    whole: Whole,
    what: str,
    fill_at: tuple[str, int],
    free_at: tuple[str, int],
    kinds: list[str],
    left_out: tuple[str, ...],
    options: dict[str, Any],
) -> None:
    """What could not be written is named, and written when there is room, but for a preview: the run is the same."""
    name = f"full-{what.replace(' ', '-')}"
    ballast = Ballast(site.folder / "disks" / name, fill_at, free_at)
    inside = {key: ballast.disk / value for key, value in options.items() if key == "logging_dir"}
    command = site.command(name, **{**options, **inside, "output_dir": ballast.disk})
    with tally_of(f"disk full: {what}") as tally:
        statuses = run_on_disk(site, name, command, ballast)
        text = (site.folder / f"{name}.log").read_text("utf-8")
        assert statuses == [0], text
        assert said_once(text, kinds), text
        freed = free_at[1] + 2 if free_at[0] == "optimizer done" else 60  # a save in hand may still fail
        assert not [step for step in unsaved_steps(text) if step > freed], text
        count_in(tally, site, name, whole(**{k: v for k, v in options.items() if k not in inside}), left_out)


def unsaved_steps(text: str) -> list[int]:
    """Return the steps that a run says it could not save."""
    return [int(step) for step in re.findall(r"step (\d+) could not be saved", text)]


@pytest.mark.slow
def test_disk_full_to_the_end(site: Site, whole: Whole) -> None:
    """A run that finds no room for its last state ends with status 2; once there is room, it is resumed to the bit."""
    ballast = Ballast(site.folder / "disks" / "full-on", ("save_file", 48), None)
    with tally_of("disk full to the end, then freed, resumed") as tally:
        statuses = run_on_disk(site, "full-on", site.command("full-on", output_dir=ballast.disk), ballast)
        text = (site.folder / "full-on.log").read_text("utf-8")
        assert statuses == [2, 0], text
        assert "openddpm: step 60 could not be saved" in text and "Traceback" not in text
        first = site.folder / "full-on-first"
        assert list_checkpoints(first) and published_faults(first, keep=3) == [] and leftovers(first) == []
        count_in(tally, site, "full-on", whole())


def test_disk_full_from_the_start(site: Site) -> None:
    """A run that finds no room at all is refused by one message."""
    ballast = Ballast(site.folder / "disks" / "full-at-first", ("start", 1), None)
    statuses = run_on_disk(
        site, "full-at-first", site.command("x", output_dir=ballast.disk, max_train_steps=1), ballast
    )
    text = (site.folder / "full-at-first.log").read_text("utf-8")
    assert statuses == [2, 0], text
    assert text.count("openddpm: ") == 1 and "No space left on device" in text and "Traceback" not in text
