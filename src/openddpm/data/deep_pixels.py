"""Pixels of more than 8 bits, or signed ones: reading their numbers and scaling them to 8 bits."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from openddpm.data.refused import RefusedImage

WHITE = 65535  # of unsigned 16 bits, by default
ROWS_AT_ONCE = 256  # assumed: bounds the extra memory that scaling takes

_BITS_PER_SAMPLE, _SAMPLE_FORMAT = 258, 339  # TIFF 6.0 tags; formats: 1 unsigned, 2 signed, 3 floating point
_SIGNED = 2

SCALED_16_BITS, SCALED_BY_RANGE = "16 bits scaled to 8", "scaled to 8 bits by --pixel_range"
BEYOND_RANGE = "cut off at the ends of --pixel_range"
NEEDS_RANGE = "give the values of black and white: --pixel_range LOW HIGH"

Range = tuple[float, float]


class UnknownRange(RefusedImage):
    """Refusal of an image whose black and white are not known."""

    def __init__(self, kind: str, values: np.ndarray) -> None:
        self.raw_range = _range_of(values)
        found = " to ".join(f"{value:.6g}" for value in self.raw_range)
        super().__init__(f"{kind} from {found}: {NEEDS_RANGE}")


def in_8_bits(
    image: Image.Image, reopened: Callable[[], Image.Image] | None, pixel_range: Range | None, changes: list[str]
) -> tuple[Image.Image, Range | None]:
    """Load `image`, scale it to 8 bits if it has more, and return it with its original range.

    Args:
        reopened: returns the same image, not loaded yet; None if there is no file to read it from again.
        changes: a reason for each change is appended.
    """
    has_deep_channels = _has_deep_channels(image)
    values = _deep_values(image, as_stored=pixel_range is not None)
    if values is not None:
        pixels, raw_range = _scaled(values, pixel_range, changes)
        return Image.fromarray(pixels), raw_range
    if not has_deep_channels:
        return image, None
    extrema: Any = image.getextrema()  # of each channel
    if pixel_range is None:  # Pillow has kept the upper 8 bits
        changes.append(SCALED_16_BITS)
        return image, (
            256.0 * min(least for least, _ in extrema[:3]),
            256.0 * max(most for _, most in extrema[:3]) + 255,
        )
    if reopened is None:
        raise RefusedImage("16 bits in each of several channels: --pixel_range needs it as the bytes of a file")
    pixels, raw_range = _scaled(_deep_channels(image, reopened())[..., :3], pixel_range, changes)
    scaled = Image.fromarray(pixels)
    if image.has_transparency_data:
        scaled.putalpha(image.convert("RGBA").getchannel("A"))
    return scaled, raw_range


def scaled_array(values: np.ndarray, pixel_range: Range | None, changes: list[str]) -> tuple[np.ndarray, Range | None]:
    """Return an array of numbers other than uint8 as uint8, with its range; unchanged if that is not possible."""
    has_known_shape = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3))
    if values.dtype.kind not in "iuf" or values.size == 0:
        return values, None
    if pixel_range is None and values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8), None  # such as lists of numbers, which the `datasets` library keeps as int64
    if not has_known_shape:
        return values, None
    _check_finite(values)
    if pixel_range is None:
        raise UnknownRange(f"array of {values.dtype} {values.shape}, expected uint8; numbers", values)
    return _scaled(values, pixel_range, changes)


def _scaled(values: np.ndarray, pixel_range: Range | None, changes: list[str]) -> tuple[np.ndarray, Range]:
    """Return numbers of more than 8 bits as uint8, and their range."""
    _check_finite(values)
    if pixel_range is None and not _has_known_white(values):
        kinds = {"f": "floating-point pixels", "i": "signed pixels", "u": "pixels beyond 16 bits"}
        raise UnknownRange(kinds[values.dtype.kind], values)
    raw_range = _range_of(values)
    changes.append(SCALED_16_BITS if pixel_range is None else SCALED_BY_RANGE)
    if pixel_range is not None and (raw_range[0] < pixel_range[0] or raw_range[1] > pixel_range[1]):
        changes.append(BEYOND_RANGE)
    return _scaled_to_8_bits(values, pixel_range), raw_range


def _check_finite(values: np.ndarray) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise RefusedImage("pixels that are not finite numbers")


def _has_deep_channels(image: Image.Image) -> bool:
    """Return whether an image, not loaded yet, has several channels of 16 bits, of which Pillow gives the upper 8."""
    is_deep = any(";16" in str(tile[3]) or _white_of(tile) is not None for tile in getattr(image, "tile", ()))
    return is_deep and not image.mode.startswith(("I", "F"))


def _deep_values(image: Image.Image, as_stored: bool) -> np.ndarray | None:
    """Load an image and return its numbers, (H, W), unsigned only if it declares no sign; None if they are 8 bits.

    Args:
        as_stored: return the numbers of a PGM file as stored, even if its white is not 65535, not stretched to that.
    """
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    is_signed = _SIGNED in tags.get(_SAMPLE_FORMAT, ())
    bits = max(tags.get(_BITS_PER_SAMPLE, (0,)))
    white = next((_white_of(tile) for tile in getattr(image, "tile", ())), None)
    image.load()
    is_signed_byte = image.mode == "L" and is_signed and bits == 8
    if not is_signed_byte and not image.mode.startswith(("I", "F")):
        return None
    values = np.asarray(image)
    if is_signed_byte:
        return values.view(np.int8)
    if image.mode == "F":
        return values
    if bits == 32 and not is_signed:
        return values.view(np.uint32)
    if as_stored and white is not None:
        values = np.rint(values * (white / WHITE))
    return values.astype(np.int32 if is_signed or values.min() < 0 or values.max() > WHITE else np.uint16)


def _deep_channels(upper: Image.Image, again: Image.Image) -> np.ndarray:
    """Return all 16 bits of each channel, (H, W, C) uint16; Pillow gives the upper 8 as `upper`.

    Args:
        again: the same image, not loaded yet. Read with the other byte order, it gives the lower 8.

    Raises:
        RefusedImage: Pillow reads it in one byte order only.
    """
    assert isinstance(again, ImageFile.ImageFile)
    swapped = []
    for tile in again.tile:
        name, *rest = (tile.args,) if isinstance(tile.args, str) else (tile.args or ("",))
        if not str(name).startswith("RGB") or ";16" not in name:
            raise RefusedImage(f"16 bits in each of several channels, of which Pillow reads the upper 8 only ({name})")
        is_little = name.endswith("L") or (name.endswith("N") and sys.byteorder == "little")
        name = name[:-1] + ("B" if is_little else "L")
        swapped.append(tile._replace(args=name if isinstance(tile.args, str) else (name, *rest)))
    again.tile = swapped
    again.load()
    return np.asarray(upper).astype(np.uint16) << 8 | np.asarray(again)


def _has_known_white(values: np.ndarray) -> bool:
    """Return whether black and white are known: for unsigned integers that fit 16 bits."""
    return values.dtype.kind == "u" and values.max() <= WHITE


def _range_of(values: np.ndarray) -> Range:
    """Return the smallest and the largest number."""
    return float(values.min()), float(values.max())


def _scaled_to_8_bits(values: np.ndarray, pixel_range: Range | None) -> np.ndarray:
    """Return numbers as uint8: linear from black to white, clipped outside; without a range, divided by 257."""
    scaled = np.empty(values.shape, np.uint8)
    exact: Any = np.float32 if values.dtype.itemsize <= 2 else np.float64
    for first in range(0, len(values), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        if pixel_range is None:
            scaled[rows] = (values[rows].astype(np.int32) + 128) // 257  # values / 257, rounded
        else:
            low, high = pixel_range
            part = (values[rows].astype(exact) - exact(low)) * exact(255 / (high - low))
            scaled[rows] = np.rint(np.clip(part, 0, 255))
    return scaled


def _white_of(tile: tuple[Any, ...]) -> int | None:
    """Return the white value of a PGM or PPM file of more than 8 bits; Pillow stretches it to 65535, or to 255."""
    codec, arguments = tile[0], tile[3]
    has_white = codec.startswith("ppm") and isinstance(arguments, tuple)  # for a PBM file it is the mode alone
    return arguments[1] if has_white and arguments[1] > 255 else None
