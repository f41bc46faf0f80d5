import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openddpm.data.decode import Decoding, EncodedImage, Preprocessing, RefusedImage, decode_image
from openddpm.data.deep_pixels import UnknownRange
from picture_files import png_of_raw_rows, tiff_of

CUT_OFF = "cut off at the ends of --pixel_range"
SCALED = "scaled to 8 bits by --pixel_range"


def decode(encoded: EncodedImage, pixel_range: tuple[float, float] | None, **options: Any) -> Decoding:
    """Decode to 4 pixels a side."""
    return decode_image(encoded, Preprocessing(4, "auto", "white", pixel_range=pixel_range, **options))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(least: float, greatest: float, kind: Any) -> np.ndarray:
    """Return 16 numbers at even distances, (4, 4)."""
    return np.linspace(least, greatest, 16).reshape(4, 4).astype(kind)


def twelve_bits() -> np.ndarray:
    """Return numbers of 12 bits, (4, 4, 3), whose lower bytes matter."""
    return np.random.default_rng(0).integers(0, 4096, (4, 4, 3)).astype(np.uint16)


def test_bitmaps_in_digits_are_read() -> None:
    """A PBM file in digits, of which Pillow knows a mode and no white, is an image of black and white."""
    decoded = decode(b"P1\n4 4\n" + b"0 1 " * 8, None)
    assert decoded.pixels.tolist() == [[[255, 0] * 2] * 4] and not decoded.changes


@pytest.mark.parametrize(
    ("encoded", "values"),
    [
        (tiff_of(ramp(-1000, 3000, np.int16)), ramp(-1000, 3000, np.int16)),
        (tiff_of(ramp(-1000, 3000, np.int32)), ramp(-1000, 3000, np.int32)),
        (tiff_of(ramp(-1000, 3000, np.float32)), ramp(-1000, 3000, np.float32)),
        (tiff_of(ramp(-100, 100, np.int8)), ramp(-100, 100, np.int8)),
        (tiff_of(ramp(0, 3e9, np.uint32)), ramp(0, 3e9, np.uint32)),
        (tiff_of(ramp(0, 4095, np.uint16)), ramp(0, 4095, np.uint16)),
        (saved(Image.fromarray(ramp(0, 4095, np.uint16)), "PNG"), ramp(0, 4095, np.uint16)),
        (saved(Image.fromarray(ramp(0, 4095, np.uint16)), "TIFF", compression="tiff_lzw"), ramp(0, 4095, np.uint16)),
        (b"P5\n4 4\n4095\n" + ramp(0, 4095, ">u2").tobytes(), ramp(0, 4095, np.uint16)),
        (Image.fromarray(ramp(-1000, 3000, np.int32)), ramp(-1000, 3000, np.int32)),
        (ramp(-1000, 3000, np.int64), ramp(-1000, 3000, np.int64)),
        (ramp(0, 1, np.float64), ramp(0, 1, np.float64)),
    ],
    ids=[
        *("int16", "int32", "float", "int8", "uint32", "uint16", "PNG", "LZW", "PGM of 12 bits", "Pillow", "array"),
        "float array",
    ],
)
def test_a_range_makes_black_white_and_what_lies_between(encoded: EncodedImage, values: np.ndarray) -> None:
    """Numbers of any kind become 0 at the low end, 255 at the high end and linear between, and are counted."""
    low, high = float(values.min()), float(values.max())
    found = decode(encoded, (low, high))
    expected = (values.astype(np.float64) - low) / (high - low) * 255
    assert np.abs(found.pixels[0] - expected).max() <= 0.51
    assert (found.pixels.min(), found.pixels.max(), found.changes) == (0, 255, [SCALED])
    assert found.raw_range == pytest.approx((low, high))
    half = decode(encoded, ((low + high) / 2, 2 * high))
    assert (half.pixels[0, 0] == 0).all() and half.changes == [SCALED, CUT_OFF]


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (tiff_of(ramp(-1000, 3000, np.int16)), "signed pixels from -1000 to 3000: "),
        (tiff_of(ramp(5, 3000, np.int32)), "signed pixels from 5 to 3000: "),
        (tiff_of(ramp(-100, 100, np.int8)), "signed pixels from -100 to 100: "),
        (tiff_of(ramp(0, 70_000, np.uint32)), "pixels beyond 16 bits from 0 to 70000: "),
        (tiff_of(ramp(0, 0.5, np.float32)), "floating-point pixels from 0 to 0.5: "),
        (ramp(0, 0.5, np.float64), "array of float64 (4, 4), expected uint8; numbers from 0 to 0.5: "),
    ],
    ids=["int16", "int32 that happens to be positive", "int8", "uint32", "float", "array"],
)
def test_without_a_range_nothing_is_guessed(encoded: EncodedImage, reason: str) -> None:
    """Where black and white are not known, an image is refused with the range found in it and the option to give."""
    with pytest.raises(UnknownRange) as refusal:
        decode(encoded, None)
    assert str(refusal.value) == f"{reason}give the values of black and white: --pixel_range LOW HIGH"


