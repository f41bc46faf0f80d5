"""Mean squared noise error on fixed (image, timestep, noise) tuples: the same for every weights and every step."""

import numpy as np
import torch

from openddpm.data.stream import Split, load_images, uint8_to_signed_unit
from openddpm.diffusion.process import BANDS, DiffusionProcess
from openddpm.diffusion.sampling import Denoiser
from openddpm.record.schema import BandScore, EvaluationRow, Weights
from openddpm.seeding import numpy_generator, standard_normal

MAX_TUPLES = 256  # assumed: steady enough to see a trend, cheap enough for every preview
MAX_BATCH_SIZE = 64  # larger ones gain nothing
MIN_TUPLES = 48  # assumed: small held-out sets are met at several timesteps an image


class FixedTuples:
    """Some images, each with a timestep and a noise that never change."""

    def __init__(
        self,
        images: np.ndarray,
        indices: np.ndarray,
        process: DiffusionProcess,
        device: torch.device,
        seed: int,
        name: str,
    ) -> None:
        """Choose up to MAX_TUPLES of `indices` into the store `images`, timesteps spread evenly over all of them."""
        count = min(max(len(indices), MIN_TUPLES), MAX_TUPLES)
        generator = numpy_generator(seed, f"{name} tuples")
        self.indices = np.resize(generator.permutation(indices), count)
        strata = (generator.permutation(count) + 0.5) / count
        self.timesteps = torch.from_numpy((strata * process.num_timesteps).astype(np.int64)).to(device)
        self._images, self._process, self._device, self._seed, self._name = images, process, device, seed, name

    def squared_errors(self, denoise: Denoiser, batch_size: int) -> torch.Tensor:
        """Return the squared noise error of each tuple, mean over pixels, (count,) float32 on the CPU."""
        errors = []
        for start in range(0, len(self.indices), batch_size):
            chosen = slice(start, start + batch_size)
            timesteps = self.timesteps[chosen]
            clean = uint8_to_signed_unit(load_images(self._images, self.indices[chosen], self._device))
            noise = torch.stack([self._noise(tuple(image.shape), start + i) for i, image in enumerate(clean)])
            noisy = self._process.add_noise(clean, noise, timesteps)
            predicted = self._process.to_noise(denoise(noisy, timesteps), noisy, timesteps)
            errors.append((predicted - noise).square().mean(dim=(1, 2, 3)))
        return torch.cat(errors).cpu()

    def _noise(self, shape: tuple[int, ...], index: int) -> torch.Tensor:
        return standard_normal(shape, self._device, self._seed, f"{self._name} noise", index)


class HeldoutEvaluation:
    """Scores weights on held-out images, and on as many training images for comparison."""

    def __init__(
        self,
        images: np.ndarray,
        split: Split,
        process: DiffusionProcess,
        device: torch.device,
        seed: int,
        batch_size: int,
    ) -> None:
        """Prepare fixed tuples of both kinds; `batch_size` is what fits the device, and changes no number."""
        self._batch_size = min(batch_size, MAX_BATCH_SIZE)
        self._train = FixedTuples(images, split.train, process, device, seed, "training")
        self._heldout = (
            FixedTuples(images, split.heldout, process, device, seed, "held-out") if len(split.heldout) else None
        )
        self._snr = process.snr().cpu()

    def score(self, denoise: Denoiser, weights: Weights, step: int, images: int) -> EvaluationRow:
        """Return a line of evaluations.jsonl; bands are of the held-out tuples, or of the training ones without any."""
        train = self._train.squared_errors(denoise, self._batch_size)
        heldout = self._heldout.squared_errors(denoise, self._batch_size) if self._heldout else None
        tuples, errors = (self._train, train) if heldout is None else (self._heldout, heldout)
        assert tuples is not None
        snr = self._snr[tuples.timesteps.cpu()]
        bands = {}
        for band, (low, high) in BANDS.items():
            inside = errors[(snr >= low) & (snr < high)]
            bands[band] = BandScore(loss=_finite(inside.mean()) if len(inside) else None)
        return EvaluationRow(
            step=step,
            images=images,
            weights=weights,
            heldout_loss=None if heldout is None else _finite(heldout.mean()),
            train_loss=_finite(train.mean()),
            bands=bands,  # type: ignore[arg-type]
        )


def _finite(value: torch.Tensor) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
