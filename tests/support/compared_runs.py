"""A candidate beside a reference of five seeds, without training anything."""

import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from made_up_run import write_made_up_run
from openddpm.comparison.compare import Comparison, compare
from openddpm.record.reader import read_run_folder

NUM_SEEDS = 5


def made_up_reference(folder: Path, num_seeds: int = NUM_SEEDS, name: str = "faces", **about: Any) -> SimpleNamespace:
    """Write runs with seeds 1, 2, ... below `folder`; return them as a reference, with no `about` unless given."""
    runs = [
        read_run_folder(write_made_up_run(folder / f"seed-{seed}", seed=seed, previews=10, rows=40))
        for seed in range(1, num_seeds + 1)
    ]
    known = SimpleNamespace(**{"device": "a device", "made": datetime.date(2026, 3, 14), **about}) if about else None
    return SimpleNamespace(name=name, runs=runs, about=known, film=None, notes=[])


def compared(folder: Path, reference: SimpleNamespace, **run: Any) -> Comparison:
    """Write a candidate with seed 9 in `folder` and compare it; `run` is for `write_made_up_run`."""
    options = {"seed": 9, "previews": 10, "rows": 40, **run}
    return compare(read_run_folder(write_made_up_run(folder, **options)), reference.runs)
