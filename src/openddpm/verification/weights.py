"""The weights that a run folder holds: the exported ones, those of milestones, and those in checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    for checkpoint in reversed(list_checkpoints(folder)):
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
    for checkpoint in list_checkpoints(folder):
        step = checkpoint_step(checkpoint)
        known = rows[step].sha256 if step in rows else {}
        for path in sorted(checkpoint.glob("*")):
            if path.name != "manifest.json" and known.get(path.name) != digest_of(path):
                problems.append(f"{path.relative_to(folder)} is not what checkpoints.jsonl says of step {step:,}")
    return problems
