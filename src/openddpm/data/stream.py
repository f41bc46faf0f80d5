"""The order of the training images, and their way to the device; both are functions of the position in training."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from openddpm.errors import UserError
from openddpm.seeding import Purpose, keyed_hashes, numpy_generator, seed_global_generators, uniform

DEFAULT_HELDOUT_SHARE = 10  # one image in ten
DEFAULT_MAX_HELDOUT = 512
IMAGES_MOVED_AT_ONCE = 4096  # assumed

Transform = Callable[[torch.Tensor], torch.Tensor]
"""A user-supplied augmentation: uint8 (B, C, H, W) on the device in, the same shape out."""


@dataclass(frozen=True)
class Split:
    """Indices into a store, each array ascending, int32."""

    train: np.ndarray
    heldout: np.ndarray


def split_heldout(digests: np.ndarray, num_heldout: int | None, evaluation_seed: int) -> Split:
    """Split off `num_heldout` images, or fewer if exact duplicates, which stay together, do not add up to that.

    Groups of duplicates are held out as long as they fit, in the order of a keyed hash of their digest: neither the
    names nor the order of the images matter.

    Args:
        digests: digests of the images, (N, 16) uint8.
        num_heldout: None for one in ten, at most 512.

    Raises:
        UserError: nothing would be left to train on.
    """
    num_images = len(digests)
    if num_heldout is None:
        num_heldout = min(DEFAULT_MAX_HELDOUT, num_images // DEFAULT_HELDOUT_SHARE)
    if num_heldout >= num_images:
        hint = "Hold out fewer, or give more images."
        raise UserError(
            f"--heldout_images {num_heldout} leaves none of {num_images} image{'s' * (num_images != 1)} to train on",
            hint,
        )
    order = keyed_order(digests, evaluation_seed, Purpose.HELDOUT)
    is_first = np.ones(num_images, bool)
    is_first[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(is_first)
    is_taken = _taken_as_they_fit(np.diff(starts, append=num_images), num_heldout)
    is_heldout = np.zeros(num_images, bool)
    is_heldout[order] = is_taken[np.cumsum(is_first) - 1]
    train, heldout = (np.flatnonzero(chosen).astype(np.int32) for chosen in (~is_heldout, is_heldout))
    return Split(train, heldout)


def keyed_order(digests: np.ndarray, seed: int, purpose: Purpose) -> np.ndarray:
    """Return the indices, (N,) int64, that sort images by a keyed hash of their content alone.

    Exact duplicates are next to each other, in their original order.
    """
    low, high = np.ascontiguousarray(digests).view("<u8").T
    return np.lexsort((high, low, keyed_hashes(digests, seed, purpose)))


def _taken_as_they_fit(sizes: np.ndarray, room: int) -> np.ndarray:
    """Return which groups are taken, (G,) bool, if each is taken that fits into the room the earlier ones leave."""
    is_taken = np.zeros(len(sizes), bool)
    groups = np.flatnonzero(sizes <= room)
    while len(groups):
        filled = np.cumsum(sizes[groups])
        num_fitting = int(np.searchsorted(filled, room, side="right"))
        is_taken[groups[:num_fitting]] = True
        room -= int(filled[num_fitting - 1])
        groups = groups[num_fitting:]
        groups = groups[sizes[groups] <= room]
    return is_taken


class TrainingOrder:
    """The endless order of training images: epoch after epoch, each with its own keyed permutation."""

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images = num_images
        self._seed = seed
        self._permutations: dict[int, np.ndarray] = {}

    def indices(self, start: int, count: int) -> np.ndarray:
        """Return the image indices, (count,) int64, at positions start .. start + count - 1."""
        positions = np.arange(start, start + count)
        epochs, offsets = np.divmod(positions, self.num_images)
        parts = [self._permutation(epoch)[offsets[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts).astype(np.int64)

    def _permutation(self, epoch: int) -> np.ndarray:
        permutation = self._permutations.get(epoch)
        if permutation is None:
            permutation = np.arange(self.num_images, dtype=np.int32)  # half the memory of `permutation(num_images)`
            numpy_generator(self._seed, Purpose.ORDER, epoch).shuffle(permutation)
            kept = {key: value for key, value in self._permutations.items() if key >= epoch - 1}
            self._permutations = {**kept, epoch: permutation}  # a new dict, since two threads may read it
        return permutation


class BatchStream:
    """Turns positions of the training order into augmented float images on the device.

    On a GPU all images are kept in its memory if `on_device` and they fit; else a thread loads the next micro-batch
    into pinned memory.
    """

    def __init__(
        self,
        images: np.ndarray,
        train_indices: np.ndarray,
        device: torch.device,
        seed: int,
        random_flip: bool,
        transform: Transform | None = None,
        on_device: bool = False,
        num_processes: int = 1,
    ) -> None:
        self.order = TrainingOrder(len(train_indices), seed)
        self._images = images
        self._train_indices = train_indices
        self._device = device
        self._seed = seed
        self._random_flip = random_flip
        self._transform = transform
        self._on_device = _moved_if_there_is_room(images, device) if on_device else None
        self._num_processes = num_processes
        self._loader = ThreadPoolExecutor(1) if device.type == "cuda" and not self.on_device else None
        self._ahead: tuple[tuple[int, int], Future[torch.Tensor]] | None = None

    @property
    def on_device(self) -> bool:
        """Return whether all images are in the device's memory."""
        return self._on_device is not None

    def image_indices(self, start: int, count: int) -> np.ndarray:
        """Return the indices in the store, (count,) int64, of the images at positions start .. start + count - 1."""
        return self._train_indices[self.order.indices(start, count)].astype(np.int64)

    def micro_batch(self, start: int, count: int, step: int, micro_index: int) -> torch.Tensor:
        """Return the images at positions start .. start + count - 1, (count, C, H, W) float32 in [-1, 1].

        Args:
            step, micro_index: key the augmentation; `micro_index` counts the micro-batches of a step over all
                accumulation steps and processes.
        """
        images = self._load(start, count)
        if self._random_flip:
            flipped = uniform((count, 1, 1, 1), self._device, self._seed, Purpose.FLIP, step, micro_index) < 0.5
            images = torch.where(flipped, images.flip(-1), images)
        if self._transform is not None:
            seed_global_generators(self._seed, Purpose.TRANSFORM, step, micro_index)
            images = _checked(self._transform(images), images.shape)
        return uint8_to_signed_unit(images)

    def close(self) -> None:
        """End the thread that loads ahead."""
        if self._loader is not None:
            self._loader.shutdown(cancel_futures=True)

    def _load(self, start: int, count: int) -> torch.Tensor:
        if self._on_device is not None:
            indices = torch.from_numpy(self.image_indices(start, count))
            if self._device.type == "cuda":  # copies from unpinned memory wait for the device
                indices = indices.pin_memory()
            return self._on_device[indices.to(self._device, non_blocking=True)]
        if self._loader is None:
            return load_images(self._images, self.image_indices(start, count), self._device)
        is_next = self._ahead is not None and self._ahead[0] == (start, count)
        images = self._ahead[1].result() if is_next and self._ahead else self._pinned(start, count)
        following = start + self._num_processes * count  # the processes take turns
        self._ahead = (following, count), self._loader.submit(self._pinned, following, count)
        return images.to(self._device, non_blocking=True)

    def _pinned(self, start: int, count: int) -> torch.Tensor:
        return load_images(self._images, self.image_indices(start, count), torch.device("cpu")).pin_memory()


