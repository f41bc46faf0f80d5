"""`openddpm doctor`, as people and programs call it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openddpm.training import probe

Cli = Callable[..., Any]
Flags = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMING_STEPS", 1)


def test_a_sound_plan(cli: Cli, flags: Flags, tmp_path: Path) -> None:
    """A plan without a fault ends with status 0, says so in its last lines, and leaves no run folder."""
    outcome = cli("doctor", *flags(output_dir=tmp_path / "run", learning_rate=1e-3))
    assert outcome.status == 0, outcome.out + outcome.err
    assert "Traceback" not in outcome.err
    assert "memorizing one batch" in outcome.err
    assert outcome.out.splitlines()[-2].startswith("no error found")
    assert outcome.out.splitlines()[-1] == "next: openddpm train, with the same options"
    assert list(tmp_path.iterdir()) == []


def test_a_faulty_plan_as_json(cli: Cli, flags: Flags, tmp_path: Path) -> None:
    """With --json, standard output is one JSON object with each finding in words; a fault means status 1."""
    outcome = cli("doctor", "--json", *flags(output_dir=tmp_path / "run", adam_epsilon=0.1))
    assert outcome.status == 1
    answer = json.loads(outcome.out)
    assert answer["num_errors"] == sum(finding["severity"] == "error" for finding in answer["findings"]) >= 1
    (fault,) = (finding for finding in answer["findings"] if finding["name"] == "adam_epsilon")
    assert all(fault[part] for part in ("what", "why", "hint"))
    assert answer["measurements"]["step_seconds"] > 0


def test_a_loss_that_is_no_number_is_null(cli: Cli, flags: Flags, tmp_path: Path) -> None:
    """JSON knows no NaN: where the loss comes apart, its last value is null."""
    outcome = cli("doctor", "--json", *flags(output_dir=tmp_path / "run", learning_rate=1e30))
    assert outcome.status == 1

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(outcome.out, parse_constant=refuse)["measurements"]["own_fit"]["last_loss"] is None


@pytest.mark.parametrize(("change", "word"), [({"dataset": "./no/such"}, "no/such"), ({"resolution": "7"}, "6 or 8")])
def test_unusable_input(cli: Cli, flags: Flags, tmp_path: Path, change: dict[str, str], word: str) -> None:
    """What training refuses, the doctor refuses in the same words, with status 2."""
    outcome = cli("doctor", *flags(**{"output_dir": tmp_path / "run", **change}))
    assert (outcome.status, outcome.out) == (2, "")
    assert word in outcome.err and "  -> " in outcome.err


def test_no_data_set(cli: Cli) -> None:
    """Without a data set there is nothing to examine: status 2, with what to name."""
    outcome = cli("doctor")
    assert outcome.status == 2
    assert "--dataset FOLDER" in outcome.err
