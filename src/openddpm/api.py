"""`openddpm.train`: what the command line does, from Python."""

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from rich.console import Console

from openddpm.config import TrainConfig, resuming_config
from openddpm.data.stream import Transform
from openddpm.errors import UserError
from openddpm.observers.display import Display
from openddpm.observers.push import PushObserver
from openddpm.observers.report import ReportObserver
from openddpm.observers.trackers import TrackersObserver, build_trackers
from openddpm.record.reader import read_run_record
from openddpm.training.checkpoint import checkpoint_step, is_valid, list_checkpoints
from openddpm.training.distributed import lost_ranks_named
from openddpm.training.loop import TrainResult, fit
from openddpm.training.observer import Observer
from openddpm.training.setup import prepare
from openddpm.training.state import NotFinite

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
        dataset: your own images in place of `config.dataset`: a `datasets.Dataset`, with a transform of its own if that
            is not random, or a sequence of Pillow images, of uint8 arrays (H, W, C) or tensors (C, H, W), or of tuples
            or dicts that hold one.
        transform: your own augmentation, a torchvision v2 transform for one: uint8 (B, C, H, W) on the device in, the
            same shape out. It is applied after the flip of `random_flip`.
        unet: your own UNet2DModel in place of `config.model`.
        observers: told, besides the display, trackers, report and push, of all that happens.

    Returns:
        the run folder and how training ended.

    Raises:
        UserError: with what to mend, for anything wrong in the config, the data or the output folder.
    """
    _check_types(config, dataset, transform, observers)
    rolled_back_from: int | None = None
    while True:
        try:
            return _train(config, dataset, transform, unet, observers, rolled_back_from)
        except NotFinite as error:
            going_back = _going_back(config, error)
            if going_back is None:
                raise
            rolled_back_from = error.step
        with lost_ranks_named():
            PartialState().wait_for_everyone()  # all have looked for the way back before one goes it
        gc.collect()  # the model that went wrong, before there is a second one
        config = going_back


def _check_types(config: Any, dataset: Any, transform: Any, observers: Any) -> None:
    """Refuse arguments of `train` of another kind than it takes.

    Raises:
        UserError: naming the first that is wrong.
    """
    if not isinstance(config, TrainConfig):
        hint = "Give a TrainConfig: train(TrainConfig(dataset='my-images', resolution=64))."
        raise UserError(f"the config is of type {type(config).__name__}", hint)
    if isinstance(dataset, str | Path):
        hint = f"Put it into the config: TrainConfig(dataset={str(dataset)!r})."
        raise UserError(
            f"dataset= is the {type(dataset).__name__} {str(dataset)!r}; it takes the images themselves", hint
        )
    if transform is not None and not callable(transform):
        hint = "Give a callable on batches of uint8 images (B, C, H, W): a torchvision v2 transform, or a function."
        raise UserError(f"the transform is of type {type(transform).__name__}, which cannot be called", hint)
    hint = "Give a list of objects whose class derives from openddpm.Observer."
    if not isinstance(observers, Sequence) or isinstance(observers, str):
        raise UserError(f"observers is of type {type(observers).__name__}, not a list", hint)
    for observer in observers:
        if not isinstance(observer, Observer):
            is_class = isinstance(observer, type)
            found = f"the class {observer.__name__} itself" if is_class else f"of type {type(observer).__name__}"
            raise UserError(f"one of the observers is {found}", hint)


def _train(
    config: TrainConfig,
    dataset: Any,
    transform: Transform | None,
    unet: "UNet2DModel | None",
    observers: Sequence[Observer],
    rolled_back_from: int | None,
) -> TrainResult:
    console = Console(stderr=True, highlight=False)
    is_main = os.environ.get("RANK", "0") == "0"
    observers = [
        Display(console),
        TrackersObserver(build_trackers(config), console),
        ReportObserver(console),
        *([PushObserver(config, console)] if config.push_to_hub and is_main else []),
        *observers,
    ]
    return fit(prepare(config, dataset, transform, unet, observers, rolled_back_from))


def _going_back(config: TrainConfig, error: NotFinite) -> TrainConfig | None:
    """Return the config that goes back to the newest checkpoint that may help, or None: rollbacks may be used up, too.

    One that a rollback has led to before does not, and neither does the state just before the error: the learning rate
    is heard of only after the loss.
    """
    folder = Path(config.output_dir)
    record = read_run_record(folder)
    rollbacks = [entry.step for entry in record.resumptions if entry.rolled_back_from is not None]
    if not error.may_go_back or len(rollbacks) >= config.max_rollbacks:
        return None
    for checkpoint in reversed(list_checkpoints(folder)):
        step = checkpoint_step(checkpoint)
        if step < error.step - 1 and step not in rollbacks and is_valid(checkpoint, record.run_id):
            back = str(checkpoint.resolve())
            return resuming_config(
                record.config, config.output_dir, resume_from_checkpoint=back, hub_token=config.hub_token
            )
    return None


def resume(folder: Path | str, **changes: Any) -> TrainResult:
    """Go on with the run in `folder` from its own record and its newest valid checkpoint.

    Args:
        changes: options that are to be others. Those that change the run's numbers need `accept_changes=True`.

    Raises:
        UserError: no run there, none of its checkpoints is valid, or it was trained on a caller's own data set.
    """
    folder = Path(folder)
    record = read_run_record(folder)
    if record.user_supplied:
        found = f"the run in '{folder}' was trained with a {' and a '.join(record.user_supplied)} given from Python"
        raise UserError(found, "Call train() with the same objects and resume_from_checkpoint='latest'.")
    return train(resuming_config(record.config, str(folder), **changes))