def _moved_if_there_is_room(images: np.ndarray, device: torch.device) -> torch.Tensor | None:
    """Return all images on `device`, without a second copy in memory; None if they do not fit."""
    try:
        return _moved(images, device)
    except torch.OutOfMemoryError:
        return None


def _moved(images: np.ndarray, device: torch.device) -> torch.Tensor:
    moved = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), IMAGES_MOVED_AT_ONCE):
        chunk = slice(start, start + IMAGES_MOVED_AT_ONCE)
        moved[chunk] = torch.from_numpy(np.array(images[chunk]))
    return moved


def _checked(transformed: object, shape: torch.Size) -> torch.Tensor:
    if isinstance(transformed, torch.Tensor) and transformed.shape == shape and transformed.dtype == torch.uint8:
        return transformed
    found = type(transformed).__name__
    if isinstance(transformed, torch.Tensor):
        found = f"{transformed.dtype} {tuple(transformed.shape)}"
    raise UserError(f"the transform returned {found}", f"Return uint8 images of the shape it is given, {tuple(shape)}.")


def load_images(images: np.ndarray, indices: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the images at `indices` of a store as uint8 (B, C, H, W) on `device`."""
    is_async = device.type == "cuda"  # on Apple GPUs such a copy reads memory that is already freed (PyTorch 189690)
    return torch.from_numpy(np.ascontiguousarray(images[indices])).to(device, non_blocking=is_async)


def uint8_to_signed_unit(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 0..255 to float32 -1..1."""
    return images.float() / 127.5 - 1


def signed_unit_to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Map float -1..1, clamped, to the nearest uint8 0..255."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
