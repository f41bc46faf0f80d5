"""A number that is none, in the loss or only in the gradient, of one process or of several, reaches no weight."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

import openddpm.training.loop as loop
import openddpm.training.update as update
from fault_injection import Site, on_training, start, start_ranks, tally_of
from openddpm.diffusion.process import DiffusionProcess
from openddpm.record.reader import read_run_record
from openddpm.record.schema import RunRecord
from openddpm.training.checkpoint import list_checkpoints
from openddpm.training.run import Training
from openddpm.training.state import NotFinite
from same_run import published_faults, resumed
from tiny import exact_metrics, tiny_images

Whole = Callable[..., Path]
STEP = 22  # done, as the number turns bad: two past a checkpoint
WHERE = re.compile(r"timesteps ([\d, ]+) of images ([\d, ]+)")


def poisoned(folder: Path, rank: int, kind: str, micro: int = 0, above: float = 0.0) -> None:
    """Have the loss, or a gradient alone, of one micro-batch of one step be NaN while the learning rate is `above`.

    What the step was trained on, and the state before and after it, go to files in `folder`.
    """
    plain, add_noise, fit = loop.micro_batch_loss, DiffusionProcess.add_noise, {}
    is_here = False
    batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def noising(self: DiffusionProcess, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> Any:
        if is_here:
            batches.append((images.clone(), timesteps.clone()))
        return add_noise(self, images, noise, timesteps)

    def micro_batch_loss(training: Training, accumulation_index: int) -> torch.Tensor:
        nonlocal is_here
        is_here = training.state.step == STEP
        loss = plain(training, accumulation_index)
        rate = training.state.optimizer.param_groups[0]["lr"]
        if is_here and rank == training.accelerator.process_index and accumulation_index == micro and rate > above:
            keep_state_before(training, folder / "before")
            if kind == "loss":
                loss = loss * float("nan")
            else:
                next(training.state.unet.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        return loss

    def not_finite(training: Training, *arguments: Any, **options: Any) -> NotFinite:
        if rank == training.accelerator.process_index:
            keep_state(training, folder / "after")
            arrays = {f"images-{index}": images.numpy() for index, (images, _) in enumerate(batches)}
            arrays |= {f"timesteps-{index}": timesteps.numpy() for index, (_, timesteps) in enumerate(batches)}
            np.savez(folder / "batches.npz", **arrays)
        return fit["not_finite"](training, *arguments, **options)

    folder.mkdir(exist_ok=True)
    fit["not_finite"] = update.not_finite
    loop.micro_batch_loss, update.not_finite, DiffusionProcess.add_noise = micro_batch_loss, not_finite, noising  # type: ignore
    on_training(lambda training: batches.clear())


def keep_state(training: Training, path: Path) -> None:
    """Write all weights, averages and moments, as they are in memory."""
    tensors = {f"{stem}:{name}": t for stem, content in training.state.tensors().items() for name, t in content.items()}
    save_file({name: tensor.detach().clone() for name, tensor in tensors.items()}, path)


def keep_state_before(training: Training, path: Path) -> None:
    """Write it as the step in hand finds it: if heard of late, once the step before is known to have been good."""
    if "cpu" not in update.LATE_DEVICES:
        return keep_state(training, path)

    def keep(*_: object) -> None:
        hook.remove()
        keep_state(training, path)

    hook = register_optimizer_step_pre_hook(keep)
    return None


def indices_of(images: np.ndarray) -> list[int]:
    """Return which of the data set's images these are, (B, C, H, W) in [-1, 1], mirrored or not."""
    known = np.stack(tiny_images()).transpose(0, 3, 1, 2)
    pixels = np.rint((images + 1) * 127.5).astype(np.uint8)
    matches = [(known == image).all((1, 2, 3)) | (known == image[:, :, ::-1]).all((1, 2, 3)) for image in pixels]
    assert all(match.sum() == 1 for match in matches)
    return [int(match.argmax()) for match in matches]


