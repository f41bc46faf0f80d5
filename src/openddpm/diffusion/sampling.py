"""Sampling: from noise to images, with diffusers' solvers."""

from typing import Any

import diffusers
import numpy as np
import torch

from openddpm.diffusion.denoiser import Denoiser
from openddpm.solvers import SOLVERS, Solver

# ddim and ddpm clip their estimate of x_0 to [-1, 1] by `clip_sample`; the others by dynamic thresholding (Saharia et
# al., 2022) with maximum 1, for which `_clip` gives the same without sorting all pixels at each step. Without
# clipping, some samples of pixel models diverge.
_CLIPPING = {"thresholding": True}

KARRAS_POWER = 7  # cited: Karras et al. (2022, table 1)
# s_t / a_t. The cosine schedule has most of its last timesteps above; measured: steps there are wasted.
LARGEST_NOISE = 160.0  # the linear schedule ends at 157


def sample(
    denoise: Denoiser,
    noise: torch.Tensor,
    scheduler_config: Any,
    num_inference_steps: int,
    solver: Solver = "ddim",
    generators: list[torch.Generator] | None = None,
) -> torch.Tensor:
    """Denoise `noise` step by step.

    Args:
        noise: x_T, (B, C, H, W) float32.
        scheduler_config: config of the training scheduler.
        generators: one per image, for the noise that ddpm adds at each step.

    Returns:
        images, (B, C, H, W) float32, roughly in [-1, 1], not clamped.
    """
    signal2 = diffusers.DDIMScheduler.from_config(scheduler_config).alphas_cumprod
    timesteps = inference_timesteps(signal2, num_inference_steps, solver)
    scheduler = _spaced_scheduler(solver, scheduler_config, signal2[timesteps[::-1].copy()])
    if solver == "unipc":  # it copies entries of this table to the device at each step, and waits for that
        scheduler.sigmas = scheduler.sigmas.to(noise.device)
    options = {"generator": generators} if SOLVERS[solver].adds_noise else {}
    images = noise
    for step, timestep in zip(scheduler.timesteps, torch.from_numpy(timesteps).to(noise.device), strict=True):
        images = scheduler.step(denoise(images, timestep), step, images, **options).prev_sample
    return images


def inference_timesteps(signal2: torch.Tensor, num_inference_steps: int, solver: Solver) -> np.ndarray:
    """Return the timesteps that a solver visits: first T - 1, where there is only noise, last 0; all different.

    ddim and ddpm space them evenly. The others take those nearest to the noise levels of Karras et al. (2022, equation
    5), most of them at low noise: measured, docs/lab-log.md.

    Args:
        signal2: a_t^2 of all timesteps, (T,).
        num_inference_steps: 1 .. T; 1 gives T - 1 alone.

    Returns:
        (num_inference_steps,) int64, decreasing.
    """
    last = len(signal2) - 1
    if not SOLVERS[solver].takes_few_steps:
        return np.linspace(last, 0, num_inference_steps).round().astype(np.int64)
    levels = ((1 - signal2.double()) / signal2.double()).sqrt().numpy()  # s_t / a_t, increasing
    most, least = (level ** (1 / KARRAS_POWER) for level in (min(levels[-1], LARGEST_NOISE), levels[0]))
    wanted = np.linspace(most, least, num_inference_steps) ** KARRAS_POWER
    nearest = np.interp(np.log(wanted), np.log(levels), np.arange(last + 1)).round().astype(np.int64)
    nearest[0] = last
    places = np.arange(num_inference_steps)
    falling = np.minimum.accumulate(nearest + places) - places
    return np.maximum(falling, places[::-1])  # leaves distinct timesteps for the steps that follow


def _spaced_scheduler(solver: Solver, scheduler_config: Any, signal2: torch.Tensor) -> Any:
    """Return a scheduler that has only the timesteps it visits, and so steps from each to the next.

    The code of Nichol and Dhariwal (2021, section 4.2) does the same. diffusers' schedulers have spacing rules of their
    own: most begin below the last timestep, DDIM assumes equal spacing, and with use_karras_sigmas the noise in the
    images differs from that of the timestep given to the model.

    Args:
        signal2: a_t^2 at these timesteps, from low noise to high, (N,).
    """
    traits, count = SOLVERS[solver], len(signal2)
    options = _CLIPPING if traits.takes_few_steps else {}
    scheduler = getattr(diffusers, traits.scheduler).from_config(
        scheduler_config, num_train_timesteps=count, timestep_spacing="trailing", **options
    )
    scheduler.alphas_cumprod = signal2
    scheduler.set_timesteps(count)
    scheduler._threshold_sample = _clip
    return scheduler


def _clip(images: torch.Tensor) -> torch.Tensor:
    return images.clamp(-1.0, 1.0)
