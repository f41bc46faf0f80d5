"""Where images come from: a built-in name, a folder, a zip, parquet or arrow files, the Hub, or the caller's own."""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.decode import EncodedImage, RefusedImage
from openddpm.data.image_source import ImageSource, choose_column, digest_files, read_encoded
from openddpm.data.tables import arrow_source, dataset_source, parquet_source
from openddpm.data.zip_source import zip_source
from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.record.writer import RUN_FILE

__all__ = ["ImageSource", "open_source"]

BUILT_IN = ("avatars-16",)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")


def open_source(options: DataOptions, own_dataset: Any = None) -> ImageSource:
    """Find the images that `options` name, or wrap the caller's own data set.

    Args:
        own_dataset: a `datasets.Dataset`, or any sequence of Pillow images, of uint8 arrays (H, W, C), or of tuples
            or dicts that hold one.

    Raises:
        UserError: nothing there, no image column, several of them, or a Hub that says no.
    """
    if own_dataset is not None:
        return _own_source(own_dataset, options)
    if not options.dataset:
        raise UserError("no data set is named", "Name one: --dataset FOLDER, a Hub id, or --recipe avatars-16.")
    if options.dataset in BUILT_IN:
        with resources.as_file(resources.files("openddpm.data") / "builtin" / f"{options.dataset}.parquet") as path:
            return parquet_source([path], options)
    path = Path(options.dataset)
    with contextlib.suppress(RuntimeError):  # no such user
        path = path.expanduser()
    mode = _mode_of(path)
    if stat.S_ISDIR(mode):
        return _folder_source(path, options)
    if stat.S_ISREG(mode):
        return _file_source(path, options)
    if path.is_absolute() or options.dataset.startswith((".", "~")) or path.suffix in (".parquet", ".arrow", ".zip"):
        raise UserError(f"no file or folder '{as_text(options.dataset)}'", "Check the path given as --dataset.")
    from openddpm.data.hub_source import cache_folders, load_from_hub

    return dataset_source(*load_from_hub(options), options, cache_folders(options))


def _mode_of(path: Path) -> int:
    """Return what kind of thing a path leads to, 0 where there is nothing or cannot be."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _folder_source(folder: Path, options: DataOptions) -> ImageSource:
    split = options.dataset_split
    files, unlisted = _files_below(folder)
    parquet = [path for path in files if path.suffix.lower() == ".parquet"]
    of_split = [path for path in parquet if path.name.startswith(split)]
    if stat.S_ISDIR(_mode_of(folder / split)):  # folders named train and test, as the `datasets` library has them
        folder = folder / split
        files = [path for path in files if path.is_relative_to(folder)]
        unlisted = [path for path in unlisted if path.is_relative_to(folder)]
        parquet = [path for path in parquet if path.is_relative_to(folder)]
    elif split != "train" and not of_split:
        subfolders = [as_text(path.name) for path in sorted(folder.iterdir()) if stat.S_ISDIR(_mode_of(path))]
        raise UserError(
            f"'{as_text(folder)}' has no sub-folder, and no parquet files, of the split '{as_text(split)}'",
            f"Leave --dataset_split out, or give one of: {', '.join(subfolders) or 'no sub-folders there'}.",
        )
    else:
        parquet = of_split or parquet
    images = [path for path in files if _names_image(path)]
    if not images and parquet:
        return parquet_source(parquet, options)
    if not images:
        where = f"the folder '{as_text(folder)}'"
        if unlisted:
            raise UserError(
                f"cannot list '{as_text(unlisted[0])}', and found no images in {where}", "Make it readable."
            )
        todo = f"Looked in all sub-folders for {' '.join(IMAGE_SUFFIXES)} and .parquet files."
        raise UserError(f"no images in {where}", todo)

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for path in unlisted:
            yield as_text(path.relative_to(folder)), RefusedImage("a folder that cannot be listed")
        for path in images:
            yield as_text(path.relative_to(folder)), read_encoded(path)

    return ImageSource(as_text(folder), digest_files(unlisted + images), len(unlisted) + len(images), items)


def _files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return what lies in a folder and its sub-folders, linked ones too, but for what belongs to a run.

    Returns:
        all that is no folder; the folders that cannot be listed; both sorted.
    """
    files: list[Path] = []
    errors: list[OSError] = []
    seen = set()
    for parent, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen or RUN_FILE in names:  # links in a circle; pictures that a run made are no training images
            folders.clear()
            continue
        seen.add(real)
        files += [Path(parent, name) for name in names]
    return sorted(files), sorted(Path(os.fsdecode(error.filename)) for error in errors)


def _file_source(path: Path, options: DataOptions) -> ImageSource:
    match path.suffix.lower():
        case ".zip":
            return zip_source(path, _names_image)
        case ".parquet":
            return parquet_source([path], options)
        case ".arrow":
            return arrow_source(path, options)
    todo = "Give a folder of images, or a .zip, .parquet or .arrow file."
    raise UserError(f"'{as_text(path)}' is no data set that can be read", todo)


def _names_image(path: Path) -> bool:
    is_mac_metadata = path.name.startswith("._") or "__MACOSX" in path.parts
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_mac_metadata


def _own_source(own: Any, options: DataOptions) -> ImageSource:
    if isinstance(own, Mapping):  # among them datasets.DatasetDict
        raise UserError(f"several data sets, by the names {', '.join(map(str, own))}", "Give one of them.")
    datasets = sys.modules.get("datasets")  # loaded, if the caller has a data set of that library
    if datasets is not None and isinstance(own, datasets.Dataset):
        return dataset_source(own, None, own._fingerprint, options)
    if not (hasattr(own, "__len__") and hasattr(own, "__getitem__")):
        raise UserError(
            f"a data set of type {type(own).__name__} has no length or no items",
            "Give a datasets.Dataset, or a sequence of Pillow images or uint8 arrays (H, W, C).",
        )

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for index in range(len(own)):
            try:
                item = own[index]
            except OSError as error:  # what Pillow raises for a file that is damaged
                yield f"item {index}", RefusedImage(f"cannot be read: {error}")
            else:
                yield f"item {index}", _own_image(item, options)

    return ImageSource(f"own: {type(own).__name__}", None, len(own), items)


def _own_image(item: Any, options: DataOptions) -> EncodedImage:
    if isinstance(item, tuple | list) and item:
        item = item[0]
    if isinstance(item, dict):
        candidates = [name for name, value in item.items() if isinstance(value, Image.Image | np.ndarray | bytes)]
        item = item[choose_column(candidates, list(item), options)]
    if not isinstance(item, Image.Image | np.ndarray | bytes):
        todo = "Give Pillow images, the bytes of image files, or uint8 arrays (H, W, C)."
        raise UserError(f"the data set holds {type(item).__name__}, not images", todo)
    return item
