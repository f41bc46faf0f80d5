"""Files of arrays, read entry by entry to save memory; no pickle is loaded."""

import contextlib
import gzip
import math
import struct
import zipfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.lib import format as npy_format

from openddpm.data.archives import HARMLESS_BYTES, MAX_SHRINKAGE
from openddpm.data.array_layout import layouts_of
from openddpm.data.image_source import damage_named
from openddpm.data.zip_source import ENCRYPTED, KNOWN_METHODS
from openddpm.errors import UserError
from openddpm.names import as_text

_NPY, _GZIP, _ZIP = b"\x93NUMPY", b"\x1f\x8b", b"PK\3\4"
_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # yann.lecun.com/exdb/mnist
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_LABELS = ((10,), (20, 100))  # classes of the labels before each image: CIFAR-10; CIFAR-100, coarse and fine
_CHECKED_ROWS = 256  # of a CIFAR file: other files of that size have no valid labels at these places


@dataclass(frozen=True)
class ArrayFile:
    """One array in a file, of which only the header has been read."""

    path: Path
    name: str
    """Name of the array in an npz file; else empty."""
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    """Bytes before the first number, in the file or in its member."""
    gap: int = 0
    """Bytes between entries along the first axis: CIFAR alternates labels and images."""
    is_labels: bool = False
    """Whether its format declares it as labels."""

    @property
    def may_be_images(self) -> bool:
        """Whether it has the shape of images: (N, H, W), (N, H, W, C) or (N, C, H, W)."""
        return len(self.shape) == 3 or (len(self.shape) == 4 and bool(layouts_of(self.shape[1:])))

    def entries(self) -> Generator[np.ndarray, None, None]:
        """Yield the array's entries along its first axis.

        Raises:
            UserError: the file is cut off, or longer than its header says.
        """
        with damage_named(self.path), _decompressed(self.path, self.name) as file:
            file.seek(self.start)
            num_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
            for _ in range(self.shape[0]):
                content = file.read(num_bytes)
                if len(content) < num_bytes:
                    raise EOFError("it ends before its last image")
                yield np.frombuffer(content, self.dtype).reshape(self.shape[1:])
                file.seek(self.gap, 1)
            if file.read(1):
                raise ValueError("it continues after its last image; are there several arrays in it?")


def open_arrays(path: Path) -> list[ArrayFile]:
    """Return the arrays in a file, recognized by its first bytes; none if it is of another kind.

    Raises:
        UserError: it is damaged, or can be read only by loading a pickle.
    """
    with damage_named(path):
        with path.open("rb") as file:
            start = file.read(6)
        if start == _NPY:
            return [_checked(_npy_header(path, ""), path.stat().st_size)]
        if start.startswith(_ZIP) and path.suffix.lower() == ".npz":
            return _npz_headers(path)
        if _idx_start(path):
            return [_checked(_idx_header(path), path.stat().st_size)]
        return _cifar_header(path)


