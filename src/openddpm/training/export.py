"""The run folder as a diffusers pipeline: `DDIMPipeline.from_pretrained(RUN)` finds the newest averaged weights."""

import os
import shutil
from pathlib import Path

from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS_FILE

from openddpm.record.files import TEMPORARY, replace_path, write_atomically


def export_pipeline(run_folder: Path, checkpoint: Path, unet: UNet2DModel, scheduler: DDIMScheduler) -> None:
    """Write model_index.json, unet/ and scheduler/ with the EMA weights of `checkpoint` (raw ones without EMA).

    The weights are a hard link to the checkpoint's file where the file system has them: no time, no space.
    """
    source = checkpoint / "ema.safetensors"
    if not source.exists():
        source = checkpoint / "unet.safetensors"
    (run_folder / "unet").mkdir(exist_ok=True)
    temporary = run_folder / "unet" / f".{WEIGHTS_FILE}{TEMPORARY}"
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    replace_path(temporary, run_folder / "unet" / WEIGHTS_FILE)
    temporary.unlink(missing_ok=True)  # a rename between two links to one file does nothing
    pipeline = DDIMPipeline(unet=unet, scheduler=scheduler)
    write_atomically(run_folder / "unet" / "config.json", unet.to_json_string())
    write_atomically(run_folder / "scheduler" / "scheduler_config.json", scheduler.to_json_string())
    write_atomically(run_folder / "model_index.json", pipeline.to_json_string())
