"""Runs of seconds with a UNet that has what the default one has, for tests on a GPU; a smaller one without a GPU."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from openddpm.config import TrainConfig
from openddpm.training.loop import fit
from openddpm.training.setup import prepare
from tiny import exact_metrics, tiny_config

ON_GPU = torch.cuda.is_available()


def gpu_config(folder: Path, name: str, **options: Any) -> TrainConfig:
    """Return a config for 12 steps at 64x64 on a GPU; at 16x16 without one."""
    model, size, batch = ("unet-64", 64, 16) if ON_GPU else ("unet-16", 16, 4)
    return tiny_config(folder, name, model=model, resolution=size, train_batch_size=batch, **options)


def gpu_run(config: TrainConfig) -> Path:
    """Train on 96 coarse pictures, and return the run folder."""
    size = config.resolution
    coarse = np.random.default_rng(7).integers(0, 256, (96, 4, 4, 3), dtype=np.uint8)
    pictures = list(coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2))
    fit(prepare(config, dataset=pictures))
    return Path(config.output_dir)


def losses(folder: Path) -> list[float]:
    """Return the training loss of each step."""
    return [row["train_loss"] for row in exact_metrics(folder)]


def worst_difference(one: Path, other: Path) -> float:
    """Return the greatest relative difference between the losses of two runs, step by step."""
    return max(abs(a - b) / abs(a) for a, b in zip(losses(one), losses(other), strict=True))
