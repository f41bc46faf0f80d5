import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from openddpm.data.decode import (
    MAX_PIXELS,
    EncodedImage,
    Preprocessing,
    RefusedImage,
    TooSmall,
    decode_image,
    pillow_warnings_ignored,
)
from openddpm.errors import UserError
from picture_files import png_of_raw_rows

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def decode(
    encoded: EncodedImage,
    resolution: int = 8,
    image_mode: str = "auto",
    background: str = "white",
    **options: Any,
) -> tuple[np.ndarray, list[str]]:
    """Decode to a few pixels, as they come unless told."""
    decoded = decode_image(encoded, Preprocessing(resolution, image_mode, background, **options))
    return decoded.pixels, decoded.changes


def noise(*shape: int) -> np.ndarray:
    """Return the same random array each time."""
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def one_colour(mode: str, colour: object) -> Image.Image:
    """Return an image in one colour."""
    return Image.new(mode, (8, 8), colour)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "AVIF", "JPEG"])
def test_every_format_is_decoded(kind: str) -> None:
    """Each format that the suffixes promise comes out as the colour that went in, and nothing is said of it."""
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels, changes = decode(encode(one_colour("RGB", (200, 60, 20)), kind, **options))
    assert pixels.shape == (3, 8, 8) and pixels.dtype == np.uint8
    assert np.abs(pixels.mean((1, 2)) - (200, 60, 20)).max() < 3
    assert changes == []


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3)])
def test_arrays_of_the_right_size_are_kept_exactly(shape: tuple[int, ...]) -> None:
    """A uint8 array of the resolution asked for comes back as it was, its channels first."""
    array = noise(*shape)
    pixels, changes = decode(array)
    np.testing.assert_array_equal(pixels, array.reshape(8, 8, -1).transpose(2, 0, 1))
    assert changes == []


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "run git lfs pull"),
        (b"<!DOCTYPE html><html><title>404</title></html>", "not an image in a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image in a known format"),
        (encode(noise(64, 64, 3), "JPEG")[:900], "truncated"),
        (encode(noise(64, 64, 3))[:900], "cannot be decoded"),
        (
            encode(Image.new("F", (8, 8), 0.5), "TIFF"),
            "floating-point pixels from 0.5 to 0.5: give the values of black and white",
        ),
        (
            encode(Image.new("I", (8, 8), 70_000), "TIFF"),
            "signed pixels from 70000 to 70000: give the values of black and white",
        ),
        (encode(Image.new("F", (8, 8), np.nan), "TIFF"), "not finite numbers"),
        (b"II*\0" + bytes(60), "a TIFF of a kind that Pillow does not read"),
        (np.zeros((8, 8, 3)), "array of float64 (8, 8, 3), expected uint8"),
        (np.zeros((3, 8, 9), np.uint8), "array of uint8 (3, 8, 9), expected uint8"),
        (np.zeros((0, 8, 3), np.uint8), "array of uint8 (0, 8, 3), expected uint8"),
        (Image.new("La", (8, 8)), "cannot be decoded"),
        (RefusedImage("cannot be read: Permission denied"), "cannot be read: Permission denied"),
    ],
    ids=[
        *(
            "empty",
            "pointer",
            "html",
            "eps",
            "torn jpeg",
            "torn png",
            "float tiff",
            "32-bit tiff",
            "no number",
            "odd tiff",
        ),
        *("float array", "channels first", "no rows", "premultiplied", "refused by the source"),
    ],
)
def test_unusable_images_are_refused_with_a_reason(encoded: EncodedImage, reason: str) -> None:
    """What cannot be decoded in full is refused, with a reason a person understands and no address in memory."""
    with pytest.raises(RefusedImage) as refusal:
        decode(encoded)
    assert reason in str(refusal.value)
    assert "0x" not in str(refusal.value)


