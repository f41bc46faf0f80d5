"""Images in the cells of a table: bytes, names of files, arrays of pixels, or lists of these."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from openddpm.data.array_layout import image_of
from openddpm.data.decode import MAX_PIXELS, RefusedImage, SourcedImage
from openddpm.data.image_source import Example
from openddpm.data.labels import Label
from openddpm.data.left_out import LeftOutCounts
from openddpm.data.named_files import NamedFiles
from openddpm.errors import UserError
from openddpm.names import as_text

if TYPE_CHECKING:
    import pyarrow as pa

ONE_OF_SEVERAL = "one of several in its row"
MAX_VALUES = 4 * MAX_PIXELS  # of an array in a cell

_GRAY_MODES, _COLOUR_MODES = ("L", "LA"), ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_FILE_MODES = ("I", "F")  # and 16-bit ones: deeper than training uses, so the files themselves decide


def channels_of_mode(mode: str | None, column: str) -> Literal["L", "RGB"] | None:
    """Return gray or colour for the mode of a column's `datasets.Image` feature; None if it demands neither.

    Transparency is composited in any case, whereas the `datasets` library may drop it and show the hidden colours.

    Raises:
        UserError: the mode cannot be trained on.
    """
    if mode is None or mode.startswith(_FILE_MODES):
        return None
    if mode in _GRAY_MODES:
        return "L"
    if mode in _COLOUR_MODES:
        return "RGB"
    name = as_text(column)
    raise UserError(
        f"the column '{name}' is declared as Image(mode='{as_text(mode)}'), which is neither gray nor colour",
        f"Declare it again: dataset.cast_column('{name}', datasets.Image(mode='L')), or mode='RGB'.",
    )


def images_in_cells(
    columns: Iterable[tuple["pa.Array | pa.ChunkedArray", Iterable[Label]]],
    stem: str,
    roots: Sequence[Path] | None,
    mode: Literal["L", "RGB"] | None = None,
) -> Iterator[Example]:
    """Yield an example for each cell, and for each image of a cell that holds a list of them.

    Args:
        columns: cells, and the labels of their rows.
        stem: first part of the names of images that have none.
        roots: the folders in which cells may name files; None allows all folders.
        mode: gray or colour if the column declares it.
    """
    with contextlib.closing(NamedFiles(roots)) as files:
        rows = itertools.chain.from_iterable(zip(_plain(column), labels, strict=False) for column, labels in columns)
        for row, (scalar, label) in enumerate(rows):
            is_list = _is_list(scalar.type)
            if is_list and (scalar.values is None or _is_array(scalar.type)):
                yield Example(as_text(f"{stem} {row}"), SourcedImage(_array_in(scalar.values), mode), label)
                continue
            values = _plain(scalar.values) if is_list else [scalar]
            changes = (ONE_OF_SEVERAL,) if len(values) > 1 else ()
            for index, value in enumerate(values):
                default = f"{stem} {row}" + (f".{index}" if is_list else "")
                name, content = (
                    (default, _array_in(value.values))
                    if _is_array(value.type)
                    else _encoded_in(value.as_py(), default, files)
                )
                image = SourcedImage(content, mode, changes) if mode or changes else content
                yield Example(as_text(name), image, label)


def count_images(columns: Iterable["pa.Array | pa.ChunkedArray"]) -> tuple[int, LeftOutCounts]:
    """Return the number of images in a column of lists, and the rows that hold none."""
    import pyarrow.compute as pc

    num_images, row, left_out = 0, 0, LeftOutCounts()
    for column in map(_plain, columns):
        lengths = pc.fill_null(pc.list_value_length(column), 1).to_pylist()  # a missing list is a refused item
        num_images += sum(lengths)
        empty = [f"row {row + index}" for index, length in enumerate(lengths) if not length]
        left_out.add("rows whose list holds no image", empty, is_data=False)
        row += len(lengths)
    return num_images, left_out


def holds_lists(kind: "pa.DataType") -> bool:
    """Return whether the cells of a column of this type are lists of images, not single images as arrays."""
    kind = storage_of(kind)
    return _is_list(kind) and not _is_array(kind)


def storage_of(kind: "pa.DataType") -> "pa.DataType":
    """Return the type in which values are stored, without extension types of the `datasets` library."""
    import pyarrow as pa

    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def array_depth(kind: "pa.DataType") -> tuple[int, "pa.DataType"]:
    """Return how deep lists are nested in a type, and the type of their innermost values."""
    depth, kind = 0, storage_of(kind)
    while _is_list(kind):
        depth, kind = depth + 1, storage_of(kind.value_type)
    return depth, kind


def is_number(kind: "pa.DataType") -> bool:
    """Return whether a type is an integer or floating-point one."""
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    kinds = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(is_kind(kind) for is_kind in kinds)


def _is_array(kind: "pa.DataType") -> bool:
    """Return whether a type is one image as nested lists of pixels; with one more level it is several images."""
    depth, value = array_depth(kind)
    return depth in (2, 3) and is_number(value)


def _plain(column: Any) -> Any:
    """Return an array without the extension types of the `datasets` library, whose cells are nested lists."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _array_in(values: Any) -> np.ndarray | RefusedImage:
    """Return the image in nested lists, if all rows are of one length and no value is missing."""
    import pyarrow.compute as pc

    if values is None:
        return RefusedImage("NoneType in place of an image's pixels")
    shape = [len(values)]
    while _is_list(values.type):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            return RefusedImage("rows of several lengths, or of none, in place of an image's pixels")
        shape.append(lengths[0])
        values = values.flatten()
    if values.null_count or not is_number(values.type) or len(values) > MAX_VALUES:
        return RefusedImage(f"an array of {values.type} with gaps, or of too many pixels")
    return image_of(values.to_numpy(zero_copy_only=False).reshape(shape))


def _encoded_in(cell: Any, default: str, files: NamedFiles) -> tuple[str, bytes | RefusedImage]:
    """Return the name of an image, and its file's bytes, which the cell holds or names."""
    name, content = (cell.get("path"), cell.get("bytes")) if isinstance(cell, dict) else (None, cell)
    name = name if isinstance(name, str) else ""
    if content is None and name:
        content = files.read(name)
    elif not isinstance(content, bytes):
        content = RefusedImage(f"{type(content).__name__} in place of an image's bytes")
    return name or default, content
