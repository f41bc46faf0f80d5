"""What is met in decoding a data set, and whether it is still the data set that was meant."""

from collections import Counter
from typing import Literal

import numpy as np

from openddpm.data.decode import Preprocessing, RefusedImage, TooSmall
from openddpm.data.formats import RUN_GIT_LFS
from openddpm.data.pool import Decoded
from openddpm.errors import UserError
from openddpm.record.schema import DataRecord, ImageFinding

DUPLICATE = "exact duplicate"
NUM_EXAMPLES = 5


class Census:
    """Gathers the data record, image by image, in the order of the source."""

    def __init__(self) -> None:
        self.num_images = 0
        self.findings: list[ImageFinding] = []
        self._counts: Counter[str] = Counter()
        self._first_paths: dict[bytes, str] = {}  # by a digest of the pixels
        self._value_counts = np.zeros(256, np.int64)
        self._least, self._greatest = 255, 0

    def add(self, path: str, result: Decoded | RefusedImage) -> None:
        """Count an image, and note what is to be said of it: refused, dropped, converted or kept as a duplicate."""
        if isinstance(result, RefusedImage):
            action: Literal["refused", "dropped"] = "dropped" if isinstance(result, TooSmall) else "refused"
            self._counts[action] += 1
            self.findings.append(ImageFinding(path=path, reason=str(result), action=action))
            return
        self.num_images += 1
        self._counts.update(result.changes)
        self.findings += [ImageFinding(path=path, reason=reason, action="converted") for reason in result.changes]
        self._value_counts += result.value_counts
        self._least, self._greatest = min(self._least, result.least), max(self._greatest, result.greatest)
        first_path = self._first_paths.get(result.digest)
        if first_path is None:
            self._first_paths[result.digest] = path
        else:
            self._counts[DUPLICATE] += 1
            self.findings.append(ImageFinding(path=path, reason=f"{DUPLICATE} of {first_path}", action="kept"))

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
            counts=dict(self._counts),
            images=self.findings,
            num_duplicates=self._counts[DUPLICATE],
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
            f"{len(too_small)} of {data.num_images + len(refused) + len(too_small)} images in '{name}' "
            f"{'is' if len(too_small) == 1 else 'are'} smaller than the resolution of {preprocessing.resolution}:\n"
            f"{_examples(too_small)}",
            "Choose what becomes of them: --small_images upscale or --small_images drop; or a lower --resolution.",
        )
    num_judged = data.num_images + len(refused)
    num_pointers = sum(finding.reason == RUN_GIT_LFS for finding in refused)
    repair = "Remove or repair them, check that this is the data set you mean, or set the limit: --max_refused_share."
    fetch = "Fetch the files that Git LFS pointers stand for: run git lfs pull in the data set's folder."
    if refused and not data.num_images:
        found = (
            f"none of the {num_judged} image{'s' * (num_judged != 1)} in '{name}' can be used:\n{_examples(refused)}"
        )
        raise UserError(found, fetch if num_pointers else "Check that this is the data set you mean.")
    if len(refused) > max_refused_share * num_judged:
        raise UserError(
            f"{len(refused)} of {num_judged} images in '{name}' cannot be used, {_percent(len(refused) / num_judged)} "
            f"where {_percent(max_refused_share)} is the limit:\n{_examples(refused)}",
            fetch if 2 * num_pointers > len(refused) else repair,
        )
    if not data.num_images and too_small:
        images = "the only image" if len(too_small) == 1 else f"all {len(too_small)} images"
        are_smaller = f"{'is' if len(too_small) == 1 else 'are'} smaller than the resolution"
        found = f"{images} in '{name}' {are_smaller} of {preprocessing.resolution}"
        raise UserError(found, "Choose a lower --resolution, or --small_images upscale.")
    if not data.num_images:
        raise UserError(f"no images in '{name}'", "Name a data set that holds image files.")


def _examples(findings: list[ImageFinding]) -> str:
    return "\n".join(f"  {finding.path}: {finding.reason}" for finding in findings[:NUM_EXAMPLES])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
