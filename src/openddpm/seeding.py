"""Random streams as pure functions of (seed, purpose, counters).

No stream has a state to save: the position of a run determines its random numbers.
Keys are 128-bit BLAKE2b digests, because torch's CPU generators keep 32 bits of a seed and Python's `hash` is salted.
On the CPU numbers come from NumPy's Philox, on other devices from that device's own counter-based generator, so a
run repeats exactly on the same kind of device.
"""

import hashlib
from enum import StrEnum

import numpy as np
import torch


class Purpose(StrEnum):
    """What random numbers are drawn for; each purpose has its own streams. Another text gives other numbers."""

    HELDOUT = "heldout"
    """Which images are held out."""
    ORDER = "order"
    """Order of the training images, by epoch."""
    FLIP = "flip"
    """Which images of a micro-batch are mirrored, by step and micro-batch."""
    TRANSFORM = "transform"
    """What a user-supplied transform draws from torch's global generators, by step and micro-batch."""
    NOISE = "noise"
    """Noise of training, by step and micro-batch."""
    TIMESTEPS = "timesteps"
    """Timesteps of training, by step and micro-batch."""
    DROPOUT = "dropout"
    """What the UNet draws in training from torch's global generators, by step and micro-batch."""
    INITIAL_WEIGHTS = "initial weights"
    """Initial weights of a UNet that is not fine-tuned."""
    TRAINING_SAMPLES = "training tuples"
    """Which training images become fixed samples."""
    TRAINING_LEVELS = "training levels"
    """Which noise level each of these gets."""
    HELDOUT_SAMPLES = "held-out tuples"
    """Which held-out images become fixed samples."""
    HELDOUT_LEVELS = "held-out levels"
    """Which noise level each of these gets."""
    EVALUATION_NOISE = "evaluation noise"
    """Noise of the fixed samples, by their number."""
    BASELINES = "baselines"
    """Which training images the baselines are fitted on."""
    PREVIEW = "preview"
    """Noise that previews begin with."""
    DATA_STATISTICS = "measured training images"
    """Which training images samples are compared with."""
    DATA_GROUPS = "groups of training images"
    """Groups of these, each as large as the number of samples, that show how much statistics vary by chance."""
    SAMPLE = "sample"
    """Noise that `openddpm sample` begins with, by the number of the image."""
    SAMPLE_STEPS = "sample steps"
    """Noise that a solver adds at each of its steps, by the number of the image."""


def stream_key(seed: int, purpose: Purpose, *counters: int) -> int:
    """Return the 128-bit key of one stream; equal arguments give equal keys on every machine."""
    text = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def numpy_generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """Return NumPy's Philox generator at the start of a stream (Salmon et al., 2011)."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, purpose, *counters)))


def keyed_hashes(digests: np.ndarray, seed: int, purpose: Purpose) -> np.ndarray:
    """Return a pseudorandom number for each digest, which depends on the digest and the key alone.

    Two rounds of the finalizer of SplitMix64 (Steele, Lea and Flood, 2014), which maps 64-bit numbers one to one.

    Args:
        digests: (N, 16) uint8, uniformly distributed, as those of BLAKE2b are.

    Returns:
        (N,) uint64, the same on every machine.
    """
    key = stream_key(seed, purpose)
    hashes = np.full(len(digests), key >> 64, np.uint64)
    for half, half_key in enumerate((key, key >> 64)):
        hashes ^= np.ascontiguousarray(digests).view("<u8")[:, half]
        hashes += np.uint64(half_key & (2**64 - 1))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            hashes = (hashes ^ (hashes >> np.uint64(shift))) * np.uint64(factor)
    return hashes


def torch_generator(device: torch.device, seed: int, purpose: Purpose, *counters: int) -> torch.Generator:
    """Return a generator on `device` at the start of a stream."""
    generator = torch.Generator(device)
    generator.manual_seed(stream_key(seed, purpose, *counters) & (2**63 - 1))
    return generator


def standard_normal(
    shape: tuple[int, ...], device: torch.device, seed: int, purpose: Purpose, *counters: int
) -> torch.Tensor:
    """Return float32 draws from N(0, 1) of `shape` on `device`."""
    if device.type == "cpu":
        generator = numpy_generator(seed, purpose, *counters)
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))
    return torch.randn(shape, device=device, generator=torch_generator(device, seed, purpose, *counters))


def uniform(shape: tuple[int, ...], device: torch.device, seed: int, purpose: Purpose, *counters: int) -> torch.Tensor:
    """Return float32 draws from [0, 1) of `shape` on `device`."""
    if device.type == "cpu":
        return torch.from_numpy(numpy_generator(seed, purpose, *counters).random(shape, dtype=np.float32))
    return torch.rand(shape, device=device, generator=torch_generator(device, seed, purpose, *counters))


def seed_global_generators(seed: int, purpose: Purpose, *counters: int) -> None:
    """Seed torch's global generators, from which dropout and user-supplied transforms draw."""
    torch.manual_seed(stream_key(seed, purpose, *counters) & (2**63 - 1))
