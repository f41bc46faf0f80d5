"""Mean squared noise error on fixed (image, timestep, noise) tuples: the same for every weights and every step."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from openddpm.data.stream import Split, keyed_order, load_images, uint8_to_signed_unit
from openddpm.diffusion.process import BANDS, DiffusionProcess
from openddpm.diffusion.sampling import Denoiser
from openddpm.record.schema import Band, BandScore, EvaluationRow, Weights
from openddpm.seeding import numpy_generator, standard_normal

MAX_BATCH_SIZE = 64  # larger ones gain nothing
GROUPS_PER_BAND = 4  # of like timesteps; a loss by noise level has so many points in each band


@dataclass(frozen=True)
class Levels:
    """The noise levels of tuples: in each band as many, spread evenly, whatever its share of all timesteps.

    Most of the loss comes from the few timesteps of little noise, so these need the tuples most; weighted by `shares`,
    the mean is still the one over all timesteps. Groups and tuples go from little noise to much.
    """

    timesteps: np.ndarray  # (N,) int64
    groups: np.ndarray  # (N,) int64, numbers from 0 without a gap
    bands: list[Band]  # of each group
    shares: np.ndarray  # (G,) float64, of each group among all timesteps; they add up to 1

    @classmethod
    def spread(cls, snr: np.ndarray, count: int) -> "Levels":
        """Choose about `count` timesteps, a multiple of the groups, for a process of `snr`, (T,)."""
        timesteps: list[np.ndarray] = []
        bands: list[Band] = []
        shares: list[float] = []
        per_group = count // (len(BANDS) * GROUPS_PER_BAND)
        for band, (low, high) in BANDS.items():
            inside = np.flatnonzero((snr >= low) & (snr < high))
            if not len(inside):
                continue
            size = per_group * GROUPS_PER_BAND
            places = (np.arange(size) + 0.5) / size * len(inside)
            timesteps += list(inside[places.astype(int)].reshape(GROUPS_PER_BAND, per_group))
            bands += [band] * GROUPS_PER_BAND
            shares += [len(inside) / len(snr) / GROUPS_PER_BAND] * GROUPS_PER_BAND
        groups = np.repeat(np.arange(len(bands)), per_group)
        return cls(np.concatenate(timesteps), groups, bands, np.array(shares))

    def by_group(self, errors: np.ndarray) -> np.ndarray:
        """Return the mean of `errors`, (N,), in each group, (G,)."""
        return errors.reshape(len(self.shares), -1).mean(axis=1)

    def mean(self, errors: np.ndarray, band: Band | None = None) -> float:
        """Return the mean of `errors`, (N,), over all timesteps, or over those of a band; NaN if it has none."""
        inside = np.array([band in (None, one) for one in self.bands])
        if not inside.any():
            return float("nan")
        return float(np.average(self.by_group(errors)[inside], weights=self.shares[inside]))

    def standard_error(self, errors: np.ndarray) -> float:
        """Return the standard error of `mean` over the choice of images and noises, timesteps being strata."""
        per_group = errors.reshape(len(self.shares), -1)
        variances = per_group.var(axis=1, ddof=1) / per_group.shape[1]
        return float(np.sqrt((self.shares**2 * variances).sum()))


class FixedSamples:
    """Some images, each with a timestep and a noise that never change.

    The noise depends on the number of a tuple alone: training and held-out tuples meet the same, which leaves the
    images as their only difference.
    """

    def __init__(
        self,
        images: np.ndarray,
        digests: np.ndarray,
        indices: np.ndarray,
        levels: Levels,
        process: DiffusionProcess,
        device: torch.device,
        seed: int,
        name: str,
    ) -> None:
        """Give each of `levels` one of the images at `indices` of the store `images`, (N, C, H, W) uint8.

        By their `digests`, (N, 16) uint8, and not by their places: the same images in another order give the same.
        """
        order = indices[keyed_order(digests[indices], seed, f"{name} tuples")]
        self.indices = numpy_generator(seed, f"{name} levels").permutation(np.resize(order, len(levels.timesteps)))
        self._timesteps = torch.from_numpy(levels.timesteps).to(device)
        self._images, self._process, self._device, self._seed = images, process, device, seed

    def batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield (clean images in [-1, 1], noise, timesteps), in order; (B, C, H, W) float32 twice and (B,) int64."""
        for start in range(0, len(self.indices), batch_size):
            chosen = slice(start, start + batch_size)
            clean = uint8_to_signed_unit(load_images(self._images, self.indices[chosen], self._device))
            shape = tuple(clean.shape[1:])
            numbers = range(start, start + len(clean))
            noise = [standard_normal(shape, self._device, self._seed, "evaluation noise", n) for n in numbers]
            yield clean, torch.stack(noise), self._timesteps[chosen]

    def squared_errors(self, denoise: Denoiser, batch_size: int) -> np.ndarray:
        """Return the squared noise error of each tuple, mean over pixels, (N,) float64; NaN where not finite."""
        errors = []
        for clean, noise, timesteps in self.batches(batch_size):
            noisy = self._process.add_noise(clean, noise, timesteps)
            predicted = self._process.to_noise(denoise(noisy, timesteps), noisy, timesteps)
            errors.append((predicted - noise).square().mean(dim=(1, 2, 3)))
        values = torch.cat(errors).cpu().double().numpy()
        return np.where(np.isfinite(values), values, np.nan)


