"""Decodes images on all cores, in their order, and within bounds of memory."""

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

SAMPLED_SIDE = 128  # rows and columns, evenly spaced, that an image's mean brightness is taken from at most
DIGEST_BYTES = 16  # of a pixel digest: two different images share one as good as never
MAX_BYTES_AHEAD = 256 * 2**20  # assumed: plenty to keep all cores at work


@dataclass(frozen=True)
class Decoded:
    """A decoded image, and what of it the data record is made of."""

    pixels: np.ndarray
    """(C, H, W), uint8, contiguous."""
    changes: list[str]
    """What was done beyond resizing downwards, as `decode_image` names it."""
    digest: bytes
    """By `pixel_digest`: the same for exact duplicates, be they gray or gray stored as colour."""
    least: int
    greatest: int
    value_counts: np.ndarray
    """(256,), of the sampled pixels."""
    cut_share: float
    """Of the image's area, what cropping has cut away: 0..1."""
    raw_range: tuple[float, float] | None
    """Least and greatest number of an image of more than 8 bits."""


def decoded_in_order(
    items: Iterator[Example], preprocessing: Preprocessing
) -> Generator[tuple[Example, Decoded | RefusedImage], None, None]:
    """Decode on all cores (Pillow releases the lock while it works) and yield in the order of `items`.

    Of `items` it reads ahead 16 images a core at most, and MAX_BYTES_AHEAD of encoded bytes but for the last image.
    Close it when you stop early: it holds threads.

    Args:
        items: as `ImageSource.items` yields them.

    Yields:
        each of them, and what it was decoded to, or why it is refused.
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
    return len(encoded) if isinstance(encoded, bytes) else 0  # a Pillow image is the caller's, or still in its file


def _decode(encoded: EncodedImage, preprocessing: Preprocessing) -> Decoded:
    """Decode an image and measure it, on a thread of its own."""
    pixels, changes, cut_share, raw_range = decode_image(encoded, preprocessing)
    step = -(-pixels.shape[-1] // SAMPLED_SIDE)
    counts = np.bincount(pixels[:, ::step, ::step].ravel(), minlength=256)
    least, greatest = int(pixels.min()), int(pixels.max())
    return Decoded(pixels, changes, pixel_digest(pixels), least, greatest, counts, cut_share, raw_range)


def pixel_digest(pixels: np.ndarray) -> bytes:
    """Return 16 bytes of BLAKE2b of an image, (C, H, W) uint8; gray counts as colour of three like channels."""
    content = bytes(pixels) * 3 if pixels.shape[0] == 1 else np.ascontiguousarray(pixels).data
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
