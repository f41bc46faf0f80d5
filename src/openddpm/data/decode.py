"""One encoded image in, one uint8 array out, with a word on whatever had to be changed."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from openddpm.config import DataOptions
from openddpm.errors import UserError
from openddpm.names import as_text

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 89_000_000  # assumed, below the size at which Pillow warns: a bomb, or in need of cropping first
MAX_ENCODED_BYTES = 8 * MAX_PIXELS  # what four uncompressed 16-bit channels take
MAX_PIXELS_AT_ONCE = 2 * MAX_PIXELS  # over all threads; a pixel takes up to 20 bytes while alpha is composited
MAX_SCANNED_PIXELS = 100 * MAX_PIXELS  # of a JPEG, over its scans; measured: seven seconds. A photo has ten scans

_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, 2 to 8 are mirrored or turned
_UPRIGHT = {  # what makes each orientation upright: EXIF 2.32, table 6
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
    """What is done to every image before it is stored; part of the store's digest."""

    resolution: int
    image_mode: Literal["auto", "rgb", "gray"]
    background: str
    small_images: Literal["upscale", "drop", "error"] = "upscale"
    duplicates: Literal["keep", "drop"] = "keep"

    @classmethod
    def of(cls, options: DataOptions) -> "Preprocessing":
        """Return what `options` ask for."""
        return cls(options.resolution, options.image_mode, options.background, options.small_images, options.duplicates)

    def background_rgb(self) -> tuple[int, int, int]:
        """Return the background as (red, green, blue) in 0..255."""
        try:
            return ImageColor.getrgb(self.background)[:3]
        except ValueError:
            todo = "Use a name such as white, or a code such as #ffcc00."
            raise UserError(f"--background '{self.background}' is no colour", todo) from None


class RefusedImage(Exception):
    """This one image cannot be used; the message says why, with nothing harmful to a terminal in it."""

    def __init__(self, reason: str) -> None:
        super().__init__(as_text(reason))


class TooSmall(RefusedImage):
    """This one image is smaller than the resolution, and is not to be enlarged."""


EncodedImage = bytes | Image.Image | np.ndarray | RefusedImage
"""The bytes of a file, a Pillow image, a uint8 array, or why there is none of these."""


def decode_image(encoded: EncodedImage, preprocessing: Preprocessing) -> tuple[np.ndarray, list[str]]:
    """Decode, orient, flatten, centre-crop and resize one image.

    Args:
        encoded: the bytes of a file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8;
            a refusal is raised again.

    Returns:
        pixels: (C, resolution, resolution) uint8; one channel for gray images, or as image_mode forces.
        changes: reasons, such as "alpha composited", for all that was done beyond resizing downwards.

    Raises:
        RefusedImage: the image cannot be decoded in full.
        TooSmall: it is smaller than the resolution, and small_images is not "upscale".
        UserError: the background is no colour.
    """
    background = preprocessing.background_rgb()
    try:
        opened = _open(encoded)
        with _memory.taken(opened.width * opened.height):
            image, changes = _load(opened)
            image = _flatten(image, background, changes)
            return _fit(image, preprocessing, changes), changes
    except RefusedImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow has a limit of its own, where sizes are absurd
        raise RefusedImage(f"more pixels than the limit of {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise RefusedImage(f"not an image in a known format ({', '.join(IMAGE_FORMATS)})") from error
    except Exception as error:  # on damaged files Pillow's decoders raise errors of almost any kind
        raise RefusedImage(f"cannot be decoded: {str(error) or type(error).__name__}") from error


@contextlib.contextmanager
def pillow_warnings_ignored() -> Iterator[None]:
    """Silence Pillow on odd metadata, which harms no pixel, and on sizes, which are refused in any case.

    The filter holds for all threads: enter it once, around all the decoding.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


class _PixelBudget:
    """Makes threads wait while the images being decoded have too many pixels in sum for the memory."""

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


_memory = _PixelBudget(MAX_PIXELS_AT_ONCE)  # the process has one memory, whoever decodes


def _open(encoded: EncodedImage) -> Image.Image:
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
    if len(encoded) > MAX_ENCODED_BYTES:
        raise RefusedImage(f"{len(encoded):,} bytes, more than the limit of {MAX_ENCODED_BYTES:,}")
    image = _checked_size(Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS))
    num_scans = encoded.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
    if num_scans * image.width * image.height > MAX_SCANNED_PIXELS:  # each takes a pass over the whole image
        raise RefusedImage(f"a JPEG of {image.width}x{image.height} pixels in {num_scans:,} scans")
    return image


def _checked_size(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise RefusedImage(f"{image.width}x{image.height} pixels, more than the limit of {MAX_PIXELS:,}")
    return image


def _load(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return the first frame of `image`, decoded in full and upright, and what that took."""
    changes = []
    if getattr(image, "is_animated", False):  # `n_frames` would walk through all of them
        image.seek(0)
        changes.append("first frame of several")
    if image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        changes.append("16 bits scaled to 8")
    orientation = _orientation(image, changes)
    is_turned_by_pillow = image.format == "TIFF"
    image.load()
    if orientation in _UPRIGHT:
        image = image if is_turned_by_pillow else image.transpose(_UPRIGHT[orientation])
        changes.append("EXIF orientation applied")
    return image, changes


def _orientation(image: Image.Image, changes: list[str]) -> int:
    """Return the EXIF orientation; damaged EXIF makes no image unusable, and is taken for upright."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as with damaged pixels, of almost any kind
        changes.append("damaged EXIF ignored")
        return 1


def _fit(image: Image.Image, preprocessing: Preprocessing, changes: list[str]) -> np.ndarray:
    """Return `image`, L or RGB, in the mode and at the resolution asked for, as (C, resolution, resolution)."""
    forced = {"auto": image.mode, "rgb": "RGB", "gray": "L"}[preprocessing.image_mode]
    if forced != image.mode:
        changes.append("colour to gray" if forced == "L" else "gray to colour")
        image = image.convert(forced)
    resolution = preprocessing.resolution
    if min(image.size) < resolution:
        if preprocessing.small_images != "upscale":
            raise TooSmall(f"smaller than the resolution: {image.width}x{image.height}")
        changes.append("upscaled")
    if image.size != (resolution, resolution):
        image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _flatten(image: Image.Image, background: tuple[int, int, int], changes: list[str]) -> Image.Image:
    """Return `image` as 8-bit L or RGB without transparency."""
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion would clip it to white
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise RefusedImage("integer pixels beyond 16 bits")
        return Image.fromarray(((values.astype(np.int32) + 128) // 257).astype(np.uint8))  # values / 257, rounded
    if image.mode == "F":
        raise RefusedImage("floating-point pixels, whose range is not known")
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
