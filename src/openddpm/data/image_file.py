"""A file of decoded images in one shape, which is gray until an image in colour comes."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

WRITE_BYTES = 2**20  # assumed; measured: an eighth less time than image by image, for 7,519 images of 64x64
_CHANNELS = 3  # of colour


class ImageFile:
    """Writes images to `path`, one after another; close it by `finish`, or `close` when giving up.

    Gray images are written with one channel. With the first image in colour what was written is written once more, in
    three channels, and later gray images are too: what stands in the file is what an image_mode "rgb" would write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._digest = hashlib.sha256()
        self._waiting = bytearray()  # written together: each write hands the interpreter to the threads that decode
        self.shape: tuple[int, ...] = ()
        """(C, H, W) of every image; empty before the first."""

    def add(self, pixels: np.ndarray) -> None:
        """Write an image, (1, H, W) or (3, H, W) uint8, of the same height and width as the others."""
        if not self.shape:
            self.shape = pixels.shape
        elif pixels.shape[0] > self.shape[0]:
            self._turn_to_colour()
        repeats = self.shape[0] // pixels.shape[0]
        self._waiting += bytes(pixels) * repeats if repeats > 1 else pixels.data.cast("B")
        if len(self._waiting) >= WRITE_BYTES:
            self._write_waiting()

    def finish(self) -> str:
        """Bring all to disk, close the file, and return the sha256 of its content."""
        self._write_waiting()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _write_waiting(self) -> None:
        self._file.write(self._waiting)
        self._digest.update(self._waiting)
        self._waiting.clear()

    def _turn_to_colour(self) -> None:
        self._write_waiting()
        self._file.close()
        gray_path = self._path.with_suffix(".gray")
        self._path.replace(gray_path)
        self._file, self._digest = self._path.open("wb"), hashlib.sha256()
        self.shape = (_CHANNELS, *self.shape[1:])
        num_bytes = self.shape[1] * self.shape[2]
        with gray_path.open("rb") as gray:
            while image := gray.read(num_bytes):
                self._waiting += image * _CHANNELS
                if len(self._waiting) >= WRITE_BYTES:
                    self._write_waiting()
        gray_path.unlink()
