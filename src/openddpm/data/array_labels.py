"""Labels beside arrays of images: in another array of an npz file, in MNIST's second file, in CIFAR's rows."""

import contextlib
import re
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from openddpm.data import splits
from openddpm.data.array_files import ArrayFile, open_arrays
from openddpm.data.labels import COLUMN_NAMES, Label, LabelSource, chosen_labels, plain_label
from openddpm.errors import UserError

_NAMES = COLUMN_NAMES | {"y"}


def labels_beside(
    images: Sequence[ArrayFile], opened: Mapping[Path, Sequence[ArrayFile]]
) -> tuple[list[ArrayFile | None], LabelSource]:
    """Return an array of labels for each array of images; None for all if one has none or several.

    Args:
        opened: all arrays of each file.
    """
    none: list[ArrayFile | None] = [None] * len(images)
    found = [labels_among([*opened[array.path], *_idx_labels(array.path)], array) for array in images]
    names = [[one.name or f"the labels at byte {one.start}" for one in candidates] for candidates in found]
    if any(one != names[0] for one in names):
        return none, LabelSource(note="no labels are taken: not all files have the same arrays of labels")
    source = chosen_labels(names[0], "array")
    if not source.origin:
        return none, source
    if not found[0][0].name:
        source = LabelSource("the files of labels" if found[0][0].path != images[0].path else "the files' labels")
    return [candidates[0] for candidates in found], source


def labels_among(arrays: Sequence[ArrayFile], images: ArrayFile) -> list[ArrayFile]:
    """Return those of `arrays` that may be the labels of an array of images."""
    counts = (images.shape[0],), (images.shape[0], 1)
    return [
        one
        for one in arrays
        if (one.is_labels or _names_labels(one.name, images.name)) and one.shape in counts and one.dtype.kind in "iuU"
    ]


def read_labels(array: ArrayFile | None) -> Generator[Label, None, None]:
    """Yield the labels in an array; without an array, None for ever."""
    while array is None:
        yield None
    with contextlib.closing(array.entries()) as entries:
        for entry in entries:
            yield plain_label(entry.reshape(()))


def _names_labels(name: str, images: str) -> bool:
    words = re.split("[^a-z]+", name.lower())
    return not _NAMES.isdisjoint(words) and splits.named_in(name) in (None, splits.named_in(images))


def _idx_labels(images: Path) -> list[ArrayFile]:
    """Return the labels of an idx file of images, in the file that is named as in MNIST, compressed or not."""
    name, num_changed = re.subn(r"images([-.])idx3", r"labels\1idx1", images.name, flags=re.IGNORECASE)
    plain = images.with_name(name.removesuffix(".gz"))
    path = next((path for path in (plain, plain.with_name(f"{plain.name}.gz")) if path.is_file()), None)
    if num_changed and path is not None:
        with contextlib.suppress(UserError, OSError):  # training does not need labels
            return [array for array in open_arrays(path) if array.is_labels]
    return []
