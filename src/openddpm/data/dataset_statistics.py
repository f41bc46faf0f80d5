"""Statistics of a decoded data set, and checks that it can be trained on."""

import heapq
from collections import Counter
from typing import Literal

import numpy as np

from openddpm.data.decode import Preprocessing, RefusedImage, TooSmall
from openddpm.data.deep_pixels import NEEDS_RANGE, UnknownRange
from openddpm.data.formats import RUN_GIT_LFS
from openddpm.data.image_source import Example
from openddpm.data.kinds import Kinds
from openddpm.data.labels import NO_LABELS, LabelSource, LabelTable
from openddpm.data.pool import Decoded
from openddpm.errors import UserError
from openddpm.record.data_record import CUT_MUCH, CutImage, DataRecord, ImageFinding

DUPLICATE = "exact duplicate"
GRAY_TO_COLOUR = "gray to colour"
MUCH_CUT_SHARE = 0.25  # of the area; a 4:3 photograph loses just as much
NUM_EXAMPLES = 5


class DatasetStatistics:
    """Collects the data record image by image, in the order of the source."""

    def __init__(self, drop_duplicates: bool = False, labels: LabelSource = NO_LABELS) -> None:
        self._drop_duplicates = drop_duplicates
        self._num_left_out = 0
        self.labels = LabelTable(labels)
        self.num_images = 0
        self.image_shape: tuple[int, int, int] | None = None
        """(C, H, W) of the images so far; None before the first."""
        self.findings: list[ImageFinding] = []
        self._counts: Counter[str] = Counter()
        self._first_paths: dict[bytes, str] = {}  # by a digest of the pixels
        self._value_counts = {1: np.zeros(256, np.int64), 3: np.zeros(256, np.int64)}  # by the number of channels
        self._num_distinct = 0
        self._least, self._greatest = 255, 0
        self._gray_paths: list[str] = []
        self._cut_sum = 0.0
        self._most_cut: list[tuple[float, int, str]] = []
        self._raw_ranges: list[tuple[float, float]] = []
        self.kinds = Kinds()

    def add(self, example: Example, result: Decoded | RefusedImage) -> bool:
        """Count an image, record its findings, and return whether it belongs to the data set."""
        path = example.path
        if isinstance(result, RefusedImage):
            action: Literal["refused", "dropped"] = "dropped" if isinstance(result, TooSmall) else "refused"
            self._counts[action] += 1
            self.findings.append(ImageFinding(path=path, reason=str(result), action=action))
            if isinstance(result, UnknownRange):
                self._add_range(result.raw_range)
            return False
        first_path = self._first_paths.setdefault(result.digest, path)
        is_duplicate = self._num_distinct == len(self._first_paths)
        self._num_distinct = len(self._first_paths)
        self._counts[DUPLICATE] += is_duplicate
        if is_duplicate and self._drop_duplicates:
            self._num_left_out += 1
            self.findings.append(ImageFinding(path=path, reason=f"{DUPLICATE} of {first_path}", action="left out"))
            return False
        self.labels.add(example.label)
        self.num_images += 1
        self._counts.update(result.changes)
        self.findings += [ImageFinding(path=path, reason=reason, action="converted") for reason in result.changes]
        self._add_channels(path, result)
        self._add_cut(path, result.cut_share)
        if result.raw_range is not None:
            self._add_range(result.raw_range)
        self._least, self._greatest = min(self._least, result.least), max(self._greatest, result.greatest)
        if is_duplicate:
            self.findings.append(ImageFinding(path=path, reason=f"{DUPLICATE} of {first_path}", action="kept"))
        return True

    def _add_channels(self, path: str, result: Decoded) -> None:
        num_channels, height, width = result.pixels.shape
        self.image_shape = (max(num_channels, self.image_shape[0] if self.image_shape else 0), height, width)
        self._value_counts[num_channels] += result.value_counts
        self.kinds.add(path, num_channels == 1)
        if num_channels == 1:
            self._gray_paths.append(path)

    def _add_cut(self, path: str, share: float) -> None:
        self._cut_sum += share
        if share > MUCH_CUT_SHARE:
            self._counts[CUT_MUCH] += 1
            heapq.heappush(self._most_cut, (share, -self.num_images, path))  # the first of equal ones
            self._most_cut = heapq.nlargest(NUM_EXAMPLES, self._most_cut)

    def _add_range(self, raw_range: tuple[float, float]) -> None:
        ranges = [*self._raw_ranges, raw_range]
        self._raw_ranges = [(min(least for least, _ in ranges), max(greatest for _, greatest in ranges))]

    def _merge_channels(self) -> np.ndarray:
        """Return how often each value occurs; if there is colour, record that gray images become colour."""
        gray, colour = self._value_counts[1], self._value_counts[3]
        if not colour.any() or not gray.any():
            return gray + colour
        self._counts[GRAY_TO_COLOUR] += len(self._gray_paths)
        self.findings += [
            ImageFinding(path=path, reason=GRAY_TO_COLOUR, action="converted") for path in self._gray_paths
        ]
        return 3 * gray + colour

    def record(self) -> DataRecord:
        """Return the content of data.json after the last image; without a usable one, its brightness is null."""
        brightness: dict[str, float] = {}
        if self.num_images:
            values, counts = np.arange(256), self._merge_channels()
            mean = float(np.average(values, weights=counts))
            variance = float(np.average((values - mean) ** 2, weights=counts))
            brightness = {"pixel_mean": round(mean, 3), "pixel_std": round(variance**0.5, 3)}
            brightness |= {"pixel_min": self._least, "pixel_max": self._greatest}
            brightness["cut_mean"] = round(self._cut_sum / self.num_images, 4)
        for least, greatest in self._raw_ranges:
            brightness |= {"raw_min": least, "raw_max": greatest}
        return DataRecord(
            num_images=self.num_images,
            counts=dict(+self._counts),
            images=self.findings,
            labels=self.labels.finish()[2],
            num_duplicates=self._counts[DUPLICATE] - self._num_left_out,
            num_duplicates_left_out=self._num_left_out,
            most_cut=[CutImage(path=path, share=round(share, 4)) for share, _, path in self._most_cut],
            **brightness,
        )


