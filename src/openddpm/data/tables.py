"""Images in the columns of tables: parquet and arrow files, and the `datasets` library's data sets."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from openddpm.config import DataOptions
from openddpm.data.decode import EncodedImage, RefusedImage
from openddpm.data.image_source import ImageSource, as_text, choose_column, digest_files, read_encoded
from openddpm.errors import UserError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 64  # bounds the encoded images held in memory


def parquet_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    """Return the images in a column that all of `paths` have, file after file.

    Raises:
        UserError: a file is damaged, or has no such column.
    """
    num_rows, column = 0, ""
    for path in paths:
        with _open_parquet(path) as file:
            schema = file.schema_arrow
            num_rows += file.metadata.num_rows
        column = column or choose_column(_image_columns(schema), schema.names, options)
        if column not in schema.names:
            found = f"'{as_text(path)}' has no column '{column}': its columns are {', '.join(schema.names)}"
            raise UserError(found, "Keep files of one kind in a folder of their own.")

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for path in paths:
            with _open_parquet(path) as file:
                batches = (batch.column(0) for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[column]))
                yield from _cells(batches, as_text(path.stem))

    return ImageSource(options.dataset, _digest(digest_files(paths), column), num_rows, items)


def arrow_source(path: Path, options: DataOptions) -> ImageSource:
    """Return the images in an arrow file that the `datasets` library wrote."""
    import datasets
    import pyarrow as pa

    try:
        dataset = datasets.Dataset.from_file(str(path))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    return dataset_source(dataset, None, digest_files([path]), options)


def dataset_source(dataset: "datasets.Dataset", revision: str | None, digest: str, options: DataOptions) -> ImageSource:
    """Return the images in a column of `dataset`, of which `digest` changes when its rows do."""
    import datasets

    candidates = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    column = choose_column(candidates, dataset.column_names, options)
    encoded = dataset.select_columns([column])
    if isinstance(dataset.features[column], datasets.Image):
        encoded = encoded.cast_column(column, datasets.Image(decode=False))
    encoded = encoded.with_format("arrow")

    def items() -> Iterator[tuple[str, EncodedImage]]:
        yield from _cells((table.column(column) for table in encoded.iter(batch_size=BATCH_ROWS)), "row")

    first_cells = encoded[:1].column(column).to_pylist()
    can_change_unseen = revision is None and any(_is_elsewhere(cell) for cell in first_cells)
    return ImageSource(
        name=options.dataset or f"own: {dataset.builder_name or 'datasets.Dataset'}",
        digest=None if can_change_unseen else _digest(digest, column),
        num_items=len(dataset),
        items=items,
        revision=revision,
        split=str(dataset.split) if dataset.split else None,
    )


@contextlib.contextmanager
def _open_parquet(path: Path) -> "Iterator[pq.ParquetFile]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"'{as_text(path)}' cannot be read: {error}", "Make or download it again.")


def _digest(digest: str, column: str) -> str:
    return hashlib.sha256(f"{digest} {column}".encode()).hexdigest()


def _cells(columns: Iterable["pa.Array | pa.ChunkedArray"], stem: str) -> Iterator[tuple[str, EncodedImage]]:
    row = 0
    for column in columns:
        for cell in column.to_pylist():
            if _is_elsewhere(cell):
                yield cell["path"], read_encoded(Path(cell["path"]))
            else:
                path, content = (cell.get("path"), cell.get("bytes")) if isinstance(cell, dict) else (None, cell)
                if not isinstance(content, bytes):
                    content = RefusedImage(f"{type(content).__name__} in place of an image's bytes")
                yield path or f"{stem} {row}", content
            row += 1


def _is_elsewhere(cell: object) -> bool:
    """Whether a cell names a file instead of holding its content."""
    return isinstance(cell, dict) and cell.get("bytes") is None and bool(cell.get("path"))


def _image_columns(schema: "pa.Schema") -> list[str]:
    """Return the columns that the `datasets` library wrote as images; in files by others, those that may hold some."""
    import pyarrow as pa

    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = (written.get("info") or {}).get("features") or {}
    images = [name for name, feature in features.items() if isinstance(feature, dict) and feature["_type"] == "Image"]
    return images or [
        field.name
        for field in schema
        if pa.types.is_binary(field.type)
        or pa.types.is_large_binary(field.type)
        or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
