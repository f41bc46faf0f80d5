"""Damaged files, thousands of them; fuzz.py runs more by hand."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = str(Path(__file__).with_name("fuzz.py"))
SEED_OF_ALL = 34  # its first six cases go wrong in every way
WAYS = ("well", "faulty", "crash", "hang", "greedy")  # as in planted_cases.py
FAULTS = {
    "faulty": r"a fault\\nof two lines",
    "crash": "ended the process: status -11",
    "hang": "still at it after 1 seconds",
    "greedy": r"took 0\.5 GiB; ",
}


def run_fuzz(*arguments: str) -> tuple[int, str]:
    """Return exit status and output."""
    done = subprocess.run([sys.executable, FUZZ, *arguments], check=False, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("images", 500),
        ("records", 20),
        pytest.param("images", 100_000, marks=pytest.mark.slow),
        pytest.param("records", 5_000, marks=pytest.mark.slow),
    ],
)
def test_damaged_files_are_read_or_refused(kind: str, count: int) -> None:
    """Damaged images give pixels or RefusedImage; damaged runs work or are a UserError that a terminal can show."""
    status, output = run_fuzz(kind, "--count", str(count))
    assert status == 0, output
    assert output.startswith(f"{count} cases of seed 0 in ")


def test_faults_crashes_hangs_and_greed_are_named() -> None:
    """Each way of going wrong is told with its case, comes back alone, and keeps no other case from going on."""
    ways = [random.Random(f"{SEED_OF_ALL}/{case}").choice(WAYS) for case in range(6)]
    assert set(ways) == set(WAYS)
    options = ("planted", "--seed", str(SEED_OF_ALL), "--seconds", "1", "--gigabytes", "0.3")
    status, output = run_fuzz(*options, "--count", "6")
    told = dict(re.findall(rf"^planted seed {SEED_OF_ALL} case (\d): (.*)$", output, re.MULTILINE))
    assert status == 1
    assert {int(case) for case in told} == {case for case, way in enumerate(ways) if way != "well"}
    for case, fault in told.items():
        assert re.fullmatch(FAULTS[ways[int(case)]], fault)
    case = ways.index("faulty")
    assert f"case {case}: a fault" in run_fuzz(*options, "--first", str(case), "--count", "1")[1]
