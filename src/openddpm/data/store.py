"""Decoded images on disk: a memory-mapped uint8 array, cached by a digest of its source and preprocessing."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openddpm.config import DataOptions
from openddpm.data.dataset_statistics import DatasetStatistics, check_usable
from openddpm.data.decode import Preprocessing, RefusedImage
from openddpm.data.formats import image_formats
from openddpm.data.image_file import ImageFile
from openddpm.data.image_source import ImageSource
from openddpm.data.pool import DIGEST_BYTES, decoded_in_order
from openddpm.data.sources import open_source
from openddpm.errors import UserError
from openddpm.record.data_record import DataRecord
from openddpm.record.files import write_json

CACHE_VARIABLE = "OPENDDPM_CACHE"
STORE_VERSION = 4  # part of the digest: raise it when the results of decoding change

Check = Callable[[DataRecord], None]
"""Raises UserError if a data set cannot be trained on."""


@dataclass(frozen=True)
class ImageStore:
    """Decoded images and their data record; arrays are read from disk as they are used."""

    images: np.ndarray
    """(N, C, H, W), uint8."""
    digests: np.ndarray
    """(N, 16), uint8: `pixel_digest` of each image, equal for exact duplicates only."""
    sha256: str
    data: DataRecord
    names_utf8: np.ndarray | None = None
    """The images' names as UTF-8 bytes, one name per line."""
    labels: np.ndarray | None = None
    """(N,), int32: numbers of the images' labels, -1 for images without one."""
    label_names: tuple[str, ...] = ()
    """Names of the labels by their numbers; empty without labels."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def names(self, indices: Sequence[int]) -> list[str]:
        """Return the names of the images at `indices`, as in their source."""
        lines = [] if self.names_utf8 is None else self.names_utf8.tobytes().decode().split("\n")[:-1]
        return [lines[index] if index < len(lines) else f"image {index}" for index in indices]


def default_cache_dir() -> Path:
    """Return OPENDDPM_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(base) / "openddpm")


def cache_dir_of(options: DataOptions) -> Path:
    """Return the folder in which `options` keep images and baselines."""
    return Path(options.cache_dir).expanduser() if options.cache_dir else default_cache_dir()


def open_images(options: DataOptions, user_dataset: Any = None, quiet: bool = False) -> tuple[ImageSource, ImageStore]:
    """Return the source of the images that `options` name, and the decoded images.

    Raises:
        UserError: see open_source and open_store.
    """
    source = open_source(options, user_dataset)
    preprocessing = Preprocessing.of(options)
    return source, open_store(source, preprocessing, cache_dir_of(options), options.max_refused_share, quiet)


def open_store(
    source: ImageSource,
    preprocessing: Preprocessing,
    cache_dir: Path,
    max_refused_share: float,
    quiet: bool = False,
) -> ImageStore:
    """Return the decoded images of `source`, decoding them unless an earlier run has.

    Several processes may call this at the same time: one decodes, the others wait for it.

    Args:
        max_refused_share: the largest share, 0..1, of the images that may be unusable.

    Raises:
        UserError: no image, masks among the images, too many refused or too small, or no space on the disk.
    """
    preprocessing.background_rgb()

    def check(data: DataRecord) -> None:
        check_usable(source.name, data, preprocessing, max_refused_share)

    if source.digest is None:  # the images may be others next time: do not cache them
        with _disk_errors(tempfile.gettempdir(), "Set TMPDIR to one."), _temporary_folder(None, "openddpm-") as folder:
            _decode_all(source, preprocessing, folder, check, quiet)
            return _read(folder, source)  # the memory map outlives the folder
    key = json.dumps(
        [STORE_VERSION, source.digest, asdict(preprocessing), image_formats()]
    )  # Pillow's plugins may differ next time
    folder = cache_dir / "decoded" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not folder.exists():
        with _disk_errors(cache_dir, "Choose one: --cache_dir FOLDER."):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                _decode_into_cache(source, preprocessing, folder, check, quiet)
    store = _read(folder, source)
    check(store.data)  # it may have been decoded for a run that accepts more
    return store


def _decode_into_cache(
    source: ImageSource, preprocessing: Preprocessing, folder: Path, check: Check, quiet: bool
) -> None:
    """Create `folder` atomically, unless another process has done so while we waited for the lock."""
    if folder.exists():
        return
    prefix = f"{folder.name}-"
    for abandoned in folder.parent.glob(f"{prefix}*"):  # left by a process that was killed while it held the lock
        shutil.rmtree(abandoned, ignore_errors=True)
    with _temporary_folder(folder.parent, prefix) as temporary:
        _decode_all(source, preprocessing, temporary, check, quiet)
        temporary.replace(folder)


@contextlib.contextmanager
def _temporary_folder(parent: Path | None, prefix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _disk_errors(folder: Path | str, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = f"cannot keep decoded images in '{folder}': {error.strerror or error}"
        raise UserError(found, f"They need a folder with free space and write access. {hint}") from error


def _read(folder: Path, source: ImageSource) -> ImageStore:
    try:
        header = json.loads((folder / "store.json").read_text("utf-8"))
        images = np.memmap(folder / "images.uint8", np.uint8, mode="r", shape=tuple(header["shape"]))
        digests = np.memmap(folder / "digests", np.uint8, mode="r", shape=(len(images), DIGEST_BYTES))
        names = np.memmap(folder / "names.utf8", np.uint8, mode="r")
        labels = np.memmap(folder / "labels.int32", "<i4", mode="r", shape=(len(images),))
        data = DataRecord.model_validate(header["data"]).model_copy(update={"left_out": list(source.left_out)})
        return ImageStore(images, digests, header["sha256"], data, names, labels, tuple(header["label_names"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"the decoded images in '{folder}' are damaged: {error}", "Remove that folder.") from error


def _decode_all(source: ImageSource, preprocessing: Preprocessing, folder: Path, check: Check, quiet: bool) -> None:
    """Decode every item of `source` in order into `folder`, and write its header last."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    statistics = DatasetStatistics(preprocessing.duplicates == "drop", source.labels)
    console = Console(stderr=True)  # no bar in a notebook, where rich would ask for ipywidgets each time
    with (
        Progress(*columns, disable=quiet or not console.is_terminal, transient=True, console=console) as progress,
        contextlib.closing(ImageFile(folder / "images.uint8")) as file,
        (folder / "names.utf8").open("wb") as names,
        (folder / "digests").open("wb") as digests,
        contextlib.closing(decoded_in_order(source.items(), preprocessing)) as decoded,
    ):
        task = progress.add_task("decoding images", total=source.num_items)
        for example, result in decoded:
            progress.advance(task)
            if statistics.add(example, result) and not isinstance(result, RefusedImage):
                names.write(f"{example.path}\n".encode())
                digests.write(result.digest)
                file.add(result.pixels)
        sha256 = file.finish()
    data = statistics.record()
    check(data)
    question = statistics.kinds.question(source.name) if preprocessing.image_mode == "auto" else None
    if question is not None:
        raise question
    labels, label_names, _ = statistics.labels.finish()
    labels.astype("<i4").tofile(folder / "labels.int32")
    shape = [data.num_images, *file.shape]
    header = {"shape": shape, "sha256": sha256, "data": data.model_dump(), "label_names": label_names}
    write_json(folder / "store.json", header)
