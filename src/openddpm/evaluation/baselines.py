"""The baselines on fixed samples, with a cache of their errors beside the decoded images."""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from openddpm.analysis.text import number_of
from openddpm.data.store import ImageStore
from openddpm.data.stream import Split, load_images, uint8_to_signed_unit
from openddpm.diffusion.baselines import ImageChunks, LinearDenoiser, memorizing_squared_errors
from openddpm.diffusion.process import DiffusionProcess
from openddpm.evaluation.fixed_samples import FixedSamples, Kind
from openddpm.record.files import write_json
from openddpm.record.schema import BaselinesRecord
from openddpm.seeding import Purpose, numpy_generator

BASELINES = ("zero", "linear", "memorizing")
VERSION = 3  # part of the cache's key: raise it when a baseline changes
MAX_LINEAR_IMAGES = 30_000  # assumed: several times as many as correlated coefficients; more change the baseline little
MAX_MEMORIZING_VALUES = 2_000_000_000  # pixels times channels, of all known images: minutes on two cores
CHUNK_VALUES = 8_000_000  # 64 MB in float64
MAX_SAMPLES_AT_A_TIME = 384  # of all kinds; measured: reading an image takes as long as comparing 64 samples with it
MAX_LEFT_OUT = 0.1  # of the training images; those of fixed samples, on which a fitted baseline would look too good
SNR_LIMITS = (1e-12, 1e12)  # the first and last timesteps of long schedules exceed float32


@dataclass(frozen=True)
class BaselineErrors:
    """Squared noise errors of the baselines on each sample, (N,) float64."""

    zero: np.ndarray
    linear: np.ndarray
    memorizing: np.ndarray


@dataclass(frozen=True)
class _Scores:
    """The content of the cache: errors by kind of samples and baseline, and what they were computed from."""

    errors: dict[Kind, dict[str, list[float]]]
    num_images_linear: int
    num_images_memorizing: int
    shrinkage: float
    seconds: float


