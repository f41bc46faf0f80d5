"""What `--help` shows, and what it does not load."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openddpm.cli.main import COMMANDS
from openddpm.config import TrainConfig

Cli = Callable[..., Any]

LOADED = """
import sys
from openddpm.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as exit_:
    status = exit_.code
heavy = {"torch", "diffusers", "accelerate", "datasets"} & set(sys.modules)
print("heavy:", *sorted(heavy), file=sys.stderr)
sys.exit(status)
"""


def test_every_command_has_help(cli: Cli) -> None:
    """`openddpm --help` lists every command, each of which has a help text that begins with what it does."""
    listing = cli("--help")
    assert listing.status == 0
    for name, about in COMMANDS.items():
        assert f"  {name:18} {about}" in listing.out
        own = cli(name, "--help")
        assert own.status == 0
        assert own.out.startswith(f"usage: openddpm {name}")
    assert cli().out == cli("-h").out == listing.out


def test_help_of_train_names_every_option(cli: Cli) -> None:
    """The help of train names every field of TrainConfig with its docstring, and shows no bare None."""
    text = cli("train", "--help").out
    squeezed = "".join(character for character in text if not character.isspace() and character not in "│╭╮╰╯─")
    for name, field in TrainConfig.model_fields.items():
        assert f"--{name}" in text
        assert field.description is not None
        assert "".join(field.description.split()) in squeezed, name
    assert "None" not in text
    assert "--recipe {avatars-16" in text
    assert "Try it:  openddpm train --recipe avatars-16\n" in text


@pytest.mark.parametrize("command", ["resume", "sample", "push", "report"])
def test_help_of_a_run_command_is_plain(command: str, cli: Cli) -> None:
    """The commands on a run call it RUN, and show no Python None."""
    text = cli(command, "--help").out
    assert "RUN" in text.splitlines()[0]
    assert "None" not in text


@pytest.mark.parametrize("arguments", [["--help"], ["push", "--help"], ["report", "RUN"]], ids=" ".join)
def test_no_torch_is_loaded(arguments: list[str], finished_run: Path) -> None:
    """Help, and rebuilding a report, load neither torch nor the libraries above it."""
    arguments = [str(finished_run) if word == "RUN" else word for word in arguments]
    command = [sys.executable, "-c", LOADED, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy:"


def test_main_py_is_openddpm_train() -> None:
    """`python main.py` from a checkout takes the options of `openddpm train`."""
    main_py = Path(__file__).parents[2] / "main.py"
    done = subprocess.run([sys.executable, main_py, "--help"], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: openddpm train")


def test_help_into_a_closed_pipe() -> None:
    """`openddpm train --help | head -1` ends without a traceback."""
    command = f"{sys.executable} -m openddpm train --help | head -1"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("usage:")
    assert done.stderr == ""
