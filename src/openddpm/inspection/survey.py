"""Inspection of a data set: decodes it once, in memory, and keeps what was found."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from openddpm.config import DataOptions
from openddpm.data.dataset_statistics import DatasetStatistics, check_usable
from openddpm.data.decode import Preprocessing, RefusedImage
from openddpm.data.image_source import ImageSource
from openddpm.data.pool import decoded_in_order
from openddpm.data.sources import open_source
from openddpm.errors import UserError
from openddpm.inspection.gallery import Gallery
from openddpm.record.data_record import DataRecord


@dataclass(frozen=True)
class Inspection:
    """What training would do with a data set."""

    source: ImageSource
    options: DataOptions
    data: DataRecord
    gallery: Gallery
    image_shape: tuple[int, int, int] | None
    """(C, H, W) of the usable images; None if there are none."""
    objections: list[UserError]
    """Why training would not accept the set, and what to do; empty if it would."""

    @property
    def num_by_mode(self) -> dict[str, int]:
        """Return the numbers of usable images in "colour" and in "gray"."""
        by_mode = self.gallery.by_mode
        return {mode: by_mode[mode].num_images for mode in ("colour", "gray") if mode in by_mode}

    @property
    def shape(self) -> list[int] | None:
        """Return [number, channels, height, width] of the decoded images; None if there are none."""
        return None if self.image_shape is None else [self.data.num_images, *self.image_shape]


def inspect_images(options: DataOptions, advance: Callable[[int], None] = lambda num_items: None) -> Inspection:
    """Decode every image that `options` name as training would, and write nothing.

    Args:
        advance: called after each image with the total number of images.

    Raises:
        UserError: there is no such data set, or an option cannot be used.
    """
    source = open_source(options)
    preprocessing = Preprocessing.of(options)
    stats = DatasetStatistics(preprocessing.duplicates == "drop", source.labels)
    gallery = Gallery(source.num_items)
    with contextlib.closing(decoded_in_order(source.items(), preprocessing)) as decoded:
        for example, result in decoded:
            num_known = len(stats.findings)
            is_used = stats.add(example, result)
            findings = stats.findings[num_known:]
            if isinstance(result, RefusedImage) or not is_used:
                gallery.add(example.path, example.image, None, findings)
            else:
                gallery.add(example.path, example.image, result.pixels, findings, result.cut_share)
            advance(source.num_items)
    gallery.finish()
    data = stats.record().model_copy(update={"left_out": list(source.left_out)})
    objections = list(_objections(source, preprocessing, options, data, stats))
    return Inspection(source, options, data, gallery, stats.image_shape, objections)


def _objections(
    source: ImageSource, preprocessing: Preprocessing, options: DataOptions, data: DataRecord, stats: DatasetStatistics
) -> Iterator[UserError]:
    """Yield every error that would end training; training itself ends with the first."""
    question = stats.kinds.question(source.name) if preprocessing.image_mode == "auto" else None
    if question is not None:
        yield question
    try:
        check_usable(source.name, data, preprocessing, options.max_refused_share)
    except UserError as objection:
        yield objection
