"""One encoded image in, one uint8 array out, with a word on whatever had to be changed."""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps

from openddpm.errors import UserError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 89_000_000  # assumed, below the size at which Pillow warns: a bomb, or in need of cropping first
DECODE_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(struct.error, zlib.error, MemoryError, Image.DecompressionBombError),
)

EncodedImage = bytes | Image.Image | np.ndarray

_CONVERTED = {"CMYK": "CMYK to RGB", "YCbCr": "YCbCr to RGB", "LAB": "LAB to RGB", "HSV": "HSV to RGB"}


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every image before it is stored; part of the store's digest."""

    resolution: int
    image_mode: Literal["auto", "rgb", "gray"]
    background: str

    def background_rgb(self) -> tuple[int, int, int]:
        """Return the background as (red, green, blue) in 0..255."""
        try:
            return ImageColor.getrgb(self.background)[:3]
        except ValueError:
            todo = "Use a name such as white, or a code such as #ffcc00."
            raise UserError(f"--background '{self.background}' is no colour", todo) from None


class RefusedImage(Exception):
    """This one image cannot be used; the message says why."""


def decode_image(encoded: EncodedImage, preprocessing: Preprocessing) -> tuple[np.ndarray, list[str]]:
    """Decode, orient, flatten, centre-crop and resize one image.

    Args:
        encoded: the bytes of a file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8.

    Returns:
        pixels: (C, resolution, resolution) uint8; one channel for gray images, or as image_mode forces.
        changes: reasons, such as "alpha composited", for all that was done beyond resizing downwards.

    Raises:
        RefusedImage: the image cannot be decoded in full.
    """
    try:
        image = _open(encoded)
        return _preprocess(image, preprocessing)
    except DECODE_ERRORS as error:
        raise RefusedImage(f"cannot be decoded: {error or type(error).__name__}") from error


def _open(encoded: EncodedImage) -> Image.Image:
    if isinstance(encoded, Image.Image):
        return encoded
    if isinstance(encoded, np.ndarray):
        if encoded.dtype != np.uint8:
            raise RefusedImage(f"array of {encoded.dtype}, expected uint8 (H, W, C)")
        return Image.fromarray(encoded[..., 0] if encoded.ndim == 3 and encoded.shape[2] == 1 else encoded)
    if not encoded:
        raise RefusedImage("empty file")
    image = Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise RefusedImage(f"{image.width}x{image.height} pixels, more than the limit of {MAX_PIXELS:,}")
    return image


def _preprocess(image: Image.Image, preprocessing: Preprocessing) -> tuple[np.ndarray, list[str]]:
    changes = []
    if getattr(image, "n_frames", 1) > 1:
        image.seek(0)
        changes.append("first frame of several")
    image.load()
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
        changes.append("EXIF orientation applied")
    image = _flatten(image, preprocessing.background_rgb(), changes)
    forced = {"auto": image.mode, "rgb": "RGB", "gray": "L"}[preprocessing.image_mode]
    if forced != image.mode:
        changes.append("colour to gray" if forced == "L" else "gray to colour")
        image = image.convert(forced)
    resolution = preprocessing.resolution
    if min(image.size) < resolution:
        changes.append("upscaled")
    if image.size != (resolution, resolution):
        image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.uint8)
    return (pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))), changes


def _flatten(image: Image.Image, background: tuple[int, int, int], changes: list[str]) -> Image.Image:
    """Return `image` as 8-bit L or RGB without transparency."""
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion would clip it to white
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise RefusedImage("integer pixels beyond 16 bits")
        changes.append("16 bits scaled to 8")
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise RefusedImage("floating-point pixels, whose range is not known")
    if image.mode == "1":
        return image.convert("L")
    is_gray = image.mode in ("L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            changes.append("alpha composited")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
            is_gray = is_gray and len(set(background)) == 1
    elif image.mode in _CONVERTED:
        changes.append(_CONVERTED[image.mode])
    return image.convert("L" if is_gray else "RGB")
