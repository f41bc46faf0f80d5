"""Folders of images to train on: the built-in avatars as PNG files, and large photos made from noise."""

import io
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

PHOTO_SIZE = (4000, 3000)  # of a phone's camera


def write_avatars(folder: Path, count: int | None = None) -> Path:
    """Write the first `count` of the built-in avatars (default: all) as PNG files; return `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("openddpm.data") / "builtin" / "avatars-16.parquet") as path:
        images = pq.read_table(path)["image"].combine_chunks().field("bytes")
    for number, encoded in enumerate(images.to_pylist()[:count]):
        Image.open(io.BytesIO(encoded)).convert("RGB").save(folder / f"{number:05d}.png")
    return folder


def write_arrays(images: np.ndarray, folder: Path) -> Path:
    """Write images, (N, C, H, W) uint8, as PNG files; return `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(folder / f"{number:05d}.png")
    return folder


def write_photos(folder: Path, count: int, size: tuple[int, int] = PHOTO_SIZE) -> Path:
    """Write JPEG files like photos of a camera: smooth colours, shapes with edges, grain; return `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_photo(folder, number, size)
    return folder


def write_photo(folder: Path, number: int, size: tuple[int, int] = PHOTO_SIZE) -> None:
    """Write one of them, if it is not there."""
    path = folder / f"{number:04d}.jpg"
    if not path.exists():
        _photo(np.random.default_rng(number), size).save(path, quality=92)


def _photo(generator: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = coarse.resize(size, Image.Resampling.BICUBIC)
    shapes = Image.fromarray(generator.integers(0, 2, (12, 16), dtype=np.uint8) * 255).resize(size)
    picture.paste(coarse.transpose(Image.Transpose.ROTATE_180).resize(size), mask=shapes)
    grain = Image.fromarray(generator.integers(0, 256, (size[1] // 2, size[0] // 2, 3), dtype=np.uint8)).resize(size)
    return Image.blend(picture, grain.filter(ImageFilter.BoxBlur(1)), 0.15)
