"""What a run was made from, made again from its options: images, split, fixed samples, baselines, the UNet's shape."""

import copy
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel
from PIL import Image

from openddpm.analysis.text import listed
from openddpm.config import TrainConfig, recorded_config
from openddpm.data.image_source import ImageSource
from openddpm.data.near_duplicates import NearDuplicates, near_duplicates_across
from openddpm.data.sources import BUILT_IN
from openddpm.data.store import CACHE_VARIABLE, ImageStore, cache_dir_of, open_images
from openddpm.data.stream import Split, split_heldout
from openddpm.diffusion.process import DiffusionProcess
from openddpm.diffusion.unet import build_unet
from openddpm.errors import UserError
from openddpm.evaluation.baselines import BaselineMeasurement
from openddpm.evaluation.evaluation import Evaluation
from openddpm.evaluation.fixed_samples import fixed_samples
from openddpm.evaluation.sample_statistics import DataStatistics, measure_data
from openddpm.record.schema import BaselinesRecord, RunRecord
from openddpm.training.performance import Speed


class NotHere(Exception):
    """Something cannot be checked here; the message is the reason, as the end of a sentence."""


@dataclass(frozen=True)
class Images:
    """The images of a run, decoded again."""

    store: ImageStore
    split: Split
    near: NearDuplicates | None
    source: ImageSource | None
    """Where the record says they are; None if they are elsewhere here."""


@dataclass(frozen=True)
class Measuring:
    """What measures the weights of a run."""

    config: TrainConfig
    frozen_unet: UNet2DModel
    """The UNet's structure, on the meta device."""
    process: DiffusionProcess
    evaluation: Evaluation
    baselines: BaselinesRecord
    data_statistics: DataStatistics
    device: torch.device


def device_of(run: RunRecord) -> torch.device:
    """Return the device on which a run's numbers can be computed again: of the kind that it was trained on.

    Raises:
        NotHere: there is none here, or it was trained on several kinds.
    """
    kinds = {session.environment.device_type for session in run.sessions}
    if len(kinds) > 1:
        raise NotHere(f"it was trained on {listed(sorted(kinds))}, which draw other random numbers")
    kind = kinds.pop()
    here = torch.accelerator.current_accelerator(check_available=True)
    if kind == "cpu":
        return torch.device("cpu")
    if here is None or here.type != kind:
        there = "no such device" if here is None else here.type
        raise NotHere(f"it was trained on {kind}, whose random numbers no other device makes, and here is {there}")
    return here


def options_here(run: RunRecord, dataset: str | None) -> TrainConfig:
    """Return the options of a run with its images here, and without its cache, whose content is not to be trusted.

    Args:
        dataset: where the images are, if not where the record says.
    """
    there = {"dataset_revision": run.dataset.revision}
    elsewhere = there if dataset is None else {"dataset": dataset, "dataset_revision": None}
    return recorded_config({**run.config, "cache_dir": None, **elsewhere})


@contextmanager
def empty_cache() -> Iterator[None]:
    """Have images decoded and baselines measured anew, not taken from what an earlier run has left."""
    before = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="openddpm-verify-", ignore_cleanup_errors=True) as folder:
        os.environ[CACHE_VARIABLE] = folder
        try:
            yield
        finally:
            os.environ.pop(CACHE_VARIABLE)
            if before is not None:
                os.environ[CACHE_VARIABLE] = before


def open_recorded_images(run: RunRecord, dataset: str | None, is_fetched: bool) -> Images:
    """Decode the images of a run.

    Args:
        is_fetched: whether paths in the record are those of another machine.

    Raises:
        NotHere: they are not there, or were given from Python.
    """
    if "dataset" in run.user_supplied:
        raise NotHere("the images were given from Python")
    config = options_here(run, dataset)
    if is_fetched and dataset is None and run.dataset.revision is None and config.dataset not in BUILT_IN:
        raise NotHere(f"the images were in '{config.dataset}' on another machine; where they are here: --dataset PATH")
    try:
        with redirect_stderr(io.StringIO()):
            source, store = open_images(config, quiet=True)
            split = split_heldout(store.digests, config.heldout_images, config.evaluation_seed)
            near = near_duplicates_across(store, split.train, split.heldout, cache_dir_of(config), quiet=True)
    except UserError as error:
        raise NotHere(f"the images are not here ({error.found}); if they are elsewhere: --dataset PATH") from error
    return Images(store, split, near, source if dataset is None else None)


def prepare_measuring(run: RunRecord, images: Images, device: torch.device) -> Measuring:
    """Return what measures the weights of a run, on the images that it was trained on."""
    config, store, split = recorded_config(run.config), images.store, images.split
    process = DiffusionProcess(config, device)
    samples = fixed_samples(
        *(store.images, store.digests, split, run.evaluation.num_fixed_samples, process, device, config.evaluation_seed)
    )
    measurement = BaselineMeasurement(
        samples, store, split, process, config.random_flip, config.evaluation_seed, device
    )
    with redirect_stderr(io.StringIO()):
        errors, baselines = measurement.measure(cache_dir_of(options_here(run, None)), quiet=True)
    if device.type == "cuda":  # as the run computed its own
        Speed(**run.session.environment.speed.model_dump(exclude={"compile_seconds"})).set_flags()
    unet = copy.deepcopy(build_unet(run.model.config, store.image_shape)).to("meta").eval()
    evaluation = Evaluation(samples, errors, config.train_batch_size)
    statistics = measure_data(store.images, split.train, config.evaluation_seed)
    return Measuring(config, unet, process, evaluation, baselines, statistics, device)


class NoPicture(Exception):
    """A file is no picture as training writes it; the message is a sentence."""


def pixels_of(path: Path, like: np.ndarray) -> np.ndarray:
    """Return the pixels of a PNG.

    Args:
        like: pixels of a picture of the same size and mode.

    Raises:
        NoPicture: it is none, is of another size or mode, or shows its pixels in another way than as they are.
    """
    if not path.is_file():
        raise NoPicture(f"{path.name} is not a file")
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            is_plain = picture.mode == ("L" if like.ndim == 2 else "RGB") and not picture.info
            if (picture.height, picture.width) != like.shape[:2] or not is_plain or getattr(picture, "n_frames", 1) > 1:
                raise NoPicture(f"{path.name} is not a picture of the size and kind that training writes")
            return np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NoPicture(f"{path.name} cannot be read ({type(error).__name__})") from error
