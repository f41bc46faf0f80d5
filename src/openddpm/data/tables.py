"""Images in columns of tables: parquet and arrow files, and data sets of the `datasets` library."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openddpm.config import DataOptions
from openddpm.data.cells import array_depth, channels_of_mode, count_images, holds_lists, images_in_cells, is_number
from openddpm.data.image_source import Example, ImageSource, choose_column, damage_named, digest_files
from openddpm.data.labels import Label, LabelSource, chosen_labels, names_labels, plain_label
from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.record.data_record import LeftOut

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

PARQUET_BATCH_ROWS = 1  # a page of kilobytes can decompress to megabytes per row
ARROW_BATCH_ROWS = 64  # arrow files are not compressed
_NONE_LEFT_OUT: tuple[LeftOut, ...] = ()


def parquet_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    """Return the images in a column that all of `paths` have, file after file.

    Cells may name image files in the folder of the parquet file instead of holding them; they may hold arrays of
    pixels, or lists of images.

    Raises:
        UserError: a file is damaged, or has no such column.
    """
    num_rows, column, modes, has_lists = 0, "", [], False
    label_columns: list[tuple[str | None, LabelSource]] = []
    for path in paths:
        with _open_parquet(path) as file:
            schema = file.schema_arrow
            num_rows += file.metadata.num_rows
        column = column or choose_column(_image_columns(schema), schema.names, options)
        if column not in schema.names:
            found = f"'{as_text(path)}' has no column '{as_text(column)}': its columns are {', '.join(schema.names)}"
            raise UserError(as_text(found), "Keep files with the same columns in a separate folder.")
        label_columns.append(_label_column(schema, _class_names(_features(schema)), schema.names, column))
        modes.append(channels_of_mode(_declared_images(schema).get(column), column))
        has_lists = has_lists or holds_lists(schema.field(column).type)

    label_column, labels = label_columns[0]
    if any(one != label_columns[0] for one in label_columns):
        label_column, labels = None, LabelSource(note="no labels are taken: the files have different columns of labels")

    def columns(path: Path) -> "Iterator[tuple[pa.Array, Iterable[Label]]]":
        with _open_parquet(path) as file:
            chosen = [column] if label_column is None else [column, label_column]
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=chosen):
                yield batch.column(column), _labels_in(batch, label_column)

    def items() -> Iterator[Example]:
        for path, mode in zip(paths, modes, strict=True):
            yield from images_in_cells(columns(path), path.stem, [path.parent], mode)

    left_out = _NONE_LEFT_OUT
    if has_lists:
        num_rows, left_out = _images_in_lists(batch for path in paths for batch, _ in columns(path))
    first_column, _ = next(columns(paths[0]), ((), ()))
    can_change_unseen = any(_names_files(cell.as_py()) for cell in first_column)
    digest = None if can_change_unseen else _digest(digest_files(paths), column, *modes, label_column)
    return ImageSource(as_text(options.dataset), digest, num_rows, items, labels=labels, left_out=left_out)


def arrow_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    """Return the images in arrow files of the `datasets` library, file after file.

    Cells may name image files in the folder of one of the files instead of holding them.

    Raises:
        UserError: a file is damaged, has other columns than the first, or has no image column.
    """
    import datasets

    parts: list[datasets.Dataset] = []
    for path in paths:
        with damage_named(path):
            part = datasets.Dataset.from_file(str(path))
            part.data.table.validate(full=True)  # else a damaged offset would read other memory
        if parts and part.features != parts[0].features:
            found = f"'{as_text(path)}' has other columns than '{as_text(paths[0])}': {', '.join(part.column_names)}"
            raise UserError(as_text(found), "Keep files with the same columns in a separate folder.")
        parts.append(part)
    folders = list(dict.fromkeys(path.parent for path in paths))
    return dataset_source(datasets.concatenate_datasets(parts), None, digest_files(paths), options, folders)


def with_images(paths: Sequence[Path], options: DataOptions) -> list[Path]:
    """Return those of `paths` that have a column that may hold images, or the requested column.

    Raises:
        UserError: one of them is damaged.
    """
    asked = options.image_column
    return [path for path in paths if (schema := _schema(path)) and (asked in schema.names or _image_columns(schema))]


def count_rows(path: Path) -> int:
    """Return the number of rows of a table, 1 for other files or if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        if path.suffix.lower() == ".arrow":
            with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
                return sum(batch.num_rows for batch in stream)
    except (OSError, pa.ArrowException):
        pass
    return 1


