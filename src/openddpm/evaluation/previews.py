"""Previews: samples from the same fixed noise at intervals, so that their progress can be compared."""

import io
from pathlib import Path

import numpy as np
import torch

from openddpm.config import TrainConfig
from openddpm.data.stream import signed_unit_to_uint8
from openddpm.diffusion.denoiser import Denoiser
from openddpm.diffusion.process import DiffusionProcess
from openddpm.diffusion.sampling import sample
from openddpm.pictures import image_grid
from openddpm.record.files import write_atomically
from openddpm.seeding import Purpose, standard_normal


def draw_preview(
    denoise: Denoiser,
    process: DiffusionProcess,
    config: TrainConfig,
    image_shape: tuple[int, int, int],
    device: torch.device,
) -> np.ndarray:
    """Return eval_batch_size samples, (N, C, H, W) uint8, from noise that depends only on the evaluation seed."""
    shape = (config.eval_batch_size, *image_shape)
    noise = standard_normal(shape, device, config.evaluation_seed, Purpose.PREVIEW)
    images = sample(denoise, noise, process.scheduler.config, config.num_inference_steps, config.preview_solver)
    return signed_unit_to_uint8(images).cpu().numpy()


def write_preview(path: Path, images: np.ndarray) -> None:
    """Write a grid of images, (N, C, H, W) uint8, as a PNG."""
    picture = io.BytesIO()
    image_grid(images).save(picture, "PNG")
    write_atomically(path, picture.getvalue())
