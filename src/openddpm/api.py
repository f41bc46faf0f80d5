"""`openddpm.train`: what the command line does, from Python."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from openddpm.config import TrainConfig, recorded_config
from openddpm.data.stream import Transform
from openddpm.errors import UserError
from openddpm.observers.display import Display
from openddpm.observers.push import PushObserver
from openddpm.observers.report import ReportObserver
from openddpm.observers.tensorboard import TensorBoardObserver
from openddpm.observers.verdict import VerdictObserver
from openddpm.record.reader import read_run_record
from openddpm.training.loop import TrainResult, fit
from openddpm.training.observers import Observer
from openddpm.training.setup import prepare

if TYPE_CHECKING:
    from diffusers import UNet2DModel


def train(
    config: TrainConfig,
    *,
    dataset: Any = None,
    transform: Transform | None = None,
    unet: "UNet2DModel | None" = None,
    observers: Sequence[Observer] = (),
) -> TrainResult:
    """Train a diffusion model and leave its whole record in `config.output_dir`.

    Args:
        config: every option, as on the command line.
        dataset: your own images in place of `config.dataset`: a `datasets.Dataset`, or a sequence of Pillow images,
            of uint8 arrays (H, W, C), or of tuples or dicts that hold one.
        transform: your own augmentation, a torchvision v2 transform for one: uint8 (B, C, H, W) on the device in, the
            same shape out. It is applied after the flip of `random_flip`.
        unet: your own UNet2DModel in place of `config.model`.
        observers: told, besides the display, TensorBoard, report and push, of all that happens.

    Returns:
        the run folder and how training ended.

    Raises:
        UserError: with what to mend, for anything wrong in the config, the data or the output folder.
    """
    console = Console(stderr=True, highlight=False)
    is_main = os.environ.get("RANK", "0") == "0"
    pushing = [PushObserver(config, console)] if config.push_to_hub and is_main else []
    display, tensorboard = Display(console), TensorBoardObserver(Path(config.logging_dir))
    verdict = VerdictObserver(tell=[display.judged, tensorboard.judged])
    onlookers = [display, verdict, tensorboard, ReportObserver(), *pushing, *observers]
    return fit(prepare(config, dataset, transform, unet, onlookers))


def resume(folder: Path | str, **neutral: Any) -> TrainResult:
    """Go on with the run in `folder` from its own record and its newest valid checkpoint.

    Args:
        neutral: options that change none of the run's numbers, such as hub_token.

    Raises:
        UserError: no run there, none of its checkpoints is valid, or it was trained on a caller's own data set.
    """
    folder = Path(folder)
    record = read_run_record(folder)
    if record.own_parts:
        found = f"the run in '{folder}' was trained with a {' and a '.join(record.own_parts)} given from Python"
        raise UserError(found, "Call train() with the same objects and resume_from_checkpoint='latest'.")
    given = {"output_dir": str(folder), "resume_from_checkpoint": "latest", "overwrite_output_dir": False}
    return train(recorded_config(record.config, **{**given, **neutral}))
