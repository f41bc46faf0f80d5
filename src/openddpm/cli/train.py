"""openddpm train"""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from openddpm.cli.options import parse_train_config
from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.record.reader import list_previews

if TYPE_CHECKING:
    from openddpm.training.loop import TrainResult


def run(arguments: list[str]) -> int:
    """Train a model; return 0, or 128 + N after signal N."""
    config = parse_train_config(arguments)
    if not config.dataset:
        raise UserError("no data set is given", "Give one: --dataset FOLDER or a Hub id; or --recipe avatars-16.")
    from openddpm.api import train

    return report_result(train(config), config)


def report_result(result: "TrainResult", config: TrainConfig) -> int:
    """Print where the results are and what to do next; return the exit status."""
    status = 128 + result.signal if result.status == "interrupted" and result.signal else 0
    if int(os.environ.get("RANK", "0")) != 0:
        return status
    folder: Path = result.folder
    quoted = shlex.quote(str(folder))
    if status:
        print(f"saved; continue with: openddpm resume {quoted}")
        return status
    previews = list_previews(folder)
    picture = previews[-1].shown if previews else "none"
    print(f"report:  {folder / 'report.html'}")
    print(f"samples: {picture}")
    print("next:")
    print(f"  openddpm sample {quoted} --num_images 64")
    if "tensorboard" in config.trackers:
        print(f"  tensorboard --logdir {shlex.quote(config.logging_dir)}")
    print("  openddpm train --dataset FOLDER-WITH-IMAGES --resolution 64 --output_dir runs/mine")
    return 0
