"""What a run keeps for good: the weights of its milestones and, with --keep_every, whole checkpoints."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

from openddpm.record.schema import CheckpointRow

PublishedWeights = Literal["none", "milestones", "kept"]
"""Weights of earlier steps that are published: "kept" those of milestones, and whole checkpoints."""

MILESTONES_FOLDER = "milestones"
STEP_NAME = r"step-(?P<step>\d{8,})"
_NAME = re.compile(rf"{STEP_NAME}\.safetensors")


def step_name(step: int) -> str:
    """Return the name of a step, as checkpoints have it, and other files begin with it: step-00000500."""
    return f"step-{step:08d}"


def milestone_name(step: int) -> str:
    """Return the path, within the run folder, of the weights kept at a step."""
    return f"{MILESTONES_FOLDER}/{step_name(step)}.safetensors"


def milestones_among(paths: Iterable[str]) -> dict[int, str]:
    """Return the milestones among paths within a run folder, by step, in increasing order."""
    names = ((path, _NAME.fullmatch(path.removeprefix(f"{MILESTONES_FOLDER}/"))) for path in paths)
    steps = {int(match["step"]): path for path, match in names if match and path.startswith(f"{MILESTONES_FOLDER}/")}
    return dict(sorted(steps.items()))


def list_milestones(folder: Path) -> dict[int, Path]:
    """Return the weights files that a run has kept, by step, in increasing order."""
    names = milestones_among(f"{MILESTONES_FOLDER}/{path.name}" for path in (folder / MILESTONES_FOLDER).glob("step-*"))
    return {step: folder / name for step, name in names.items()}


def recorded_sha256(rows: Iterable[CheckpointRow]) -> dict[str, str]:
    """Return the sha256 of milestones and checkpoints in checkpoints.jsonl, by their paths in a run folder."""
    known = {}
    for row in rows:
        known[milestone_name(row.step)] = row.exported_sha256
        known |= {f"checkpoints/{step_name(row.step)}/{name}": sha256 for name, sha256 in row.sha256.items()}
    return known


def nearest_milestone(rows: Iterable[CheckpointRow], steps: Collection[int], images: int) -> CheckpointRow | None:
    """Return the row of the milestone nearest to a number of images seen, the earlier of two; None if there is none.

    Args:
        steps: of the milestones; those that are in no row belong to no checkpoint of the run.
    """
    kept = [row for row in rows if row.step in steps]
    return min(kept, key=lambda row: (abs(row.images_seen - images), row.step), default=None)


def kept_steps(steps: Iterable[int], every: int | None) -> set[int]:
    """Return which of these checkpoints --keep_every keeps: at each of its multiples, or the first saved after it."""
    first: dict[int, int] = {}
    for step in sorted(steps) if every else ():
        first.setdefault(step // (every or 1), step)
    first.pop(0, None)  # before the first multiple
    return set(first.values())
