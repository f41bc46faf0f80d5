"""A model with one set of weights, as a function: all that evaluation and solvers see of it."""

from collections.abc import Callable

import torch
from diffusers import UNet2DModel
from torch.func import functional_call

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(noisy images (B, C, H, W), timesteps (B,) or ()) -> prediction (B, C, H, W)."""


def denoiser(unet: UNet2DModel, weights: dict[str, torch.Tensor], precision: torch.dtype | None = None) -> Denoiser:
    """Return the prediction of `unet` as a function of `weights`, in place of its own weights.

    Args:
        unet: in evaluation mode; its own weights are neither read nor written and may lie on the meta device.
        weights: parameters and buffers by their names in `unet`.
        precision: the dtype of autocast; the prediction is float32 in any case.
    """

    @torch.no_grad()
    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        with torch.autocast(noisy.device.type, precision, enabled=precision is not None):
            return functional_call(unet, weights, (noisy, timesteps)).sample.float()

    return predict
