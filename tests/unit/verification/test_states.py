"""Distances of states."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from openddpm.training.state import Tensors
from openddpm.verification.states import state_distances


def a_state(weight: float, moment: float = 1e-3, count: float = 400.0) -> Tensors:
    """Return a state of two weights under AdamW, whose averages are its weights."""
    weights = {"a": torch.tensor([weight, 1.0])}
    moments = {"a/exp_avg": torch.tensor([moment, 0.0]), "a/exp_avg_sq": torch.tensor([moment**2, 0.0])}
    return {"unet": weights, "ema": weights, "optimizer": {**moments, "a/step": torch.tensor(count)}}


def distances(folder: Path, state: Tensors) -> dict[str, float]:
    """Return the distances of a state from another in a checkpoint; both began with weights 0.01 before."""
    for stem, content in a_state(1.01).items():
        save_file(content, folder / f"{stem}.safetensors")
    begin = {stem: content for stem, content in a_state(1.0).items() if stem != "optimizer"}
    return {name: distance for name, (distance, _) in state_distances(state, folder, begin).items()}


def test_weights_are_compared_with_how_far_they_moved(tmp_path: Path) -> None:
    """Weights that are off by half of what they moved are, whatever their size."""
    found = distances(tmp_path, a_state(1.005))
    assert math.isclose(found["unet"], 0.5, rel_tol=1e-4) and found["ema"] == found["unet"]


def test_the_number_of_steps_hides_no_altered_moment(tmp_path: Path) -> None:
    """Moments that are twice as large are off by their size, though AdamW's number of steps is 400,000 times larger."""
    found = distances(tmp_path, a_state(1.01, moment=2e-3))
    assert math.isclose(found["optimizer (exp_avg)"], 1.0, rel_tol=1e-4)
    assert math.isclose(found["optimizer (exp_avg_sq)"], 3.0, rel_tol=1e-4)


def test_another_number_of_steps_is_no_rounding(tmp_path: Path) -> None:
    """A state with one step more is infinitely far away."""
    assert distances(tmp_path, a_state(1.01, count=401.0))["optimizer (step)"] == math.inf