@contextlib.contextmanager
def _decompressed(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a file, or a member of an npz file, for reading its decompressed bytes."""
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        if name:
            file = stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(f"{name}.npy"))
        elif file.read(2) == _GZIP:
            file.seek(0)
            file = stack.enter_context(cast(IO[bytes], gzip.GzipFile(fileobj=file)))
        else:
            file.seek(0)
        yield file


def _npy_header(path: Path, name: str) -> ArrayFile:
    with _decompressed(path, name) as file:
        version = npy_format.read_magic(file)
        reader = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        if version > (2, 0):
            raise ValueError("an npy file of a version that holds records, not images")
        shape, is_fortran, dtype = reader(file)
        start = file.tell()
    what = f"'{as_text(path)}'" + (f", array '{as_text(name)}'," if name else "")
    if dtype.hasobject:
        raise UserError(
            f"{what} holds Python objects, in a pickle, which is never loaded: it could run any program",
            "If you trust the file, save its images as one array: numpy.save('images.npy', numpy.stack(list(numpy."
            "load(FILE, allow_pickle=True)))); write images of several sizes to image files.",
        )
    if is_fortran and len(shape) > 1:
        hint = "Save it row by row: numpy.save('images.npy', numpy.ascontiguousarray(x))."
        raise UserError(f"{what} is stored column by column (Fortran order)", hint)
    return ArrayFile(path, name, tuple(shape), dtype, start)


def _npz_headers(path: Path) -> list[ArrayFile]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type not in KNOWN_METHODS for member in members):
            raise ValueError("compressed by a method that numpy does not use")
        if any(member.flag_bits & ENCRYPTED for member in members):
            hint = "Unpack it with its password, and give its .npy file as --dataset."
            raise UserError(f"'{as_text(path)}' is encrypted", hint)
        if len({member.filename for member in members}) < len(members):
            raise ValueError("two arrays with the same name")
        if sum(member.compress_size for member in members) > path.stat().st_size:
            raise ValueError("its arrays are larger than the file: they overlap, or their sizes are false")
    found = []
    for member in members:
        if member.filename.endswith(".npy"):
            try:
                header = _npy_header(path, member.filename.removesuffix(".npy"))
            except UserError:
                if len(members) == 1:
                    raise
                continue  # labels as objects, beside the images
            if header.start + _num_bytes(header) != member.file_size:
                raise ValueError(f"the length of '{member.filename}' does not match its shape {header.shape}")
            found.append(_checked(header, member.compress_size))
    return found


def _idx_start(path: Path) -> bytes | None:
    """Return the first four bytes of an idx file, compressed or not; None if it is none."""
    with _decompressed(path, "") as file:
        start = file.read(4)
    is_idx = len(start) == 4 and start[:2] == b"\0\0" and start[2] in _IDX_TYPES and 1 <= start[3] <= 4
    return start if is_idx else None


def _idx_header(path: Path) -> ArrayFile:
    with _decompressed(path, "") as file:
        _, _, kind, num_axes = file.read(4)
        shape = struct.unpack(f">{num_axes}I", file.read(4 * num_axes))
    is_labels = num_axes == 1
    return ArrayFile(path, "", shape, np.dtype(_IDX_TYPES[kind]), 4 + 4 * num_axes, is_labels=is_labels)


def _cifar_header(path: Path) -> list[ArrayFile]:
    num_bytes, num_values = path.stat().st_size, math.prod(_CIFAR_SHAPE)
    for num_classes in _CIFAR_LABELS:
        row = len(num_classes) + num_values
        if path.suffix.lower() == ".bin" and num_bytes and num_bytes % row == 0:
            with path.open("rb") as file:
                rows = np.frombuffer(file.read(_CHECKED_ROWS * row), np.uint8).reshape(-1, row)
            if (rows[:, : len(num_classes)] < np.array(num_classes)).all():
                num_rows, num_labels, kind = num_bytes // row, len(num_classes), np.dtype(np.uint8)
                images = ArrayFile(path, "", (num_rows, *_CIFAR_SHAPE), kind, num_labels, gap=num_labels)
                places = range(num_labels)
                labels = [ArrayFile(path, "", (num_rows,), kind, at, row - 1, is_labels=True) for at in places]
                return [images, *labels]
    return []


def _num_bytes(array: ArrayFile) -> int:
    return math.prod(array.shape) * array.dtype.itemsize


def _checked(array: ArrayFile, num_stored: int) -> ArrayFile:
    """Return `array`, unless its file is too short or too long for it, or expands more than images do."""
    num_bytes = array.start + _num_bytes(array)
    if array.name or _is_compressed(array.path):
        if num_bytes > max(HARMLESS_BYTES, MAX_SHRINKAGE * num_stored):
            raise ValueError(f"{num_stored:,} bytes decompress to {num_bytes:,}, more than images do")
    elif num_bytes != num_stored:
        kind = "cut off" if num_bytes > num_stored else "more than one array, or damaged"
        raise ValueError(f"{kind}: its shape {array.shape} takes {num_bytes:,} bytes, and it has {num_stored:,}")
    return array


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP
