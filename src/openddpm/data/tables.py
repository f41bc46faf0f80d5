"""Images in the columns of tables: parquet and arrow files, and the `datasets` library's data sets."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openddpm.config import DataOptions
from openddpm.data.decode import EncodedImage, ImageInMode, RefusedImage
from openddpm.data.image_source import ImageSource, check_no_lfs_pointer, choose_column, digest_files
from openddpm.data.named_files import NamedFiles
from openddpm.errors import UserError
from openddpm.names import as_text

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

PARQUET_BATCH_ROWS = 1  # a page of kilobytes can unfold to an image of megabytes in every row
ARROW_BATCH_ROWS = 64  # these lie in the file as they are used


def parquet_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    """Return the images in a column that all of `paths` have, file after file.

    Cells may name image files instead of holding them, if these lie in the folder of the parquet file.

    Raises:
        UserError: a file is damaged, or has no such column.
    """
    num_rows, column = 0, ""
    modes: dict[Path, str | None] = {}
    for path in paths:
        with _open_parquet(path) as file:
            schema = file.schema_arrow
            num_rows += file.metadata.num_rows
        column = column or choose_column(_image_columns(schema), schema.names, options)
        if column not in schema.names:
            found = f"'{as_text(path)}' has no column '{as_text(column)}': its columns are {', '.join(schema.names)}"
            raise UserError(as_text(found), "Keep files of one kind in a folder of their own.")
        modes[path] = _mode_written(schema, column)

    def columns(path: Path) -> "Iterator[pa.Array]":
        with _open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[column]):
                yield batch.column(0)

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for path in paths:
            yield from _cells(columns(path), path.stem, [path.parent], modes.get(path))

    first_column = next(columns(paths[0]), ())
    can_change_unseen = any(_is_elsewhere(cell.as_py()) for cell in first_column)
    digest = None if can_change_unseen else _digest(digest_files(paths), column)
    return ImageSource(as_text(options.dataset), digest, num_rows, items)


def arrow_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    """Return the images in arrow files that the `datasets` library wrote, file after file.

    Cells may name image files instead of holding them, if these lie in the folder of one of the files.

    Raises:
        UserError: a file is damaged, has other columns than the first, or has no image column.
    """
    import datasets

    parts: list[datasets.Dataset] = []
    for path in paths:
        with damage_named(path):
            part = datasets.Dataset.from_file(str(path))
            part.data.table.validate(full=True)  # or a damaged offset reads whatever lies in memory there
        if parts and part.features != parts[0].features:
            found = f"'{as_text(path)}' has other columns than '{as_text(paths[0])}': {', '.join(part.column_names)}"
            raise UserError(as_text(found), "Keep files of one kind in a folder of their own.")
        parts.append(part)
    folders = list(dict.fromkeys(path.parent for path in paths))
    return dataset_source(datasets.concatenate_datasets(parts), None, digest_files(paths), options, folders)


def with_images(paths: Sequence[Path], options: DataOptions) -> list[Path]:
    """Return those of `paths` that have a column which may hold images, or the column that is asked for.

    Raises:
        UserError: one of them is damaged.
    """
    asked = options.image_column
    return [path for path in paths if (schema := _schema(path)) and (asked in schema.names or _image_columns(schema))]


def count_rows(path: Path) -> int:
    """Return the number of rows of a table, 1 for any other file or one that cannot be read."""
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
        roots: the folders of which cells may name files instead of holding images; None stands for all folders.

    Raises:
        UserError: no image column, or several.
    """
    import datasets

    formatted = dataset.column_names if dataset.format["output_all_columns"] else dataset.format["columns"]
    shown = [name for name in dataset.column_names if name in formatted]  # a format may hide the others
    candidates = [name for name in shown if isinstance(dataset.features[name], datasets.Image)]
    column = choose_column(candidates, shown, options)
    encoded = dataset.with_format(None).select_columns([column])
    feature, mode = dataset.features[column], None
    if isinstance(feature, datasets.Image):
        mode = feature.mode
        encoded = encoded.cast_column(column, datasets.Image(decode=False))
    encoded = encoded.with_format("arrow")

    def items() -> Iterator[tuple[str, EncodedImage]]:
        columns = (table.column(column) for table in encoded.iter(batch_size=ARROW_BATCH_ROWS))
        yield from _cells(columns, "row", roots, mode)

    first_cells = encoded[:1].column(column).to_pylist()
    can_change_unseen = revision is None and any(_is_elsewhere(cell) for cell in first_cells)
    return ImageSource(
        name=as_text(options.dataset or f"own: {dataset.builder_name or 'datasets.Dataset'}"),
        digest=None if can_change_unseen else _digest(digest, column if mode is None else f"{column} {mode}"),
        num_items=len(dataset),
        items=items,
        revision=revision,
        split=as_text(str(dataset.split)) if dataset.split else None,
    )


@contextlib.contextmanager
def _open_parquet(path: Path) -> "Iterator[pq.ParquetFile]":
    import pyarrow.parquet as pq

    with damage_named(path), pq.ParquetFile(path) as file:
        yield file


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what reading a damaged file raises, which is of almost any kind, into one message with its name."""
    try:
        yield
    except Exception as error:
        check_no_lfs_pointer(path)
        found = f"'{as_text(path)}' cannot be read: {as_text(str(error))}"
        raise UserError(found, "Make or download it again.") from error


def _digest(digest: str, column: str) -> str:
    return hashlib.sha256(f"{digest} {column}".encode()).hexdigest()


def _cells(
    columns: Iterable["pa.Array | pa.ChunkedArray"], stem: str, roots: Sequence[Path] | None, mode: str | None
) -> Iterator[tuple[str, EncodedImage]]:
    with contextlib.closing(NamedFiles(roots)) as files:
        for row, scalar in enumerate(itertools.chain.from_iterable(columns)):
            cell = scalar.as_py()
            name, content = (cell.get("path"), cell.get("bytes")) if isinstance(cell, dict) else (None, cell)
            name = name if isinstance(name, str) else ""
            if content is None and name:
                content = files.read(name)
            elif not isinstance(content, bytes):
                content = RefusedImage(f"{type(content).__name__} in place of an image's bytes")
            if mode is not None and isinstance(content, bytes):
                content = ImageInMode(content, mode)
            yield as_text(name or f"{stem} {row}"), content


def _is_elsewhere(cell: object) -> bool:
    """Whether a cell names a file instead of holding its content."""
    return isinstance(cell, dict) and cell.get("bytes") is None and bool(cell.get("path"))


def _image_columns(schema: "pa.Schema") -> list[str]:
    """Return the columns that the `datasets` library wrote as images; in files by others, those that may hold some."""
    return _columns_written_as_images(schema) or [field.name for field in schema if _may_hold_images(field.type)]


def _columns_written_as_images(schema: "pa.Schema") -> list[str]:
    try:
        features = _features_written(schema)
        return [name for name, feature in features.items() if feature["_type"] == "Image" and name in schema.names]
    except _NOT_WRITTEN:
        return []


def _mode_written(schema: "pa.Schema", column: str) -> str | None:
    """Return the mode of Pillow that the `datasets` library was to give the images of a column in."""
    try:
        feature = _features_written(schema)[column]
        return str(feature["mode"]) if feature["_type"] == "Image" and feature["mode"] else None
    except _NOT_WRITTEN:
        return None


_NOT_WRITTEN = (KeyError, TypeError, ValueError, AttributeError, RecursionError)  # written by others, or damaged


def _features_written(schema: "pa.Schema") -> Any:
    """Return what the `datasets` library wrote of the columns."""
    return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]


def _may_hold_images(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return is_binary or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
