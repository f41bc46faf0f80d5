"""Image files, and what holds image files, for tests of where images come from."""

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.decode import EncodedImage, Preprocessing, RefusedImage, decode_image
from openddpm.data.image_source import ImageSource
from openddpm.data.labels import Label
from openddpm.data.sources import open_source


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
    return {example.path: tone(example.image) for example in items}


def labels(source: ImageSource) -> dict[str, Label]:
    """Return the label of each item by its path."""
    return {example.path: example.label for example in source.items()}


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


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """Write a tar file."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
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


def png_of_raw_rows(bit_depth: int, colour_type: int, rows: np.ndarray) -> bytes:
    """Write the PNGs that Pillow only reads; rows are big-endian samples."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bit_depth, colour_type, 0, 0, 0)
    scanlines = b"".join(b"\0" + row.tobytes() for row in rows)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def tiff_of(values: np.ndarray) -> bytes:
    """Write the TIFFs that Pillow only reads: numbers, (H, W) or (H, W, C), of any type, as they are."""
    height, width, *channels = values.shape
    count = channels[0] if channels else 1
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    directory_at, lists_at = 8, 8 + 2 + 12 * 11 + 4
    pixels_at = lists_at + 4 * count
    shorts = [(258, [8 * values.dtype.itemsize] * count), (339, [sample_format] * count)]
    entries = {256: width, 257: height, 259: 1, 262: 2 if count > 2 else 1, 273: pixels_at, 277: count, 278: height}
    entries |= {279: values.nbytes, 284: 1}
    lists = b""
    packed = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items()}
    for tag, numbers in shorts:
        content = struct.pack(f"<{count}H", *numbers)
        place = content.ljust(4, b"\0") if count < 3 else struct.pack("<I", lists_at + len(lists))
        packed[tag] = struct.pack("<HHI", tag, 3, count) + place
        lists += content
    directory = struct.pack("<H", 11) + b"".join(packed[tag] for tag in sorted(packed)) + bytes(4)
    return b"II*\0" + struct.pack("<I", directory_at) + directory + lists + values.tobytes()
