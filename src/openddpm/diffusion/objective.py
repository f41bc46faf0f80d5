"""The objective of training: a batch of images in, the loss of each image out.

All draws are functions of (seed, step, number of the micro-batch in the step), so the same images meet the same noise
and timesteps however they are spread over processes and accumulation steps. To train with another law of timesteps or
another weighting, change or override `timesteps` or `weights`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from openddpm.config import TimestepSampling
from openddpm.diffusion.process import DiffusionProcess
from openddpm.seeding import Purpose, seed_global_generators, standard_normal, uniform

IMPORTANCE_POWER = 2.0  # measured: docs/lab-log.md


@dataclass(frozen=True)
class Objective:
    """The weighted squared error of the model's prediction, for images with noise that is drawn here."""

    process: DiffusionProcess
    sampling: TimestepSampling
    seed: int
    device: torch.device

    def losses(self, model: Callable[..., Any], images: torch.Tensor, step: int, micro_index: int) -> torch.Tensor:
        """Return the loss of each image, (B,) float32, with the gradient of `model`.

        Args:
            model: a UNet2DModel as it is trained; called with noisy images and timesteps, it returns its `sample`.
            images: (B, C, H, W) float32 in [-1, 1].
            step, micro_index: key the draws; `micro_index` counts the micro-batches of a step over all accumulation
                steps and processes.
        """
        noise = standard_normal(tuple(images.shape), self.device, self.seed, Purpose.NOISE, step, micro_index)
        timesteps = self.timesteps(len(images), step, micro_index)
        seed_global_generators(self.seed, Purpose.DROPOUT, step, micro_index)
        prediction = model(self.process.add_noise(images, noise, timesteps), timesteps).sample
        target = self.process.target(images, noise, timesteps)
        errors = F.mse_loss(prediction.float(), target, reduction="none").mean(dim=(1, 2, 3))
        return self.weights(timesteps) * errors

    def timesteps(self, count: int, step: int, micro_index: int) -> torch.Tensor:
        """Return the timesteps of a micro-batch of `count` images, (B,) int64, whichever process trains on it."""
        draws = uniform((count,), self.device, self.seed, Purpose.TIMESTEPS, step, micro_index)
        return sample_timesteps(draws, self.process.num_timesteps, self.sampling)

    def weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return what an error counts at its timestep, (B,) float32: so much that all timesteps count the same."""
        if self.sampling == "importance":
            return _importance_weights(self.process.num_timesteps, timesteps.device)[timesteps]
        return torch.ones(len(timesteps), device=timesteps.device)


def sample_timesteps(draws: torch.Tensor, num_timesteps: int, sampling: TimestepSampling) -> torch.Tensor:
    """Turn uniform draws, (B,) float32 in [0, 1), into timesteps, (B,) int64 in 0 .. num_timesteps - 1.

    stratified gives each of B equal parts of the draws to one image. Which image gets which part need not be random,
    since the images come in random order. importance does so too, and makes timestep t as likely as the interval from
    t / T to (t + 1) / T is long once both are raised to 1 / IMPORTANCE_POWER: the smaller t, the likelier. Sampling
    where the loss is large, weighted back, is what Nichol and Dhariwal (2021, section 3.3) learn as they train.
    """
    if sampling != "uniform":
        draws = (torch.arange(len(draws), device=draws.device) + draws) / len(draws)
    if sampling == "importance":
        draws = draws**IMPORTANCE_POWER
    return (draws * num_timesteps).long().clamp(max=num_timesteps - 1)


@lru_cache(maxsize=8)
def _importance_weights(num_timesteps: int, device: torch.device) -> torch.Tensor:
    """Return the weight of each timestep, (T,) float32; made in float64, on the CPU: not every device knows that."""
    edges = torch.arange(num_timesteps + 1, dtype=torch.float64, device="cpu") / num_timesteps
    likelihoods = (edges ** (1 / IMPORTANCE_POWER)).diff()
    return (1 / (num_timesteps * likelihoods)).float().to(device)
