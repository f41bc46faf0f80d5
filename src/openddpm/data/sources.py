"""Where images come from: a built-in name, a folder, a zip, parquet or arrow files, the Hub, or the caller's own."""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.decode import MAX_ENCODED_BYTES, EncodedImage, RefusedImage
from openddpm.errors import UserError, closest

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

BUILT_IN = ("avatars-16",)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")


@dataclass(frozen=True)
class ImageSource:
    """A finite sequence of encoded images.

    `digest` changes when the images may have; None says that nothing can tell. `items` starts from the first image
    at every call and yields (path or other name, encoded image or the reason why it cannot be read).
    """

    name: str
    digest: str | None
    num_items: int
    items: Callable[[], Iterator[tuple[str, EncodedImage]]]
    revision: str | None = None
    split: str | None = None


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
        with resources.as_file(resources.files("openddpm.data") / "builtin" / f"{options.dataset}.parquet") as path:
            return _parquet_source([path], options)
    path = Path(options.dataset).expanduser()
    if path.is_dir():
        return _folder_source(path, options)
    if path.is_file():
        return _file_source(path, options)
    if path.is_absolute() or options.dataset.startswith(".") or path.suffix in (".parquet", ".arrow", ".zip"):
        raise UserError(f"no file or folder '{options.dataset}'", "Check the path given as --dataset.")
    from openddpm.data.hub_source import load_from_hub

    return _dataset_source(*load_from_hub(options), options)


def _folder_source(folder: Path, options: DataOptions) -> ImageSource:
    files = sorted(path for path in folder.rglob("*") if _names_image(path) and path.is_file())
    parquet = sorted(folder.rglob("*.parquet"))
    if not files and parquet:
        return _parquet_source(parquet, options)
    if not files:
        raise UserError(
            f"no images in the folder '{folder}'",
            f"Looked in all sub-folders for {' '.join(IMAGE_SUFFIXES)} and .parquet files.",
        )

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for path in files:
            yield _as_text(path.relative_to(folder)), _read_bytes(path)

    return ImageSource(_as_text(folder), _digest_files(files), len(files), items)


def _file_source(path: Path, options: DataOptions) -> ImageSource:
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return _zip_source(path)
    if suffix == ".parquet":
        return _parquet_source([path], options)
    if suffix == ".arrow":
        return _arrow_file_source(path, options)
    raise UserError(
        f"'{path}' is no data set that can be read", "Give a folder of images, or a .zip, .parquet or .arrow file."
    )


def _zip_source(path: Path) -> ImageSource:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if _names_image(Path(member.filename))]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"'{path}' is not a whole zip file: {error}", "Make or download it again.") from error
    members = sorted((member for member in members if not member.is_dir()), key=lambda member: member.filename)
    if not members:
        raise UserError(f"no images in '{path}'", f"Looked for {' '.join(IMAGE_SUFFIXES)}.")

    def items() -> Iterator[tuple[str, EncodedImage]]:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                yield member.filename, _read_member(archive, member)

    return ImageSource(_as_text(path), _digest_files([path]), len(members), items)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | RefusedImage:
    if member.file_size > MAX_ENCODED_BYTES:
        return RefusedImage(f"{member.file_size:,} bytes, more than the limit of {MAX_ENCODED_BYTES:,}")
    try:
        return archive.read(member)
    except Exception as error:  # encrypted or damaged: every kind of compression has errors of its own
        return RefusedImage(f"cannot be read: {error}")


def _parquet_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    import pyarrow as pa
    import pyarrow.parquet as pq

    @contextlib.contextmanager
    def opened(path: Path) -> Iterator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(path) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"'{_as_text(path)}' cannot be read: {error}", "Make or download it again.") from error

    num_items, column = 0, ""
    for path in paths:
        with opened(path) as file:
            schema = file.schema_arrow
            num_items += file.metadata.num_rows
        column = column or _choose_column(_image_columns(schema), schema.names, options)
        if column not in schema.names:
            found = f"'{_as_text(path)}' has no column '{column}': its columns are {', '.join(schema.names)}"
            raise UserError(found, "Give files of one kind, as --dataset FILE or in a folder of their own.")

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for path in paths:
            with opened(path) as file:
                batches = (batch.column(0) for batch in file.iter_batches(batch_size=64, columns=[column]))
                yield from _arrow_items(batches, _as_text(path.stem))

    digest = hashlib.sha256(f"{_digest_files(paths)} {column}".encode()).hexdigest()
    return ImageSource(options.dataset, digest, num_items, items)