def _schema(path: Path) -> "pa.Schema":
    import pyarrow as pa

    if path.suffix.lower() == ".parquet":
        with _open_parquet(path) as file:
            return file.schema_arrow
    with damage_named(path), pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        return stream.schema


def dataset_source(
    dataset: "datasets.Dataset",
    revision: str | None,
    digest: str,
    options: DataOptions,
    roots: Sequence[Path] | None = None,
) -> ImageSource:
    """Return the images in a column of `dataset`.

    Args:
        digest: changes when the rows do.
        roots: the folders in which cells may name files instead of holding images; None allows all folders.

    Raises:
        UserError: there is no image column, or several.
    """
    import datasets

    visible = _visible_columns(dataset)
    column = choose_column([name for name in _feature_columns(dataset) if name in visible], visible, options)
    schema = dataset.features.arrow_schema
    label_column, labels = _label_column(schema, _class_names(dataset.features.to_dict()), visible, column)
    chosen = [column] if label_column is None else [column, label_column]
    encoded = dataset.select_columns(chosen).with_format("arrow")
    feature, mode = dataset.features[column], None
    if image := _image_feature(feature):
        mode = channels_of_mode(image.mode, column)
        undecoded: Any = datasets.Image(decode=False)
        encoded = encoded.cast_column(column, undecoded if image is feature else replace(feature, feature=undecoded))

    def columns() -> "Iterator[tuple[pa.ChunkedArray, Iterable[Label]]]":
        for table in encoded.iter(batch_size=ARROW_BATCH_ROWS):
            yield table.column(column), _labels_in(table, label_column)

    def items() -> Iterator[Example]:
        yield from images_in_cells(columns(), "row", roots, mode)

    num_items, left_out = len(dataset), _NONE_LEFT_OUT
    if holds_lists(encoded.features.arrow_schema.field(column).type):
        num_items, left_out = _images_in_lists(cells for cells, _ in columns())
    first_cells = encoded[:1].column(column).to_pylist()
    can_change_unseen = revision is None and any(_names_files(cell) for cell in first_cells)
    return ImageSource(
        name=as_text(options.dataset or f"user-supplied: {dataset.builder_name or 'datasets.Dataset'}"),
        digest=None if can_change_unseen else _digest(digest, column, mode, label_column),
        num_items=num_items,
        items=items,
        revision=revision,
        split=as_text(str(dataset.split)) if dataset.split else None,
        labels=labels,
        left_out=left_out,
    )


@contextlib.contextmanager
def _open_parquet(path: Path) -> "Iterator[pq.ParquetFile]":
    import pyarrow.parquet as pq

    with damage_named(path), pq.ParquetFile(path) as file:
        yield file


def _digest(digest: str, column: str, *choices: str | None) -> str:
    return hashlib.sha256(" ".join([digest, column, *filter(None, choices)]).encode()).hexdigest()


def _images_in_lists(columns: "Iterator[pa.Array | pa.ChunkedArray]") -> tuple[int, tuple[LeftOut, ...]]:
    num_images, left_out = count_images(columns)
    return num_images, left_out.listed()


def _names_files(cell: object) -> bool:
    """Return whether a cell, or an image in its list, names a file instead of holding its content."""
    if isinstance(cell, list):
        return any(isinstance(image, dict) and _names_files(image) for image in cell)
    return isinstance(cell, dict) and cell.get("bytes") is None and bool(cell.get("path"))


def _visible_columns(dataset: "datasets.Dataset") -> list[str]:
    """Return the columns in the rows of `dataset`: its format may omit some."""
    form = dataset.format
    shown = dataset.column_names if form["output_all_columns"] else form["columns"] or []
    return [name for name in dataset.column_names if name in shown]


