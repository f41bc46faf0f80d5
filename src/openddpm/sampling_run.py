"""Images from a run folder's exported weights."""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMPipeline
from rich.progress import track

from openddpm.data.stream import signed_unit_to_uint8
from openddpm.diffusion.sampling import Solver, denoiser, sample
from openddpm.errors import UserError
from openddpm.pictures import image_grid, to_picture
from openddpm.record.reader import read_run_record
from openddpm.seeding import standard_normal, torch_generator


def sample_run(
    folder: Path, output_dir: Path, num_images: int, solver: Solver, num_inference_steps: int, seed: int, batch_size: int
) -> Path:
    """Write `num_images` PNGs, 00000.png on, and grid.png; returns the path of the grid.

    Raises:
        UserError: no run, no exported weights yet, a number out of range, or a folder that cannot be written.
    """
    read_run_record(folder)
    if not (folder / "model_index.json").exists():
        raise UserError(f"'{folder}' has no weights yet", "They come with the first checkpoint; train on.")
    if min(num_images, num_inference_steps, batch_size) < 1:
        raise UserError("num_images, num_inference_steps and batch_size have to be 1 or more", "Mend the command.")
    pipeline = DDIMPipeline.from_pretrained(folder)
    unet, config = pipeline.unet.eval(), pipeline.scheduler.config
    if num_inference_steps > config["num_train_timesteps"]:
        raise UserError(
            f"--num_inference_steps {num_inference_steps} is more than the run's {config['num_train_timesteps']} "
            "timesteps",
            f"Take at most {config['num_train_timesteps']}.",
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    denoise = denoiser(unet.to(device), dict(unet.named_parameters()))
    shape = (unet.config["in_channels"], unet.config["sample_size"], unet.config["sample_size"])
    images = []
    for start in track(range(0, num_images, batch_size), description="sampling", transient=True):
        numbers = range(start, min(start + batch_size, num_images))
        noise = torch.stack([standard_normal(shape, device, seed, "sample", number) for number in numbers])
        generators = [torch_generator(device, seed, "sample steps", number) for number in numbers]
        batch = sample(denoise, noise, config, num_inference_steps, solver, generators)
        images.append(signed_unit_to_uint8(batch).cpu().numpy())
    return _write(np.concatenate(images), output_dir)


def _write(images: np.ndarray, output_dir: Path) -> Path:
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            to_picture(image).save(output_dir / f"{number:05d}.png")
        image_grid(images).save(output_dir / "grid.png")
    except OSError as error:
        raise UserError(f"cannot write to '{output_dir}': {error.strerror}", "Choose --output_dir.") from error
    return output_dir / "grid.png"
