"""Images in files of arrays: npy and npz, the idx files of MNIST, the binary files of CIFAR. None holds a pickle."""

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from openddpm.config import DataOptions
from openddpm.data.array_files import ArrayFile, open_arrays
from openddpm.data.array_layout import CHANNELS, Layout, layouts_of, refusal_of
from openddpm.data.decode import MAX_PIXELS, EncodedImage
from openddpm.data.image_source import ImageSource, digest_files
from openddpm.data.member_splits import group, of_split, split_in
from openddpm.errors import UserError, closest
from openddpm.names import as_text
from openddpm.record.schema import LeftOut

NUM_SAMPLED = 64  # images whose values are named where they are no pixels
MAX_NAMED = 8  # arrays in a message


def array_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    """Return the images in files of arrays, file after file.

    An array of shape (N, H, W), (N, H, W, C) or (N, C, H, W) is N images; of a file of several arrays the one that
    can be images is taken, or the one that --image_column or the split names.

    Raises:
        UserError: a file is damaged, holds no such array or several, or its numbers are no 8-bit pixels.
    """
    where = as_text(options.dataset) or "the data set"
    paths, left_out = _unpacked(paths)
    stacks: list[tuple[ArrayFile, Layout]] = []
    split = None
    labelled = [(path.name, split_in(path.name), path) for path in paths if not _holds_labels(path)]
    if labels := [path.name for path in paths if _holds_labels(path)]:
        if not labelled:
            raise UserError(f"'{where}' holds labels, not images", "Give the file of images, such as ...-idx3-ubyte.")
        left_out.append(group("files of labels", labels, False))
    chosen, split, others = of_split(labelled, options.dataset_split, where)
    left_out += others
    for path in chosen:
        arrays = open_arrays(path)
        array, split_of_array, others = _choose(arrays, path, options)
        stacks.append((array, _layout(array)))
        split = split or split_of_array
        left_out += others
    digest = digest_files(chosen) + "".join(array.name for array, _ in stacks)

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for array, layout in stacks:
            stem = f"{array.path.name} {array.name}".strip()
            with contextlib.closing(array.entries()) as entries:
                for index, entry in enumerate(entries):
                    yield as_text(f"{stem} {index}"), entry.transpose(1, 2, 0) if layout == "CHW" else entry

    num_items = sum(array.shape[0] for array, _ in stacks)
    return ImageSource(where, digest, num_items, items, split=split, left_out=tuple(left_out))


def _unpacked(paths: Sequence[Path]) -> tuple[list[Path], list[LeftOut]]:
    """Return the files, without packed ones that lie beside what they unfold to."""
    packed = [path for path in paths if path.suffix.lower() == ".gz" and path.with_suffix("") in paths]
    left_out = [group("packed copies of files beside them", [path.name for path in packed], False)] if packed else []
    return [path for path in paths if path not in packed], left_out


def _holds_labels(path: Path) -> bool:
    return re.search(r"[.-]idx1-ubyte(\.gz)?$", path.name, re.IGNORECASE) is not None


def _may_be_images(array: ArrayFile) -> bool:
    if len(array.shape) == 4:
        return bool(layouts_of(array.shape[1:]))
    return len(array.shape) == 3


def _choose(arrays: list[ArrayFile], path: Path, options: DataOptions) -> tuple[ArrayFile, str | None, list[LeftOut]]:
    """Return the array of images in a file, the split that its name tells, and what else is there."""
    where = f"'{as_text(path)}'"
    if not arrays:
        raise UserError(f"{where} holds no array that can be read", f"It takes {_EXPECTED}.")
    if len(arrays) == 1:
        return arrays[0], None, []
    split: str | None = None
    left_out: list[LeftOut] = []
    if options.image_column is not None:
        asked = [array for array in arrays if array.name == options.image_column]
        if not asked:
            found = f"{where} holds no array '{as_text(options.image_column)}'"
            raise UserError(found, closest(options.image_column, [as_text(array.name) for array in arrays]))
        candidates = asked
    else:
        candidates = [array for array in arrays if _may_be_images(array)]
        candidates = [array for array in candidates if array.dtype == np.uint8] or candidates
        named = [(array.name, split_in(array.name), array) for array in candidates]
        candidates, split, left_out = of_split(named, options.dataset_split, where)
        left_out = [entry.model_copy(update={"count": _num_images(entry.examples, arrays)}) for entry in left_out]
    if len(candidates) != 1:
        listed = ", ".join(f"{as_text(array.name)} {array.shape}" for array in (candidates or arrays)[:MAX_NAMED])
        found = f"{where} holds {'several arrays' if candidates else 'no array'} that can be images: {listed}"
        raise UserError(found, "Choose one: --image_column NAME." if candidates else f"It takes {_EXPECTED}.")
    known = {candidates[0].name, *(name for entry in left_out for name in entry.examples)}
    if rest := [array.name for array in arrays if array.name not in known]:
        left_out.append(group("other arrays", rest, False))
    return candidates[0], split, left_out


def _num_images(names: Sequence[str], arrays: list[ArrayFile]) -> int:
    return sum(array.shape[0] for array in arrays if as_text(array.name) in names)


_EXPECTED = "uint8 images as an array (N, H, W), (N, H, W, C) or (N, C, H, W), with 1, 3 or 4 channels"


def _layout(array: ArrayFile) -> Layout:
    """Return how each image of an array lies in it, once it is known to be images of 8 bits."""
    what = f"'{as_text(array.path)}'" + (f", array '{as_text(array.name)}'," if array.name else "")
    shape = array.shape
    layouts = layouts_of(shape[1:]) if len(shape) in (3, 4) else []
    if len(shape) == 3 and shape[2] in CHANNELS:
        found = f"{what} has the shape {shape}: a single image, or {shape[0]} gray ones of {shape[1]}x{shape[2]}?"
        raise UserError(found, "Save it with an axis more: numpy.save(FILE, x[None]) for a single one in colour.")
    if len(layouts) == 2:
        todo = "Save it as (N, H, W, C) with images of another width, or write image files."
        raise UserError(f"{what} has the shape {shape}: which axis holds the channels cannot be told", todo)
    if not layouts:
        raise UserError(f"{what} has the shape {shape}", f"It takes {_EXPECTED}: numpy.save(FILE, x.reshape(...)).")
    if shape[1] * shape[2] * (shape[3] if len(shape) == 4 else 1) > 4 * MAX_PIXELS:
        raise UserError(f"{what} has images of {shape[1:]}", f"The limit is {MAX_PIXELS:,} pixels.")
    with contextlib.closing(array.entries()) as entries:
        sample = np.array([[entry.min(), entry.max()] for entry in itertools.islice(entries, NUM_SAMPLED)])
    reason = refusal_of(array.dtype, sample)
    if array.dtype == np.uint8 and array.shape[0] and sample.max() == 1:
        reason = "no values but 0 and 1, nearly black both of 0 to 255", "store x * 255"
    elif array.dtype != np.uint8 and reason is None:
        reason = f"{array.dtype} values", "store x.astype('uint8')"
    if reason is not None:
        raise UserError(f"{what} holds {reason[0]}", f"Pixels of 8 bits are read: {reason[1]}.")
    return layouts[0]
