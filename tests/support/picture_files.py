"""Image files, and what holds image files, for tests of where images come from."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.decode import EncodedImage, Preprocessing, RefusedImage, decode_image
from openddpm.data.sources import ImageSource, open_source


def png(tone: int) -> bytes:
    """Return a PNG file in one gray tone."""
    buffer = io.BytesIO()
    Image.new("L", (4, 4), tone).save(buffer, "PNG")
    return buffer.getvalue()


def tone(encoded: EncodedImage) -> int | str:
    """Return the tone of an image in one tone, or why it is refused."""
    try:
        return int(decode_image(encoded, Preprocessing(4, "gray", "white"))[0][0, 0, 0])
    except RefusedImage as refusal:
        return str(refusal)


def tones(source: ImageSource) -> dict[str, int | str]:
    """Return the tone of each item by its path."""
    items = list(source.items())
    assert source.num_items == len(items)
    return {path: tone(encoded) for path, encoded in items}


def write(path: Path, content: bytes) -> Path:
    """Write a file and the folders on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_zip(path: Path, members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def write_parquet(path: Path, **columns: list[object]) -> Path:
    """Write a parquet file as others than `datasets` do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def image_dataset(*values: int) -> datasets.Dataset:
    """Return a data set of images in one tone each, with labels."""
    rows = {"label": list(values), "image": [{"bytes": png(value), "path": None} for value in values]}
    return datasets.Dataset.from_dict(
        rows, features=datasets.Features({"label": datasets.Value("int64"), "image": datasets.Image()})
    )


def open_path(path: Path | str, **options: str) -> ImageSource:
    """Open what --dataset names."""
    return open_source(DataOptions(dataset=str(path), **options))
