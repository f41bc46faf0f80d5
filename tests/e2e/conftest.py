"""One tiny run for all tests here, and the command line in this process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openddpm.cli.main import main

NUM_IMAGES = 24
UNET = {
    "_class_name": "UNet2DModel",
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal, and its exit status."""

    status: int
    out: str
    err: str


def write_images(folder: Path, num_images: int, mode: str = "RGB") -> Path:
    """Write PNGs of random pixels, each different from all others."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(num_images):
        pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{index:02d}.png")
    return folder


def call_main(arguments: list[str]) -> int:
    """Return the exit status of `openddpm ARGUMENTS`, run in this process."""
    try:
        return main(arguments)
    except SystemExit as exit_:
        assert isinstance(exit_.code, int)
        return exit_.code


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images/, gray/ and unet.json, which no test changes."""
    folder = tmp_path_factory.mktemp("workshop")
    write_images(folder / "images", NUM_IMAGES)
    write_images(folder / "gray", NUM_IMAGES, "L")
    (folder / "unet.json").write_text(json.dumps(UNET), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def options(workshop: Path) -> dict[str, Any]:
    """The options that make a run tiny, for TrainConfig or, by `flags`, for the command line."""
    return {
        "dataset": str(workshop / "images"),
        "model": str(workshop / "unet.json"),
        "cache_dir": str(workshop / "cache"),
        "logging_dir": str(workshop / "logs"),
        "resolution": 8,
        "train_batch_size": 4,
        "num_epochs": 2,
        "lr_warmup_steps": 2,
        "num_inference_steps": 2,
        "eval_batch_size": 4,
        "save_images_epochs": 1,
        "logging_steps": 2,
    }


@pytest.fixture(scope="session")
def flags(options: dict[str, Any]) -> Callable[..., list[str]]:
    """The tiny run's options as arguments of `openddpm train`, some of them replaced or added."""

    def spell(**changes: Any) -> list[str]:
        values = {**options, **changes}
        return [word for name, value in values.items() for word in (f"--{name}", str(value))]

    return spell


@pytest.fixture(scope="session")
def finished_run(workshop: Path, flags: Callable[..., list[str]]) -> Path:
    """The run folder of a finished run of 11 steps, which no test changes."""
    folder = workshop / "runs" / "tiny [bold] run"  # a name that shells, Markdown and rich would each misread
    assert call_main(["train", *flags(output_dir=folder, hub_token="hf_secret_of_the_tiny_run")]) == 0
    return folder


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`openddpm` in this process."""

    def run(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        status = call_main([str(argument) for argument in arguments])
        return Outcome(status, *capfd.readouterr())

    return run


def snapshot_of(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """The content of a folder, to compare before with after."""
    return snapshot_of
