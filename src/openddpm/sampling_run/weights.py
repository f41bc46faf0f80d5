"""Weights to sample with: averaged or raw, of the newest or a given checkpoint."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS_FILE
from safetensors import SafetensorError
from safetensors.torch import load

from openddpm.config import average_names
from openddpm.diffusion.denoiser import Denoiser, denoiser
from openddpm.diffusion.unet import image_shape
from openddpm.errors import UserError
from openddpm.record.files import parse_json
from openddpm.record.kept import list_milestones, milestone_name, nearest_milestone
from openddpm.record.reader import read_checkpoint_rows, read_run_record
from openddpm.record.schema import RAW, exported_weights
from openddpm.record.schema import Weights as WeightsName
from openddpm.record.writer import CHECKPOINTS_FILE
from openddpm.training.checkpoint import (
    MANIFEST,
    InvalidCheckpoint,
    checkpoint_step,
    list_checkpoints,
    verify_checkpoint,
    weights_files,
)
from openddpm.training.performance import gpu_has_bf16

_RESTORE = "Restore them from a checkpoint: openddpm resume continues from the newest valid one."


@dataclass(frozen=True)
class Weights:
    """The weights of a UNet, and where they come from."""

    name: WeightsName
    step: int | None
    """None if no checkpoint has these weights."""
    sha256: str
    tensors: dict[str, torch.Tensor]
    notes: tuple[str, ...] = ()
    """Messages about what was chosen by default."""


def read_weights(
    folder: Path, asked: WeightsName | None = None, step: int | None = None, at: int | None = None
) -> Weights:
    """Read the weights of a run: from its pipeline, a milestone, or the checkpoint that has those asked for.

    Args:
        asked: their name; None for those that are exported.
        step: of the checkpoint; None for the newest.
        at: number of images seen, for the nearest milestone.

    Raises:
        UserError: no run, no such checkpoint or milestone, an invalid one, or weights that it does not have.
    """
    record = read_run_record(folder)
    if step is not None and at is not None:
        raise UserError("--at and --checkpoint both choose the weights", "Give only one of them.")
    if at is not None:
        return _from_milestone(folder, exported_weights(average_names(record.config)), asked, at)
    if step is not None:
        return _from_checkpoint(_checkpoint_at(folder, record.run_id, step), asked)
    if not (folder / "model_index.json").exists():
        raise UserError(f"'{folder}' has no weights yet", "They are written with the first checkpoint; train longer.")
    exported = exported_weights(average_names(record.config))
    if asked not in (None, exported):  # the pipeline has no others
        checkpoint, skipped = _newest_checkpoint(folder, record.run_id, asked, exported)
        return _from_checkpoint(checkpoint, asked, skipped)
    tensors, sha256 = _read(folder / "unet" / WEIGHTS_FILE)
    noted = {row.exported_sha256: row.step for row in read_checkpoint_rows(folder)}  # a copy may have no checkpoints
    name, step = _origin(folder, sha256) or (exported, noted.get(sha256))
    if asked not in (None, name):
        raise _no_such_weights(f"the run in '{folder}'", asked, [name])
    notes = ["the run has no averaged weights: the raw ones are used"] if asked is None and name == RAW else []
    if step is None:
        notes.append("no checkpoint has the weights of the pipeline: their step is not known")
    return Weights(name, step, sha256, tensors, tuple(notes))


def open_run(
    folder: Path, device: torch.device, weights: Weights | None = None
) -> tuple[Denoiser, Any, tuple[int, ...]]:
    """Return what sampling needs: the denoiser, the config of its scheduler, an image's shape (C, H, W).

    Args:
        weights: None for those of the run's pipeline.

    Raises:
        UserError: no run, or no weights that can be read.
    """
    weights = weights or read_weights(folder)
    try:
        unet = UNet2DModel.from_config(UNet2DModel.load_config(folder / "unet")).eval()
        unet.load_state_dict(weights.tensors)
        config = DDIMScheduler.from_pretrained(folder / "scheduler").config
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"the weights in '{folder}' cannot be read: {error}", _RESTORE) from error
    _check_process(folder, config)
    tensors = {**dict(unet.to(device).named_parameters()), **dict(unet.named_buffers())}
    return denoiser(unet, tensors, sampling_precision(device)), config, image_shape(unet.config)


def _check_process(folder: Path, config: Any) -> None:
    """Refuse a scheduler other than that of the run: the weights would be used wrongly."""
    recorded = read_run_record(folder).config
    for name in ("prediction_type", "num_train_timesteps", "beta_schedule"):
        if name in recorded and config[name] != recorded[name]:
            found = f"'{folder / 'scheduler'}' has the {name} {config[name]}, the run {recorded[name]}"
            raise UserError(found, _RESTORE)


def sampling_precision(device: torch.device) -> torch.dtype | None:
    """Return the half precision that samples are computed in; None for float32."""
    return torch.bfloat16 if device.type == "cuda" and gpu_has_bf16() else None


def _checkpoint_at(folder: Path, run_id: str, step: int) -> Path:
    """Return the checkpoint of a step, verified by its manifest."""
    checkpoints = {checkpoint_step(path): path for path in list_checkpoints(folder)}
    others = ", ".join(str(other) for other in checkpoints if other != step) or "none"
    if step not in checkpoints:
        raise UserError(f"--checkpoint {step}: '{folder}' has no checkpoint of that step", f"It has: {others}.")
    try:
        verify_checkpoint(checkpoints[step], run_id)
    except InvalidCheckpoint as error:
        raise UserError(f"'{checkpoints[step]}' is not valid: {error}", f"Other checkpoints: {others}.") from error
    return checkpoints[step]


def _from_milestone(folder: Path, exported: WeightsName, asked: WeightsName | None, at: int) -> Weights:
    """Read the weights of the milestone nearest to a number of images seen."""
    if at < 0:
        raise UserError(f"--at {at} is less than 0", "Give a number of images seen.")
    row = nearest_milestone(read_checkpoint_rows(folder), list_milestones(folder), at)
    if row is None:
        others = ", ".join(str(checkpoint_step(path)) for path in list_checkpoints(folder)) or "none"
        hint = f"Train with --milestones N to keep some. --checkpoint STEP takes a checkpoint; there are: {others}."
        raise UserError(f"--at {at}: '{folder}' has no milestones", hint)
    if asked not in (None, exported):
        raise _no_such_weights("a milestone", asked, [exported])
    path = folder / milestone_name(row.step)
    tensors, sha256 = _read(path)
    if sha256 != row.exported_sha256:
        steps = ", ".join(str(step) for step in list_milestones(folder) if step != row.step) or "none"
        hint = f"Restore it from a copy. Other milestones are of the steps: {steps}."
        raise UserError(f"'{path}' differs from its sha256 in {CHECKPOINTS_FILE}", hint)
    note = f"milestone of step {row.step:,}, {row.images_seen:,} images seen"
    return Weights(exported, row.step, sha256, tensors, (note + f"; the nearest to {at:,}" * (row.images_seen != at),))


def _newest_checkpoint(folder: Path, run_id: str, asked: WeightsName, exported: WeightsName) -> tuple[Path, list[str]]:
    """Return the newest valid checkpoint, and what was wrong with newer ones."""
    skipped = []
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            verify_checkpoint(checkpoint, run_id)
        except InvalidCheckpoint as error:
            skipped.append(f"checkpoint not valid, skipped: {checkpoint.name}: {error}")
        else:
            return checkpoint, skipped
    lines = [f"--weights {asked}: weights other than {exported} are in the checkpoints", *skipped]
    lines[0] += f", and '{folder}' has no valid one"
    raise UserError("\n".join(lines), f"Give --weights {exported}, which are in the run folder itself.")


def _from_checkpoint(checkpoint: Path, asked: WeightsName | None, notes: list[str] | None = None) -> Weights:
    """Read the weights that are asked for from a valid checkpoint."""
    files = weights_files(path.name for path in checkpoint.iterdir())
    name = exported_weights(files) if asked is None else asked
    if name not in files:
        raise _no_such_weights(f"'{checkpoint}'", name, list(files))
    notes = list(notes or ())
    if asked is None and name == RAW:
        notes.append("the checkpoint has no averaged weights: the raw ones are used")
    tensors, sha256 = _read(checkpoint / files[name])
    return Weights(name, checkpoint_step(checkpoint), sha256, tensors, tuple(notes))


def _read(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Return the tensors of a file and its sha256, from one read: a running training may replace the file."""
    try:
        content = path.read_bytes()
        return load(content), hashlib.sha256(content).hexdigest()
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"the weights in '{path}' cannot be read: {error}", _RESTORE) from error


def _origin(folder: Path, sha256: str) -> tuple[WeightsName, int] | None:
    """Return the name and step of the weights with this sha256 in the manifests; None if there are none."""
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            files = parse_json((checkpoint / MANIFEST).read_bytes())["files"]
            hashes = {name: files[file]["sha256"] for name, file in weights_files(files).items()}
        except (OSError, ValueError, LookupError, TypeError):
            continue
        for name, known in hashes.items():
            if known == sha256:
                return name, checkpoint_step(checkpoint)
    return None


def _no_such_weights(where: str, asked: str | None, there: list[WeightsName]) -> UserError:
    return UserError(f"--weights {asked}: {where} has no {asked} weights", f"It has: {', '.join(there)}.")
