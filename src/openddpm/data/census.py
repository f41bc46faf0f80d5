"""What is met in decoding a data set, and whether it is still the data set that was meant."""

from collections import Counter
from pathlib import PurePath
from typing import Literal

import numpy as np

from openddpm.data.decode import Preprocessing, RefusedImage, TooSmall
from openddpm.data.image_source import ImageSource
from openddpm.data.pool import Decoded
from openddpm.errors import UserError
from openddpm.record.schema import DataRecord, ImageFinding

DUPLICATE = "exact duplicate"
NUM_EXAMPLES = 5
MAX_CLASSES = 100  # more folders than that are no classes that a name says something of


class Census:
    """Gathers the data record, image by image, in the order of the source."""

    def __init__(self, drop_duplicates: bool = False) -> None:
        self._drop_duplicates = drop_duplicates
        self._num_left_out = 0
        self._folders: set[str] = set()
        self.num_images = 0
        self.findings: list[ImageFinding] = []
        self._counts: Counter[str] = Counter()
        self._first_paths: dict[bytes, str] = {}  # by a digest of the pixels
        self._num_distinct = 0
        self._value_counts = np.zeros(256, np.int64)
        self._least, self._greatest = 255, 0

    def add(self, path: str, result: Decoded | RefusedImage) -> bool:
        """Count an image, note what is to be said of it, and return whether it is to be one of the data set."""
        if isinstance(result, RefusedImage):
            action: Literal["refused", "dropped"] = "dropped" if isinstance(result, TooSmall) else "refused"
            self._counts[action] += 1
            self.findings.append(ImageFinding(path=path, reason=str(result), action=action))
            return False
        first_path = self._first_paths.setdefault(result.digest, path)
        is_duplicate = self._num_distinct == len(self._first_paths)
        self._num_distinct = len(self._first_paths)
        self._counts[DUPLICATE] += is_duplicate
        if is_duplicate and self._drop_duplicates:
            self._num_left_out += 1
            self.findings.append(ImageFinding(path=path, reason=f"{DUPLICATE} of {first_path}", action="left out"))
            return False
        if len(self._folders) <= MAX_CLASSES and (folder := PurePath(path).parent.name):
            self._folders.add(folder)
        self.num_images += 1
        self._counts.update(result.changes)
        self.findings += [ImageFinding(path=path, reason=reason, action="converted") for reason in result.changes]
        self._value_counts += result.value_counts
        self._least, self._greatest = min(self._least, result.least), max(self._greatest, result.greatest)
        if is_duplicate:
            self.findings.append(ImageFinding(path=path, reason=f"{DUPLICATE} of {first_path}", action="kept"))
        return True

    def record(self) -> DataRecord:
        """Return the content of data.json; without a usable image, its brightness is null."""
        brightness: dict[str, float] = {}
        if self.num_images:
            values, counts = np.arange(256), self._value_counts
            mean = float(np.average(values, weights=counts))
            variance = float(np.average((values - mean) ** 2, weights=counts))
            brightness = {"pixel_mean": round(mean, 3), "pixel_std": round(variance**0.5, 3)}
            brightness |= {"pixel_min": self._least, "pixel_max": self._greatest}
        return DataRecord(
            num_images=self.num_images,
            counts=dict(+self._counts),
            images=self.findings,
            class_names=sorted(self._folders) if len(self._folders) <= MAX_CLASSES else [],
            num_duplicates=self._counts[DUPLICATE] - self._num_left_out,
            num_duplicates_left_out=self._num_left_out,
            **brightness,
        )


def check_usable(name: str, data: DataRecord, preprocessing: Preprocessing, max_refused_share: float) -> None:
    """Check that so many of a data set's images can be used that it is worth training on.

    Args:
        name: of the data set, for the message.
        max_refused_share: the largest share, 0..1, of the images that may be refused; dropped ones are no part of it.

    Raises:
        UserError: too many were refused, some are smaller than small_images="error" accepts, or none is left.
    """
    refused = [finding for finding in data.images if finding.action == "refused"]
    too_small = [finding for finding in data.images if finding.action == "dropped"]
    if too_small and preprocessing.small_images == "error":
        raise UserError(
            f"{len(too_small)} of {data.num_images + len(refused) + len(too_small)} images in '{name}' are smaller "
            f"than the resolution of {preprocessing.resolution}:\n{_examples(too_small)}",
            "Choose what becomes of them: --small_images upscale or --small_images drop; or a lower --resolution.",
        )
    num_judged = data.num_images + len(refused)
    if refused and not data.num_images:
        found = f"none of the {num_judged} images in '{name}' can be used:\n{_examples(refused)}"
        raise UserError(found, "Check that this is the data set you mean.")
    if len(refused) > max_refused_share * num_judged:
        raise UserError(
            f"{len(refused)} of {num_judged} images in '{name}' cannot be used, {_percent(len(refused) / num_judged)} "
            f"where {_percent(max_refused_share)} is the limit:\n{_examples(refused)}",
            "Remove or repair them, check that this is the data set you mean, or set the limit: --max_refused_share.",
        )
    if not data.num_images and too_small:
        found = f"all {len(too_small)} images in '{name}' are smaller than the resolution of {preprocessing.resolution}"
        raise UserError(found, "Choose a lower --resolution, or --small_images upscale.")
    if not data.num_images:
        raise UserError(f"no images in '{name}'", "Name a data set that holds image files.")


def class_names(data: DataRecord, source: ImageSource) -> list[str]:
    """Return what a source calls its classes, or else the names of the folders that its images lie in."""
    return list(source.label_names[: MAX_CLASSES + 1]) or data.class_names


def _examples(findings: list[ImageFinding]) -> str:
    return "\n".join(f"  {finding.path}: {finding.reason}" for finding in findings[:NUM_EXAMPLES])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
