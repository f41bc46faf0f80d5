"""Pictures of what decoding meets: a few of the whole set, and the first of every kind of finding."""

import bisect
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from openddpm.data.dataset_statistics import DUPLICATE, GRAY_TO_COLOUR, MUCH_CUT_SHARE
from openddpm.data.decode import EncodedImage
from openddpm.inspection.thumbnails import data_uri, original_size, original_thumbnail
from openddpm.pictures import to_picture
from openddpm.record.schema import CUT_MUCH, ImageFinding

MAX_SHOWN = 40  # images of a finding
GALLERY_SIZE = 60  # images that stand for the whole set

Size = tuple[int, int]  # width and height


@dataclass(frozen=True)
class Shown:
    """An image on the page; `picture` and `original` are data URIs."""

    path: str
    note: str
    """What there is to say of this one image beside its section's title."""
    size: Size | None
    """Of the original."""
    picture: str | None
    """As the model will see it; None where it will not."""
    original: str | None = None
    """As the file holds it; None where that is not of interest."""
    repeats: str | None = None
    """Path of the earlier image that this one is a duplicate of."""


@dataclass
class Section:
    """The images that one thing was found of."""

    num_images: int = 0
    shown: list[Shown] = field(default_factory=list)
    """The first of them, MAX_SHOWN at most."""


class Gallery:
    """Gathers pictures image by image, in the order of the source.

    `gallery` stands for the whole set; `sections` are by the action for what is not used, by the reason for the rest.
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
        """Keep what is to be shown of an image.

        Args:
            pixels: what it was decoded to; None if it is not used.
            findings: of this image.
            cut_share: of its area, what cropping cuts away.
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
        """Add the sections of which nothing is known before the last image."""
        if len(self.by_mode) > 1:  # then gray images become colour too
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
            bisect.insort(self._most_cut, (-share, section.num_images, shown))  # of equals the first stays first
            del self._most_cut[MAX_SHOWN:]

    def _measure(self, size: Size | None) -> None:
        if size is not None:
            self.smallest = min(self.smallest or size, size, key=_area)
            self.largest = max(self.largest or size, size, key=_area)


class _Views:
    """Pictures of one image, made when first asked for."""

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
    """Count one image more, and say whether it will be shown."""
    section.num_images += 1
    return section.num_images <= MAX_SHOWN


def _section_name(finding: ImageFinding) -> str:
    """Name a section: what is converted or kept by its reason, what is not used by its action."""
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
