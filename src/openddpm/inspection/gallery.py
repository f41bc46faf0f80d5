"""Pictures for the page: a few of the whole data set, and the first of every kind of finding."""

import bisect
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from openddpm.data.dataset_statistics import DUPLICATE, GRAY_TO_COLOUR, MUCH_CUT_SHARE
from openddpm.data.decode import EncodedImage
from openddpm.inspection.thumbnails import data_uri, original_size, original_thumbnail
from openddpm.pictures import to_picture
from openddpm.record.data_record import CUT_MUCH, ImageFinding

MAX_SHOWN = 40  # images per section
GALLERY_SIZE = 60  # images that stand for the whole set

Size = tuple[int, int]  # width and height


@dataclass(frozen=True)
class Shown:
    """An image on the page; `picture` and `original` are data URIs."""

    path: str
    note: str
    """What is particular to this image, in addition to its section's title."""
    size: Size | None
    """Size of the original."""
    picture: str | None
    """The image as the model will see it; None if it is not used."""
    original: str | None = None
    """The image as the file holds it; None if that is not shown."""
    repeats: str | None = None
    """Path of the earlier image that this one is a duplicate of."""


@dataclass
class Section:
    """The images with one finding."""

    num_images: int = 0
    shown: list[Shown] = field(default_factory=list)
    """The first MAX_SHOWN of them."""


class Gallery:
    """Collects pictures image by image, in the order of the source.

    `gallery` shows the whole set; `sections` are named by the action for unused images, by the reason for the others.
    """

    def __init__(self, num_items: int) -> None:
        self.gallery: list[Shown] = []
        self.sections: dict[str, Section] = {}
        self.by_mode: dict[str, Section] = {}
        self.smallest: Size | None = None
        self.largest: Size | None = None
        self._stride = num_items / GALLERY_SIZE
        self._num_seen = 0
        self._most_cut: list[tuple[float, int, Shown]] = []

    def add(
        self,
        path: str,
        encoded: EncodedImage,
        pixels: np.ndarray | None,
        findings: list[ImageFinding],
        cut_share: float = 0.0,
    ) -> None:
        """Keep what the page shows of an image.

        Args:
            pixels: the decoded image; None if it is not used.
            findings: those of this image.
            cut_share: share of its area that cropping cuts away.
        """
        views = _Views(encoded, pixels)
        if not any(finding.action == "refused" for finding in findings):
            self._measure(views.size)
        if pixels is not None:
            if self._num_seen >= len(self.gallery) * self._stride:
                self.gallery.append(Shown(path, "", views.size, views.picture))
            mode = "gray" if pixels.shape[0] == 1 else "colour"
            if _has_room(self.by_mode.setdefault(mode, Section())):
                self.by_mode[mode].shown.append(Shown(path, "", views.size, views.picture, views.original))
            if cut_share > MUCH_CUT_SHARE:
                self._add_cut(path, views, cut_share)
        for finding in findings:
            section = self.sections.setdefault(_section_name(finding), Section())
            if _has_room(section):
                section.shown.append(_shown(finding, views))
        self._num_seen += 1

    def finish(self) -> None:
        """Add the sections that are known only after the last image."""
        if len(self.by_mode) > 1:  # gray images become colour
            gray, section = self.by_mode["gray"], self.sections.setdefault(GRAY_TO_COLOUR, Section())
            section.num_images += gray.num_images
            section.shown = (section.shown + gray.shown)[:MAX_SHOWN]
        if self._most_cut:
            self.sections[CUT_MUCH].shown = [shown for _, _, shown in self._most_cut]

    def _add_cut(self, path: str, views: "_Views", share: float) -> None:
        """Count an image that cropping cuts much of, and show it if few are cut more."""
        section = self.sections.setdefault(CUT_MUCH, Section())
        section.num_images += 1
        if len(self._most_cut) < MAX_SHOWN or -share < self._most_cut[-1][0]:
            shown = Shown(path, f"{share:.0%} cut away", views.size, views.picture, views.original)
            bisect.insort(self._most_cut, (-share, section.num_images, shown))  # equal shares keep their order
            del self._most_cut[MAX_SHOWN:]

    def _measure(self, size: Size | None) -> None:
        if size is not None:
            self.smallest = min(self.smallest or size, size, key=_area)
            self.largest = max(self.largest or size, size, key=_area)


class _Views:
    """Pictures of one image, each made on first use."""

    def __init__(self, encoded: EncodedImage, pixels: np.ndarray | None) -> None:
        self._encoded = encoded
        self._pixels = pixels

    @cached_property
    def size(self) -> Size | None:
        return original_size(self._encoded)

    @cached_property
    def original(self) -> str | None:
        return original_thumbnail(self._encoded)

    @cached_property
    def picture(self) -> str | None:
        return None if self._pixels is None else data_uri(to_picture(self._pixels))


def _area(size: Size) -> int:
    return size[0] * size[1]


def _has_room(section: Section) -> bool:
    """Count one more image, and return whether it will be shown."""
    section.num_images += 1
    return section.num_images <= MAX_SHOWN


def _section_name(finding: ImageFinding) -> str:
    """Return the section of a finding: its reason if the image is converted, DUPLICATE, or its action if unused."""
    match finding.action:
        case "converted":
            return finding.reason
        case "kept" | "left out":
            return DUPLICATE
        case action:
            return action


def _shown(finding: ImageFinding, views: _Views) -> Shown:
    match finding.action:
        case "converted":
            return Shown(finding.path, "", views.size, views.picture, views.original)
        case "kept" | "left out":
            repeats = finding.reason.removeprefix(f"{DUPLICATE} of ")
            return Shown(finding.path, "", views.size, views.picture or views.original, repeats=repeats)
        case "refused":
            return Shown(finding.path, finding.reason, None, None)
        case _:
            return Shown(finding.path, finding.reason, views.size, None, views.original)
