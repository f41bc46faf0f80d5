"""Where images come from: a built-in name, a folder, a zip, parquet or arrow files, the Hub, or the caller's own."""

import contextlib
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.decode import EncodedImage, RefusedImage
from openddpm.data.folder_source import folder_source
from openddpm.data.formats import image_suffixes, why_left_out
from openddpm.data.image_source import ImageSource, choose_column
from openddpm.data.left_out import LeftOutCounts
from openddpm.data.shards import other_shards
from openddpm.data.splits import DEFAULT_SPLIT, named_in, split_of
from openddpm.data.tables import arrow_source, count_rows, dataset_source, parquet_source
from openddpm.data.zip_source import zip_source
from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.record.schema import LeftOut

__all__ = ["ImageSource", "open_source"]

BUILT_IN = ("avatars-16",)


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
        _check_split(options, None, f"the built-in set '{options.dataset}'")
        with resources.as_file(resources.files("openddpm.data") / "builtin" / f"{options.dataset}.parquet") as path:
            return parquet_source([path], options)
    path = Path(options.dataset)
    with contextlib.suppress(RuntimeError):  # no such user
        path = path.expanduser()
    mode = _mode_of(path)
    if stat.S_ISDIR(mode):
        return folder_source(path, options)
    if stat.S_ISREG(mode):
        return _file_source(path, options)
    if path.is_absolute() or options.dataset.startswith((".", "~")) or path.suffix in (".parquet", ".arrow", ".zip"):
        raise UserError(f"no file or folder '{as_text(options.dataset)}'", "Check the path given as --dataset.")
    from openddpm.data.hub_source import cache_folders, load_from_hub

    dataset, revision, digest = load_from_hub(options)
    source = dataset_source(dataset, revision, digest, options, cache_folders(options))
    return replace(source, left_out=_other_splits(dataset))


def _other_splits(dataset: Any) -> tuple[LeftOut, ...]:
    """Count the images of a Hub data set's other splits, as far as the Hub tells."""
    left_out = LeftOutCounts()
    for name, info in (dataset.info.splits or {}).items():
        if name != str(dataset.split):
            reason = f"split '{name}': --dataset_split chooses one"
            left_out.add(reason, [], is_data=False, count=getattr(info, "num_examples", None) or 0)
    return left_out.listed()


def _mode_of(path: Path) -> int:
    """Return what kind of thing a path leads to, 0 where there is nothing or cannot be."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _file_source(path: Path, options: DataOptions) -> ImageSource:
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return zip_source(path, options)
    if suffix in (".parquet", ".arrow"):
        _check_split(options, named_in(path.stem), f"the file '{as_text(path)}'")
        source = parquet_source([path], options) if suffix == ".parquet" else arrow_source([path], options)
        return replace(source, left_out=(*source.left_out, *_other_parts(path)))
    todo = "Give a folder of images, or a .zip, .parquet or .arrow file."
    if suffix in image_suffixes():
        todo = f"It is one image; give the folder of images: --dataset '{as_text(path.parent)}'."
    elif suffix:
        reason, is_data = why_left_out(suffix)
        todo = f"{reason}. {todo}" if is_data else todo
    raise UserError(f"'{as_text(path)}' is no data set that can be read", todo)


def _other_parts(path: Path) -> tuple[LeftOut, ...]:
    """Count the rest of the data set that a file is a numbered part of."""
    left_out = LeftOutCounts()
    others = other_shards(path)
    present = [other for other in others if other.is_file()]
    reason = f"other parts, beside this one of {len(others) + 1:,} that is taken alone; give their folder for all"
    left_out.add(reason, [other.name for other in present], is_data=True, count=sum(map(count_rows, present)))
    missing = [other.name for other in others if other not in present]
    left_out.add("parts of the table that are not there, by the numbers in their names", missing, is_data=True)
    return left_out.listed()


def _check_split(options: DataOptions, split: str | None, where: str) -> None:
    """Check that a source that is all of one piece is not asked for a part of it.

    Args:
        split: what it is by its own name, if that tells.

    Raises:
        UserError: --dataset_split names another split.
    """
    asked = options.dataset_split
    if asked != DEFAULT_SPLIT and (split is None or split_of(asked) != split_of(split)):
        known = f"{where} is the split '{as_text(split)}'" if split is not None else f"{where} has no splits"
        raise UserError(f"{known}, and --dataset_split asks for '{as_text(asked)}'", "Leave --dataset_split out.")


def _own_source(own: Any, options: DataOptions) -> ImageSource:
    if isinstance(own, Mapping):  # among them datasets.DatasetDict
        raise UserError(f"several data sets, by the names {', '.join(map(str, own))}", "Give one of them.")
    datasets = sys.modules.get("datasets")  # loaded, if the caller has a data set of that library
    is_dataset = datasets is not None and isinstance(own, datasets.Dataset)
    _check_split(options, str(own.split) if is_dataset and own.split else None, "the data set given from Python")
    if is_dataset and own.format["type"] != "custom":  # other formats show the same pixels in other containers
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
        tensors = [name for name, value in item.items() if type(value).__name__ == "Tensor"]
        if not candidates and len(tensors) == 1:
            candidates = tensors  # to be refused as what it is
        item = item[choose_column(candidates, list(item), options)]
    if not isinstance(item, Image.Image | np.ndarray | bytes):
        todo = "Give Pillow images, the bytes of image files, or uint8 arrays (H, W, C)."
        if type(item).__name__ == "Tensor":
            todo += " Leave ToTensor and Normalize out of its transform: images are scaled here."
        raise UserError(f"the data set holds {type(item).__name__}, not images", todo)
    return item
