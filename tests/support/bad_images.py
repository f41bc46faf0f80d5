"""Image files that something is wrong with, and what is to be said of each."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

ESCAPES = "\x1b[2J\x1b]0;owned\x07\n\N{RIGHT-TO-LEFT OVERRIDE}.png"  # a name that clears the screen of who prints it


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return a picture of 8x8 random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)


def see_through(mode: str) -> Image.Image:
    """Return a picture whose upper half is transparent."""
    image = picture(mode)
    image.putalpha(Image.fromarray(np.repeat(np.uint8([[0], [255]]), 4, axis=0).repeat(8, axis=1)))
    return image


def bomb() -> bytes:
    """Return a PNG of some bytes that announces 400 million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def turned() -> Image.Exif:
    """Return the EXIF of a picture that lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


PALETTE = picture().quantize(4)
BAD_IMAGES: dict[str, tuple[bytes, set[tuple[str, str]]]] = {
    # name: (content, {(action, beginning of the reason)})
    "truncated.jpg": (encoded(picture(), "JPEG")[:-30], {("refused", "cannot be decoded: image file is truncated")}),
    "empty.png": (b"", {("refused", "empty file")}),
    "page.jpg": (b"<!DOCTYPE html><html></html>", {("refused", "not an image in a known format")}),
    "vector.jpg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {("refused", "not an image in a known format")}),
    "document.jpg": (b"%PDF-1.7\n", {("refused", "not an image in a known format")}),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n", {("refused", "not an image in a known format")}),
    "bomb.png": (bomb(), {("refused", "more pixels than the limit of 89,000,000")}),
    "deep.png": (
        encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)),
        {("converted", "16 bits scaled to 8"), ("converted", "gray to colour")},
    ),
    "cmyk.jpg": (encoded(picture("CMYK"), "JPEG"), {("converted", "CMYK to RGB")}),
    "palette.png": (encoded(PALETTE, transparency=0), {("converted", "alpha composited")}),
    "la.png": (encoded(see_through("L")), {("converted", "alpha composited"), ("converted", "gray to colour")}),
    "rgba.png": (encoded(see_through("RGB")), {("converted", "alpha composited")}),
    "turned.jpg": (encoded(picture(), "JPEG", exif=turned()), {("converted", "EXIF orientation applied")}),
    "animated.gif": (
        encoded(picture("P", 1), "GIF", save_all=True, append_images=[picture("P", 2)]),
        {("converted", "first frame of several")},
    ),
    "small.png": (encoded(picture().resize((5, 6))), {("converted", "upscaled")}),
    "twin-a.png": (encoded(picture(seed=7)), set()),
    "twin-b.png": (encoded(picture(seed=7), optimize=True), {("kept", "exact duplicate of twin-a.png")}),
    ESCAPES: (b"", {("refused", "empty file")}),
}
