"""Images in files of arrays: npy and npz, the idx files of MNIST, the binary files of CIFAR. None holds a pickle."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from openddpm.config import DataOptions
from openddpm.data import splits
from openddpm.data.array_files import ArrayFile, open_arrays
from openddpm.data.array_labels import labels_among, labels_beside, read_labels
from openddpm.data.array_layout import CHANNELS, Layout, layouts_of, refusal_of
from openddpm.data.decode import MAX_PIXELS
from openddpm.data.image_source import Example, ImageSource, digest_files
from openddpm.data.left_out import LeftOutCounts
from openddpm.errors import UserError, closest
from openddpm.names import as_text

NUM_SAMPLED = 64  # images whose values are checked
MAX_NAMED = 8  # arrays in a message


def array_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    """Return the images in files of arrays, file after file.

    An array of shape (N, H, W), (N, H, W, C) or (N, C, H, W) is N images. From a file with several arrays the only one
    that can be images is taken, or the one that --image_column or the split names. Files are parts of one data set if
    their names differ in numbers alone.

    Raises:
        UserError: a file is damaged, holds no such array or several, or its numbers are not 8-bit pixels and there is
            no --pixel_range.
    """
    where, left_out = as_text(options.dataset) or "the data set", LeftOutCounts()
    image_files, label_files = _image_files(paths, where, left_out)
    opened = {path: open_arrays(path) for path in image_files}
    holding = [path for path, arrays in opened.items() if any(array.may_be_images for array in arrays)]
    for path in opened:
        if holding and path not in holding:
            shape = opened[path][0].shape if opened[path] else ()
            reason = f"array files of another shape than images: {shape}" if shape else "array files without arrays"
            left_out.add(reason, [path.name], is_data=len(shape) > 1)
    if not splits.alike_but_for_numbers(path.name for path in holding):
        raise _several(where, holding, opened)
    chosen = [(path, *_choose(opened[path], path, options, left_out)) for path in holding or opened]
    stacks = [(array, _layout(array, options)) for _, array, _ in chosen]
    label_arrays, labels = labels_beside([array for array, _ in stacks], opened)
    used = [array.path for array in label_arrays if array is not None]
    left_out.add("files of labels", [path.name for path in label_files if path not in used], is_data=False)

    root = os.path.commonpath([path.parent for path, _, _ in chosen])

    def items() -> Iterator[Example]:
        for (array, layout), label_array in zip(stacks, label_arrays, strict=True):
            stem = f"{array.path.relative_to(root).as_posix()} {array.name}".strip()
            with contextlib.closing(array.entries()) as entries, contextlib.closing(read_labels(label_array)) as labels:
                for index, (entry, label) in enumerate(zip(entries, labels, strict=False)):  # labels may be endless
                    image = entry.transpose(1, 2, 0) if layout == "CHW" else entry
                    yield Example(as_text(f"{stem} {index}"), image, label)

    return ImageSource(
        where,
        digest_files([*(path for path, _, _ in chosen), *used])
        + "".join(array.name for array in [*(array for array, _ in stacks), *label_arrays] if array is not None),
        sum(array.shape[0] for array, _ in stacks),
        items,
        split=next((split for _, _, split in chosen if split), None),
        labels=labels,
        left_out=left_out.listed(),
    )


def count_images(path: Path) -> int:
    """Return the number of images in a file of arrays: 0 for a compressed copy of a file there, 1 if not known."""
    if _is_compressed_copy(path):
        return 0
    try:
        return sum(array.shape[0] for array in open_arrays(path) if array.may_be_images)
    except (UserError, OSError):
        return 1


def _image_files(paths: Sequence[Path], where: str, left_out: LeftOutCounts) -> tuple[list[Path], list[Path]]:
    """Return the files of images and those of labels, without compressed copies of files that are there."""
    copies = set(filter(_is_compressed_copy, paths)) if len(paths) > 1 else set()
    names = [path.name for path in paths if path in copies]
    left_out.add("compressed copies of files beside them", names, is_data=False)
    labels = [path for path in paths if re.search(r"[.-]idx1-ubyte(\.gz)?$", path.name, re.IGNORECASE)]
    if len(labels) == len(paths):
        raise UserError(f"'{where}' holds labels, not images", "Give the file of images, such as ...-idx3-ubyte.")
    kept = [path for path in paths if path not in copies]
    return [path for path in kept if path not in labels], [path for path in kept if path in labels]


def _is_compressed_copy(path: Path) -> bool:
    """Return whether a file is compressed and lies beside its decompressed copy."""
    return path.suffix.lower() == ".gz" and path.with_suffix("").is_file()


def _several(where: str, paths: Sequence[Path], opened: dict[Path, list[ArrayFile]]) -> UserError:
    """Return the error that asks which of several files is meant."""
    listed = ", ".join(f"{as_text(path.name)} {opened[path][0].shape}" for path in paths[:MAX_NAMED])
    more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    return UserError(
        f"'{where}' holds several array files that can be images: {listed}{more}",
        f"Give the one to train on: --dataset '{as_text(paths[0])}'. The names of parts of one data set differ in "
        "numbers alone, such as images-0.npy, images-1.npy.",
    )


def _choose(
    arrays: list[ArrayFile], path: Path, options: DataOptions, left_out: LeftOutCounts
) -> tuple[ArrayFile, str | None]:
    """Return the array of images in a file, and the split in its name."""
    where = as_text(path)
    if not arrays:
        raise UserError(f"'{where}' holds no array that can be read", f"Expected are {_EXPECTED}.")
    split, place_of = None, {}
    if options.image_column is not None and arrays[0].name:
        candidates = [array for array in arrays if array.name == options.image_column]
        if not candidates:
            found = f"'{where}' holds no array '{as_text(options.image_column)}'"
            raise UserError(found, closest(options.image_column, [as_text(array.name) for array in arrays]))
    elif len(arrays) == 1:
        candidates = arrays
    else:
        candidates = [array for array in arrays if array.may_be_images]
        candidates = [array for array in candidates if array.dtype == np.uint8] or candidates
        place_of = splits.splits_among(array.name for array in candidates)
    if place_of:
        candidates, split = _of_split(candidates, place_of, where, options, left_out)
    elif splits.split_of(options.dataset_split) != splits.DEFAULT_SPLIT:
        splits.check_split(options, splits.named_in(path.name), f"'{where}'")
    if len(candidates) != 1:
        listed = ", ".join(f"{as_text(array.name)} {array.shape}" for array in (candidates or arrays)[:MAX_NAMED])
        found = f"'{where}' holds {'several arrays' if candidates else 'no array'} that can be images: {listed}"
        raise UserError(found, "Choose one: --image_column NAME." if candidates else f"Expected are {_EXPECTED}.")
    labels = labels_among(arrays, candidates[0])
    used = [candidates[0], *labels] if len(labels) == 1 else candidates
    others = [one.name for one in arrays if one.name and one not in used and one.name not in place_of]
    left_out.add("other arrays", others, is_data=False)
    return candidates[0], split


def _of_split(
    candidates: list[ArrayFile], place_of: dict[str, str], where: str, options: DataOptions, left_out: LeftOutCounts
) -> tuple[list[ArrayFile], str]:
    """Return the arrays of the requested split, and its name."""
    wanted = splits.split_of(options.dataset_split)
    counts = {array.name: array.shape[0] for array in candidates if array.name in place_of}
    if wanted not in place_of.values():
        num_by_split = {place_of[name]: number for name, number in counts.items()}
        raise splits.no_such_split(where, options.dataset_split, num_by_split)
    for name, number in counts.items():
        if place_of[name] != wanted:
            reason = f"split '{place_of[name]}': --dataset_split chooses one"
            left_out.add(reason, [name], is_data=False, count=number)
    return [array for array in candidates if place_of.get(array.name) == wanted], wanted


_EXPECTED = "uint8 images as an array (N, H, W), (N, H, W, C) or (N, C, H, W), with 1, 3 or 4 channels"


def _layout(array: ArrayFile, options: DataOptions) -> Layout:
    """Return the layout of each image in an array, after a check that it holds 8-bit images."""
    what = f"'{as_text(array.path)}'" + (f", array '{as_text(array.name)}'," if array.name else "")
    shape = array.shape
    layouts = layouts_of(shape[1:]) if len(shape) in (3, 4) and 0 not in shape[1:] else []
    if layouts and len(shape) == 3 and shape[2] in CHANNELS:
        found = f"{what} has the shape {shape}: a single image, or {shape[0]} gray ones of {shape[1]}x{shape[2]}?"
        raise UserError(found, "Save it with one more axis: numpy.save(FILE, x[None]) for a single one in colour.")
    if len(layouts) == 2:
        hint = "Save it as (N, H, W, C) with images of another width, or write image files."
        raise UserError(f"{what} has the shape {shape}: it is not clear which axis holds the channels", hint)
    if not layouts:
        hint = f"Expected are {_EXPECTED}: numpy.save(FILE, x.reshape(...))."
        raise UserError(f"{what} has the shape {shape}", hint)
    if shape[1] * shape[2] * (shape[3] if len(shape) == 4 else 1) > 4 * MAX_PIXELS:
        raise UserError(f"{what} has images of {shape[1:]}", f"The limit is {MAX_PIXELS:,} pixels.")
    if options.pixel_range is not None and array.dtype.kind in "iuf" and array.dtype != np.uint8:
        return layouts[0]
    with contextlib.closing(array.entries()) as entries:
        sample = np.array([[entry.min(), entry.max()] for entry in itertools.islice(entries, NUM_SAMPLED)])
    if reason := refusal_of(array.dtype, sample):
        raise UserError(f"{what} holds {reason[0]}", reason[1])
    return layouts[0]