def _feature_columns(dataset: "datasets.Dataset") -> list[str]:
    """Return the columns of images; if there are none those of lists of images, or else of arrays of pixels."""
    import datasets

    features = dataset.features
    of_images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    of_lists = [name for name, feature in features.items() if _image_feature(feature) is not None]
    arrays = (datasets.Array2D, datasets.Array3D)
    of_arrays = [name for name, feature in features.items() if isinstance(feature, arrays)]
    schema = features.arrow_schema
    return of_images or of_lists or of_arrays or [field.name for field in schema if _may_hold_pixels(field.type)]


def _image_feature(feature: Any) -> "datasets.Image | None":
    """Return the Image feature of a column of images, or of lists of images."""
    import datasets

    if isinstance(feature, datasets.List | datasets.LargeList):
        feature = feature.feature
    return feature if isinstance(feature, datasets.Image) else None


def _image_columns(schema: "pa.Schema") -> list[str]:
    """Return the columns declared as images by the `datasets` library; in other files, those that may hold images."""
    declared = _declared_images(schema)
    in_lists = [name for name in declared if holds_lists(schema.field(name).type)]
    return (
        [name for name in declared if name not in in_lists]
        or in_lists
        or [field.name for field in schema if _may_hold_images(field.type)]
        or [field.name for field in schema if _may_hold_lists(field.type)]
        or [field.name for field in schema if _may_hold_pixels(field.type)]
    )


def _declared_images(schema: "pa.Schema") -> dict[str, str | None]:
    """Return the mode of each column declared as images, or lists of images, by the `datasets` library."""
    declared = {}
    try:
        for name, feature in _features(schema).items():
            of_items = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
            if isinstance(of_items, dict) and of_items["_type"] == "Image" and name in schema.names:
                declared[name] = of_items.get("mode") if isinstance(of_items.get("mode"), str) else None
    except (KeyError, IndexError, AttributeError):  # damaged
        return {}
    return declared


def _features(schema: "pa.Schema") -> dict[str, Any]:
    """Return a file's features of the `datasets` library; none in other files, or if they are damaged."""
    try:
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _class_names(features: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the names of the labels in each column of class labels; they are untrusted."""
    found = {}
    for column, feature in features.items():
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        if isinstance(names, list):
            found[column] = tuple(as_text(str(name)) for name in names)
    return found


def _label_column(
    schema: "pa.Schema", class_names: Mapping[str, tuple[str, ...]], columns: Sequence[str], image_column: str
) -> tuple[str | None, LabelSource]:
    """Return the column of labels: the one declared as such, or else the one with a usual name."""
    import pyarrow as pa

    def may_hold(kind: "pa.DataType") -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        return bool(is_text or pa.types.is_integer(kind))

    fields = [field for field in schema if field.name in columns and field.name != image_column]
    declared = [field.name for field in fields if field.name in class_names and pa.types.is_integer(field.type)]
    found = declared or [field.name for field in fields if names_labels(field.name) and may_hold(field.type)]
    labels = chosen_labels(found, "column", class_names.get(found[0], ()) if found else ())
    return found[0] if labels.origin else None, labels


def _labels_in(rows: "pa.Table | pa.RecordBatch", column: str | None) -> Iterable[Label]:
    return itertools.repeat(None) if column is None else map(plain_label, rows.column(column).to_pylist())


def _may_hold_images(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return is_binary or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _may_hold_lists(kind: "pa.DataType") -> bool:
    depth, value = array_depth(kind)
    return depth == 1 and _may_hold_images(value)


def _may_hold_pixels(kind: "pa.DataType") -> bool:
    """Return whether a column may hold arrays of pixels: nested three deep, or bytes two deep (not boxes)."""
    import pyarrow as pa

    depth, value = array_depth(kind)
    return (depth in (3, 4) and is_number(value)) or (depth == 2 and bool(pa.types.is_uint8(value)))
