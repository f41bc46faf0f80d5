"""Runs that come back under other circumstances than they left."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.numpy import load_file
from test_exact_resume import EndAt

import openddpm.training.update as update
from openddpm.api import resume, train
from openddpm.errors import UserError
from openddpm.record.reader import read_run_record
from openddpm.training.loop import TrainResult, fit
from openddpm.training.setup import prepare
from tiny import TINY_UNET, differing, exact_metrics, newest_tensors, tiny_config, tiny_images, write_tiny_folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _train(folder: Path, name: str, *observers: Any, own: dict[str, Any] | None = None, **options: Any) -> TrainResult:
    own = {"dataset": tiny_images()} if own is None else own
    return fit(prepare(tiny_config(folder, name, **options), observers=observers, **own))


def test_parts_given_from_python_have_to_be_given_again(tmp_path: Path) -> None:
    """A run with a transform of the caller's own is never resumed without one, from Python or by its record."""
    own = {"dataset": tiny_images(), "transform": lambda images: 255 - images}
    _train(tmp_path, "run", EndAt(3, crash=False), own=own)
    assert read_run_record(tmp_path / "run").user_supplied == ["dataset", "transform"]
    with pytest.raises(UserError, match="a dataset and a transform given from Python"):
        resume(tmp_path / "run")
    with pytest.raises(UserError, match="dataset, transform; this call gives: dataset"):
        _train(tmp_path, "run", resume_from_checkpoint="latest")
    assert _train(tmp_path, "run", own=own, resume_from_checkpoint="latest").status == "finished"


def test_killed_after_the_last_checkpoint_is_finished_by_resume(tmp_path: Path) -> None:
    """A run that died between its last checkpoint and its end gets its pipeline, status and pages on resume."""
    _train(tmp_path, "run")
    folder = tmp_path / "run"
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": "running"}))
    shutil.rmtree(folder / "unet")
    (folder / "model_index.json").unlink()
    assert _train(tmp_path, "run", resume_from_checkpoint="latest").status == "finished"
    assert read_run_record(folder).status == "finished"
    exported = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    newest = newest_tensors(folder)
    assert all(newest[f"ema:{name}"].tobytes() == tensor.tobytes() for name, tensor in exported.items())
    assert (folder / "model_index.json").exists()


def test_data_may_move_and_config_files_may_go(tmp_path: Path) -> None:
    """A run is resumed from its record though its data set lies elsewhere and its UNet's config file is gone."""
    images = write_tiny_folder(tmp_path / "images")
    options = {"dataset": str(images)}
    train(tiny_config(tmp_path, "whole", **options))
    train(tiny_config(tmp_path, "cut", **options), observers=[EndAt(5, crash=False)])
    images.rename(tmp_path / "moved")
    (tmp_path / "unet.json").unlink()
    resume(tmp_path / "cut", dataset=str(tmp_path / "moved"))
    assert exact_metrics(tmp_path / "cut") == exact_metrics(tmp_path / "whole")
    assert differing(newest_tensors(tmp_path / "cut"), newest_tensors(tmp_path / "whole")) == []


def test_a_run_on_the_hub_goes_on_with_a_copy_of_its_images(tmp_path: Path) -> None:
    """The commit that a run recorded is not asked of the folder to which its images were copied."""
    options = {"dataset": str(write_tiny_folder(tmp_path / "images"))}
    train(tiny_config(tmp_path, **options), observers=[EndAt(5, crash=False)])
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text())
    record["dataset"]["revision"] = "a" * 40
    record["dataset"]["source"] = record["config"]["dataset"] = "somebody/images"
    file.write_text(json.dumps(record))
    assert resume(tmp_path / "run", **options).status == "finished"
    dataset = read_run_record(tmp_path / "run").dataset
    assert (dataset.source, dataset.revision) == ("somebody/images", "a" * 40)  # where they come from
    assert resume(tmp_path / "run", accept_changes=True, max_train_steps=13).status == "finished"


def test_a_run_without_its_checkpoints_does_not_begin_again(tmp_path: Path) -> None:
    """A run whose checkpoints were removed is not resumed at step 0, which would drop all that it has recorded."""
    images = write_tiny_folder(tmp_path / "images")
    train(tiny_config(tmp_path, dataset=str(images)), observers=[EndAt(5, crash=False)])
    before = exact_metrics(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="are gone: it would begin again"):
        resume(tmp_path / "run")
    assert exact_metrics(tmp_path / "run") == before


@pytest.mark.parametrize("change", [{"output_dir": "elsewhere"}, {"recipe": "avatars-16"}], ids=str)
def test_a_run_keeps_its_folder_and_its_options(tmp_path: Path, change: dict[str, str]) -> None:
    """Resuming under another folder or recipe is refused from Python, too, where it would start a new run."""
    train(tiny_config(tmp_path, dataset=str(write_tiny_folder(tmp_path / "images"))), observers=[EndAt(3, crash=False)])
    with pytest.raises(UserError, match="resume takes neither --output_dir nor --recipe"):
        resume(tmp_path / "run", **change)


