"""Images from a run folder's exported weights."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from rich.console import Console
from rich.progress import track

from openddpm.data.stream import signed_unit_to_uint8
from openddpm.diffusion.sampling import Denoiser, Solver, denoiser, sample
from openddpm.errors import UserError
from openddpm.pictures import image_grid, to_picture
from openddpm.record.reader import read_run_record
from openddpm.seeding import standard_normal, torch_generator
from openddpm.training.speed import gpu_has_bf16


def sample_run(
    folder: Path,
    output_dir: Path,
    num_images: int,
    solver: Solver,
    num_inference_steps: int,
    seed: int,
    batch_size: int,
) -> Path:
    """Write `num_images` PNGs, 00000.png on, and grid.png; returns the path of the grid.

    Raises:
        UserError: no run, no exported weights yet, a number out of range, or a folder that cannot be written.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    denoise, config, shape = open_run(folder, device)
    _check_numbers(num_images, num_inference_steps, seed, batch_size, config["num_train_timesteps"])
    _check_writable(output_dir)
    images = []
    starts = range(0, num_images, batch_size)
    for start in track(starts, description="sampling", transient=True, console=Console(stderr=True)):
        numbers = range(start, min(start + batch_size, num_images))
        noise = starting_noise(shape, device, seed, numbers)
        generators = [torch_generator(device, seed, "sample steps", number) for number in numbers]
        batch = sample(denoise, noise, config, num_inference_steps, solver, generators)
        images.append(signed_unit_to_uint8(batch).cpu().numpy())
    return _write(np.concatenate(images), output_dir)


def open_run(folder: Path, device: torch.device) -> tuple[Denoiser, Any, tuple[int, ...]]:
    """Return what samples are made with: the denoiser, the config of its scheduler, an image's shape (C, H, W).

    Raises:
        UserError: no run, or no weights that can be read.
    """
    read_run_record(folder)
    if not (folder / "model_index.json").exists():
        raise UserError(f"'{folder}' has no weights yet", "They come with the first checkpoint; train on.")
    try:
        unet = UNet2DModel.from_pretrained(folder / "unet").eval()
        config = DDIMScheduler.from_pretrained(folder / "scheduler").config
    except (OSError, ValueError) as error:
        todo = "Restore them from a checkpoint: openddpm resume goes on from the newest whole one."
        raise UserError(f"the weights in '{folder}' cannot be read: {error}", todo) from error
    weights = {**dict(unet.to(device).named_parameters()), **dict(unet.named_buffers())}
    denoise = denoiser(unet, weights, torch.bfloat16 if device.type == "cuda" and gpu_has_bf16() else None)
    return denoise, config, (unet.config["in_channels"], unet.config["sample_size"], unet.config["sample_size"])


def starting_noise(shape: tuple[int, ...], device: torch.device, seed: int, numbers: Iterable[int]) -> torch.Tensor:
    """Return the noises of samples by their numbers, (B, C, H, W) float32."""
    return torch.stack([standard_normal(shape, device, seed, "sample", number) for number in numbers])


def _check_numbers(num_images: int, num_inference_steps: int, seed: int, batch_size: int, num_timesteps: int) -> None:
    """Refuse what no solver can do."""
    at_least = {"num_images": (num_images, 1), "num_inference_steps": (num_inference_steps, 1)}
    at_least |= {"batch_size": (batch_size, 1), "seed": (seed, 0)}
    wrong = [f"--{name} {value} is less than {least}" for name, (value, least) in at_least.items() if value < least]
    if num_inference_steps > num_timesteps:
        wrong.append(f"--num_inference_steps {num_inference_steps} is more than the run's {num_timesteps} timesteps")
    if wrong:
        raise UserError("\n".join(wrong), "See `openddpm sample --help`.")


def _check_writable(output_dir: Path) -> None:
    """Find before hours of sampling that the images can be written."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        todo = "Choose a folder that you may write to: --output_dir FOLDER."
        raise UserError(f"cannot write to '{output_dir}': {error.strerror}", todo) from error


def _write(images: np.ndarray, output_dir: Path) -> Path:
    try:
        for number, image in enumerate(images):
            to_picture(image).save(output_dir / f"{number:05d}.png")
        image_grid(images).save(output_dir / "grid.png")
    except OSError as error:
        todo = "Make room, or choose --output_dir."
        raise UserError(f"cannot write to '{output_dir}': {error.strerror}", todo) from error
    return output_dir / "grid.png"
