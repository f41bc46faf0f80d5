"""Where images come from: a built-in name, a folder, a zip, parquet or arrow files, the Hub, or the caller's own."""

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.decode import EncodedImage
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
    at every call and yields (path or other name, encoded image).
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
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
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
            yield str(path.relative_to(folder)), _read_bytes(path)

    return ImageSource(str(folder), _digest_files(files), len(files), items)


def _file_source(path: Path, options: DataOptions) -> ImageSource:
    if path.suffix == ".zip":
        return _zip_source(path)
    if path.suffix == ".parquet":
        return _parquet_source([path], options)
    if path.suffix == ".arrow":
        import datasets

        return _dataset_source(datasets.Dataset.from_file(str(path)), None, _digest_files([path]), options)
    raise UserError(
        f"'{path}' is no data set that can be read", "Give a folder of images, or a .zip, .parquet or .arrow file."
    )


def _zip_source(path: Path) -> ImageSource:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if Path(name).suffix.lower() in IMAGE_SUFFIXES)
    except zipfile.BadZipFile as error:
        raise UserError(f"'{path}' is not a whole zip file: {error}", "Make or download it again.") from error
    names = [name for name in names if not name.startswith("__MACOSX/")]
    if not names:
        raise UserError(f"no images in '{path}'", f"Looked for {' '.join(IMAGE_SUFFIXES)}.")

    def items() -> Iterator[tuple[str, EncodedImage]]:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                try:
                    yield name, archive.read(name)
                except (zipfile.BadZipFile, RuntimeError, OSError, ValueError):  # damaged or encrypted member
                    yield name, b""

    return ImageSource(str(path), _digest_files([path]), len(names), items)


def _parquet_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        files = [pq.ParquetFile(path) for path in paths]
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"a parquet file of '{options.dataset}' cannot be read: {error}", "Download it again.") from None
    schema = files[0].schema_arrow
    candidates = [field.name for field in schema if _holds_images(field.type)]
    column = _choose_column(candidates, schema.names, options)

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for path in paths:
            with pq.ParquetFile(path) as file:
                batches = (batch.column(0) for batch in file.iter_batches(batch_size=64, columns=[column]))
                yield from _arrow_items(batches, path.stem)

    num_items = sum(file.metadata.num_rows for file in files)
    digest = hashlib.sha256(f"{_digest_files(paths)} {column}".encode()).hexdigest()
    name = options.dataset or str(paths[0])
    return ImageSource(name, digest, num_items, items)


def _dataset_source(
    dataset: "datasets.Dataset", revision: str | None, digest: str, options: DataOptions
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
    key = hashlib.sha256(f"{digest} {column}".encode()).hexdigest()
    return ImageSource(name, key, len(dataset), items, revision, str(dataset.split) if dataset.split else None)


def _own_source(own: Any, options: DataOptions) -> ImageSource:
    if type(own).__module__.startswith("datasets."):
        return _dataset_source(own, None, own._fingerprint, options)
    if not (hasattr(own, "__len__") and hasattr(own, "__getitem__")):
        raise UserError(
            f"a data set of type {type(own).__name__} has no length or no items",
            "Give a datasets.Dataset, or a sequence of Pillow images or uint8 arrays (H, W, C).",
        )

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for index in range(len(own)):
            yield f"item {index}", _own_image(own[index], options)

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
                path = cell.get("path")
                content = cell.get("bytes")
                yield path or f"{stem} {row}", content or (_read_bytes(Path(path)) if path else b"")
            else:
                yield f"{stem} {row}", cell if isinstance(cell, bytes) else b""
            row += 1


def _holds_images(arrow_type: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_struct(arrow_type):
        return arrow_type.get_field_index("bytes") >= 0
    return pa.types.is_binary(arrow_type) or pa.types.is_large_binary(arrow_type)


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


def _read_bytes(path: Path) -> bytes:
    """Return a file's content; one that cannot be read comes back empty, and is refused with its path."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _digest_files(paths: Sequence[Path]) -> str:
    """Return a digest of names, sizes and times of change: quick, and different when a file is."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
