"""The page on several machines prints commands that exist; tests/hosts runs them."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from openddpm.cli.options import parse_train_config

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return what the page prints in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.S | re.M)


def test_commands_are_known() -> None:
    """The launchers and train know all options that are printed."""
    script = blocks("bash")[0]
    printed = re.search(r"^srun (torchrun .*?) &$", script, flags=re.S | re.M)
    assert printed is not None
    lines = [line for block in blocks("sh") for line in block.splitlines() if not line.startswith("export ")]
    lines.append(printed[1].replace("\\\n", "").replace('"$SLURM_JOB_NUM_NODES"', "2").replace('"$@"', ""))
    parsers = {"torchrun": get_args_parser(), "accelerate": launch_command_parser()}
    seen = []
    for words in map(shlex.split, lines):
        launcher = words.pop(0)
        seen.append(launcher)
        words = words[words[0] == "launch" :]
        launch = parsers[launcher].parse_args(words)
        train = launch.training_script_args
        parse_train_config(train[1:] if launch.training_script == "openddpm" else train)
    assert seen == ["torchrun", "accelerate", "torchrun"]


def test_job_script_is_a_program(tmp_path: Path) -> None:
    """bash finds no mistake in it."""
    (script,) = blocks("bash")
    path = tmp_path / "train.sbatch"
    path.write_text(script)
    try:
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("bash is not installed")
    assert done.returncode == 0, done.stderr
