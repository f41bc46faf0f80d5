"""Distances of states."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from openddpm.references import open_runs
from openddpm.training.checkpoint import tensors_sha256
from openddpm.training.state import Tensors
from openddpm.verification.states import StateCheck, check_state, copied_weights, state_distances


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


def compared(folder: Path, here: Tensors, there: Tensors, is_here: bool = True, steps: int = 10) -> StateCheck:
    """Return how a state compares with a checkpoint of step 20, of a record with one of step 10, too."""
    published = open_runs("digits-8")[0]
    rows = [
        published.checkpoints[0].model_copy(
            update={"step": step, "sha256": {f"{stem}.safetensors": tensors_sha256(one) for stem, one in state.items()}}
        )
        for step, state in ((10, a_state(7.0)), (20, there))
    ]
    checkpoint = folder / "checkpoints" / "step-00000020"
    if is_here:
        checkpoint.mkdir(parents=True)
        for stem, content in there.items():
            save_file(content, checkpoint / f"{stem}.safetensors")
    begin = {stem: content for stem, content in a_state(1.0).items() if stem != "optimizer"}
    return check_state(replace(published, folder=folder, checkpoints=rows), 20, here, steps, begin)


def test_a_state_with_the_digests_of_the_record_is_equal(tmp_path: Path) -> None:
    """Of the line of its own step."""
    assert compared(tmp_path, a_state(1.01), a_state(1.01)) == StateCheck(20, [], [])


def test_a_state_that_is_far_from_the_checkpoint_is_told(tmp_path: Path) -> None:
    """With how far: weights by how far they moved, moments by their size; files that are the same are not named."""
    found = compared(tmp_path, a_state(1.005), a_state(1.01))
    assert found.altered == ["unet.safetensors", "ema.safetensors"]
    assert (
        found.far[0] == "unet in the checkpoint of step 20 is off by 50 % of how far it moved" and len(found.far) == 2
    )
    found = compared(tmp_path / "moments", a_state(1.01, moment=2e-3), a_state(1.01))
    assert found.altered == ["optimizer.safetensors"]
    text = "optimizer (exp_avg) in the checkpoint of step 20 is off by 1e+02 % of its size"
    assert text in found.far and len(found.far) == 2


def test_a_state_that_is_as_near_as_rounding_is_not_far(tmp_path: Path) -> None:
    """Another bit is another digest, and nothing more."""
    found = compared(tmp_path, a_state(1.01 + 1e-7), a_state(1.01))
    assert found.altered == ["unet.safetensors", "ema.safetensors"] and found.far == []


def test_without_the_checkpoint_only_digests_are_compared(tmp_path: Path) -> None:
    """How far a state is away cannot be told then."""
    found = compared(tmp_path, a_state(1.005), a_state(1.01), is_here=False)
    assert found.altered == ["unet.safetensors", "ema.safetensors"] and found.far == []


def test_other_tensors_have_no_distance(tmp_path: Path) -> None:
    """Another number of steps is told in words."""
    found = compared(tmp_path, a_state(1.01, count=401.0), a_state(1.01))
    assert found.far == [
        "optimizer (step) in the checkpoint of step 20 has tensors or numbers that training does not give"
    ]


@pytest.mark.parametrize("change", ["another name", "another shape", "no file"])
def test_a_checkpoint_with_other_tensors_is_infinitely_far(tmp_path: Path, change: str) -> None:
    """Tensors of other names or shapes, or a file that is not there, cannot be compared."""
    for stem, content in a_state(1.01).items():
        save_file(content, tmp_path / f"{stem}.safetensors")
    if change == "no file":
        (tmp_path / "ema.safetensors").unlink()
    else:
        tensors = {"b": torch.zeros(2)} if change == "another name" else {"a": torch.zeros(3)}
        save_file(tensors, tmp_path / "ema.safetensors")
    begin = {stem: content for stem, content in a_state(1.0).items() if stem != "optimizer"}
    found = state_distances(a_state(1.01), tmp_path, begin)
    assert found["ema"] == (math.inf, "weights") and found["unet"] == (0.0, "weights")
    assert [found[f"optimizer ({kind})"][1] for kind in ("exp_avg", "exp_avg_sq")] == ["moments", "squares"]


def test_weights_that_did_not_move_are_equal_or_infinitely_far(tmp_path: Path) -> None:
    """Where the record's weights are those at the beginning, there is no size to divide by."""
    for stem, content in a_state(1.0).items():
        save_file(content, tmp_path / f"{stem}.safetensors")
    begin = {stem: content for stem, content in a_state(1.0).items() if stem != "optimizer"}
    assert state_distances(a_state(1.0), tmp_path, begin)["unet"][0] == 0.0
    assert state_distances(a_state(1.5), tmp_path, begin)["unet"][0] == math.inf


def test_weights_are_copied_without_moments() -> None:
    """The copies stay as they are when training changes the weights."""
    state = a_state(1.0)
    copies = copied_weights(state)
    state["unet"]["a"] += 1
    assert copies.keys() == {"unet", "ema"} and copies["unet"]["a"].tolist() == [1.0, 1.0]
