"""Decoding of images on all cores, in order, with bounded memory."""

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from openddpm.data.decode import (
    EncodedImage,
    Preprocessing,
    RefusedImage,
    decode_image,
    pillow_warnings_ignored,
    without_source,
)
from openddpm.data.image_source import Example

SAMPLED_SIDE = 128  # at most so many rows and columns, evenly spaced, enter an image's mean brightness
DIGEST_BYTES = 16  # of a pixel digest: makes equal digests of different images practically impossible
MAX_BYTES_AHEAD = 256 * 2**20  # assumed: enough to keep all cores busy


@dataclass(frozen=True)
class Decoded:
    """A decoded image, with its statistics for the data record."""

    pixels: np.ndarray
    """(C, H, W), uint8, contiguous."""
    changes: list[str]
    """Changes other than downscaling and cropping; see `Decoding.changes`."""
    digest: bytes
    """Result of `pixel_digest`: equal for exact duplicates, also if one is gray and the other gray stored as colour."""
    least: int
    greatest: int
    value_counts: np.ndarray
    """Histogram of the sampled pixels, (256,)."""
    cut_share: float
    """Share of the image's area that cropping has cut away, 0..1."""
    raw_range: tuple[float, float] | None
    """Smallest and largest number of an image of more than 8 bits."""


def decoded_in_order(
    items: Iterator[Example], preprocessing: Preprocessing
) -> Generator[tuple[Example, Decoded | RefusedImage], None, None]:
    """Decode on all cores (Pillow releases the lock while it works) and yield in the order of `items`.

    At most 16 images per core and MAX_BYTES_AHEAD encoded bytes (plus one image) are read ahead of time.
    Close the generator if you stop early: it holds threads.

    Args:
        items: examples as from `ImageSource.items`.

    Yields:
        each example, with the decoded image or the reason why it is refused.
    """
    waiting: deque[tuple[Example, int, Future[Decoded]]] = deque()
    num_threads = os.cpu_count() or 1
    num_bytes_ahead = 0

    def finish() -> tuple[Example, Decoded | RefusedImage]:
        nonlocal num_bytes_ahead
        example, num_bytes, future = waiting.popleft()
        num_bytes_ahead -= num_bytes
        try:
            return example, future.result()
        except RefusedImage as refusal:
            return example, refusal

    with pillow_warnings_ignored(), ThreadPoolExecutor(num_threads) as pool, contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: [future.cancel() for _, _, future in waiting])
        for example in items:
            num_bytes = _num_bytes(example.image)
            num_bytes_ahead += num_bytes
            waiting.append((example, num_bytes, pool.submit(_decode, example.image, preprocessing)))
            while waiting and (len(waiting) >= 16 * num_threads or num_bytes_ahead > MAX_BYTES_AHEAD):
                yield finish()
        while waiting:
            yield finish()


def _num_bytes(encoded: EncodedImage) -> int:
    encoded = without_source(encoded)
    if isinstance(encoded, np.ndarray):
        return encoded.nbytes
    return len(encoded) if isinstance(encoded, bytes) else 0  # a Pillow image is the user's, or still in its file


def _decode(encoded: EncodedImage, preprocessing: Preprocessing) -> Decoded:
    """Decode an image and compute its statistics; runs on a thread of the pool."""
    pixels, changes, cut_share, raw_range = decode_image(encoded, preprocessing)
    step = -(-pixels.shape[-1] // SAMPLED_SIDE)
    counts = np.bincount(pixels[:, ::step, ::step].ravel(), minlength=256)
    least, greatest = int(pixels.min()), int(pixels.max())
    return Decoded(pixels, changes, pixel_digest(pixels), least, greatest, counts, cut_share, raw_range)


def pixel_digest(pixels: np.ndarray) -> bytes:
    """Return 16 bytes of BLAKE2b of an image, (C, H, W) uint8; gray counts as colour with three equal channels."""
    content = bytes(pixels) * 3 if pixels.shape[0] == 1 else np.ascontiguousarray(pixels).data
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