def check_usable(name: str, data: DataRecord, preprocessing: Preprocessing, max_refused_share: float) -> None:
    """Check that enough images of a data set can be used.

    Args:
        name: name of the data set, for messages.
        max_refused_share: the largest share, 0..1, of the images that may be refused; dropped ones do not count.

    Raises:
        UserError: too many were refused, some are too small and small_images is "error", or none is left.
    """
    refused = [finding for finding in data.images if finding.action == "refused"]
    too_small = [finding for finding in data.images if finding.action == "dropped"]
    if too_small and preprocessing.small_images == "error":
        raise UserError(
            f"{len(too_small)} of {data.num_images + len(refused) + len(too_small)} images in '{name}' "
            f"{'is' if len(too_small) == 1 else 'are'} smaller than the resolution of {preprocessing.resolution}:\n"
            f"{_examples(too_small)}",
            "Choose what to do with them: --small_images upscale or --small_images drop; or a lower --resolution.",
        )
    num_judged = data.num_images + len(refused)
    num_pointers = sum(finding.reason == RUN_GIT_LFS for finding in refused)
    repair = "Remove or repair them, check that this is the data set you mean, or set the limit: --max_refused_share."
    fetch = "Fetch the files behind the Git LFS pointers: run git lfs pull in the data set's folder."
    if refused and not data.num_images:
        none = (
            f"none of the {num_judged} images in '{name}' can"
            if num_judged > 1
            else f"the only image in '{name}' cannot"
        )
        found = f"{none} be used:\n{_examples(refused)}"
        raise UserError(
            found, fetch if num_pointers else _range_hint(data) or "Check that this is the data set you mean."
        )
    if len(refused) > max_refused_share * num_judged:
        raise UserError(
            f"{len(refused)} of {num_judged} images in '{name}' cannot be used, {_percent(len(refused) / num_judged)}, "
            f"but the limit is {_percent(max_refused_share)}:\n{_examples(refused)}",
            fetch if 2 * num_pointers > len(refused) else _range_hint(data) or repair,
        )
    if preprocessing.pixel_range is not None and data.num_images and data.raw_max is None:
        found = f"none of the images in '{name}' has more than 8 bits, so --pixel_range would change nothing"
        raise UserError(found, "Leave it out.")
    if not data.num_images and too_small:
        images = "the only image" if len(too_small) == 1 else f"all {len(too_small)} images"
        are_smaller = f"{'is' if len(too_small) == 1 else 'are'} smaller than the resolution"
        found = f"{images} in '{name}' {are_smaller} of {preprocessing.resolution}"
        raise UserError(found, "Choose a lower --resolution, or --small_images upscale.")
    if not data.num_images:
        raise UserError(f"no images in '{name}'", "Give a data set that holds image files.")


def _range_hint(data: DataRecord) -> str:
    """Return what to do if images were refused because their black and white are not known; else ""."""
    if not any(NEEDS_RANGE in finding.reason for finding in data.images if finding.action == "refused"):
        return ""
    found = f"they hold {data.raw_min or 0:.6g} to {data.raw_max or 0:.6g}"
    return f"Give the values that become black and white, such as {data.range_option} ({found})."


def _examples(findings: list[ImageFinding]) -> str:
    return "\n".join(f"  {finding.path}: {finding.reason}" for finding in findings[:NUM_EXAMPLES])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
