"""Damaged images through `decode_image`: pixels or RefusedImage, and nothing else, in little time and memory."""

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from mutations import mutate_bytes
from PIL import Image, ImageCms

from openddpm.data.decode import Preprocessing, RefusedImage, decode_image, pillow_warnings_ignored

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by colour type
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
TIFF_COMPRESSIONS = {
    "1": (None, "tiff_ccitt", "group3", "group4", "packbits", "tiff_lzw"),
    "RGB": (None, "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "jpeg", "lzma", "zstd"),
    "CMYK": (None, "tiff_lzw"),
    "I;16": (None, "tiff_lzw"),
    "F": (None,),
    "LAB": (None,),
}
SIZE = (24, 20)


def cases() -> Callable[[random.Random], str]:
    """Return what runs one case and says what was wrong with it; "" if nothing was."""
    whole = samples()
    files = [content for contents in whole.values() for content in contents.values()]

    def run(rng: random.Random) -> str:
        format_ = rng.choice(sorted(whole))
        siblings = list(whole[format_].values())
        content = mutate_bytes(rng.choice(siblings), rng.choice((siblings, siblings, files)), rng)
        if format_ == "PNG" and rng.random() < 0.7:  # else the checksum alone decides
            content = with_png_checksums(content)
        mode = rng.choice(("auto", "auto", "rgb", "gray"))
        preprocessing = Preprocessing(
            rng.choice((8, 16)),
            mode,
            rng.choice(("white", "#123456")),
            fit=rng.choice(("crop", "pad")),
            pixel_range=rng.choice((None, (0.0, 4095.0))),
        )
        return fault_of(content, preprocessing)

    return run


def fault_of(content: bytes, preprocessing: Preprocessing) -> str:
    """Decode a file; return what was wrong with the answer, or "" for pixels as promised and for a refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with pillow_warnings_ignored():
                pixels, changes, *_ = decode_image(content, preprocessing)
        except RefusedImage as refused:
            cause = refused.__cause__
            if isinstance(cause, (MemoryError, RecursionError, Warning)):
                return f"refused only for a {type(cause).__name__}: {refused}"
            return "" if str(refused).isprintable() else f"unprintable refusal: {str(refused)!r}"
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
    side = preprocessing.resolution
    channels = {"auto": (1, 3), "rgb": (3,), "gray": (1,)}[preprocessing.image_mode]
    if pixels.dtype != np.uint8 or pixels.shape[0] not in channels or pixels.shape[1:] != (side, side):
        return f"pixels of {pixels.dtype} {pixels.shape}"
    return "" if all(isinstance(change, str) and change.isprintable() for change in changes) else f"changes {changes}"


@cache
def samples() -> dict[str, dict[str, bytes]]:
    """Return whole files by format and kind, each of which decodes or is refused for its kind of pixels."""
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8)).resize(SIZE)
    frames = [smooth.convert("RGB").rotate(angle) for angle in (90, 180)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    animated = {"save_all": True, "append_images": frames, "duration": 50}
    rgb, gray = smooth.convert("RGB"), smooth.convert("L")
    return {
        "PNG": {
            **dict(_png_kinds()),
            "apng": _saved(rgb, "PNG", **animated),
            "text": _saved(rgb, "PNG", exif=exif, icc_profile=profile, transparency=(1, 2, 3)),
            "palette with alpha": _saved(rgb.quantize(8), "PNG", transparency=bytes(range(8))),
        },
        "JPEG": {
            "baseline": _saved(rgb, "JPEG"),
            "progressive": _saved(rgb, "JPEG", progressive=True, exif=exif, icc_profile=profile),
            "gray": _saved(gray, "JPEG", restart_marker_blocks=1),
            "cmyk": _saved(rgb.convert("CMYK"), "JPEG"),
            "mpo": _saved(rgb, "MPO", save_all=True, append_images=frames),
        },
        "WEBP": {
            "lossy": _saved(rgb, "WEBP", exif=exif),
            "lossless": _saved(smooth, "WEBP", lossless=True, icc_profile=profile),
            "animated": _saved(smooth, "WEBP", **animated),
        },
        "GIF": {
            "still": _saved(rgb.quantize(16), "GIF", transparency=3),
            "animated": _saved(rgb, "GIF", loop=0, disposal=2, **animated),
        },
        "BMP": {mode: _saved(smooth.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
        "TIFF": dict(_tiff_kinds(smooth, exif)),
        "PPM": {
            **{mode: _saved(smooth.convert(mode), "PPM") for mode in ("1", "L", "I", "RGB")},
            "P2": b"P2\n# gray as text\n3 2\n255\n0 1 2 30 40 255\n",
            "P3": b"P3 2 1 65535 0 1 2 65535 4 5\n",
            "P1": b"P1 4 2 1010 0101\n",
            "PFM": b"Pf 2 2 -1.0\n" + struct.pack("<4f", 0, 0.5, 1, float("nan")),
        },
        "AVIF": {
            "still": _saved(rgb, "AVIF", speed=10, exif=exif),
            "alpha": _saved(smooth, "AVIF", speed=10, icc_profile=profile),
            "animated": _saved(rgb, "AVIF", speed=10, **animated),
        },
    }


def with_png_checksums(content: bytes) -> bytes:
    """Return a PNG with the checksum of each chunk mended, as far as its chunks can be told apart."""
    mended, at = bytearray(content), len(PNG_HEAD)
    while at + 12 <= len(mended):
        stop = at + 8 + int.from_bytes(mended[at : at + 4], "big")
        if stop + 4 > len(mended):
            break
        mended[stop : stop + 4] = zlib.crc32(mended[at + 4 : stop]).to_bytes(4, "big")
        at = stop + 4
    return bytes(mended)


def _png_kinds() -> Iterator[tuple[str, bytes]]:
    """Yield a PNG of noise for every colour type, depth and interlacing, most of which Pillow cannot write."""
    width, height = SIZE
    noise = random.Random(0)
    for colour, depths in PNG_DEPTHS.items():
        for depth in depths:
            for interlaced in (False, True):
                lines = b""
                for x, y, step_x, step_y in ADAM7 if interlaced else ((0, 0, 1, 1),):
                    num_bytes = -(-len(range(x, width, step_x)) * PNG_SAMPLES[colour] * depth // 8)
                    lines += b"".join(b"\0" + noise.randbytes(num_bytes) for _ in range(y, height, step_y))
                header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
                palette = [(b"PLTE", noise.randbytes(3 * 2**depth))] if colour == 3 else []
                chunks = [(b"IHDR", header), *palette, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
                body = b"".join(struct.pack(">I", len(data)) + name + data + bytes(4) for name, data in chunks)
                name = f"colour type {colour}, {depth} bits{', interlaced' * interlaced}"
                yield name, with_png_checksums(PNG_HEAD + body)


def _tiff_kinds(smooth: Image.Image, exif: Image.Exif) -> Iterator[tuple[str, bytes]]:
    for mode, compressions in TIFF_COMPRESSIONS.items():
        image = smooth.convert("L").convert("I").convert("I;16") if mode == "I;16" else smooth.convert("RGB")
        if mode == "LAB":
            image = Image.frombytes("LAB", SIZE, image.tobytes())
        elif mode != "I;16":
            image = image.convert(mode)
        for compression in compressions:
            yield f"{mode} {compression}", _saved(image, "TIFF", compression=compression)
    pages = [smooth.convert("L")]
    yield "pages", _saved(smooth, "TIFF", exif=exif, save_all=True, append_images=pages)


def _saved(image: Image.Image, format_: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **{name: value for name, value in options.items() if value is not None})
    return stream.getvalue()
