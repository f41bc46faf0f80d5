"""Where images come from: a built-in name, a folder, a zip, parquet or arrow files, the Hub, or the caller's own."""

import contextlib
import os
import stat
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from openddpm.config import DataOptions
from openddpm.data.array_files import is_array_file, open_arrays
from openddpm.data.array_source import ARRAY_SUFFIXES, array_source
from openddpm.data.decode import EncodedImage, RefusedImage
from openddpm.data.foreign_files import refusal_of_foreign
from openddpm.data.image_source import ImageSource, digest_files, read_encoded
from openddpm.data.own_source import own_source
from openddpm.data.tables import arrow_source, dataset_source, parquet_source
from openddpm.data.tar_source import TAR_SUFFIXES, tar_source
from openddpm.data.zip_source import zip_source
from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.record.writer import RUN_FILE

__all__ = ["ImageSource", "open_source"]

BUILT_IN = ("avatars-16",)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")

FILE_SUFFIXES = (".parquet", ".arrow", ".zip", *TAR_SUFFIXES, *ARRAY_SUFFIXES)


def open_source(options: DataOptions, own_dataset: Any = None) -> ImageSource:
    """Find the images that `options` name, or wrap the caller's own data set.

    Args:
        own_dataset: a `datasets.Dataset`, or any sequence of Pillow images, of uint8 arrays (H, W, C), or of tuples
            or dicts that hold one.

    Raises:
        UserError: nothing there, no image column, several of them, or a Hub that says no.
    """
    if own_dataset is not None:
        return own_source(own_dataset, options)
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
    if path.is_absolute() or options.dataset.startswith((".", "~")) or path.name.endswith(FILE_SUFFIXES):
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
    if path.name.lower().endswith(TAR_SUFFIXES):
        return tar_source([path], options)
    if is_array_file(path) or open_arrays(path):
        return array_source([path], options)
    todo = "Give a folder of images, or a .zip, .tar, .parquet, .arrow, .npz or .npy file, or an idx file of MNIST."
    raise refusal_of_foreign(path) or UserError(f"'{as_text(path)}' is no data set that can be read", todo)


def _names_image(path: Path) -> bool:
    is_mac_metadata = path.name.startswith("._") or "__MACOSX" in path.parts
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_mac_metadata
