"""Entry point: calls the command, and turns a UserError into one message and exit status 2."""

import errno
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

COMMANDS = {
    "train": "train a diffusion model and record the whole run",
    "doctor": "check a planned run before it costs anything",
    "inspect": "show what training would do with a data set's images",
    "resume": "continue a run from its newest checkpoint",
    "sample": "make images with a trained run",
    "verify": "check that a run's record is what its options produce",
    "compare": "compare a run with others: is it where they were?",
    "report": "rebuild report.html and the model card of a run, or one page of many runs",
    "push": "upload a run to the Hugging Face Hub",
    "references": "list the published runs that others can be held against",
    "import-tensorboard": "make a partial record of another script's run from its TensorBoard events",
    "schema": "write a JSON Schema of each file of a run's record",
}

_HELP = """usage: openddpm COMMAND [OPTIONS]

Train a denoising diffusion model (DDPM) from scratch, with the whole run in the open.

commands:
{commands}

first steps:
  openddpm train --recipe digits-8               digits in a minute, no GPU, no download
  openddpm train --recipe avatars-16             faces in minutes, no GPU, no download
  openddpm train --dataset FOLDER --resolution 64 --output_dir runs/mine
  openddpm COMMAND --help                        every option of a command
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 1 errors found, 2 unusable input, 128 + N after signal N."""
    from openddpm.errors import UserError
    from openddpm.names import as_text

    _escape_characters_outside_the_encoding()
    try:
        try:
            with _signals_as_exits():
                return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # here, where a BrokenPipeError is still caught
    except UserError as error:
        print(f"openddpm: {error.found}", file=sys.stderr)
        if error.hint:
            print(f"  -> {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("openddpm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except PermissionError as error:
        from openddpm.record.files import TEMPORARY

        if not isinstance(error.filename, str):
            raise
        path, verb = Path(error.filename), "read or written"
        if path.name.endswith(TEMPORARY):  # of a file that was to be written there
            path, verb = path.parent, "written to"
        print(f"openddpm: '{as_text(path)}' cannot be {verb}: {error.strerror}", file=sys.stderr)
        print("  -> Change its permissions or those of the folders that it is in, or name another.", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        print(f"openddpm: cannot write '{error.filename or 'to the disk'}': {error.strerror}", file=sys.stderr)
        print("  -> Free some space, then run the command again; continue a run by openddpm resume.", file=sys.stderr)
        return 2


def _escape_characters_outside_the_encoding() -> None:
    """Show characters that the terminal's encoding lacks, as on Windows, as escapes, so that they end no run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _signals_as_exits() -> Iterator[None]:
    """Exit with cleanup on SIGTERM and SIGUSR1; training has its own handler, which saves first."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    previous = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        listing = "\n".join(f"  {name:18} {text}" for name, text in COMMANDS.items())
        print(_HELP.format(commands=listing), end="")
        return 0
    if arguments[0] == "--version":
        from openddpm import __version__

        print(__version__)
        return 0
    if arguments[0] not in COMMANDS:
        from openddpm.errors import UserError, closest

        raise UserError(f"unknown command '{arguments[0]}'", closest(arguments[0], list(COMMANDS)))
    command = importlib.import_module(f"openddpm.cli.{arguments[0].replace('-', '_')}")
    return int(command.run(arguments[1:]))
