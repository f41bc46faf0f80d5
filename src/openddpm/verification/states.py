"""States of a replay beside the checkpoints of the record: their digests, and how far they are apart."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from openddpm.comparison.rounding import Quantity, limit
from openddpm.comparison.same_run import computes_coarsely
from openddpm.record.kept import step_name
from openddpm.record.reader import RunFolder
from openddpm.training.checkpoint import checkpoints_folder, tensors_sha256
from openddpm.training.state import Tensors

COARSE_STATE = 0.5  # assumed: the smallest limit of a state in TF32, bfloat16 or float16; another seed makes 0.7
SQUARES, COUNT = "exp_avg_sq", "step"  # names in the state of AdamW: second moments, and the steps so far

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class StateCheck:
    """A state of a replay beside a checkpoint of the record."""

    step: int
    altered: list[str]
    """Files of the checkpoint that have another sha256."""
    far: list[str]
    """Tensors that are farther from those of the checkpoint than rounding is, a sentence each; empty if it is not here.
    """


def check_state(record: RunFolder, step: int, tensors: Tensors, steps: int, begin: Tensors) -> StateCheck:
    """Compare a state with what the record says of its checkpoint, and with the checkpoint if it is there.

    Args:
        steps: that the replay took to get there.
        begin: the weights that it began with.
    """
    row = next(row for row in record.checkpoints if row.step == step)
    digests = {f"{stem}.safetensors": tensors_sha256(content) for stem, content in tensors.items()}
    altered = [file for file, sha256 in digests.items() if row.sha256.get(file) != sha256]
    checkpoint = checkpoints_folder(record.folder) / step_name(step)
    far = list[str]()
    if altered and checkpoint.is_dir():
        least = COARSE_STATE if computes_coarsely(record) else 0.0
        for name, (distance, quantity) in state_distances(tensors, checkpoint, begin).items():
            if not distance <= max(limit(quantity, steps), least):
                size = "how far it moved" if quantity == "weights" else "its size"
                off = f"is off by {100 * distance:.2g} % of {size}"
                if not math.isfinite(distance):
                    off = "has tensors or numbers that training does not give"
                far.append(f"{name} in the checkpoint of step {step:,} {off}")
    return StateCheck(step, altered, far)


def state_distances(here: Tensors, checkpoint: Path, begin: Tensors) -> dict[str, tuple[float, Quantity]]:
    """Return the relative distance of weights and moments from those in a checkpoint, by the names of the tensors.

    That of weights is divided by how far they moved since the beginning, that of moments by their length. It is
    infinite where tensors are missing, and for other numbers of steps.
    """
    found: dict[str, tuple[float, Quantity]] = {}
    for stem, content in here.items():
        try:
            there = load_file(checkpoint / f"{stem}.safetensors")
        except (OSError, SafetensorError):
            there = {}
        if there.keys() != content.keys() or any(there[name].shape != content[name].shape for name in there):
            found[stem] = math.inf, "weights"
        elif stem in begin:
            found[stem] = _distance(content, there, begin[stem]), "weights"
        else:
            for kind in sorted({name.rpartition("/")[2] for name in there}):
                names = [name for name in there if name.endswith(f"/{kind}")]
                distance = _distance(*({name: tensors[name] for name in names} for tensors in (content, there)))
                if kind == COUNT and distance:
                    distance = math.inf
                found[f"{stem} ({kind})"] = distance, "squares" if kind == SQUARES else "moments"
    return found


def copied_weights(tensors: Tensors) -> Tensors:
    """Return copies of the weights of a state, without its moments."""
    return {
        stem: {name: tensor.clone() for name, tensor in content.items()}
        for stem, content in tensors.items()
        if stem != "optimizer"
    }


def _distance(ours: Weights, theirs: Weights, begin: Weights | None = None) -> float:
    """Return the distance of two sets of tensors, divided by that of the second from `begin`, or by its length."""
    apart = _length(ours[name].double() - theirs[name].double() for name in theirs)
    size = _length(theirs[name].double() - (0 if begin is None else begin[name].double()) for name in theirs)
    return apart / size if size else math.inf if apart else 0.0


def _length(tensors: Iterable[torch.Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))
