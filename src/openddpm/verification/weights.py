"""The weights that a run folder holds: the exported ones, those of milestones, and those in checkpoints."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openddpm.config import recorded_config
from openddpm.diffusion.process import DiffusionProcess
from openddpm.record.files import read_file
from openddpm.record.kept import list_milestones
from openddpm.record.public import WEIGHTS_FILE
from openddpm.record.reader import RunFolder
from openddpm.record.schema import Weights, exported_weights
from openddpm.training.checkpoint import checkpoint_step, list_checkpoints, weights_files

DigestOf = Callable[[Path], str]
"""Returns the sha256 of a file."""


@dataclass(frozen=True)
class WeightsFile:
    """A file with weights of a run."""

    path: Path
    step: int
    name: Weights


def weights_here(record: RunFolder, digest_of: DigestOf) -> list[WeightsFile]:
    """Return the weights that a run folder holds, each once: the exported first, then from the last step to the first.

    The exported ones are of the last step unless they are those of an earlier line of checkpoints.jsonl, as after a run
    that was killed.
    """
    folder, found = record.folder, dict[tuple[int, Weights], Path]()
    exported = exported_weights(row.weights for row in record.evaluations)
    if (folder / WEIGHTS_FILE).is_file() and record.checkpoints:
        sha256 = digest_of(folder / WEIGHTS_FILE)
        steps = [row.step for row in record.checkpoints if row.exported_sha256 == sha256]
        found[steps[-1] if steps else record.checkpoints[-1].step, exported] = folder / WEIGHTS_FILE
    for checkpoint in reversed(checkpoints_here(record)):
        for name, file in weights_files(path.name for path in checkpoint.iterdir()).items():
            found.setdefault((checkpoint_step(checkpoint), name), checkpoint / file)
    for step, path in reversed(list_milestones(folder).items()):
        found.setdefault((step, exported), path)
    return [WeightsFile(path, step, name) for (step, name), path in found.items()]


def foreign_weights(record: RunFolder, digest_of: DigestOf) -> list[str]:
    """Return which files of weights have another sha256 than checkpoints.jsonl says, a sentence each."""
    rows = {row.step: row for row in record.checkpoints}
    problems = []
    folder = record.folder
    if (folder / WEIGHTS_FILE).is_file() and record.checkpoints:
        may_be = record.checkpoints[-1:] if record.run.status == "finished" else record.checkpoints
        if digest_of(folder / WEIGHTS_FILE) not in {row.exported_sha256 for row in may_be}:
            problems.append(f"{WEIGHTS_FILE} is not what checkpoints.jsonl says of the last step")
    for step, path in list_milestones(folder).items():
        if step not in rows or digest_of(path) != rows[step].exported_sha256:
            problems.append(f"{path.relative_to(folder)} is not what checkpoints.jsonl says of step {step:,}")
    last = max(rows, default=0)
    for checkpoint in checkpoints_here(record):
        step = checkpoint_step(checkpoint)
        if step in rows:
            paths = [(checkpoint / name, sha256) for name, sha256 in sorted(rows[step].sha256.items())]
            names = [path.relative_to(folder) for path, sha256 in paths if digest_of(path) != sha256]
            problems += [f"{name} is not what checkpoints.jsonl says of step {step:,}" for name in names]
        elif record.run.status == "finished" or step < last:  # else it was killed before it could write the line
            problems.append(f"checkpoints.jsonl has no line of {checkpoint.relative_to(folder)}")
    return problems


def checkpoints_here(record: RunFolder) -> list[Path]:
    """Return the folders of checkpoints, oldest first, without those that files are missing from: a run that was killed
    may have been removing one, and a copy may have been made without large files."""
    rows = {row.step: row for row in record.checkpoints}
    found = [path for path in list_checkpoints(record.folder) if path.is_dir()]
    return [
        path
        for path in found
        if checkpoint_step(path) not in rows
        or all((path / name).is_file() for name in rows[checkpoint_step(path)].sha256)
    ]


def other_pipeline(record: RunFolder) -> list[str]:
    """Return what in the files that diffusers loads is not of the run, a sentence each.

    Options that only another version of diffusers knows are not compared.
    """
    run = record.run
    scheduler = DiffusionProcess(recorded_config(run.config), torch.device("cpu")).scheduler
    parts = {"scheduler": ["diffusers", "DDIMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    expected = {
        "unet/config.json": run.model.config,
        "scheduler/scheduler_config.json": json.loads(scheduler.to_json_string()),
        "model_index.json": parts,
    }
    problems = []
    for name, options in expected.items():
        content = read_file(record.folder / name)
        if content is not None:
            try:
                found, wanted = _options(json.loads(content)), _options(options)
                is_same = bool(found) and all(found[name] == wanted[name] for name in found.keys() & wanted.keys())
            except (ValueError, AttributeError):
                is_same = False
            problems += [] if is_same else [f"{name} is not that of the run"]
    return problems


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config of diffusers without what it says of itself, such as the version that wrote it."""
    return {key: value for key, value in config.items() if not key.startswith("_")}
