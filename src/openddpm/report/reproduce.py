"""The command that repeats a run, from its record alone."""

import shlex
from dataclasses import dataclass
from typing import Any

from openddpm.config import NEUTRAL_OPTIONS, SECRET_OPTIONS, TrainConfig
from openddpm.record.schema import RunRecord

_SEEDS = ("seed", "evaluation_seed")


@dataclass(frozen=True)
class Reproduction:
    """How to repeat a run."""

    command: str
    """For a shell, an option a line."""
    remarks: list[str]
    """What the command cannot say, a sentence each."""


def how_to_reproduce(run: RunRecord) -> Reproduction:
    """Return the command with every option that changes the numbers of a run and differs from its default."""
    config, fields = run.config, TrainConfig.model_fields
    left_out = (NEUTRAL_OPTIONS | SECRET_OPTIONS) - {"dataset"}
    given = {
        name: config[name]
        for name, field in fields.items()
        if name in config and name not in left_out and (name in _SEEDS or config[name] != field.get_default())
    }
    if run.dataset.revision:
        given["dataset_revision"] = run.dataset.revision
    num_processes = run.session.num_processes
    program = f"torchrun --nproc_per_node {num_processes} -m openddpm train" if num_processes > 1 else "openddpm train"
    options = [_spelled(name, value) for name, value in given.items() if value is not None]
    return Reproduction(" \\\n  ".join([program, *options]), _remarks(run))


def _spelled(name: str, value: Any) -> str:
    """Return an option as the command line takes it, on one line, so that it stays in the block of code around it."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    values = value if isinstance(value, list | tuple) else [value]
    line = " ".join([f"--{name}", *(shlex.quote(str(part)) for part in values)])
    return "".join(character for character in line if character.isprintable())


def _remarks(run: RunRecord) -> list[str]:
    environment = run.session.environment
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    remarks = [f"Trained with {packages}, on Python {environment.python}."]
    if run.user_supplied:
        remarks.append(f"Given from Python in addition: {', '.join(run.user_supplied)}.")
    if any(entry.changes or entry.learning_rate_factor != 1 for entry in run.resumptions):
        remarks.append(
            "The run was changed on its way, which one command does not repeat: see resumptions in run.json."
        )
    remarks.append(f"The images are the same if run.json has the same dataset sha256: {run.dataset.sha256}.")
    return remarks
