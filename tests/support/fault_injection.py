"""Real faults for real runs: a child a try, forked from a process that has imported everything.

What a run does is announced to a fault in the same process, each thing before it is done. Counted, these moments are
the same in every try, so a failure can be made again.
"""

import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import openddpm.api
import openddpm.cli.resume
import openddpm.cli.train
import openddpm.report
from openddpm.cli.main import main
from openddpm.training import checkpoint, checkpointer, setup
from openddpm.training.checkpointer import Checkpointer
from openddpm.training.loop import TrainResult
from openddpm.training.pace import Pace
from openddpm.training.run import Training
from tiny import write_tiny_folder, write_tiny_unet

DEADLINE_SECONDS = 240.0  # of a child, past which something hangs; nothing is expected to take a tenth of it
TABLE = os.environ.get("OPENDDPM_FAULTS_TABLE")  # read before each test is given a plain environment
_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}

Tell = Callable[[str, int], None]
"""Told what a run is about to do, and in which of its saves: 1 for the first; 0 outside of any."""


@dataclass(frozen=True)
class Site:
    """A folder with images and a model, in which runs are made."""

    folder: Path

    def __post_init__(self) -> None:
        write_tiny_folder(self.folder / "images")
        write_tiny_unet(self.folder)

    def command(self, name: str, **options: Any) -> list[str]:
        """Return the command of a run of 60 steps with 12 checkpoints, 4 previews and 2 evaluations."""
        values = {
            "dataset": self.folder / "images",
            "output_dir": self.folder / name,
            "logging_dir": self.folder / "logs",
            "cache_dir": self.folder / "cache",
            "model": self.folder / "unet.json",
            "resolution": 8,
            "train_batch_size": 4,
            "max_train_steps": 60,
            "learning_rate": 1e-3,
            "lr_warmup_steps": 5,
            "save_images_epochs": 3,
            "checkpointing_steps": 5,
            "num_inference_steps": 2,
            "eval_batch_size": 2,
            "logging_steps": 1,
            "heldout_images": 4,
            **options,
        }
        return ["train", *(word for option, value in values.items() for word in (f"--{option}", str(value)))]


