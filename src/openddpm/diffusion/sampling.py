"""From noise to images, with diffusers' solvers."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from torch.func import functional_call

Solver = Literal["ddim", "ddpm", "dpmsolver++", "unipc"]

_SOLVERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpmsolver++": DPMSolverMultistepScheduler,  # its default algorithm_type
    "unipc": UniPCMultistepScheduler,
}

# ddim and ddpm clip their estimate of x_0 to [-1, 1] by `clip_sample`; the others by dynamic thresholding (Saharia et
# al., 2022) with 1 as its largest value: `_clip` is the same without a sort of all pixels at each step. Unclipped, some
# samples of pixel models blow up. Their steps are those of Karras et al. (2022, equation 5), most of them where noise
# is little: measured, docs/lab-log.md.
_FEW_STEPS = {"thresholding": True, "use_karras_sigmas": True}
_OPTIONS: dict[str, dict[str, bool]] = {"dpmsolver++": _FEW_STEPS, "unipc": _FEW_STEPS}

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(noisy images (B, C, H, W), timesteps (B,) or ()) -> prediction (B, C, H, W)."""


def denoiser(unet: UNet2DModel, weights: dict[str, torch.Tensor], precision: torch.dtype | None = None) -> Denoiser:
    """Return the prediction of `unet` as a function of `weights`, in place of whatever weights it holds.

    Args:
        unet: in evaluation mode; its own weights are neither read nor written and may lie on the meta device.
        weights: parameters and buffers by their names in `unet`.
        precision: to compute in, by autocast; the prediction is float32 all the same.
    """

    @torch.no_grad()
    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        with torch.autocast(noisy.device.type, precision, enabled=precision is not None):
            return functional_call(unet, weights, (noisy, timesteps)).sample.float()

    return predict


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
        generators: one an image, for the noise that ddpm adds at each step.

    Returns:
        images, (B, C, H, W) float32, about [-1, 1], not clamped.
    """
    scheduler = _SOLVERS[solver].from_config(scheduler_config, **_OPTIONS.get(solver, {}))
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    if solver in _OPTIONS:
        scheduler.set_begin_index(0)  # else they look up where they are by the timestep, which may come twice
        scheduler._threshold_sample = _clip
    options = {"generator": generators} if solver == "ddpm" else {}
    images = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        prediction = denoise(scheduler.scale_model_input(images, timestep), timestep)
        images = scheduler.step(prediction, timestep, images, **options).prev_sample
    return images


def _clip(images: torch.Tensor) -> torch.Tensor:
    return images.clamp(-1.0, 1.0)
