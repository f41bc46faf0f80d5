"""Schema of data.json: what became of each image of a data set on the way in."""

import math
from typing import Literal

from openddpm.record.schema import Count, RecordModel

BEYOND_USUAL = 0.05  # assumed: share of a usual range by which resizing and filters overshoot its ends
CUT_MUCH = "cut by more than a quarter"
"""Key among the counts of a DataRecord: images that lose more than a quarter of their area to cropping."""


class ImageFinding(RecordModel):
    """One image that was refused, dropped as too small, converted, or a duplicate (kept or left out)."""

    path: str
    reason: str
    action: Literal["refused", "dropped", "converted", "kept", "left out"]


class NearDuplicateRecord(RecordModel):
    """A held-out image that is nearly a training image."""

    heldout: str
    train: str
    """Name of the training image."""
    how: str
    """"nearly identical" (recompressed, shifted by a pixel), "mirrored", "recoloured", "mirrored and recoloured"."""


class LeftOut(RecordModel):
    """Files, rows or images of a source that are skipped before any decoding."""

    reason: str
    """Kind of the files, or why they are skipped, in words: "split 'test'", ".heic", "hidden folder"."""
    count: Count
    examples: list[str] = []
    """Names of the first few."""
    is_data: bool = True
    """Whether they may be images that should be trained on: false for other splits and system files (thumbnails)."""
    is_text: bool = False
    """Whether they are texts, as most data sets have beside their images (README, LICENSE, captions): listed here, but
    not in the terminal."""


class CutImage(RecordModel):
    """An image that loses much of its area to cropping."""

    path: str
    share: float
    """Share of its area that is cut away, 0..1."""


class LabelsRecord(RecordModel):
    """Labels of the images, which training does not use."""

    origin: str
    """Origin of the labels in words: "sub-folders", "the column 'label'"; empty if none are used."""
    note: str = ""
    """Why none are used although there may be some: the choice would be a guess."""
    num_labels: Count = 0
    num_labelled: Count = 0
    """Images with a label."""
    counts: dict[str, Count] = {}
    """Images of each label, in the order of the labels' numbers; of the first 100 if there are more."""
    are_numbers: bool = False
    """Whether the names are just numbers, because the source has no names for them."""


def _nearly_fill(least: float, greatest: float, low: float, high: float) -> bool:
    """Whether numbers from `least` to `greatest` lie in a usual range, or nearly, and fill more than half of it."""
    beyond = BEYOND_USUAL * (high - low)
    return low - beyond <= least and greatest <= high + beyond and greatest - least > (high - low) / 2


class DataRecord(RecordModel):
    """data.json: counts of images by reason, the images behind them except cropped ones, and statistics of the pixels.

    Pixel statistics are null if no image can be used.
    """

    num_images: Count
    counts: dict[str, Count]
    images: list[ImageFinding]
    left_out: list[LeftOut] = []
    """Other content of the source, which is not trained on."""
    labels: LabelsRecord | None = None
    """Null if the source has none."""
    near_duplicates: list[NearDuplicateRecord] = []
    """Held-out images of a run that are nearly a training image."""
    num_duplicates: Count = 0
    """Images among `num_images` whose decoded pixels equal those of an earlier one."""
    num_duplicates_left_out: Count = 0
    """More such images, not among `num_images` (--duplicates drop)."""
    pixel_min: Count | None = None
    """Smallest value of all pixels and channels, 0..255; for large images, mean and standard deviation are of evenly
    spaced pixels."""
    pixel_max: Count | None = None
    pixel_mean: float | None = None
    pixel_std: float | None = None
    cut_mean: float | None = None
    """Mean share of an image's area that is cropped away, 0..1; 0 for padded images."""
    most_cut: list[CutImage] = []
    """The images that lose most, of those that lose more than a quarter."""
    raw_min: float | None = None
    """Smallest and largest number in the files of images of more than 8 bits, refused ones too; null without any."""
    raw_max: float | None = None

    @property
    def range_option(self) -> str:
        """The --pixel_range that fits the numbers in the files: a usual range that they nearly fill, or their bits."""
        least, greatest = self.raw_min or 0.0, self.raw_max or 0.0
        if least >= -BEYOND_USUAL and greatest <= 1 + BEYOND_USUAL:
            least, greatest = 0, 1
        elif _nearly_fill(least, greatest, -1, 1):
            least, greatest = -1, 1
        elif least >= 0 and greatest.is_integer():
            least, greatest = 0, 2 ** math.ceil(math.log2(greatest + 1)) - 1
        elif not (least.is_integer() and greatest.is_integer()) and _nearly_fill(least, greatest, 0, 255):
            least, greatest = 0, 255
        return f"--pixel_range {least:.6g} {greatest:.6g}"
