"""The run folder: its content at the start of a session, and the export as a diffusers pipeline."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS_FILE
from PIL import Image

from openddpm.config import TrainConfig
from openddpm.data.store import ImageStore
from openddpm.data.stream import Split
from openddpm.errors import UserError
from openddpm.pictures import image_grid
from openddpm.record.files import link_or_copy, remove_folder, remove_leftovers, write_atomically
from openddpm.record.kept import list_milestones
from openddpm.record.schema import BaselinesRecord, RunRecord
from openddpm.record.writer import (
    MANIFEST_FILE,
    RUN_FILE,
    RUN_FILES,
    TRAINING_DATA_PICTURE,
    RunWriter,
    list_preview_files,
)
from openddpm.training.checkpoint import checkpoint_step, exported_file, list_checkpoints, remove_checkpoints
from openddpm.training.earlier_run import Earlier
from openddpm.training.state import TrainingState

_PIPELINE_FILES = {"unet": ("config.json", WEIGHTS_FILE), "scheduler": ("scheduler_config.json",)}


def remove_earlier_run(folder: Path) -> None:
    """Remove the files of a run in `folder`, and no others; without a run there, none."""
    if not (folder / RUN_FILE).exists():
        return
    remove_checkpoints(folder)
    previews, milestones = list_preview_files(folder), list_milestones(folder)
    for path in (*(path for _, _, path in previews), folder / TRAINING_DATA_PICTURE, *milestones.values()):
        path.unlink(missing_ok=True)
    for path in (folder / name for name in reversed(RUN_FILES)):  # run.json last, since it marks the others as a run's
        for inner in _PIPELINE_FILES.get(path.name, ()):
            (path / inner).unlink(missing_ok=True)
        if path.is_dir():
            with suppress(OSError):  # it has other files, too
                path.rmdir()
        else:
            path.unlink(missing_ok=True)


def remove_later_checkpoints(folder: Path, step: int) -> None:
    """Remove checkpoints after `step`, so that `latest` belongs to the history that is continued."""
    for checkpoint in list_checkpoints(folder):
        if checkpoint_step(checkpoint) > step:
            remove_folder(checkpoint)


def check_output_folder(config: TrainConfig) -> None:
    """Refuse to write a run into the folder of its images.

    Raises:
        UserError: the data set and the run folder are the same.
    """
    if config.dataset and Path(config.dataset).resolve() == Path(config.output_dir).resolve():
        hint = "Give the run a folder of its own with --output_dir."
        raise UserError(f"--dataset and --output_dir are the same folder, '{config.dataset}'", hint)


def begin_folder(
    folder: Path,
    earlier: Earlier | None,
    run: RunRecord,
    state: TrainingState,
    store: ImageStore,
    split: Split,
    baselines: BaselinesRecord,
    is_over: bool,
) -> RunWriter:
    """Prepare `folder` for a run in `state`: remove an earlier run, or the later steps of the one that is resumed.

    The record of a run that is over is left as it is, but for torn lines.

    Args:
        is_over: whether `earlier` is finished, with no step left to do.

    Returns:
        the only writer of the folder.
    """
    if is_over:
        writer = RunWriter(folder)
        writer.forget_after(state.step)
        return writer
    (folder / MANIFEST_FILE).unlink(missing_ok=True)  # first: it would be false of what follows
    if earlier is None:
        remove_earlier_run(folder)
    else:
        remove_later_checkpoints(folder, state.step)
    writer = RunWriter(folder)
    if earlier is None:
        writer.write(run)  # first: it marks the folder as a run's
    remove_leftovers(folder)
    writer.forget_after(state.step, state.evaluation_due)
    writer.write(store.data)
    writer.write(baselines)
    training_data_picture(store, split).save(folder / TRAINING_DATA_PICTURE)
    return writer


def training_data_picture(store: ImageStore, split: Split) -> Image.Image:
    """Return a grid of some training images."""
    chosen = split.train[np.linspace(0, len(split.train) - 1, min(16, len(split.train))).astype(int)]
    return image_grid(np.asarray(store.images[chosen]))


def export_pipeline(run_folder: Path, checkpoint: Path, unet: UNet2DModel, scheduler: DDIMScheduler) -> None:
    """Write model_index.json, unet/ and scheduler/ with the exported set of weights of `checkpoint`."""
    (run_folder / "unet").mkdir(exist_ok=True)
    link_or_copy(exported_file(checkpoint), run_folder / "unet" / WEIGHTS_FILE)
    pipeline = DDIMPipeline(unet=unet, scheduler=scheduler)
    write_atomically(run_folder / "unet" / "config.json", unet.to_json_string())
    write_atomically(run_folder / "scheduler" / "scheduler_config.json", scheduler.to_json_string())
    write_atomically(run_folder / "model_index.json", pipeline.to_json_string())