@pytest.mark.parametrize(
    ("encoded", "alpha"),
    [
        (png_of_raw_rows(16, 2, twelve_bits().astype(">u2")), None),
        (tiff_of(twelve_bits()), None),
        (png_of_raw_rows(16, 6, np.dstack([twelve_bits(), np.full((4, 4), 65535)]).astype(">u2")), 255),
    ],
    ids=["PNG", "TIFF", "PNG with alpha"],
)
def test_colour_of_16_bits_keeps_them_for_the_range(encoded: bytes, alpha: int | None) -> None:
    """Of 16 bits a channel, of which Pillow gives 8, all count for the range; without one they are divided by 256."""
    values = twelve_bits()
    found = decode(encoded, (0, 4095))
    assert np.abs(found.pixels.transpose(1, 2, 0) - values / 4095 * 255).max() <= 0.51
    assert found.raw_range == (values.min(), values.max())
    plain = decode(encoded, None)
    np.testing.assert_array_equal(plain.pixels.transpose(1, 2, 0), values >> 8)
    assert plain.changes == ["16 bits scaled to 8"] and plain.raw_range == (0, (values.max() | 255))


@pytest.mark.parametrize(
    "encoded",
    [
        png_of_raw_rows(16, 4, np.full((4, 4, 2), 65535, ">u2")),
        b"P6\n4 4\n4095\n" + np.full((4, 4, 3), 2000, ">u2").tobytes(),
        Image.open(io.BytesIO(tiff_of(twelve_bits()))),
    ],
    ids=["gray with alpha", "PPM", "not loaded"],
)
def test_bits_that_cannot_be_had_are_not_made_up(encoded: EncodedImage) -> None:
    """Where Pillow gives the upper 8 bits alone, an image is refused for a range, and taken without one."""
    with pytest.raises(RefusedImage, match="16 bits in each of several channels"):
        decode(encoded, (0, 4095))


def test_numbers_that_are_none_are_refused() -> None:
    """An image with a pixel that is no finite number is refused: nothing says how bright that is."""
    values = ramp(0, 1, np.float32)
    values[1, 2] = np.nan
    with pytest.raises(RefusedImage, match="not finite numbers"):
        decode(tiff_of(values), (0, 1))


def test_the_range_leaves_8_bits_alone() -> None:
    """Images of 8 bits are what they are, whatever the range."""
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    found = decode(saved(Image.fromarray(pixels), "PNG"), (0, 4095))
    np.testing.assert_array_equal(found.pixels[0], pixels)
    assert (found.changes, found.raw_range) == ([], None)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_images_are_turned_upright(kind: str) -> None:
    """An image of 16 bits that EXIF says to turn is turned once, scaled or not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    values = ramp(0, 4095, np.uint16)
    turned = saved(Image.fromarray(np.rot90(values)), kind, exif=exif)
    found = decode(turned, (0, 4095))
    assert np.abs(found.pixels[0] - values / 4095 * 255).max() <= 0.51
    assert found.changes == [SCALED, "EXIF orientation applied"]