@dataclass
class Child:
    """A process of ours, with what it says on the terminal."""

    pid: int
    log: Path

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Return its exit status, or minus the signal that ended it; wait no longer than so many seconds.

        Raises:
            AssertionError: it goes on and on.
        """
        status = _poll(lambda: self._waited(0), seconds)
        assert status is not None, f"still there after {seconds:.0f} s:\n{self.text()[-3000:]}"
        return os.waitstatus_to_exitcode(status)

    def wait_until_stopped(self) -> None:
        """Return once it has stopped itself by SIGSTOP."""
        status = _poll(lambda: self._waited(os.WUNTRACED), DEADLINE_SECONDS)
        assert status is not None and os.WIFSTOPPED(status), f"it did not stop:\n{self.text()[-3000:]}"

    def end(self) -> None:
        """Kill it, if it is still there."""
        with suppress(ProcessLookupError, ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # fails where it has been waited for, and its number may be another's
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def text(self) -> str:
        """Return what it has said so far."""
        return self.log.read_text("utf-8", errors="replace")

    def _waited(self, options: int) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG | options)
        return status if pid else None


def _poll(ask: Callable[[], int | None], seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while (answer := ask()) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return answer


def fork(action: Callable[[], int | None], log: Path, **environment: str) -> Child:
    """Call `action` in a child, whose output goes to the end of `log`; what it returns is the exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that may have threads
        pid = os.fork()
    if pid:
        return Child(pid, log)
    status = 1
    try:
        _become_a_process(log, environment)
        status = action() or 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _become_a_process(log: Path, environment: dict[str, str]) -> None:
    """Leave nothing of the parent that a run could notice."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", **environment})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):  # which nohup, and so its children, ignore
        signal.signal(number, signal.SIG_DFL)
    warnings.resetwarnings()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)


def start(site: Site, command: list[str], name: str, fault: Callable[[], object] | None = None, **env: str) -> Child:
    """Fork a child that runs `command` of openddpm, with a fault installed; it logs to NAME.log."""

    def run() -> int:
        if fault:
            fault()
        return main(command)

    return fork(run, site.folder / f"{name}.log", **env)


def start_ranks(
    site: Site,
    command: list[str],
    name: str,
    faults: Mapping[int, Callable[[], object]] | None = None,
    size: int = 2,
    own_options: dict[int, list[str]] | None = None,
) -> list[Child]:
    """Fork the processes of a run that several make together; they log to NAME-0.log, NAME-1.log and so on.

    Args:
        own_options: by rank, which the others are not given.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    # Timing steps is a collective call: where one process leaves it out, all do.
    faults, own_options = dict.fromkeys(range(size), make_moments_repeat) | faults if faults else {}, own_options or {}
    commands = [[*command, *own_options.get(rank, [])] for rank in range(size)]
    return [
        start(site, words, f"{name}-{rank}", faults.get(rank), RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank, words in enumerate(commands)
    ]


def make_moments_repeat() -> None:
    """Have, in this process and for good, the moments of a run be the same every time.

    Each save waits for the one before, however long, and no steps are timed before a run, which are more or fewer.
    """
    checkpointer.SAVE_WAIT_SECONDS = DEADLINE_SECONDS
    setup.measure_pace = lambda parts: Pace(1.0)


def watch(folder: Path, tell: Tell) -> None:
    """Announce, in this process and for good, what it is about to do with files below `folder`, and to the weights."""
    make_moments_repeat()
    saves = itertools.count(1)
    here = threading.local()
    write, fsync, save_file = Checkpointer._write, os.fsync, checkpoint.save_file

    def announce(what: str) -> None:
        tell(what, getattr(here, "save", 0))

    def audited(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FILE_EVENTS and isinstance(arguments[0], str | os.PathLike):
            path = os.fspath(arguments[0])
            if not path.startswith("/") or path.startswith(str(folder)):  # relative: rmtree's, to an open folder
                announce(f"{event} {_short(path)}{f' {arguments[1]}' if event == 'open' and arguments[1] else ''}")

    def saving(self: Checkpointer, *arguments: Any) -> Any:
        here.save = next(saves)
        try:
            outcome = write(self, *arguments)
            announce("save done")
            return outcome
        finally:
            here.save = 0

    def syncing(descriptor: int) -> None:
        announce(f"fsync {_short(str(Path(f'/proc/self/fd/{descriptor}').readlink()))}")
        fsync(descriptor)

    def saving_file(tensors: Any, path: Path, **options: Any) -> None:
        announce(f"save_file {_short(str(path))}")
        save_file(tensors, path, **options)
        announce(f"save_file done {_short(str(path))}")

    def forward(module: torch.nn.Module, _: Any) -> None:
        if isinstance(module, torch.nn.Conv2d):
            announce("forward")

    Checkpointer._write, os.fsync = saving, syncing  # type: ignore[method-assign]
    checkpoint.save_file = saving_file
    register_module_forward_pre_hook(forward)
    register_optimizer_step_pre_hook(lambda *_: announce("optimizer"))
    register_optimizer_step_post_hook(lambda *_: announce("optimizer done"))
    sys.addaudithook(audited)


def _short(path: str) -> str:
    """Return the last two parts of a path, without what differs from try to try."""
    return "/".join(Path(path).parts[-2:]).replace(f".{os.getpid()}.", ".PID.")


def act_at(number: int, act: Callable[[], object], save: int | None = None) -> Tell:
    """Act at the moment of that number, counted from 1, over all moments or over those of one save."""
    moments = itertools.count(1)

    def tell(what: str, in_save: int) -> None:
        if (save is None or in_save == save) and next(moments) == number:
            act()

    return tell


def kill_self() -> None:
    """End at once, as by a power cut or the kernel's out-of-memory killer."""
    os.kill(os.getpid(), signal.SIGKILL)


def on_training(act: Callable[[Training], object]) -> None:
    """Have `act` called, in this process and for good, with each run as its training begins."""
    fit = openddpm.api.fit

    def acting(training: Training) -> TrainResult:
        act(training)
        return fit(training)

    openddpm.api.fit = acting


def recorded_moments(path: Path) -> Tell:
    """Write each moment to a file, for `read_moments`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda what, save: os.write(descriptor, f"{save}\t{what}\n".encode()) and None


def moments_file(run: Path, rank: int = 0) -> Path:
    """Return where the moments of an undisturbed run are noted, of each rank for itself."""
    return run.with_name(f"{run.name}-moments-{rank}.txt")


def read_moments(path: Path) -> list[tuple[int, str]]:
    """Return (save, what) of every moment, in order."""
    lines = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    return [(int(save), what) for save, what in lines]


@dataclass
class Tally:
    """A row of the table of faults."""

    fault: str
    tries: int = 0
    corrupted: int = 0
    """Checkpoints that were published and are not whole."""
    lost: int = 0
    """Runs that could not be resumed to their end."""
    identical: int = 0
    """Runs that ended as the undisturbed one."""
    notes: list[str] = field(default_factory=list)
    """What went wrong, a line each."""

    def count(self, what: str, corrupted: list[str], differences: list[str] | None) -> None:
        """Add a try; `differences` from the undisturbed run are None where the run was lost."""
        self.tries += 1
        self.corrupted += len(corrupted)
        self.lost += differences is None
        self.identical += differences == []
        self.notes += [f"{what}: {note}" for note in [*corrupted, *(differences or [])]]
        self.notes += [f"{what}: lost"] * (differences is None)


@contextmanager
def tally_of(fault: str) -> Iterator[Tally]:
    """Count tries; write the row to the table that OPENDDPM_FAULTS_TABLE names, and fail if not all is well."""
    tally = Tally(fault)
    try:
        yield tally
    finally:
        if TABLE:
            with open(TABLE, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(tally)) + "\n")
    assert tally.tries and (tally.corrupted, tally.lost, tally.identical) == (0, 0, tally.tries), "\n".join(tally.notes)
