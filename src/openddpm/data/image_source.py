"""What every source of images comes down to, and what the sources share."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from openddpm.config import DataOptions
from openddpm.data.decode import MAX_ENCODED_BYTES, EncodedImage, RefusedImage
from openddpm.errors import UserError, closest


@dataclass(frozen=True)
class ImageSource:
    """A finite sequence of encoded images.

    `digest` changes when the images may have; None says that nothing can tell. `items` starts from the first image
    at every call and yields (path or other name, encoded image or the reason why it cannot be read).
    """

    name: str
    digest: str | None
    num_items: int
    items: Callable[[], Iterator[tuple[str, EncodedImage]]]
    revision: str | None = None
    split: str | None = None


def as_text(path: Path | str) -> str:
    """Return a path for people and JSON, also where its name is not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def read_encoded(path: Path) -> bytes | RefusedImage:
    """Return a file's content, or why it cannot be read."""
    try:
        return too_large(path.stat().st_size) or path.read_bytes()
    except OSError as error:
        return RefusedImage(f"cannot be read: {error.strerror}")


def too_large(num_bytes: int) -> RefusedImage | None:
    """Refuse a file by its size, before it fills the memory."""
    if num_bytes <= MAX_ENCODED_BYTES:
        return None
    return RefusedImage(f"{num_bytes:,} bytes, more than the limit of {MAX_ENCODED_BYTES:,}")


def digest_files(paths: Sequence[Path]) -> str:
    """Return a digest of names, sizes and times of change: quick, and different when a file is."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(os.fsencode(path.resolve()) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def choose_column(candidates: list[str], columns: list[str], options: DataOptions) -> str:
    """Return the column that is asked for, or the only one with images.

    Raises:
        UserError: no such column, none with images, or several.
    """
    if options.image_column is not None:
        if options.image_column not in columns:
            raise UserError(f"no column '{options.image_column}'", closest(options.image_column, columns))
        return options.image_column
    if len(candidates) == 1:
        return candidates[0]
    where = f" in '{options.dataset}'" if options.dataset else ""
    if not candidates:
        raise UserError(
            f"no image column{where}: its columns are {', '.join(columns)}",
            "Name the one with images, if there is one: --image_column NAME.",
        )
    raise UserError(f"several image columns{where}: {', '.join(candidates)}", "Choose one: --image_column NAME.")
