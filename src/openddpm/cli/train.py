"""openddpm train"""

import os
from pathlib import Path

from rich.console import Console

from openddpm.cli.options import parse_train_config
from openddpm.errors import UserError


def run(arguments: list[str]) -> int:
    """Train; returns 0, or 128 + N after signal N."""
    config = parse_train_config(arguments)
    if not config.dataset:
        raise UserError("no data set is named", "Name one: --dataset FOLDER or a Hub id; or --recipe avatars-16.")
    from openddpm.api import train

    return report_result(train(config))


def report_result(result: "TrainResult") -> int:  # type: ignore[name-defined]  # noqa: F821 - torch loads with it
    """Say what there is to look at and what to do next; returns the exit status."""
    if int(os.environ.get("RANK", "0")) != 0:
        return 128 + result.signal if result.signal else 0
    folder: Path = result.folder
    console = Console(highlight=False, soft_wrap=True)
    if result.status == "interrupted":
        console.print(f"saved; go on with: openddpm resume {folder}")
        return 128 + int(result.signal or 0)
    pictures = sorted((folder / "samples").glob("step-*-ema.png")) or sorted((folder / "samples").glob("step-*-raw.png"))
    console.print(f"report:  {folder / 'report.html'}")
    console.print(f"samples: {pictures[-1] if pictures else 'none'}")
    console.print("next:")
    console.print(f"  openddpm sample {folder} --num_images 64")
    console.print(f"  tensorboard --logdir logs")
    console.print(f"  openddpm train --dataset FOLDER-WITH-IMAGES --resolution 64 --output_dir runs/mine")
    return 0
