"""Fixed samples (image, timestep, noise), the same for all weights and at every step, and squared errors on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from openddpm.data.stream import Split, keyed_order, load_images, uint8_to_signed_unit
from openddpm.diffusion.denoiser import Denoiser
from openddpm.diffusion.process import DiffusionProcess
from openddpm.record.bands import BANDS, Band
from openddpm.seeding import Purpose, numpy_generator, standard_normal

GROUPS_PER_BAND = 4  # of like timesteps; a loss by noise level has so many points in each band

Kind = Literal["train", "heldout"]


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
        self.levels = levels
        chosen, paired = Purpose(f"{name} tuples"), Purpose(f"{name} levels")
        order = indices[keyed_order(digests[indices], seed, chosen)]
        self.indices = numpy_generator(seed, paired).permutation(np.resize(order, len(levels.timesteps)))
        self._timesteps = torch.from_numpy(levels.timesteps).to(device)
        self._images, self._process, self._device, self._seed = images, process, device, seed

    def batches(self, numbers: range, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield (clean images in [-1, 1], noise, timesteps) of the samples with these numbers, in order.

        Returns:
            (B, C, H, W) float32 twice and (B,) int64.
        """
        for start in range(numbers.start, numbers.stop, batch_size):
            batch = range(start, min(start + batch_size, numbers.stop))
            chosen = slice(batch.start, batch.stop)
            clean = uint8_to_signed_unit(load_images(self._images, self.indices[chosen], self._device))
            shape = tuple(clean.shape[1:])
            noise = [standard_normal(shape, self._device, self._seed, Purpose.EVALUATION_NOISE, n) for n in batch]
            yield clean, torch.stack(noise), self._timesteps[chosen]

    def squared_errors(self, denoise: Denoiser, numbers: range, batch_size: int) -> torch.Tensor:
        """Return the squared noise error of the samples with these numbers, mean over pixels, (B,) float32."""
        errors = [torch.empty(0, device=self._device)]
        for clean, noise, timesteps in self.batches(numbers, batch_size):
            noisy = self._process.add_noise(clean, noise, timesteps)
            predicted = self._process.to_noise(denoise(noisy, timesteps), noisy, timesteps)
            errors.append((predicted - noise).square().mean(dim=(1, 2, 3)))
        return torch.cat(errors)


def fixed_samples(
    images: np.ndarray,
    digests: np.ndarray,
    split: Split,
    count: int,
    process: DiffusionProcess,
    device: torch.device,
    seed: int,
) -> dict[Kind, FixedSamples]:
    """Return about `count` samples of training images, and as many of held-out ones where there are any.

    Args:
        images: of the store, (N, C, H, W) uint8.
        digests: of these images, (N, 16) uint8.
        seed: of the evaluation, not of training.
    """
    levels = Levels.spread(process.snr().cpu().numpy(), count)
    samples: dict[Kind, FixedSamples] = {
        "train": FixedSamples(images, digests, split.train, levels, process, device, seed, "training")
    }
    if len(split.heldout):
        samples["heldout"] = FixedSamples(images, digests, split.heldout, levels, process, device, seed, "held-out")
    return samples
