"""TensorBoard events as other scripts write them, and imported records made without any."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import TensorBoardTracker
from torch.utils.tensorboard import SummaryWriter

from openddpm.record.imported import ImportedFolder, ImportedRecord, ImportedTags

PIXELS = np.full((4, 3, 8, 8), 128, np.uint8)


def plain_log(
    folder: Path,
    losses: Mapping[int, float],
    tag: str = "loss",
    rates: Mapping[int, float] | None = None,
    start: float | None = None,
    pictures: Sequence[int] = (),
) -> Path:
    """Write losses and learning rates by step as a plain loop does, a second each; return the file.

    Args:
        start: time of step 0; now by default.
        pictures: steps after which a picture is logged, half a second later.
    """
    before = {*folder.glob("*tfevents*")}
    start = time.time() + 1 if start is None else start
    with SummaryWriter(str(folder), filename_suffix=f".{len(before)}") as writer:
        for number, (step, loss) in enumerate(losses.items()):
            writer.add_scalar(tag, loss, step, walltime=start + number)
            if rates and step in rates:
                writer.add_scalar("lr", rates[step], step, walltime=start + number)
            if step in pictures:
                writer.add_images("samples", PIXELS, step, walltime=start + number + 0.5)
    return ({*folder.glob("*tfevents*")} - before).pop()


def example_log(
    folder: Path, epochs: int, steps_per_epoch: int, config: dict[str, Any] | None = None, accumulation: int = 1
) -> None:
    """Write events as diffusers' train_unconditional.py does through Accelerate; losses are 1, 1/2, 1/3, ..."""
    tracker = TensorBoardTracker("train_unconditional", folder)
    tracker.start()
    if config is not None:
        tracker.store_init_configuration(config)
    step = number = 0
    for epoch in range(epochs):
        for _ in range(steps_per_epoch * accumulation):
            number += 1
            step += number % accumulation == 0
            tracker.log({"loss": 1 / number, "lr": 1e-4, "step": step, "ema_decay": 0.9}, step=step)
        tracker.tracker.add_images("test_samples", PIXELS, epoch)
    tracker.finish()


def imported(
    losses: Mapping[int, float], images_per_step: int | None = 32, folder: Path = Path("somebodys"), **fields: Any
) -> ImportedFolder:
    """Return an imported record with these losses by step, which is not written anywhere."""
    columns = {"step": list(losses), "train_loss": list(losses.values())}
    columns |= {"wall_seconds": [0.0] * len(losses), "learning_rate": [None] * len(losses)}
    record = ImportedRecord(
        **{
            "name": "somebodys",
            "source": "logs",
            "created": "2026-03-14T09:26:53+00:00",
            "images_per_step": images_per_step,
            "tags": ImportedTags(train_loss="loss", learning_rate=None),
            "not_finite_steps": [],
            "pictures": [],
            "ignored_tags": [],
            "notes": [],
            **columns,
            **fields,
        }
    )
    return ImportedFolder(folder, record)
