"""Fixed samples (image, timestep, noise), the same at every step and for all weights, and squared errors on them."""

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

GROUPS_PER_BAND = 4  # of similar timesteps; the loss by noise level has this many points per band

Kind = Literal["train", "heldout"]


@dataclass(frozen=True)
class Levels:
    """The noise levels of fixed samples: equally many in each band, spread evenly over its timesteps.

    Most of the loss comes from the few timesteps of low noise, which therefore get more samples than their share; the
    mean weighted by `shares` is still that over all timesteps. Groups and samples go from low noise to high.
    """

    timesteps: np.ndarray  # (N,) int64
    groups: np.ndarray  # (N,) int64, indices from 0
    bands: list[Band]  # of each group
    shares: np.ndarray  # (G,) float64, of each group in all timesteps; their sum is 1

    @classmethod
    def spread(cls, snr: np.ndarray, count: int) -> "Levels":
        """Choose about `count` timesteps, a multiple of the groups, for a process with `snr`, (T,)."""
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
        """Return the mean of `errors`, (N,), over all timesteps, or over a band; NaN if the band has none."""
        inside = np.array([band in (None, one) for one in self.bands])
        if not inside.any():
            return float("nan")
        return float(np.average(self.by_group(errors)[inside], weights=self.shares[inside]))

    def standard_error(self, errors: np.ndarray) -> float:
        """Return the standard error of `mean` over the choice of images and noise, stratified by timestep."""
        per_group = errors.reshape(len(self.shares), -1)
        variances = per_group.var(axis=1, ddof=1) / per_group.shape[1]
        return float(np.sqrt((self.shares**2 * variances).sum()))


class FixedSamples:
    """Images, each with a fixed timestep and fixed noise.

    The noise depends only on the index of a sample: training and held-out samples have the same, and differ only in
    their images.
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
        chosen: Purpose,
        paired: Purpose,
    ) -> None:
        """Assign to each of `levels` one of the images at `indices` of the store `images`, (N, C, H, W) uint8.

        The choice depends on the images' `digests`, (N, 16) uint8, not on their order in the store.

        Args:
            chosen, paired: draw the images, and which of them meets which noise level.
        """
        self.levels = levels
        order = indices[keyed_order(digests[indices], seed, chosen)]
        self.indices = numpy_generator(seed, paired).permutation(np.resize(order, len(levels.timesteps)))
        self._timesteps = torch.from_numpy(levels.timesteps).to(device)
        self._images, self._process, self._device, self._seed = images, process, device, seed

    def batches(self, numbers: range, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield (clean images in [-1, 1], noise, timesteps) of the samples `numbers`, in order.

        Yields:
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
        """Return the squared noise error of the samples `numbers`, mean over pixels, (len(numbers),) float32."""
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
    """Return about `count` samples of training images, and as many of held-out ones if there are any.

    Args:
        images: of the store, (N, C, H, W) uint8.
        digests: of these images, (N, 16) uint8.
        seed: the evaluation seed.
    """
    levels = Levels.spread(process.snr().cpu().numpy(), count)
    shared = (levels, process, device, seed)
    samples: dict[Kind, FixedSamples] = {}
    purposes = Purpose.TRAINING_SAMPLES, Purpose.TRAINING_LEVELS
    samples["train"] = FixedSamples(images, digests, split.train, *shared, *purposes)
    if len(split.heldout):
        purposes = Purpose.HELDOUT_SAMPLES, Purpose.HELDOUT_LEVELS
        samples["heldout"] = FixedSamples(images, digests, split.heldout, *shared, *purposes)
    return samples