@dataclass(frozen=True)
class BaselineErrors:
    """Squared noise errors of the baselines on each tuple, (N,) float64."""

    zero: np.ndarray
    linear: np.ndarray
    memorizing: np.ndarray


@dataclass(frozen=True)
class Measured:
    """Baselines on tuples of both kinds; `heldout` is None where no image is held out."""

    train: BaselineErrors
    heldout: BaselineErrors | None


class HeldoutEvaluation:
    """Scores weights on held-out images, and on as many training images for comparison."""

    def __init__(
        self,
        images: np.ndarray,
        digests: np.ndarray,
        split: Split,
        process: DiffusionProcess,
        device: torch.device,
        seed: int,
        batch_size: int,
        num_fixed_samples: int,
    ) -> None:
        """Prepare fixed tuples of both kinds; `batch_size` is what fits the device, and changes no number."""
        self._batch_size = min(batch_size, MAX_BATCH_SIZE)
        self.levels = Levels.spread(process.snr().cpu().numpy(), num_fixed_samples)
        self.train = FixedSamples(images, digests, split.train, self.levels, process, device, seed, "training")
        self.heldout = None
        if len(split.heldout):
            self.heldout = FixedSamples(images, digests, split.heldout, self.levels, process, device, seed, "held-out")
        self.baselines: Measured | None = None
        """Measured once by the process that evaluates, before it does."""

    def score(self, denoise: Denoiser, weights: Weights, step: int, images_seen: int) -> EvaluationRow:
        """Return a line of evaluations.jsonl."""
        assert self.baselines is not None
        start = time.perf_counter()
        train = self.train.squared_errors(denoise, self._batch_size)
        heldout = self.heldout.squared_errors(denoise, self._batch_size) if self.heldout else None
        errors, baselines = (train, self.baselines.train) if heldout is None else (heldout, self.baselines.heldout)
        assert baselines is not None
        skill = self._skill(errors, baselines)
        return EvaluationRow(
            step=step,
            images_seen=images_seen,
            weights=weights,
            heldout_loss=None if heldout is None else _finite(self.levels.mean(heldout)),
            train_loss=_finite(self.levels.mean(train)),
            skill=None if heldout is None else _finite(skill),
            skill_error=None if heldout is None else _finite(self._skill_error(errors, baselines, skill)),
            train_skill=_finite(self._skill(train, self.baselines.train)),
            bands={band: self._band_score(band, errors, baselines) for band in BANDS},
            by_timestep=[_finite(loss) for loss in self.levels.by_group(errors)],
            seconds=round(time.perf_counter() - start, 3),
        )

    def _skill(self, errors: np.ndarray, baselines: BaselineErrors, band: Band | None = None) -> float:
        return 1 - self.levels.mean(errors, band) / self.levels.mean(baselines.linear, band)

    def _skill_error(self, errors: np.ndarray, baselines: BaselineErrors, skill: float) -> float:
        """Return the standard error of a ratio of means over the same tuples (Cochran, 1977, chapter 6)."""
        residuals = errors - (1 - skill) * baselines.linear
        return self.levels.standard_error(residuals) / self.levels.mean(baselines.linear)

    def _band_score(self, band: Band, errors: np.ndarray, baselines: BaselineErrors) -> BandScore:
        assert self.baselines is not None
        return BandScore(
            loss=_finite(self.levels.mean(errors, band)),
            linear=_finite(self.levels.mean(baselines.linear, band)),
            memorizing=_finite(self.levels.mean(self.baselines.train.memorizing, band)),
            skill=_finite(self._skill(errors, baselines, band)),
        )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
