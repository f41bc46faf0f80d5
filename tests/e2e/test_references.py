"""`openddpm references`, as people and programs use it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openddpm.references import builtin_names

Cli = Callable[..., Any]


def test_the_built_in_references_are_listed(cli: Cli) -> None:
    """Without a name there is a line for each built-in reference; --json prints the same as one JSON object alone."""
    listing = cli("references")
    assert (listing.status, listing.err) == (0, "")
    assert [name for name in builtin_names() if name not in listing.out] == []
    assert "skill at the end" in listing.out
    found = json.loads(cli("references", "--json").out)["references"]
    assert [reference["name"] for reference in found] == builtin_names()
    for reference in found:
        assert [run["status"] for run in reference["runs"]] == ["finished"] * len(reference["runs"])
        assert Path(reference["film"]).is_file()


def test_a_name_is_shown_seed_by_seed(cli: Cli) -> None:
    """With a name there is a line for each seed, with how they were made and where the film strip is."""
    reference = json.loads(cli("references", "digits-8", "--json").out)["references"][0]
    shown = cli("references", "digits-8")
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    for line, run in zip(lines[1:], reference["runs"], strict=False):
        assert line.startswith(str(run["seed"]))
        assert f"{run['images_seen']:,}" in line
        assert f"{run['skill']:+.2f}" in line
    assert reference["about"]["commit"] in shown.out
    assert reference["film"] in shown.out


def test_a_run_of_ones_own_is_shown_the_same_way(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """A run folder, and a folder of runs, are shown as a reference, with what was left out of it."""
    for name in ("one", "two"):
        shutil.copytree(finished_run, tmp_path / name)
    shown = cli("references", tmp_path)
    assert shown.status == 0
    assert "of 2 runs with seed 0, one is taken" in shown.out
    assert cli("references", finished_run).out.splitlines()[0] == shown.out.splitlines()[0]


def test_a_name_that_is_none_is_one_message(cli: Cli) -> None:
    """A misspelt name ends with status 2, and with the closest one."""
    answer = cli("references", "digit-8")
    assert (answer.status, answer.out) == (2, "")
    assert "'digit-8' is neither a folder" in answer.err
    assert "did you mean 'digits-8'" in answer.err
