"""Thumbnails of images before and after decoding, as data URIs."""

import base64
import io

import numpy as np
from PIL import Image

from openddpm.data.decode import EncodedImage, without_source
from openddpm.data.formats import image_formats

SIDE = 128  # pixels, at most; the page shows them at 96 CSS pixels, which is sharp on high-resolution screens too
EXACT_SIDE = 64  # up to this side thumbnails are lossless, at no more bytes than a lossy one of SIDE takes


def data_uri(image: Image.Image) -> str:
    """Return `image`, L, RGB or RGBA, shrunk or enlarged to fit a square of SIDE, as a data URI without metadata."""
    side = max(image.size)
    if side <= EXACT_SIDE:
        scale = SIDE // side
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    else:
        image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=side <= EXACT_SIDE, quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def original_size(encoded: EncodedImage) -> tuple[int, int] | None:
    """Return width and height as stored, before EXIF orientation; None if they cannot be read."""
    encoded = without_source(encoded)
    if isinstance(encoded, np.ndarray):
        return (encoded.shape[1], encoded.shape[0]) if encoded.ndim > 1 else None
    try:
        return _opened(encoded).size
    except Exception:  # on damaged files Pillow raises errors of almost any kind
        return None


def original_thumbnail(encoded: EncodedImage) -> str | None:
    """Return an image as its file holds it: not turned, not flattened, not cropped; None if it cannot be shown.

    Pixels of more than 8 bits are stretched from their darkest to their brightest, so that all can be seen.
    """
    try:
        image = _opened(encoded)
        if image.mode.startswith(("I", "F")):
            return data_uri(_stretched(np.asarray(image)))
        mode = "RGBA" if image.has_transparency_data else "RGB"
        if image.mode in ("P", "PA", "1") or "transparency" in image.info:  # modes that cannot be interpolated
            image = image.convert(mode)
        image.thumbnail((SIDE, SIDE))  # decodes a JPEG at a reduced size
        return data_uri(image.convert(mode))
    except Exception:  # as above; the page then shows only the decoded image
        return None


def _opened(encoded: EncodedImage) -> Image.Image:
    """Return `encoded` as a Pillow image, without decoding its pixels yet if possible."""
    encoded = without_source(encoded)
    if isinstance(encoded, bytes):
        return Image.open(io.BytesIO(encoded), formats=image_formats())
    if isinstance(encoded, Image.Image):
        return encoded.copy()
    if isinstance(encoded, np.ndarray):
        return Image.fromarray(encoded.squeeze())
    raise encoded


def _stretched(values: np.ndarray) -> Image.Image:
    """Return every so many of the values, scaled from their own range to gray from black to white."""
    step = max(1, max(values.shape) // SIDE)
    values = values[::step, ::step].astype(np.float64)
    least, greatest = values.min(), values.max()
    return Image.fromarray(((values - least) * 255 / (greatest - least or 1.0)).astype(np.uint8))
