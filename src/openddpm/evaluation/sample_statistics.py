"""Samples compared with training images by pixel statistics: brightness, contrast, colour and structure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openddpm.record.schema import SampleStatistic, StatisticName
from openddpm.seeding import Purpose, numpy_generator

MAX_DATA_IMAGES = 2048  # assumed: the standard error of their mean is an eleventh of that of 16 samples
MAX_DATA_VALUES = 2**25  # pixels times channels; measured: 0.8 s of one core at most
MAX_SIDE = 256  # pixels used of a larger image, in each direction
CHUNK_VALUES = 2**21  # 8 MB in float32
NUM_GROUPS = 10_000  # of random training images: a mean outside the range of all of theirs is not chance
MAX_GROUP = 64  # images in a group; for more samples the range is narrowed by the square root of the ratio

FINE, MEDIUM = (0.5, 1.5), (0.25, 0.5)  # relative to the highest frequency of a row: octaves; FINE with the corners
PerImage = NDArray[np.float64]


@dataclass(frozen=True)
class DataStatistics:
    """Statistics of training images, of a random choice if there are many."""

    per_image: dict[StatisticName, PerImage]
    """One number per image, (N,)."""
    seed: int

    @property
    def num_images(self) -> int:
        """Number of training images that were measured."""
        return len(self.per_image["brightness"])

    def compare(self, samples: np.ndarray) -> dict[StatisticName, SampleStatistic]:
        """Compare the mean over `samples`, (N, C, H, W) uint8, with means over random groups of training images."""
        num_samples, num_images = len(samples), self.num_images
        measured = image_statistics(samples, np.arange(num_samples))
        size = min(num_samples, MAX_GROUP)
        groups = numpy_generator(self.seed, Purpose.DATA_GROUPS).integers(num_images, size=(NUM_GROUPS, size))
        narrower = np.sqrt(size / num_samples)
        wider = np.sqrt(1 + num_samples / num_images)  # the mean over the chosen training images has an error, too
        found = {}
        for name, values in self.per_image.items():
            mean = float(values.mean())
            means = mean + narrower * wider * (values[groups].mean(axis=1) - mean)
            found[name] = SampleStatistic(
                samples=float(measured[name].mean()),
                data=mean,
                error=float(values.std() / np.sqrt(num_samples) * wider),
                low=float(means.min()),
                high=float(means.max()),
            )
        return found


def measure_data(images: np.ndarray, train_indices: np.ndarray, seed: int) -> DataStatistics:
    """Measure the training images, or a random choice that takes little time.

    Args:
        images: of the store, (N, C, H, W) uint8.
        train_indices: of the training images in the store.
    """
    channels, height, width = images.shape[1:]
    affordable = MAX_DATA_VALUES // (channels * min(height, MAX_SIDE) * min(width, MAX_SIDE))
    order = numpy_generator(seed, Purpose.DATA_STATISTICS).permutation(train_indices)
    return DataStatistics(image_statistics(images, np.sort(order[: min(MAX_DATA_IMAGES, affordable)])), seed)


def image_statistics(images: np.ndarray, indices: np.ndarray) -> dict[StatisticName, PerImage]:
    """Return the statistics of the images at `indices`, (len(indices),) each, from 0 to 1.

    brightness: the mean of all values; contrast: the standard deviation of the gray image; colour: the mean over
    pixels of the largest channel minus the smallest; medium and fine: the root mean square of wavelengths of 4 to 8
    pixels, and of up to 4, by a discrete cosine transform of each channel. Images larger than MAX_SIDE are subsampled
    evenly, and for medium and fine cropped at their centre.

    Args:
        images: (N, C, H, W) uint8.
    """
    channels, height, width = images.shape[1:]
    stride = -(-max(height, width) // MAX_SIDE)
    middle = (slice(None), _middle(height), _middle(width))
    per_chunk = max(1, CHUNK_VALUES // (channels * min(height, MAX_SIDE) * min(width, MAX_SIDE)))
    parts: list[dict[StatisticName, np.ndarray]] = []
    for start in range(0, len(indices), per_chunk):
        chunk = indices[start : start + per_chunk]
        spread = np.stack([images[index][:, ::stride, ::stride] for index in chunk]) / np.float32(255)
        statistics: dict[StatisticName, np.ndarray] = {
            "brightness": spread.mean(axis=(1, 2, 3)),
            "contrast": spread.mean(axis=1).std(axis=(1, 2)),
        }
        if channels == 3:
            statistics["colour"] = (spread.max(axis=1) - spread.min(axis=1)).mean(axis=(1, 2))
        power = _power(np.stack([images[index][middle] for index in chunk]) / np.float32(255))
        statistics["medium"] = _root_mean_square(power, *MEDIUM)
        statistics["fine"] = _root_mean_square(power, *FINE)
        parts.append(statistics)
    return {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in parts[0]}


def _middle(side: int) -> slice:
    start = max(0, side - MAX_SIDE) // 2
    return slice(start, start + MAX_SIDE)


def _power(images: np.ndarray) -> np.ndarray:
    """Return the squared coefficients of the orthonormal cosine transform, mean over channels: (B, H, W)."""
    height, width = images.shape[2:]
    coefficients = _cosines(height) @ images @ _cosines(width).T
    return np.asarray((coefficients**2).mean(axis=1))


def _cosines(size: int) -> np.ndarray:
    """Return the basis of the discrete cosine transform (Ahmed, Natarajan and Rao, 1974), one frequency per row."""
    frequency, place = np.arange(size)[:, None], np.arange(size) + 0.5
    basis = np.sqrt(2 / size) * np.cos(np.pi * frequency * place / size)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


def _root_mean_square(power: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return that of the frequencies from `low` up to `high`, (B,); 1 is the highest of a row or a column."""
    height, width = power.shape[1:]
    frequency = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width)
    in_band = (frequency >= low) & (frequency < high)
    return np.asarray(np.sqrt(power[:, in_band].sum(axis=1) / frequency.size))