def test_copies_beside_checkpoints_are_left_alone(tmp_path: Path) -> None:
    """A folder that a person put beside the checkpoints is neither pruned, counted, nor taken for one of them."""
    _train(tmp_path, "run", EndAt(3, crash=False), checkpointing_steps=1, checkpoints_total_limit=2)
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "step-00000002", checkpoints / "step-00000002-best")
    (checkpoints / "step-00000009.bak").mkdir()
    _train(tmp_path, "run", resume_from_checkpoint="latest", checkpointing_steps=1, checkpoints_total_limit=2)
    names = ["step-00000002-best", "step-00000009.bak", "step-00000011", "step-00000012"]
    assert sorted(path.name for path in checkpoints.iterdir()) == names


def test_a_resumed_record_starts_where_its_checkpoint_stands(tmp_path: Path) -> None:
    """Observers are told the step of the checkpoint, not of a later preview, and the options in force."""
    options = {"checkpointing_steps": 4, "save_images_epochs": 1}
    with pytest.raises(Exception, match="out of nowhere"):
        _train(tmp_path, "run", EndAt(6, crash=True), **options)
    assert read_run_record(tmp_path / "run").progress.step == 5  # the preview's
    config = tiny_config(tmp_path, "run", resume_from_checkpoint="latest", checkpoints_total_limit=1, **options)
    training = prepare(config, dataset=tiny_images())
    training.close()
    assert training.recorder.run.progress.step == 4
    assert training.recorder.run.config["checkpoints_total_limit"] == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_loss_that_is_no_number_is_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """A loss that turns NaN between logged lines stops the run before the next checkpoint, and names where it was."""
    if late:
        monkeypatch.setattr(update, "LATE_DEVICES", ("cpu",))
    config = tiny_config(tmp_path, "run", logging_steps=6, checkpointing_steps=2, lr_warmup_steps=0)
    training = prepare(config, dataset=tiny_images())
    training.learning_rate_at = lambda step: float("nan") if step == 2 else 1e-3
    with pytest.raises(UserError, match=r"the training loss is nan at step 4, in timesteps \d+, .* of images \d+, "):
        fit(training)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    assert read_run_record(tmp_path / "run").status == "failed"
    record = read_run_record(tmp_path / "run")
    assert record.failure == "loss_not_finite" and "at step 4" in str(record.failure_text)


def test_launcher_settings_do_not_divide_the_loss_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accumulation count that a launcher left in the environment changes no gradient."""
    _train(tmp_path, "plain", max_train_steps=2)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    _train(tmp_path, "launched", max_train_steps=2)
    assert exact_metrics(tmp_path / "launched") == exact_metrics(tmp_path / "plain")


def test_a_unet_can_be_trained_again_in_another_precision(tmp_path: Path) -> None:
    """A UNet once trained in bfloat16 trains in float32 afterwards as if it never had been."""

    def own(unet: UNet2DModel) -> dict[str, Any]:
        return {"dataset": tiny_images(), "unet": unet}

    torch.manual_seed(0)
    unet = UNet2DModel(sample_size=8, in_channels=3, out_channels=3, **TINY_UNET)
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    _train(tmp_path, "fresh", own=own(unet), max_train_steps=3)
    unet.load_state_dict(weights)
    _train(tmp_path, "bf16", own=own(unet), max_train_steps=3, mixed_precision="bf16")
    unet.load_state_dict(weights)
    _train(tmp_path, "again", own=own(unet), max_train_steps=3)
    assert exact_metrics(tmp_path / "again") == exact_metrics(tmp_path / "fresh")
    assert exact_metrics(tmp_path / "bf16") != exact_metrics(tmp_path / "fresh")


def test_overwriting_removes_only_what_runs_leave(tmp_path: Path) -> None:
    """With --overwrite_output_dir files of others stay, in the run folder and in each of its sub-folders."""
    _train(tmp_path, "run", max_train_steps=2)
    folder = tmp_path / "run"
    others = [folder / name / "mine.txt" for name in (".", "unet", "samples", "checkpoints", "generated")]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    _train(tmp_path, "run", max_train_steps=3, overwrite_output_dir=True)
    assert [path.read_text() for path in others] == ["mine"] * 5
    assert [path.name for path in (folder / "checkpoints").glob("step-*")] == ["step-00000003"]


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    """A run that never begins removes the folder it made, and no folder that was there before."""
    (tmp_path / "there").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("new", "there"):
        with pytest.raises(UserError, match="no images"):
            prepare(tiny_config(tmp_path, name, dataset=str(tmp_path / "empty")))
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "there").iterdir()) == []


def test_sigterm_between_micro_batches_is_exact(tmp_path: Path) -> None:
    """A signal in the middle of an accumulated step lets it be finished, and the resumed run is exact."""
    micro_batches = 0

    def interrupting(images: torch.Tensor) -> torch.Tensor:
        nonlocal micro_batches
        micro_batches += 1
        if micro_batches == 4 * 6 + 2:  # the second of the seventh step
            signal.raise_signal(signal.SIGTERM)
        return images

    options = {"gradient_accumulation_steps": 4}
    whole = {"dataset": tiny_images(), "transform": lambda images: images}
    _train(tmp_path, "whole", own=whole, **options)
    cut = {"dataset": tiny_images(), "transform": interrupting}
    assert _train(tmp_path, "cut", own=cut, **options).signal == signal.SIGTERM
    assert read_run_record(tmp_path / "cut").progress.step == 7
    _train(tmp_path, "cut", own=whole, resume_from_checkpoint="latest", **options)
    assert exact_metrics(tmp_path / "cut") == exact_metrics(tmp_path / "whole")
    assert differing(newest_tensors(tmp_path / "cut"), newest_tensors(tmp_path / "whole")) == []