def check_message(text: str, kept: Path, kind: str, micro: int, num_named: int) -> None:
    """See that the message names the step and the very images and timesteps that were trained on in it."""
    what = "the training loss is nan" if kind == "loss" else "the gradient is not finite"
    assert f"openddpm: {what} at step {STEP + 1}, in timesteps" in text
    assert "Traceback" not in text
    batches = np.load(kept / "batches.npz")
    named = [([int(t) for t in m[1].split(", ")], [int(i) for i in m[2].split(", ")]) for m in WHERE.finditer(text)]
    trained = [
        (batches[f"timesteps-{index}"].tolist(), indices_of(batches[f"images-{index}"]))
        for index in range(len(batches.files) // 2)
    ]
    assert len(named) == num_named
    if kind == "loss":
        assert named == [trained[micro]]
    else:
        assert all(batch in named for batch in trained)


def hear_late(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Have runs hear a step later, as on a GPU, that one is bad; returns options by which nothing asks before."""
    monkeypatch.setattr(update, "LATE_DEVICES", ("cpu",))
    return {"logging_steps": 4}


CASES = [
    pytest.param("loss", 1, 1, 0, 0, False, id="loss of the only process", marks=pytest.mark.slow),
    pytest.param("gradient", 1, 2, 1, 0, False, id="gradient with accumulation"),
    pytest.param("loss", 1, 2, 1, 0, False, id="loss with accumulation", marks=pytest.mark.slow),
    pytest.param("gradient", 1, 1, 0, 0, False, id="gradient of the only process", marks=pytest.mark.slow),
    pytest.param("loss", 2, 1, 0, 0, False, id="loss of rank 0 of 2", marks=pytest.mark.slow),
    pytest.param("loss", 2, 1, 0, 1, False, id="loss of rank 1 of 2", marks=pytest.mark.slow),
    pytest.param("gradient", 2, 1, 0, 0, False, id="gradient of rank 0 of 2", marks=pytest.mark.slow),
    pytest.param("gradient", 2, 1, 0, 1, False, id="gradient of rank 1 of 2", marks=pytest.mark.slow),
    pytest.param("loss", 2, 2, 1, 1, False, id="loss of rank 1 of 2 with accumulation", marks=pytest.mark.slow),
    pytest.param("loss", 1, 1, 0, 0, True, id="loss, heard late", marks=pytest.mark.slow),
    pytest.param("gradient", 1, 1, 0, 0, True, id="gradient, heard late", marks=pytest.mark.slow),
    pytest.param("loss", 1, 2, 0, 0, True, id="loss with accumulation, heard late", marks=pytest.mark.slow),
    pytest.param("gradient", 1, 2, 1, 0, True, id="gradient with accumulation, heard late", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "ranks", "accumulation", "micro", "rank", "late"), CASES)
def test_nan_stops_all_before_a_weight_is_touched(
    site: Site,
    whole: Whole,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    ranks: int,
    accumulation: int,
    micro: int,
    rank: int,
    late: bool,
) -> None:
    """All processes end with status 2 and a message that is right; weights in memory and on disk are those before."""
    name = f"nan-{kind}-{ranks}-{accumulation}-{rank}{'-late' * late}"
    options = {"max_train_steps": 30, "gradient_accumulation_steps": accumulation}
    options |= hear_late(monkeypatch) if late else {}
    kept, command = site.folder / f"{name}-kept", site.command(name, **options)
    when = "a step later" if late else "at once"
    with tally_of(f"NaN in the {kind}, process {rank + 1} of {ranks}, accumulation {accumulation}, {when}") as tally:
        fault = lambda: poisoned(kept, rank, kind, micro)  # noqa: E731
        if ranks == 1:
            children = [start(site, command, name, fault)]
        else:
            children = start_ranks(site, command, name, dict.fromkeys(range(ranks), fault))
        assert [child.wait() for child in children] == [2] * ranks, children[rank].text()
        for child in children:
            check_message(child.text(), kept, kind, micro, num_named=1 if kind == "loss" else ranks * accumulation)
        check_weights(kept, site.folder / name)
        check_record(read_run_record(site.folder / name), kind)
        corrupted = published_faults(site.folder / name, keep=3)
        left_alone = whole(ranks=ranks, **options)
        tally.count(name, corrupted, resumed(site, name, left_alone, ranks=ranks, **options))


def check_weights(kept: Path, run: Path) -> None:
    """See that the state after the bad step is the one before it, and that all on disk is finite."""
    before, after = load_file(kept / "before"), load_file(kept / "after")
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    on_disk = [load_file(path) for folder in list_checkpoints(run) for path in folder.glob("*.safetensors")]
    assert on_disk
    assert all(np.isfinite(tensor).all() for tensors in [before, *on_disk] for tensor in tensors.values())


def check_record(record: RunRecord, kind: str) -> None:
    """See that run.json tells of the failure."""
    assert (record.status, record.failure) == ("failed", f"{kind}_not_finite")
    assert f"at step {STEP + 1}" in str(record.failure_text)


ROLLBACKS = [(1, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(1, True), (2, False)])]


@pytest.mark.parametrize(("ranks", "late"), ROLLBACKS)
def test_rolled_back_to_a_learning_rate_that_works(
    site: Site, monkeypatch: pytest.MonkeyPatch, ranks: int, late: bool
) -> None:
    """With --max_rollbacks, a NaN that half the learning rate avoids costs one rollback, and the run is finished."""
    name = f"rollback-{ranks}{'-late' * late}"
    options = hear_late(monkeypatch) if late else {}
    command = site.command(name, max_train_steps=30, lr_scheduler="constant", max_rollbacks=2, **options)
    fault = lambda: poisoned(site.folder / f"{name}-kept", 0, "loss", above=0.9e-3)  # noqa: E731
    if ranks == 1:
        children = [start(site, command, name, fault)]
    else:
        children = start_ranks(site, command, name, dict.fromkeys(range(ranks), fault))
    assert [child.wait() for child in children] == [0] * ranks, children[0].text()
    record = read_run_record(site.folder / name)
    assert (record.status, record.progress.step, record.failure) == ("finished", 30, None)
    rollbacks = [(entry.step, entry.rolled_back_from, entry.learning_rate_factor) for entry in record.resumptions]
    assert rollbacks == [(20, STEP + 1, 0.5)]
    steps = {row["step"]: row["learning_rate"] for row in exact_metrics(site.folder / name)}
    assert list(steps) == ([4, 8, 12, 16, 20, 24, 28, 30] if late else list(range(1, 31)))
    assert (steps[20], steps[24 if late else 21]) == (1e-3, 0.5e-3)


@pytest.mark.slow
def test_rollbacks_are_used_up(site: Site) -> None:
    """A NaN that comes at any learning rate ends the run after --max_rollbacks, each from an older checkpoint."""
    command = site.command("stubborn", max_train_steps=30, lr_scheduler="constant", max_rollbacks=2)
    child = start(site, command, "stubborn", lambda: poisoned(site.folder / "stubborn-kept", 0, "loss"))
    assert child.wait() == 2, child.text()
    assert "Traceback" not in child.text()
    record = read_run_record(site.folder / "stubborn")
    assert (record.status, record.failure) == ("failed", "loss_not_finite")
    assert [(entry.step, entry.rolled_back_from) for entry in record.resumptions] == [(20, 23), (15, 23)]
    assert published_faults(site.folder / "stubborn", keep=3) == []
