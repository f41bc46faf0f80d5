"""Images in the columns of tables: parquet and arrow files, and the `datasets` library's data sets."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openddpm.config import DataOptions
from openddpm.data.decode import EncodedImage, RefusedImage
from openddpm.data.image_source import ImageSource, choose_column, digest_files
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
    label_names: tuple[str, ...] = ()
    for path in paths:
        with _open_parquet(path) as file:
            schema = file.schema_arrow
            num_rows += file.metadata.num_rows
            label_names = label_names or _label_names(_features(schema))
        column = column or choose_column(_image_columns(schema), schema.names, options)
        if column not in schema.names:
            found = f"'{as_text(path)}' has no column '{as_text(column)}': its columns are {', '.join(schema.names)}"
            raise UserError(as_text(found), "Keep files of one kind in a folder of their own.")

    def columns(path: Path) -> "Iterator[pa.Array]":
        with _open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[column]):
                yield batch.column(0)

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for path in paths:
            yield from _cells(columns(path), path.stem, [path.parent])

    first_column = next(columns(paths[0]), ())
    can_change_unseen = any(_is_elsewhere(cell.as_py()) for cell in first_column)
    digest = None if can_change_unseen else _digest(digest_files(paths), column)
    return ImageSource(as_text(options.dataset), digest, num_rows, items, label_names=label_names)


def arrow_source(path: Path, options: DataOptions) -> ImageSource:
    """Return the images in an arrow file that the `datasets` library wrote.

    Cells may name image files instead of holding them, if these lie in the folder of the arrow file.

    Raises:
        UserError: the file is damaged, or has no image column.
    """
    import datasets

    with _damage_named(path):
        dataset = datasets.Dataset.from_file(str(path))
        dataset.data.table.validate(full=True)  # or a damaged offset reads whatever lies in memory there
    return dataset_source(dataset, None, digest_files([path]), options, [path.parent])


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

    candidates = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    column = choose_column(candidates, dataset.column_names, options)
    encoded = dataset.select_columns([column])
    if isinstance(dataset.features[column], datasets.Image):
        encoded = encoded.cast_column(column, datasets.Image(decode=False))
    encoded = encoded.with_format("arrow")

    def items() -> Iterator[tuple[str, EncodedImage]]:
        yield from _cells((table.column(column) for table in encoded.iter(batch_size=ARROW_BATCH_ROWS)), "row", roots)

    first_cells = encoded[:1].column(column).to_pylist()
    can_change_unseen = revision is None and any(_is_elsewhere(cell) for cell in first_cells)
    return ImageSource(
        name=as_text(options.dataset or f"own: {dataset.builder_name or 'datasets.Dataset'}"),
        digest=None if can_change_unseen else _digest(digest, column),
        num_items=len(dataset),
        items=items,
        revision=revision,
        split=as_text(str(dataset.split)) if dataset.split else None,
        label_names=_label_names(dataset.features.to_dict()),
    )


@contextlib.contextmanager
def _open_parquet(path: Path) -> "Iterator[pq.ParquetFile]":
    import pyarrow.parquet as pq

    with _damage_named(path), pq.ParquetFile(path) as file:
        yield file


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what reading a damaged file raises, which is of almost any kind, into one message with its name."""
    try:
        yield
    except Exception as error:
        found = f"'{as_text(path)}' cannot be read: {as_text(str(error))}"
        raise UserError(found, "Make or download it again.") from error


def _digest(digest: str, column: str) -> str:
    return hashlib.sha256(f"{digest} {column}".encode()).hexdigest()


def _cells(
    columns: Iterable["pa.Array | pa.ChunkedArray"], stem: str, roots: Sequence[Path] | None
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
            yield as_text(name or f"{stem} {row}"), content


def _is_elsewhere(cell: object) -> bool:
    """Whether a cell names a file instead of holding its content."""
    return isinstance(cell, dict) and cell.get("bytes") is None and bool(cell.get("path"))


def _image_columns(schema: "pa.Schema") -> list[str]:
    """Return the columns that the `datasets` library wrote as images; in files by others, those that may hold some."""
    return _columns_written_as_images(schema) or [field.name for field in schema if _may_hold_images(field.type)]


def _columns_written_as_images(schema: "pa.Schema") -> list[str]:
    return [name for name, kind in _features(schema).items() if kind["_type"] == "Image" and name in schema.names]


def _features(schema: "pa.Schema") -> dict[str, dict[str, Any]]:
    """Return the features of the `datasets` library that a file says it has; of one by others, or damaged, none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature["_type"], str)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _label_names(features: dict[str, Any]) -> tuple[str, ...]:
    """Return what the first column of class labels calls them; they are untrusted."""
    for feature in features.values():
        names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
        if isinstance(names, list):
            return tuple(as_text(str(name)) for name in names)
    return ()


def _may_hold_images(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return is_binary or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
