"""Arrays as images: which of their axes are channels, and whether their numbers are 8-bit pixels."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from openddpm.data.decode import RefusedImage
from openddpm.record.data_record import DataRecord

Layout = Literal["HW", "HWC", "CHW"]
"""Order of the axes of one image: height, width, channels."""

CHANNELS = (1, 3, 4)  # gray, colour, colour with transparency


def layouts_of(shape: Sequence[int]) -> list[Layout]:
    """Return the layouts that the lengths of an image's axes allow: none, one, or two if they are ambiguous."""
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
    """Return one image as an array (H, W) or (H, W, C), a view, or why it is none.

    Args:
        array: (H, W), (H, W, C) or (C, H, W).
        preferred: layout to take if the lengths of the axes allow both orders of channels; None refuses.
    """
    layouts = layouts_of(array.shape)
    if len(layouts) != 1 and preferred not in layouts:
        return RefusedImage(f"array of shape {array.shape}: {_WHICH_AXES if layouts else _NO_IMAGE}")
    return array.transpose(1, 2, 0) if (layouts[0] if len(layouts) == 1 else preferred) == "CHW" else array


_WHICH_AXES = "it is not clear which axis holds the channels; store (H, W, C) with another width, or image files"
_NO_IMAGE = "expected (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels"


def refusal_of(dtype: np.dtype, sample: np.ndarray) -> tuple[str, str] | None:
    """Return why numbers of `dtype` are not 8-bit pixels, and what to do; None if they are.

    Args:
        sample: some of the numbers.
    """
    if sample.size == 0:
        return None
    if dtype.kind not in "iuf":
        what = "true and false, not pixels" if dtype == np.bool_ else f"{dtype} values, not numbers"
        return what, "Store uint8 pixels from 0 to 255, such as x.astype('uint8') * 255."
    if not np.isfinite(sample).all():
        return f"{dtype} values that are not finite", "Leave these out, or store uint8 pixels from 0 to 255."
    low, high = float(sample.min()), float(sample.max())
    if dtype == np.uint8:
        return ("only the values 0 and 1, both nearly black in 0 to 255", "Store x * 255.") if high == 1 else None
    known = DataRecord(num_images=0, counts={}, images=[], raw_min=low, raw_max=high)
    hint = f"Give the values of black and white, such as {known.range_option}; or store uint8 pixels from 0 to 255."
    return f"{dtype} values from {low:.6g} to {high:.6g}, whose black and white are not known", hint
