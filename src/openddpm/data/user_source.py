"""User-supplied data sets, given from Python: items as the user sees them, with their transforms applied."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.array_layout import Layout, image_of, refusal_of
from openddpm.data.decode import MAX_PIXELS, RefusedImage, SourcedImage
from openddpm.data.image_source import Example, ImageSource, choose_column
from openddpm.data.labels import LabelSource, chosen_labels, names_labels, plain_label
from openddpm.data.splits import check_split
from openddpm.data.tables import dataset_source
from openddpm.errors import UserError
from openddpm.names import as_text

TRANSFORMED = "as the data set's transform gives it"
NUM_REPEATED, NUM_REPEATS = 8, 3  # items, reads: a random flip goes unnoticed once in 65,000 times
_KINDS = "Pillow images, the bytes of image files, or uint8 arrays (H, W, C)"


def user_source(dataset: Any, options: DataOptions) -> ImageSource:
    """Return the images of a user-supplied `datasets.Dataset` or sequence.

    A `datasets.Dataset` with a transform is read through it, row by row. Other formats only convert images, so these
    are read as stored, from the columns that the format shows.

    Raises:
        UserError: it is no sequence, has no images, or gives another image each time it is read.
    """
    if isinstance(dataset, Mapping):  # such as datasets.DatasetDict
        raise UserError(f"several data sets, with the names {', '.join(map(str, dataset))}", "Give one of them.")
    datasets = sys.modules.get("datasets")  # loaded if the user has a data set of that library
    is_dataset = datasets is not None and isinstance(dataset, datasets.Dataset)
    check_split(options, str(dataset.split) if is_dataset and dataset.split else None, "the data set given from Python")
    if is_dataset:
        if dataset.format["type"] != "custom":
            return dataset_source(dataset, None, dataset._fingerprint, options)
        split = as_text(str(dataset.split)) if dataset.split else None
        name = "user-supplied: datasets.Dataset with a transform"
        return _sequence_source(dataset, options, name, (TRANSFORMED,), split)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(
            f"a data set of type {type(dataset).__name__} has no length or no items",
            "Give a datasets.Dataset, or a sequence of Pillow images or uint8 arrays (H, W, C).",
        )
    return _sequence_source(dataset, options, f"user-supplied: {type(dataset).__name__}", (), None)


def _sequence_source(
    dataset: Any, options: DataOptions, name: str, changes: tuple[str, ...], split: str | None
) -> ImageSource:
    _check_repeatable(dataset, options)
    place, labels = _labels_of(dataset)

    def items() -> Iterator[Example]:
        for index in range(len(dataset)):
            item = _item_at(dataset, index)
            image = _image_in(item, options)
            label = None
            if place is not None:
                with contextlib.suppress(LookupError, TypeError):  # an item without one, or refused
                    label = plain_label(item[place])
            yield Example(f"item {index}", SourcedImage(image, changes=changes) if changes else image, label)

    return ImageSource(name, None, len(dataset), items, split=split, labels=labels)


def _labels_of(dataset: Any) -> tuple[Any, LabelSource]:
    """Return the place of the label in each item: a key with a usual name, or 1 in pairs if there are `classes`.

    torchvision's data sets have such pairs; the second entry of other pairs may be anything.
    """
    first = _item_at(dataset, 0) if len(dataset) else None
    if isinstance(first, dict):
        keys = [key for key, value in first.items() if names_labels(str(key)) and plain_label(value) is not None]
        features = getattr(dataset, "features", None)
        feature = features.get(keys[0]) if keys and isinstance(features, Mapping) else None
        labels = chosen_labels(keys, "key", tuple(map(as_text, getattr(feature, "names", None) or ())))
        return keys[0] if labels.origin else None, labels
    classes = getattr(dataset, "classes", None)
    is_pair = isinstance(first, tuple | list) and len(first) == 2 and isinstance(plain_label(first[1]), int)
    if is_pair and isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
        return 1, LabelSource("the data set's classes", tuple(map(as_text, classes)))
    return None, LabelSource()


def _item_at(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except OSError as error:  # Pillow's error for a damaged file
        return RefusedImage(f"cannot be read: {error}")


def _image_in(item: Any, options: DataOptions) -> bytes | Image.Image | np.ndarray | RefusedImage:
    if isinstance(item, RefusedImage):
        return item
    if isinstance(item, tuple | list) and item:
        item = item[0]
    if isinstance(item, dict):
        candidates = [name for name, value in item.items() if _may_be_image(value)]
        item = item[choose_column(candidates, list(item), options)]
    if _is_tensor(item):
        return _pixels(item.detach().cpu().numpy(), "CHW", options)
    if isinstance(item, np.ndarray):
        return _pixels(item, "HWC", options)
    if not isinstance(item, Image.Image | bytes):
        raise UserError(f"the data set holds {type(item).__name__}, not images", f"Give {_KINDS}.")
    return item


def _may_be_image(value: Any) -> bool:
    return isinstance(value, Image.Image | np.ndarray | bytes) or (_is_tensor(value) and value.ndim in (2, 3))


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _pixels(array: np.ndarray, preferred: Layout, options: DataOptions) -> np.ndarray | RefusedImage:
    """Return the image in an array.

    Raises:
        UserError: its numbers are floating-point, such as in tensors made for a model, and their range is not known.
    """
    if options.pixel_range is None and array.dtype.kind == "f" and (reason := refusal_of(array.dtype, array)):
        raise UserError(
            f"the data set gives {reason[0]}",
            f"{reason[1]} Or leave out the transform that makes them (datasets: dataset.reset_format()): resizing, "
            "mirroring and scaling to -1..1 are done here, by --resolution and --random_flip.",
        )
    return image_of(array, preferred)


def _check_repeatable(dataset: Any, options: DataOptions) -> None:
    """Refuse random items: each is decoded once, so training would see a single draw."""
    for index in range(min(len(dataset), NUM_REPEATED)):
        reads = [_image_in(_item_at(dataset, index), options) for _ in range(NUM_REPEATS)]
        if any(read is not reads[0] for read in reads) and len(set(map(_content, reads))) > 1:
            raise UserError(
                f"the data set's item {index} is another image each time it is read, as with a random transform; but "
                "each image is decoded once, so training would see a single draw of it",
                "Leave out what is random: --random_flip mirrors images at every step, and train(..., transform=...) "
                "takes other augmentation.",
            )


def _content(image: bytes | Image.Image | np.ndarray | RefusedImage) -> bytes:
    if isinstance(image, RefusedImage):
        return b""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image) and image.width * image.height > MAX_PIXELS:  # refused when it is decoded
        return b""
    try:
        return str(image.size).encode() + image.tobytes()
    except Exception:  # a damaged file, on which Pillow raises almost any error, is refused when it is decoded
        return b""
