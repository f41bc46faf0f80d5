"""Checkpoints, complete or absent: safetensors and JSON, a manifest written last, published by a rename."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file

from openddpm.errors import UserError
from openddpm.record.files import (
    file_sha256,
    fsync_folder,
    json_text,
    remove_folder,
    replace_path,
    sync_file,
    write_atomically,
)
from openddpm.record.kept import STEP_NAME, kept_steps, step_name
from openddpm.record.schema import AVERAGE_NAME, RAW, CheckpointRow, Weights, exported_weights, weights_in_order
from openddpm.training.intended import Intended
from openddpm.training.state import Tensors, weights_stem

MANIFEST = "manifest.json"
STATE = "state.json"
_NEEDED = {"unet.safetensors", "optimizer.safetensors", STATE}
_NAME = re.compile(STEP_NAME)
_WEIGHTS_FILE = re.compile(rf"(unet|{AVERAGE_NAME})\.safetensors")
_PARTIAL = ".partial-"
_METADATA = {"format": "pt"}  # as diffusers and transformers expect


class InvalidCheckpoint(Exception):
    """The folder is not a complete checkpoint of this run; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as loaded."""

    folder: Path
    tensors: Tensors
    scalars: dict[str, Any]
    skipped: list[str]
    """Newer checkpoints that are not valid, each with the reason."""


def checkpoints_folder(run_folder: Path) -> Path:
    """Return where a run keeps its checkpoints."""
    return run_folder / "checkpoints"


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Return the published checkpoints of a run, oldest first, valid or not."""
    folders = [path for path in checkpoints_folder(run_folder).glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(folders, key=checkpoint_step)


def weights_files(files: Iterable[str]) -> dict[Weights, str]:
    """Return the weights files of a checkpoint by the name of the weights, averages first."""
    stems = [match[1] for file in files if (match := _WEIGHTS_FILE.fullmatch(file))]
    names = weights_in_order(RAW if stem == weights_stem(RAW) else stem for stem in stems)
    return {name: f"{weights_stem(name)}.safetensors" for name in names}


def exported_file(checkpoint: Path) -> Path:
    """Return the weights file of a checkpoint that is exported."""
    files = weights_files(path.name for path in checkpoint.iterdir())
    return checkpoint / files[exported_weights(files)]


def checkpoint_step(folder: Path) -> int:
    """Return the step that a checkpoint's name states."""
    return int(folder.name.removeprefix("step-"))


def remove_checkpoints(run_folder: Path) -> None:
    """Remove a run's checkpoints, published and partial, and nothing else beside them."""
    for folder in (*list_checkpoints(run_folder), *checkpoints_folder(run_folder).glob(f"{_PARTIAL}*")):
        remove_folder(folder)


def write_checkpoint(run_folder: Path, run_id: str, tensors: Tensors, scalars: dict[str, Any]) -> Path:
    """Publish a checkpoint.

    Partial folder -> files, each synced -> manifest with sizes and sha256 -> rename -> sync of the parent -> read back
    and compared with memory. If the process is killed at any point, there is no checkpoint of this step or a complete
    one. The sha256 are those of `tensors` in memory, so that they do not cover up damage by writing.

    Raises:
        OSError, SafetensorError: it could not be written; nothing of it remains.
        InvalidCheckpoint: what was read back differs; it was removed again.
    """
    parent = checkpoints_folder(run_folder)
    name = step_name(scalars["step"])
    final, partial = parent / name, parent / f"{_PARTIAL}{name}"
    for leftover in parent.glob(f"{_PARTIAL}*"):
        remove_folder(leftover)
    intended = None
    if not final.exists():  # it exists if only a step after publishing failed before
        try:
            intended = _write_files(partial, tensors, {**scalars, "run_id": run_id})
            replace_path(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    fsync_folder(parent)
    try:
        _check_published(final, run_id, intended)
    except InvalidCheckpoint:
        remove_folder(final)
        raise
    return final


def prune_checkpoints(run_folder: Path, keep: int, keep_every: int | None = None) -> str | None:
    """Remove all checkpoints but the newest `keep`, and those that --keep_every keeps in addition.

    Returns:
        why one could not be removed, or None.
    """
    reason, folders = None, {checkpoint_step(folder): folder for folder in list_checkpoints(run_folder)}
    kept = kept_steps(folders, keep_every)
    for old in [folder for step, folder in folders.items() if step not in kept][:-keep]:
        try:
            remove_folder(old)
        except OSError as error:
            reason = str(error)
    return reason


def _write_files(partial: Path, tensors: Tensors, state: dict[str, Any]) -> dict[str, Intended]:
    """Write the files of a checkpoint into the new folder `partial`, and sync them.

    Returns:
        the intended content of each file.
    """
    partial.mkdir(parents=True)
    intended: dict[str, Intended] = {}
    for stem, content in tensors.items():
        path = partial / f"{stem}.safetensors"
        on_cpu = {key: value.detach().cpu().contiguous() for key, value in content.items()}
        save_file(on_cpu, path, metadata=_METADATA)
        sync_file(path)
        intended[path.name] = Intended.of_tensors(path, on_cpu, _METADATA)
    intended[STATE] = _write_text(partial / STATE, json_text(state))
    files = {name: {"bytes": file.num_bytes, "sha256": file.sha256()} for name, file in sorted(intended.items())}
    intended[MANIFEST] = _write_text(partial / MANIFEST, json_text({"files": files}))
    fsync_folder(partial)
    return intended


def _write_text(path: Path, text: str) -> Intended:
    write_atomically(path, text)
    return Intended.of_text(text)


def _check_published(folder: Path, run_id: str, intended: dict[str, Intended] | None) -> None:
    """Compare a published checkpoint with its intended content, or with its manifest if that is None.

    Raises:
        InvalidCheckpoint: it differs, or cannot be read.
    """
    if intended is None:
        verify_checkpoint(folder, run_id)
        return
    for name, content in intended.items():
        try:
            is_intact = content.is_in(folder / name)
        except OSError as error:
            raise InvalidCheckpoint(f"unreadable: {type(error).__name__}") from error
        if not is_intact:
            raise InvalidCheckpoint(f"{name} on disk differs from what was written")


def verify_checkpoint(folder: Path, run_id: str) -> list[str]:
    """Check every file of a checkpoint against its manifest; return their names.

    Raises:
        InvalidCheckpoint: a file is missing, altered, or belongs to another run.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        if not _NEEDED <= files.keys() <= {*_NEEDED, *weights_files(files).values()}:
            raise InvalidCheckpoint(f"{MANIFEST} lists other files than those of a checkpoint")
        for name, expected in files.items():
            path, size = folder / name, int(expected["bytes"])
            if not path.is_file():
                raise InvalidCheckpoint(f"{name} is missing")
            if path.stat().st_size != size:
                raise InvalidCheckpoint(f"{name} has {path.stat().st_size} bytes, expected {size}")
            if file_sha256(path) != expected["sha256"]:
                raise InvalidCheckpoint(f"{name} has another sha256 than in {MANIFEST}")
        if json.loads((folder / STATE).read_text("utf-8"))["run_id"] != run_id:
            raise InvalidCheckpoint("it belongs to another run")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InvalidCheckpoint(f"unreadable: {type(error).__name__}") from error
    return sorted(files)


def tensors_sha256(content: dict[str, torch.Tensor]) -> str:
    """Return the sha256 of the file that a checkpoint has for these tensors, which are contiguous and on the CPU."""
    return hashlib.sha256(save(content, metadata=_METADATA)).hexdigest()


def checkpoint_row(checkpoint: Path) -> CheckpointRow:
    """Return the line of checkpoints.jsonl for a published checkpoint, with the sha256 of its manifest."""
    files = json.loads((checkpoint / MANIFEST).read_text("utf-8"))["files"]
    state = json.loads((checkpoint / STATE).read_text("utf-8"))
    sha256 = {name: file["sha256"] for name, file in files.items()}
    by_name = weights_files(files)
    return CheckpointRow(
        step=state["step"],
        images_seen=state["images_seen"],
        sha256=sha256,
        exported_sha256=sha256[by_name[exported_weights(by_name)]],
    )


def is_valid(folder: Path, run_id: str) -> bool:
    """Tell whether a checkpoint is complete and matches its manifest."""
    try:
        verify_checkpoint(folder, run_id)
    except InvalidCheckpoint:
        return False
    return True


def load_checkpoint(run_folder: Path, run_id: str, asked: str) -> Checkpoint | None:
    """Read the checkpoint that --resume_from_checkpoint asks for.

    Args:
        asked: "latest" for the newest valid one, or the folder of a checkpoint of this run.

    Returns:
        the checkpoint; None for "latest" if the run has published none.

    Raises:
        UserError: the folder is not a valid checkpoint of this run, or the run has none that is valid.
    """
    candidates = list_checkpoints(run_folder)[::-1]
    if asked != "latest":
        wanted = {(base / asked).resolve() for base in (Path(), run_folder, checkpoints_folder(run_folder))}
        candidates = [folder for folder in candidates if folder.resolve() in wanted]
        if not candidates:
            raise UserError(
                f"'{asked}' is not a checkpoint of the run in '{run_folder}'",
                "It has: " + (", ".join(folder.name for folder in list_checkpoints(run_folder)) or "none"),
            )
    skipped: list[str] = []
    for folder in candidates:
        try:
            names = verify_checkpoint(folder, run_id)
            weights = [folder / name for name in names if name != STATE]
            tensors = {path.stem: load_file(path) for path in weights}
            return Checkpoint(folder, tensors, json.loads((folder / STATE).read_text("utf-8")), skipped)
        except (InvalidCheckpoint, SafetensorError) as error:
            skipped.append(f"{folder.name}: {error}")
    if skipped:
        raise UserError(
            f"no valid checkpoint in '{checkpoints_folder(run_folder)}':\n" + "\n".join(skipped),
            "Restore one from a backup, or train again with --overwrite_output_dir.",
        )
    return None