@dataclass(frozen=True)
class BaselineMeasurement:
    """Measures the baselines of a run; its fields are all that they depend on."""

    samples: Mapping[Kind, FixedSamples]
    store: ImageStore
    split: Split
    process: DiffusionProcess
    includes_flips: bool
    seed: int
    device: torch.device

    def measure(self, cache_dir: Path, quiet: bool) -> tuple[dict[Kind, BaselineErrors], BaselinesRecord]:
        """Return the errors of the baselines, from the cache if possible, and the content of baselines.json."""
        path = cache_dir / "baselines" / f"{self._digest()}.json"
        scores = _read_cached(path, set(self.samples), self._num_samples)
        if scores is None:
            scores = self._score(quiet)
            with contextlib.suppress(OSError):  # without a cache the next run measures again
                write_json(path, asdict(scores))
        errors = {
            kind: BaselineErrors(**{name: np.array(values) for name, values in scores.errors[kind].items()})
            for kind in self.samples
        }
        return errors, self._record(scores, errors)

    @property
    def _num_samples(self) -> int:
        """Samples of each kind."""
        return len(self.samples["train"].indices)

    @property
    def _values_per_image(self) -> int:
        return int(np.prod(self.store.images.shape[1:]))

    @property
    def _samples_at_a_time(self) -> int:
        """Samples of each kind in a batch; all kinds are in memory at once."""
        return max(1, min(MAX_SAMPLES_AT_A_TIME, CHUNK_VALUES // self._values_per_image) // len(self.samples))

    @property
    def _fp64_device(self) -> torch.device:
        """The device, or the CPU if the device has no float64."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @property
    def _snr(self) -> torch.Tensor:
        return self.process.snr().cpu().double().clamp(*SNR_LIMITS)

    def _digest(self) -> str:
        """Return a digest of all that the errors depend on; the noise depends on the type of device."""
        parts = [VERSION, self.store.sha256, self.includes_flips, self.seed, self.device.type, self._num_samples]
        digest = hashlib.sha256(json.dumps(parts).encode())
        for array in (self.split.train, self.split.heldout, self.process.snr().cpu().numpy()):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    def _score(self, quiet: bool) -> _Scores:
        start = time.perf_counter()
        order = numpy_generator(self.seed, Purpose.BASELINES).permutation(self.split.train)
        scored = self.samples["train"].indices
        others = order if len(np.unique(scored)) > MAX_LEFT_OUT * len(order) else order[~np.isin(order, scored)]
        fitted_on = np.sort(others[:MAX_LINEAR_IMAGES])
        known = np.union1d(order[: MAX_MEMORIZING_VALUES // self._values_per_image], scored)
        num_passes = -(-len(scored) // self._samples_at_a_time)
        console = Console(stderr=True, highlight=False)
        if not quiet:
            console.print(
                f"measuring baselines on {number_of(len(fitted_on), 'image')}; cached for runs on the same images",
                soft_wrap=True,
            )
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        is_shown = not quiet and console.is_terminal  # in a notebook each bar would ask for ipywidgets
        with Progress(*columns, disable=not is_shown, transient=True, console=console) as progress:
            fit_task = progress.add_task("fitting a linear denoiser", total=2 * len(fitted_on))
            linear = LinearDenoiser.fit(self._chunks(fitted_on, progress, fit_task), self.includes_flips)
            known_task = progress.add_task("comparing with training images", total=num_passes * len(known))
            errors = self._errors(linear, self._chunks(known, progress, known_task))
        seconds = round(time.perf_counter() - start, 1)
        return _Scores(errors, len(fitted_on), len(known), linear.shrinkage, seconds)

    def _chunks(self, indices: np.ndarray, progress: Progress, task: TaskID) -> ImageChunks:
        values = max(self._values_per_image, MAX_SAMPLES_AT_A_TIME)  # an image, or its logits for each sample
        size = max(1, CHUNK_VALUES // values)

        def start_over() -> Iterator[torch.Tensor]:
            for first in range(0, len(indices), size):
                chosen = indices[first : first + size]
                yield uint8_to_signed_unit(load_images(self.store.images, chosen, self._fp64_device))
                progress.advance(task, len(chosen))

        return start_over

    def _errors(self, linear: LinearDenoiser, known: ImageChunks) -> dict[Kind, dict[str, list[float]]]:
        """Return the errors of each baseline by kind of samples, all kinds in the same passes over the known images."""
        kinds, numbers, size = self.samples, range(self._num_samples), self._samples_at_a_time
        errors: dict[Kind, dict[str, list[float]]] = {kind: {name: [] for name in BASELINES} for kind in kinds}
        for batches in zip(*(samples.batches(numbers, size) for samples in kinds.values()), strict=True):
            images, noise, timesteps = (torch.cat(parts).to(self._fp64_device) for parts in zip(*batches, strict=True))
            snr = self._snr.to(self._fp64_device)[timesteps]
            signal, sigma = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
            scores = {
                "zero": noise.double().square().mean(dim=(1, 2, 3)),
                "linear": linear.squared_errors(images, noise, signal, sigma),
                "memorizing": memorizing_squared_errors(known, images, noise, signal, sigma, self.includes_flips),
            }
            for name, values in scores.items():
                for kind, part in zip(kinds, values.chunk(len(kinds)), strict=True):
                    errors[kind][name] += part.tolist()
        return errors

    def _record(self, scores: _Scores, errors: dict[Kind, BaselineErrors]) -> BaselinesRecord:
        train, heldout = errors["train"], errors.get("heldout")
        levels, scored = self.samples["train"].levels, heldout or train
        log_snr = self._snr.log().numpy()[levels.timesteps]
        return BaselinesRecord(
            timesteps=levels.by_group(levels.timesteps.astype(float)).tolist(),
            snr=np.exp(levels.by_group(log_snr)).tolist(),
            shares=levels.shares.tolist(),
            zero=levels.by_group(scored.zero).tolist(),
            linear=levels.by_group(scored.linear).tolist(),
            linear_train=levels.by_group(train.linear).tolist(),
            memorizing_train=levels.by_group(train.memorizing).tolist(),
            memorizing_heldout=levels.by_group(heldout.memorizing).tolist() if heldout else [],
            num_fixed_samples=len(levels.timesteps),
            num_images_linear=scores.num_images_linear,
            num_images_memorizing=scores.num_images_memorizing,
            shrinkage=scores.shrinkage,
            includes_flips=self.includes_flips,
            seconds=scores.seconds,
        )


def _read_cached(path: Path, kinds: set[Kind], count: int) -> _Scores | None:
    """Return the cached errors; None unless they are `count` numbers for each baseline and kind of samples."""
    try:
        scores = _Scores(**json.loads(path.read_text(encoding="utf-8")))
        sizes = {(kind, len(baselines[name])) for kind, baselines in scores.errors.items() for name in BASELINES}
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
    return scores if sizes == {(kind, count) for kind in kinds} else None
