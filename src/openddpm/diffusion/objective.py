"""The objective of training: a batch of images in, the loss of each image out.

All draws are functions of (seed, step, number of the micro-batch in the step), so the same images meet the same noise
and timesteps however they are spread over processes and accumulation steps. To train with another distribution of
timesteps or another weighting, change or override `timesteps` or `weights`.
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
    """The weighted squared error of the model's prediction on noised images."""

    process: DiffusionProcess
    sampling: TimestepSampling
    seed: int
    device: torch.device

    def losses(self, model: Callable[..., Any], images: torch.Tensor, step: int, micro_index: int) -> torch.Tensor:
        """Return the loss of each image, (B,) float32, with the gradient of `model`.

        Args:
            model: the UNet2DModel in training; called with noisy images and timesteps, it returns its `sample`.
            images: (B, C, H, W) float32 in [-1, 1].
            step, micro_index: keys of the draws; `micro_index` counts the micro-batches of a step over all accumulation
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
        """Return the loss weights of timesteps, (B,) float32, with which the mean loss is that of uniform timesteps."""
        if self.sampling == "importance":
            return _importance_weights(self.process.num_timesteps, timesteps.device)[timesteps]
        return torch.ones(len(timesteps), device=timesteps.device)


def sample_timesteps(draws: torch.Tensor, num_timesteps: int, sampling: TimestepSampling) -> torch.Tensor:
    """Turn uniform draws, (B,) float32 in [0, 1), into timesteps, (B,) int64 in 0 .. num_timesteps - 1.

    "stratified" gives each image one of B equal intervals of [0, 1); which one need not be random, since the images
    come in random order. "importance" does so too, and draws t with probability ((t + 1) / T)^p - (t / T)^p with
    p = 1 / IMPORTANCE_POWER: the smaller t, the likelier. Nichol and Dhariwal (2021, section 3.3) also sample more
    where the loss is large and weight it down, with probabilities that they estimate in training.
    """
    if sampling != "uniform":
        draws = (torch.arange(len(draws), device=draws.device) + draws) / len(draws)
    if sampling == "importance":
        draws = draws**IMPORTANCE_POWER
    return (draws * num_timesteps).long().clamp(max=num_timesteps - 1)


@lru_cache(maxsize=8)
def _importance_weights(num_timesteps: int, device: torch.device) -> torch.Tensor:
    """Return the weight of each timestep, (T,) float32; computed on the CPU, since not every device has float64."""
    edges = torch.arange(num_timesteps + 1, dtype=torch.float64, device="cpu") / num_timesteps
    likelihoods = (edges ** (1 / IMPORTANCE_POWER)).diff()
    return (1 / (num_timesteps * likelihoods)).float().to(device)
