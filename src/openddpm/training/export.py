"""The run folder as a diffusers pipeline: `DDIMPipeline.from_pretrained(RUN)` finds the newest averaged weights."""

import os
import shutil
from pathlib import Path

from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


def export_pipeline(run_folder: Path, checkpoint: Path, unet: UNet2DModel, scheduler: DDIMScheduler) -> None:
    """Write model_index.json, unet/ and scheduler/ with the EMA weights of `checkpoint` (raw ones without EMA).

    The weights are a hard link to the checkpoint's file where the file system has them: no time, no space.
    """
    unet.save_config(run_folder / "unet")
    scheduler.save_config(run_folder / "scheduler")
    DDIMPipeline(unet=unet, scheduler=scheduler).save_config(run_folder)
    source = checkpoint / "ema.safetensors"
    if not source.exists():
        source = checkpoint / "unet.safetensors"
    temporary = run_folder / "unet" / f".{WEIGHTS_FILE}.tmp"
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, run_folder / "unet" / WEIGHTS_FILE)
