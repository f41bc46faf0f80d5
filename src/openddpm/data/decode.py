"""Decoding of one encoded image to a uint8 array, with the reasons for all changes to it."""

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from openddpm.config import DataOptions
from openddpm.data.deep_pixels import Range, in_8_bits, scaled_array
from openddpm.data.formats import LFS_POINTER, RUN_GIT_LFS, image_formats
from openddpm.data.refused import RefusedImage as RefusedImage
from openddpm.data.refused import TooSmall as TooSmall
from openddpm.errors import UserError

MAX_PIXELS = 89_000_000  # assumed: just below the size at which Pillow warns of a decompression bomb
MAX_ENCODED_BYTES = 8 * MAX_PIXELS  # what four uncompressed 16-bit channels take
MAX_PIXELS_AT_ONCE = 2 * MAX_PIXELS  # over all threads; a pixel takes up to 20 bytes while alpha is composited
MAX_SCANNED_PIXELS = 100 * MAX_PIXELS  # of a JPEG, over its scans; measured: 7 seconds. A photo has ten scans

_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, 2 to 8 are mirrored or turned
_UPRIGHT = {  # the transform that makes each orientation upright: EXIF 2.32, table 6
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CONVERTED = {"CMYK": "CMYK to RGB", "YCbCr": "YCbCr to RGB", "LAB": "LAB to RGB", "HSV": "HSV to RGB"}


@dataclass(frozen=True)
class Preprocessing:
    """Settings for preparing every image before it is stored; part of the store's digest."""

    resolution: int
    image_mode: Literal["auto", "rgb", "gray"]
    background: str
    small_images: Literal["upscale", "drop", "error"] = "upscale"
    fit: Literal["crop", "pad"] = "crop"
    pixel_range: Range | None = None
    duplicates: Literal["keep", "drop"] = "keep"

    @classmethod
    def of(cls, options: DataOptions) -> "Preprocessing":
        """Return the settings in `options`."""
        given = {name: getattr(options, name) for name in cls.__dataclass_fields__}
        return cls(**given)

    def background_rgb(self) -> tuple[int, int, int]:
        """Return the background as (red, green, blue) in 0..255."""
        try:
            return ImageColor.getrgb(self.background)[:3]
        except ValueError:
            hint = "Use a name such as white, or a code such as #ffcc00."
            raise UserError(f"--background '{self.background}' is not a colour", hint) from None


class Decoding(NamedTuple):
    """One decoded image."""

    pixels: np.ndarray
    """(C, resolution, resolution), uint8; one channel for gray images, or as image_mode forces."""
    changes: list[str]
    """Changes other than downscaling and cropping, such as "alpha composited"."""
    cut_share: float
    """Share of the upright image's area that cropping cuts away, 0..1."""
    raw_range: Range | None
    """Smallest and largest number of an image of more than 8 bits."""


@dataclass(frozen=True)
class SourcedImage:
    """An encoded image, with what its source knows about it."""

    encoded: bytes | Image.Image | np.ndarray | RefusedImage
    mode: Literal["L", "RGB"] | None = None
    """Gray or colour if the source declares it; None leaves it as the pixels are."""
    changes: tuple[str, ...] = ()
    """Changes that the source made, in the style of `Decoding.changes`."""


EncodedImage = bytes | Image.Image | np.ndarray | RefusedImage | SourcedImage
"""The bytes of a file, a Pillow image, a uint8 array, one of these with its source, or why there is none."""


def without_source(encoded: EncodedImage) -> bytes | Image.Image | np.ndarray | RefusedImage:
    """Return the encoded image without what its source knows about it."""
    return encoded.encoded if isinstance(encoded, SourcedImage) else encoded


def decode_image(encoded: EncodedImage, preprocessing: Preprocessing) -> Decoding:
    """Decode, orient, flatten, crop or pad to a square, and resize one image.

    Args:
        encoded: the bytes of a file, a Pillow image, or a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); with a
            pixel_range an array of any numbers, without alpha. A refusal is raised; a mode that the source declares is
            applied before image_mode.

    Raises:
        RefusedImage: the image cannot be decoded in full.
        UnknownRange: its numbers need a pixel_range.
        TooSmall: it is smaller than the resolution, and small_images is not "upscale".
        UserError: the background is not a colour.
    """
    background, pixel_range = preprocessing.background_rgb(), preprocessing.pixel_range
    sourced = encoded if isinstance(encoded, SourcedImage) else SourcedImage(encoded)
    encoded = sourced.encoded
    changes: list[str] = []
    array_range = None
    try:
        if isinstance(encoded, np.ndarray) and encoded.dtype != np.uint8:
            encoded, array_range = scaled_array(encoded, pixel_range, changes)
        opened = _open(encoded)
        with _memory.taken(opened.width * opened.height):
            reopened = (lambda: _open(encoded)) if isinstance(encoded, bytes) else None
            image, raw_range = _load(opened, reopened, pixel_range, changes)
            image = _flatten(image, background, changes)
            changes += sourced.changes
            if sourced.mode not in (None, image.mode):
                changes.append("gray by its column's mode" if sourced.mode == "L" else "colour by its column's mode")
                image = image.convert(sourced.mode)
            cut_share = 0.0 if preprocessing.fit == "pad" else 1 - min(image.size) / max(image.size)
            return Decoding(_fit(image, preprocessing, changes), changes, cut_share, array_range or raw_range)
    except RefusedImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit
        raise RefusedImage(f"more pixels than the limit of {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        if isinstance(encoded, bytes) and encoded.startswith((b"II*\0", b"MM\0*")):
            kinds = "64-bit numbers, or several channels of floating-point ones"
            raise RefusedImage(f"a TIFF of a kind that Pillow does not read, such as {kinds}") from error
        raise RefusedImage(f"not an image in a known format ({', '.join(image_formats())})") from error
    except Exception as error:  # on damaged files Pillow's decoders raise errors of almost any kind
        raise RefusedImage(f"cannot be decoded: {str(error) or type(error).__name__}") from error


@contextlib.contextmanager
def pillow_warnings_ignored() -> Iterator[None]:
    """Ignore Pillow's warnings about odd metadata, which do not matter, and about large images, which are refused.

    The filter applies to all threads: enter it once, around all decoding.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


class _PixelBudget:
    """Bounds memory: threads wait while the images being decoded have too many pixels in total."""

    def __init__(self, num_pixels: int) -> None:
        self._num_free = num_pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, num_pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._num_free >= num_pixels)
            self._num_free -= num_pixels
        try:
            yield
        finally:
            with self._changed:
                self._num_free += num_pixels
                self._changed.notify_all()


_memory = _PixelBudget(MAX_PIXELS_AT_ONCE)  # shared by all decoding in the process


def _open(encoded: bytes | Image.Image | np.ndarray | RefusedImage) -> Image.Image:
    if isinstance(encoded, RefusedImage):
        raise encoded
    if isinstance(encoded, Image.Image):
        return _checked_size(encoded)
    if isinstance(encoded, np.ndarray):
        has_known_shape = encoded.ndim == 2 or (encoded.ndim == 3 and encoded.shape[2] in (1, 3, 4))
        if encoded.dtype != np.uint8 or not has_known_shape or encoded.size == 0:
            found = f"array of {encoded.dtype} {encoded.shape}"
            raise RefusedImage(f"{found}, expected uint8 (H, W), or (H, W, C) with 1, 3 or 4 channels")
        return _checked_size(
            Image.fromarray(encoded[..., 0] if encoded.ndim == 3 and encoded.shape[2] == 1 else encoded)
        )
    if not encoded:
        raise RefusedImage("empty file")
    if encoded.startswith(LFS_POINTER):
        raise RefusedImage(RUN_GIT_LFS)
    if len(encoded) > MAX_ENCODED_BYTES:
        raise RefusedImage(f"{len(encoded):,} bytes, more than the limit of {MAX_ENCODED_BYTES:,}")
    image = _checked_size(Image.open(io.BytesIO(encoded), formats=image_formats()))
    num_scans = encoded.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
    if num_scans * image.width * image.height > MAX_SCANNED_PIXELS:  # each scan is a pass over the whole image
        raise RefusedImage(f"a JPEG of {image.width}x{image.height} pixels in {num_scans:,} scans")
    return image


def _checked_size(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise RefusedImage(f"{image.width}x{image.height} pixels, more than the limit of {MAX_PIXELS:,}")
    return image


def _load(
    image: Image.Image, reopened: Callable[[], Image.Image] | None, pixel_range: Range | None, changes: list[str]
) -> tuple[Image.Image, Range | None]:
    """Return the first frame of `image`, in 8 bits, whole and upright, and the range of what had more than 8 bits."""
    if getattr(image, "is_animated", False):  # `n_frames` would walk through all of them
        image.seek(0)
        changes.append("first frame of several")
    is_turned_by_pillow = image.format == "TIFF"  # in loading, after which no orientation is left
    orientation = _orientation(image, changes) if is_turned_by_pillow else 1
    loaded, raw_range = in_8_bits(image, reopened, pixel_range, changes)
    if not is_turned_by_pillow:  # to read that of a PNG may load it
        orientation = _orientation(image, changes)
    if orientation in _UPRIGHT:
        loaded = loaded if is_turned_by_pillow else loaded.transpose(_UPRIGHT[orientation])
        changes.append("EXIF orientation applied")
    return loaded, raw_range


def _orientation(image: Image.Image, changes: list[str]) -> int:
    """Return the EXIF orientation; an image with damaged EXIF is treated as upright."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # on damaged files Pillow raises errors of almost any kind
        changes.append("damaged EXIF ignored")
        return 1


def _fit(image: Image.Image, preprocessing: Preprocessing, changes: list[str]) -> np.ndarray:
    """Return `image`, L or RGB, in the requested mode and resolution, as (C, resolution, resolution)."""
    background = preprocessing.background_rgb()
    is_padded = preprocessing.fit == "pad" and image.width != image.height
    turns_colour = is_padded and preprocessing.image_mode == "auto" and len(set(background)) > 1
    forced = {"auto": "RGB" if turns_colour else image.mode, "rgb": "RGB", "gray": "L"}[preprocessing.image_mode]
    if forced != image.mode:
        changes.append("colour to gray" if forced == "L" else "gray to colour")
        image = image.convert(forced)
    resolution = preprocessing.resolution
    if (max(image.size) if is_padded else min(image.size)) < resolution:
        if preprocessing.small_images != "upscale":
            raise TooSmall(f"smaller than the resolution: {image.width}x{image.height}")
        changes.append("upscaled")
    if is_padded:
        image = _padded(image, resolution, background)
        changes.append("padded to a square")
    elif image.size != (resolution, resolution):
        image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _padded(image: Image.Image, resolution: int, background: tuple[int, int, int]) -> Image.Image:
    """Return the whole `image` in the middle of a square, the rest filled with `background`."""
    width, height = (max(1, round(side * resolution / max(image.size))) for side in image.size)
    square = Image.new("RGB", (resolution, resolution), background).convert(image.mode)
    square.paste(
        image.resize((width, height), Image.Resampling.BICUBIC), ((resolution - width) // 2, (resolution - height) // 2)
    )
    return square


def _flatten(image: Image.Image, background: tuple[int, int, int], changes: list[str]) -> Image.Image:
    """Return `image` as 8-bit L or RGB without transparency."""
    is_gray = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            changes.append("alpha composited")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
            is_gray = is_gray and len(set(background)) == 1
    elif image.mode in _CONVERTED:
        changes.append(_CONVERTED[image.mode])
    return image.convert("L" if is_gray else "RGB")
