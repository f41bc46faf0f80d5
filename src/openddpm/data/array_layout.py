"""What an array of numbers is as an image: which of its axes are channels, and whether its numbers are 8-bit pixels."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from openddpm.data.decode import RefusedImage

Layout = Literal["HW", "HWC", "CHW"]
"""Order of the axes of one image: height, width, channels."""

CHANNELS = (1, 3, 4)  # gray, colour, colour with transparency


def layouts_of(shape: Sequence[int]) -> list[Layout]:
    """Return what the axes of one image may be by their lengths: one layout, none, or two where nothing can tell."""
    if len(shape) == 2:
        return ["HW"]
    if len(shape) != 3:
        return []
    layouts: list[Layout] = []
    if shape[2] in CHANNELS:
        layouts.append("HWC")
    if shape[0] in CHANNELS:
        layouts.append("CHW")
    return layouts


def image_of(array: np.ndarray, preferred: Layout | None = None) -> np.ndarray | RefusedImage:
    """Return one image as uint8 (H, W) or (H, W, C), a view where it can be, or why it is none.

    Args:
        array: (H, W), (H, W, C) or (C, H, W) of whole numbers from 0 to 255, of any integer type.
        preferred: what to take where the lengths of the axes allow both orders of channels; None refuses.
    """
    layouts = layouts_of(array.shape)
    if len(layouts) != 1 and preferred not in layouts:
        return RefusedImage(f"array of shape {array.shape}: {_WHICH_AXES if layouts else _NO_IMAGE}")
    if reason := refusal_of(array.dtype, array):
        return RefusedImage(": ".join(reason))
    pixels = array.astype(np.uint8, copy=False)
    return pixels.transpose(1, 2, 0) if (layouts[0] if len(layouts) == 1 else preferred) == "CHW" else pixels


_WHICH_AXES = "which axis holds the channels cannot be told; store (H, W, C) with another width, or image files"
_NO_IMAGE = "expected (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels"


def refusal_of(dtype: np.dtype, sample: np.ndarray) -> tuple[str, str] | None:
    """Return why numbers of `dtype` are no 8-bit pixels, and how to make them so; None if they are.

    Args:
        sample: some of the numbers; integers of more than 8 bits are accepted if these lie in 0..255.
    """
    if dtype == np.uint8 or sample.size == 0:
        return None
    if dtype == np.bool_:
        return "true and false, not pixels from 0 to 255", "store x.astype('uint8') * 255"
    if not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        return f"{dtype} values, not numbers", "store uint8 pixels from 0 to 255"
    low, high = sample.min(), sample.max()
    digits = ".4g" if np.issubdtype(dtype, np.floating) else "d"
    found = f"{dtype} values from {low:{digits}} to {high:{digits}}, whose black and white are not known"
    if np.issubdtype(dtype, np.floating):
        scaled = "(x + 1) * 127.5" if low < 0 else "x * 255" if high <= 1 else "x"
        return found, f"store uint8 pixels from 0 to 255, such as ({scaled}).round().clip(0, 255).astype('uint8')"
    if low < 0 or high > 255:
        return found, "store uint8 pixels from 0 to 255: of the full 16 bits (x // 257).astype('uint8')"
    return None
