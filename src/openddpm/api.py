"""`openddpm.train` and `openddpm.resume`: training from Python."""

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
from openddpm.observers.manifest import ManifestObserver
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
    """Train a diffusion model and record the whole run in `config.output_dir`.

    Args:
        config: every option, as on the command line.
        dataset: user-supplied images in place of `config.dataset`: a `datasets.Dataset`, whose transform must not be
            random, or a sequence of Pillow images, of uint8 arrays (H, W, C) or tensors (C, H, W), or of tuples or
            dicts that hold one.
        transform: user-supplied augmentation, such as a torchvision v2 transform: uint8 (B, C, H, W) on the device in,
            the same shape out. It is applied after the flip of `random_flip`.
        unet: user-supplied UNet2DModel in place of `config.model`.
        observers: called at every event of the run, in addition to the display, trackers, report, manifest and push.

    Returns:
        the run folder and how training ended.

    Raises:
        UserError: anything is wrong with the config, the data or the output folder; the hint says what to do.
    """
    _check_types(config, dataset, transform, observers)
    rolled_back_from: int | None = None
    while True:
        try:
            return _train(config, dataset, transform, unet, observers, rolled_back_from)
        except NotFinite as error:
            rollback = _rollback_config(config, error)
            if rollback is None:
                raise
            rolled_back_from = error.step
        with lost_ranks_named():
            PartialState().wait_for_everyone()  # all processes choose a checkpoint before one of them rolls back
        gc.collect()  # free the failed model before there is a second one
        config = rollback


def _check_types(config: Any, dataset: Any, transform: Any, observers: Any) -> None:
    """Check the types of `train`'s arguments.

    Raises:
        UserError: naming the first that is wrong.
    """
    if not isinstance(config, TrainConfig):
        hint = "Give a TrainConfig: train(TrainConfig(dataset='my-images', resolution=64))."
        raise UserError(f"the config is of type {type(config).__name__}", hint)
    if isinstance(dataset, str | Path):
        hint = f"Put it into the config: TrainConfig(dataset={str(dataset)!r})."
        raise UserError(
            f"dataset= is the {type(dataset).__name__} {str(dataset)!r}, but it takes the images themselves", hint
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
        ManifestObserver(console),  # after the pages that it lists, before they are pushed
        *([PushObserver(config, console)] if config.push_to_hub and is_main else []),
        *observers,
    ]
    return fit(prepare(config, dataset, transform, unet, observers, rolled_back_from))


def _rollback_config(config: TrainConfig, error: NotFinite) -> TrainConfig | None:
    """Return the config that resumes from the newest checkpoint that may help, or None without one or a rollback left.

    A checkpoint that an earlier rollback resumed from does not help, nor does the state just before the error: a lower
    learning rate has an effect only after the next loss.
    """
    folder = Path(config.output_dir)
    record = read_run_record(folder)
    rollbacks = [entry.step for entry in record.resumptions if entry.rolled_back_from is not None]
    if not error.may_go_back or len(rollbacks) >= config.max_rollbacks:
        return None
    for checkpoint in reversed(list_checkpoints(folder)):
        step = checkpoint_step(checkpoint)
        if step < error.step - 1 and step not in rollbacks and is_valid(checkpoint, record.run_id):
            start = str(checkpoint.resolve())
            return resuming_config(
                record.config, config.output_dir, resume_from_checkpoint=start, hub_token=config.hub_token
            )
    return None


def resume(folder: Path | str, **changes: Any) -> TrainResult:
    """Resume the run in `folder` with its recorded options, from its newest valid checkpoint.

    Args:
        changes: options to change. Those that change the run's numbers need `accept_changes=True`.

    Raises:
        UserError: there is no run, none of its checkpoints is valid, or it was trained with user-supplied objects.
    """
    folder = Path(folder)
    record = read_run_record(folder)
    if record.user_supplied:
        found = f"the run in '{folder}' was trained with a {' and a '.join(record.user_supplied)} given from Python"
        raise UserError(found, "Call train() with the same objects and resume_from_checkpoint='latest'.")
    return train(resuming_config(record.config, str(folder), **changes))