@pytest.mark.parametrize("side", [9_440, 9_500, 20_000], ids=["Pillow silent", "Pillow warns", "Pillow refuses"])
def test_decompression_bombs_are_refused_by_their_header(side: int) -> None:
    """A header that announces more pixels than the limit is refused before anything is decoded."""
    bomb = png_of_raw_rows(8, 0, np.zeros((1, 1), np.uint8)).replace(
        struct.pack(">II", 1, 1), struct.pack(">II", side, side)
    )
    bomb = bomb[:29] + struct.pack(">I", zlib.crc32(bomb[12:29])) + bomb[33:]
    assert side * side > MAX_PIXELS
    with pillow_warnings_ignored(), pytest.raises(RefusedImage, match="pixels"):
        decode(bomb)
    with pytest.raises(RefusedImage, match="pixels"):
        decode(np.broadcast_to(np.uint8(0), (side, side)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled(kind: str) -> None:
    """16-bit gray keeps all its tones in 8 bits, where clipping would leave white, and is counted."""
    tones = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    pixels, changes = decode(encode(tones, kind))
    np.testing.assert_array_equal(pixels[0], np.round(tones / 257))
    assert changes == ["16 bits scaled to 8"]


def test_16_bit_colour_is_scaled() -> None:
    """16-bit colour comes out within one tone of its value scaled to 8 bits, and is counted."""
    tones = np.arange(192).reshape(8, 8, 3) * 340
    pixels, changes = decode(png_of_raw_rows(16, 2, tones.astype(">u2")))
    assert np.abs(pixels.transpose(1, 2, 0) - tones / 257).max() <= 1
    assert changes == ["16 bits scaled to 8"]


def test_cmyk_jpeg_is_converted() -> None:
    """A CMYK JPEG comes out in its own colour, and is counted."""
    pixels, changes = decode(encode(one_colour("CMYK", (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(pixels.mean((1, 2)) - RED).max() < 6
    assert changes == ["CMYK to RGB"]


def test_lab_tiff_is_converted() -> None:
    """A TIFF in CIELAB comes out in RGB, and is counted."""
    pixels, changes = decode(encode(one_colour("LAB", (255, 0, 0)), "TIFF"))
    assert pixels.shape == (3, 8, 8)
    assert changes == ["LAB to RGB"]


def transparent_palette() -> Image.Image:
    """Return a blue upper half over a red lower one, whose index is 0."""
    image = one_colour("P", 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (0, 0, 8, 4))
    return image


@pytest.mark.parametrize(("background", "expected"), [("white", (255, 255, 255)), ("#00ff00", (0, 255, 0))])
@pytest.mark.parametrize(
    "encoded",
    [
        encode(one_colour("RGBA", (*RED, 0))),
        encode(one_colour("LA", (9, 0))),
        encode(transparent_palette(), transparency=0),
        encode(transparent_palette(), "GIF", transparency=0),
        encode(one_colour("RGBA", (*RED, 0)), "WEBP", lossless=True),
        encode(one_colour("RGB", RED), transparency=RED),
        encode(one_colour("L", 9), transparency=9),
        encode(one_colour("1", 0), transparency=0),
        np.zeros((8, 8, 4), np.uint8),
        one_colour("RGBa", 0),
    ],
    ids=[
        *("RGBA", "LA", "palette", "GIF", "WEBP", "RGB key", "L key", "1-bit key"),
        *("array", "premultiplied"),
    ],
)
def test_transparency_shows_the_background(
    encoded: EncodedImage, background: str, expected: tuple[int, int, int]
) -> None:
    """Where an image is wholly transparent the chosen background appears and never the hidden colour."""
    pixels, changes = decode(encoded, background=background, image_mode="rgb")
    np.testing.assert_array_equal(pixels[:, 7, 7], expected)
    assert "alpha composited" in changes


def test_half_transparency_is_blended() -> None:
    """An alpha of one half leaves half the colour and half the background."""
    pixels, _ = decode(encode(one_colour("RGBA", (*RED, 128))))
    assert np.abs(pixels[:, 0, 0].astype(int) - (255, 127, 127)).max() <= 1


def test_an_opaque_alpha_channel_is_no_change() -> None:
    """An alpha channel that hides nothing is dropped without being counted."""
    assert decode(encode(one_colour("RGBA", (*RED, 255))))[1] == []


@pytest.mark.parametrize(("background", "channels"), [("white", 1), ("gray", 1), ("red", 3)])
def test_gray_with_alpha_stays_gray_on_gray(background: str, channels: int) -> None:
    """Gray with alpha keeps one channel on a background without colour, and takes three on a coloured one."""
    assert decode(encode(one_colour("LA", (9, 100))), background=background)[0].shape[0] == channels


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind: str, orientation: int) -> None:
    """An image stored in any of the eight EXIF orientations comes out upright, and is counted unless it was so."""
    upright = Image.fromarray(np.kron([[0, 90], [160, 250]], np.ones((8, 8))).astype(np.uint8))
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)  # the inverse of what EXIF 2.32, table 6, tells viewers to do
    stored = upright if method is None else upright.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, changes = decode(encode(stored, kind, exif=exif), resolution=16, image_mode="gray")
    assert np.abs(pixels[0].astype(int) - np.asarray(upright)).mean() < 3
    assert ("EXIF orientation applied" in changes) == (orientation != 1)


@pytest.mark.parametrize("orientation", [0, 9, 4000])
def test_orientations_that_do_not_exist_change_nothing(orientation: int) -> None:
    """An orientation outside 1 to 8 is neither applied nor counted."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = noise(8, 8, 3)
    pixels, changes = decode(encode(array, exif=exif))
    np.testing.assert_array_equal(pixels, array.transpose(2, 0, 1))
    assert changes == []


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    """Of several frames the first is taken, and that is counted."""
    frames = {"save_all": True, "append_images": [one_colour("RGB", BLUE)]}
    pixels, changes = decode(encode(one_colour("RGB", RED), kind, **frames))
    assert np.abs(pixels.mean((1, 2)) - RED).max() < 3
    assert changes == ["first frame of several"]


def test_frames_without_number_cost_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """That there are several frames is told without walking through them, of which a file can hold millions."""

    def walk(_: object) -> int:
        raise AssertionError("walked through all frames")

    monkeypatch.setattr("PIL.GifImagePlugin.GifImageFile.n_frames", property(walk))
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.n_frames", property(walk))
    for kind in ("GIF", "TIFF"):
        frames = {"save_all": True, "append_images": [one_colour("P", 1)] * 5}
        assert decode(encode(transparent_palette(), kind, **frames))[1] == ["first frame of several"]


def test_jpegs_in_thousands_of_scans_are_refused() -> None:
    """A small file that makes the decoder pass over a large image thousands of times is refused before it does."""
    whole = encode(Image.new("L", (4000, 4000), 128), "JPEG", progressive=True)
    last_scan = whole[whole.rindex(b"\xff\xda") : -2]
    assert decode(whole)[1] == []
    with pytest.raises(RefusedImage, match=r"a JPEG of 4000x4000 pixels in 2,006 scans"):
        decode(whole[:-2] + last_scan * 2000 + whole[-2:])


def test_damaged_exif_harms_no_pixel() -> None:
    """An image whose EXIF cannot be read is decoded as it stands, and that is counted."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n 8\nno hexadecimal digits\n")
    array = noise(8, 8, 3)
    pixels, changes = decode(encode(array, pnginfo=text))
    np.testing.assert_array_equal(pixels, array.transpose(2, 0, 1))
    assert changes == ["damaged EXIF ignored"]


def test_reasons_are_harmless() -> None:
    """Whatever a decoder says of a damaged file, the reason of a refusal cannot command a terminal."""
    assert str(RefusedImage("chunk \x1b[2J\n broken")) == r"chunk \x1b[2J\n broken"


@pytest.mark.parametrize("small_images", ["drop", "error"])
def test_small_images_can_be_refused(small_images: str) -> None:
    """Asked not to enlarge, an image with a side below the resolution is TooSmall, with its upright size."""
    preprocessing = Preprocessing(8, "auto", "white", small_images)
    with pytest.raises(TooSmall, match=r"^smaller than the resolution: 90x7$"):
        decode_image(Image.new("L", (90, 7)), preprocessing)
    assert decode_image(Image.new("L", (8, 9)), preprocessing)[1] == []


@pytest.mark.parametrize(("size", "is_upscaled"), [((8, 8), False), ((7, 90), True), ((90, 7), True), ((9, 8), False)])
def test_upscaling_is_counted(size: tuple[int, int], is_upscaled: bool) -> None:
    """An image with a side below the resolution is enlarged and counted; others are not."""
    assert ("upscaled" in decode(Image.new("L", size))[1]) == is_upscaled


@pytest.mark.parametrize(
    ("size", "band"), [((32, 8), (slice(3, 5), slice(0, 8))), ((8, 32), (slice(0, 8), slice(3, 5)))]
)
@pytest.mark.parametrize(("mode", "colour"), [("RGB", RED), ("L", 90), ("RGBA", (*RED, 255))])
def test_padding_keeps_the_whole_image(
    mode: str, colour: Any, size: tuple[int, int], band: tuple[slice, slice]
) -> None:
    """Padded, an image stands whole in the middle of the square, in its own channels, with the background around it."""
    image = Image.new(mode, size, colour)
    pixels, changes = decode(image, background="black", fit="pad")
    expected = np.zeros((len(np.atleast_1d(colour)[:3]), 8, 8), np.uint8)
    expected[:, *band] = np.reshape(np.atleast_1d(colour)[:3], (-1, 1, 1))
    np.testing.assert_array_equal(pixels, expected)
    assert changes == ["padded to a square"]


@pytest.mark.parametrize(("image_mode", "expected"), [("auto", RED), ("rgb", RED), ("gray", (76,))])
def test_the_padding_has_the_colour_asked_for(image_mode: str, expected: tuple[int, ...]) -> None:
    """A gray image on a background in colour becomes colour, unless gray is asked for: then both are gray."""
    pixels, _ = decode(Image.new("L", (16, 8), 7), background="red", fit="pad", image_mode=image_mode)
    assert (tuple(pixels[:, 0, 0]), tuple(pixels[:, 4, 4])) == (expected, (7,) * len(expected))


@pytest.mark.parametrize(("size", "is_small"), [((8, 2), False), ((7, 2), True), ((900, 1), False)])
def test_padded_images_are_small_by_their_longer_side(size: tuple[int, int], is_small: bool) -> None:
    """What is padded is enlarged only where its longer side is below the resolution; the thinnest line stays one."""
    assert ("upscaled" in decode(Image.new("L", size), fit="pad")[1]) == is_small
    assert decode(Image.new("L", size), background="white", fit="pad")[0].min() == 0


def test_squares_are_not_padded() -> None:
    """A square image comes out of padding as it does of cropping, and nothing is said of it."""
    array = noise(20, 20, 3)
    padded, changes = decode(array, fit="pad")
    np.testing.assert_array_equal(padded, decode(array)[0])
    assert changes == []


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("premultiplied", [False, True])
def test_hidden_colours_never_bleed(premultiplied: bool, fit: str) -> None:
    """What lies under transparent pixels changes no pixel of the result, at the edges of shrunk sprites neither."""
    hidden = noise(40, 60, 4)
    hidden[..., 3] = 0
    hidden[10:31, 20:41] = (200, 40, 40, 255)
    clean = np.where(hidden[..., 3:] == 0, 0, hidden).astype(np.uint8)
    found = [
        decode(Image.fromarray(array).convert("RGBa") if premultiplied else encode(array), background="lime", fit=fit)[
            0
        ]
        for array in (hidden, clean)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("size", "fit", "share"), [((8, 8), "crop", 0), ((40, 10), "crop", 0.75), ((40, 10), "pad", 0)]
)
def test_what_cropping_cuts_away_is_measured(size: tuple[int, int], fit: Any, share: float) -> None:
    """The share of an image's area that cropping cuts away is 1 - shorter / longer side; padding cuts nothing."""
    assert decode_image(Image.new("L", size), Preprocessing(8, "auto", "white", fit=fit)).cut_share == share


@pytest.mark.parametrize(
    ("mode", "image_mode", "channels", "change"),
    [
        ("L", "auto", 1, []),
        ("L", "rgb", 3, ["gray to colour"]),
        ("L", "gray", 1, []),
        ("RGB", "auto", 3, []),
        ("RGB", "rgb", 3, []),
        ("RGB", "gray", 1, ["colour to gray"]),
        ("1", "auto", 1, []),
        ("P", "auto", 3, []),
    ],
)
def test_channels_follow_the_mode(mode: str, image_mode: str, channels: int, change: list[str]) -> None:
    """Gray stays gray and colour colour unless the mode forces the other, which is counted."""
    pixels, changes = decode(encode(Image.new(mode, (8, 8))), image_mode=image_mode)
    assert (pixels.shape, changes) == ((channels, 8, 8), change)


def test_one_bit_images_are_black_and_white() -> None:
    """A 1-bit image comes out in 0 and 255."""
    bits = noise(8, 8) > 127
    np.testing.assert_array_equal(decode(encode(bits))[0][0], bits * np.uint8(255))


def test_resizing_is_an_antialiased_centre_crop() -> None:
    """A photo is cropped about its centre and shrunk as Pillow does with antialiasing, where others leave moire."""
    array = noise(40, 60, 3)
    expected = Image.fromarray(array).resize((8, 8), Image.Resampling.BICUBIC, box=(10, 0, 50, 40))
    pixels, changes = decode(array)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), expected)
    assert pixels.std() < array.std() / 3  # averaged, not picked
    assert changes == []


def test_a_background_that_is_no_colour_is_the_users_error() -> None:
    """An unknown colour is reported as the option's fault, not as that of each image."""
    with pytest.raises(UserError, match="'blau' is not a colour"):
        decode(noise(8, 8), background="blau")


SEEDS = [
    encode(noise(12, 9, 3)),
    encode(transparent_palette(), transparency=0),
    encode(noise(12, 9, 3), "JPEG"),
    encode(one_colour("CMYK", 0), "JPEG", progressive=True),
    encode(transparent_palette(), "GIF", save_all=True, append_images=[one_colour("P", 1)]),
    encode(noise(12, 9, 3), "WEBP"),
    encode(noise(12, 9, 3), "TIFF"),
    encode(noise(12, 9), "TIFF", compression="tiff_deflate"),
    encode(noise(12, 9, 3), "BMP"),
    encode(noise(12, 9), "PPM"),
]


@settings(max_examples=300)
@given(
    encoded=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    kept=st.floats(0, 1),
    is_cut=st.booleans(),
)
def test_damaged_bytes_are_decoded_or_refused(
    encoded: bytes, changes: list[tuple[float, int]], kept: float, is_cut: bool
) -> None:
    """Whatever bytes are damaged or cut off, an image is decoded whole or refused; no other error, no warning."""
    damaged = bytearray(encoded)
    for where, value in changes:
        damaged[int(where * len(damaged))] = value
    if is_cut:
        del damaged[int(kept * len(damaged)) :]
    with pillow_warnings_ignored():
        try:
            pixels, _ = decode(bytes(damaged))
        except RefusedImage as refusal:
            assert str(refusal)
        else:
            assert pixels.dtype == np.uint8 and pixels.shape in [(1, 8, 8), (3, 8, 8)]