def _arrow_file_source(path: Path, options: DataOptions) -> ImageSource:
    import datasets
    import pyarrow as pa

    try:
        dataset = datasets.Dataset.from_file(str(path))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"'{_as_text(path)}' cannot be read: {error}", "Make or download it again.") from error
    return _dataset_source(dataset, None, _digest_files([path]), options)


def _dataset_source(
    dataset: "datasets.Dataset", revision: str | None, digest: str | None, options: DataOptions
) -> ImageSource:
    import datasets

    candidates = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    column = _choose_column(candidates, dataset.column_names, options)
    encoded = dataset.select_columns([column])
    if isinstance(dataset.features[column], datasets.Image):
        encoded = encoded.cast_column(column, datasets.Image(decode=False))
    encoded = encoded.with_format("arrow")

    def items() -> Iterator[tuple[str, EncodedImage]]:
        yield from _arrow_items((table.column(column) for table in encoded.iter(batch_size=64)), "row")

    name = options.dataset or f"own: {dataset.builder_name or 'datasets.Dataset'}"
    key = hashlib.sha256(f"{digest} {column}".encode()).hexdigest() if digest else None
    return ImageSource(name, key, len(dataset), items, revision, str(dataset.split) if dataset.split else None)


def _own_source(own: Any, options: DataOptions) -> ImageSource:
    if isinstance(own, Mapping):  # among them datasets.DatasetDict
        raise UserError(f"several data sets, by the names {', '.join(map(str, own))}", "Give one of them.")
    if _is_datasets_dataset(own):
        return _dataset_source(own, None, own._fingerprint, options)
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
        item = item[_choose_column(candidates, list(item), options)]
    if not isinstance(item, Image.Image | np.ndarray | bytes):
        todo = "Give Pillow images, the bytes of image files, or uint8 arrays (H, W, C)."
        raise UserError(f"the data set holds {type(item).__name__}, not images", todo)
    return item


def _arrow_items(columns: Iterable["pa.Array | pa.ChunkedArray"], stem: str) -> Iterator[tuple[str, EncodedImage]]:
    row = 0
    for column in columns:
        for cell in column.to_pylist():
            if isinstance(cell, dict):
                path, content = cell.get("path"), cell.get("bytes")
                is_elsewhere = path and content is None
                yield path or f"{stem} {row}", _read_bytes(Path(path)) if is_elsewhere else _content(content)
            else:
                yield f"{stem} {row}", _content(cell)
            row += 1


def _content(cell: object) -> bytes | RefusedImage:
    return cell if isinstance(cell, bytes) else RefusedImage(f"{type(cell).__name__} in place of an image's bytes")


def _image_columns(schema: "pa.Schema") -> list[str]:
    """Return the columns that the `datasets` library wrote as images; in files by others, those that may hold some."""
    import pyarrow as pa

    written = (schema.metadata or {}).get(b"huggingface")
    features = (json.loads(written).get("info") or {}).get("features") if written else None
    if features:
        return [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    return [
        field.name
        for field in schema
        if pa.types.is_binary(field.type)
        or pa.types.is_large_binary(field.type)
        or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]


def _choose_column(candidates: list[str], columns: list[str], options: DataOptions) -> str:
    if options.image_column is not None:
        if options.image_column not in columns:
            raise UserError(f"no column '{options.image_column}'", closest(options.image_column, columns))
        return options.image_column
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise UserError(
            f"no image column in '{options.dataset}': its columns are {', '.join(columns)}",
            "Name the one with images, if there is one: --image_column NAME.",
        )
    raise UserError(
        f"several image columns in '{options.dataset}': {', '.join(candidates)}", "Choose one: --image_column NAME."
    )


def _names_image(path: Path) -> bool:
    is_mac_metadata = path.name.startswith("._") or "__MACOSX" in path.parts
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_mac_metadata


def _as_text(path: Path | str) -> str:
    """Return a path for people and JSON, also where its name is not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _read_bytes(path: Path) -> bytes | RefusedImage:
    try:
        if path.stat().st_size > MAX_ENCODED_BYTES:
            return RefusedImage(f"{path.stat().st_size:,} bytes, more than the limit of {MAX_ENCODED_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        return RefusedImage(f"cannot be read: {error.strerror}")


def _digest_files(paths: Sequence[Path]) -> str:
    """Return a digest of names, sizes and times of change: quick, and different when a file is."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(os.fsencode(path.resolve()) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
