"""The smallest run that still has every part: attention, dropout, two levels, colour images, held-out ones."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

from openddpm.config import TrainConfig
from openddpm.data.pool import DIGEST_BYTES, pixel_digest
from openddpm.record.files import read_json_lines

TINY_UNET = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "dropout": 0.1,
}


def tiny_images(count: int = 24) -> list[np.ndarray]:
    """Return smooth, different images, each (8, 8, 3) uint8."""
    generator = np.random.default_rng(7)
    coarse = generator.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    return list(coarse.repeat(4, axis=1).repeat(4, axis=2))


def digests_of(images: Iterable[np.ndarray]) -> np.ndarray:
    """Return the digests, (N, 16) uint8, that the store keeps of images (C, H, W)."""
    return np.frombuffer(b"".join(map(pixel_digest, images)), np.uint8).reshape(-1, DIGEST_BYTES)


def write_tiny_folder(folder: Path, count: int = 24) -> Path:
    """Write `tiny_images` as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(tiny_images(count)):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return folder


def write_tiny_unet(folder: Path) -> Path:
    """Write the config of the tiny UNet, for --model."""
    path = folder / "unet.json"
    path.write_text(json.dumps(TINY_UNET))
    return path


def tiny_config(folder: Path, name: str = "run", **options: Any) -> TrainConfig:
    """Return a config for seconds of training on the CPU; its files lie under `folder`."""
    values: dict[str, Any] = {
        "output_dir": str(folder / name),
        "logging_dir": str(folder / "logs"),
        "cache_dir": str(folder / "cache"),
        "model": str(write_tiny_unet(folder)),
        "resolution": 8,
        "train_batch_size": 4,
        "max_train_steps": 12,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 3,
        "save_images_epochs": 1000,
        "checkpointing_steps": 1000,
        "num_inference_steps": 2,
        "eval_batch_size": 2,
        "logging_steps": 1,
        "heldout_images": 4,
    }
    return TrainConfig(**{**values, **options})


def exact_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the logged rows without what a clock decides."""
    return _without_times(read_json_lines(run / "metrics.jsonl"))


def exact_evaluations(run: Path) -> list[dict[str, Any]]:
    """Return the evaluated rows without what a clock decides."""
    return _without_times(read_json_lines(run / "evaluations.jsonl"))


def exact_samples(run: Path) -> list[dict[str, Any]]:
    """Return what was measured of samples, without what a clock decides."""
    return _without_times(read_json_lines(run / "samples.jsonl"))


def _without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if not key.endswith(("seconds", "_per_second"))} for row in rows]


def newest_tensors(run: Path) -> dict[str, np.ndarray]:
    """Return every tensor of the newest checkpoint, by file and name."""
    folder = sorted((run / "checkpoints").glob("step-*"))[-1]
    return {
        f"{path.stem}:{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def differing(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> list[str]:
    """Return the names of tensors that are not equal to the bit."""
    assert first.keys() == second.keys() and first
    return [name for name in first if first[name].tobytes() != second[name].tobytes()]
