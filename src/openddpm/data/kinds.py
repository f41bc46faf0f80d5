"""Detection of masks, depth maps and the like among the images they belong to, which should not be trained on."""

import functools
import re
from collections import Counter

from openddpm.errors import UserError

Named = tuple[str, bool]  # path of an image, and whether it is gray

_WORDS = frozenset(  # names of masks and the like in data sets for segmentation, depth and matting; plurals also match
    ("mask", "label", "labelid", "annotation", "seg", "segmap")
    + ("segmentation", "segmentationclass", "segmentationobject")
    + ("depth", "disparity", "matte", "trimap", "groundtruth", "truth", "gt", "gtfine")
)
_WEAK_WORDS = frozenset({"alpha", "edge"})  # also names of classes
_PICTURE_WORDS = frozenset({"image", "img", "rgb", "color", "colour", "photo", "picture"})
_ALL_WORDS = _WORDS | _WEAK_WORDS
_UNSPECIFIC_WORDS = _ALL_WORDS | _PICTURE_WORDS
_NONE: frozenset[str] = frozenset()  # shared by all images without such words, to save memory
_BETWEEN_TOKENS = re.compile(r"[\W_]+")
_PAIRED_SHARE = 0.5  # assumed: fewer common names are chance, such as numbers of images in several classes
_FEW_SHARE = 0.1  # assumed: fewer are exceptions among the images


class Kinds:
    """Names of all images and whether they are gray, to find two kinds of data in one set."""

    def __init__(self) -> None:
        self._images: list[Named] = []

    def add(self, path: str, is_gray: bool) -> None:
        """Add an image."""
        self._images.append((path, is_gray))

    def question(self, name: str) -> UserError | None:
        """Return the error that the data set `name` seems to mix images with their masks; None if it does not.

        It does if images whose folder, or either end of whose file name, says mask, depth or the like are gray while
        the others are in colour, or have the names of the others; and if gray images and images in colour have the same
        names in separate folders.
        """
        found = [_words_of(path) or _NONE for path, _ in self._images]
        for words in (_WORDS, _ALL_WORDS):
            marked = [image for image, own in zip(self._images, found, strict=True) if own & words]
            others = [image for image, own in zip(self._images, found, strict=True) if not own & words]
            if not others or len(marked) < _FEW_SHARE * len(self._images):
                continue
            is_paired = words is _WORDS and _num_paired(marked, others) >= _PAIRED_SHARE * len(marked)
            if marked and (is_paired or (_num_gray(marked) > len(marked) / 2 and _num_gray(others) < len(others) / 2)):
                return _question(name, others, marked)
        grays, colours = self._split_by_folder()
        if grays and _num_paired(grays, colours) >= _PAIRED_SHARE * max(len(grays), len(colours)):
            return _question(name, colours, grays)
        return None

    def _split_by_folder(self) -> tuple[list[Named], list[Named]]:
        """Return the gray images and those in colour; none if a folder holds both."""
        modes: dict[str, bool] = {}
        if any(modes.setdefault(_folder_of(path), is_gray) != is_gray for path, is_gray in self._images):
            return [], []
        return [image for image in self._images if image[1]], [image for image in self._images if not image[1]]


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def _stem_of(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _tokens(text: str) -> list[str]:
    tokens = _BETWEEN_TOKENS.split(text.lower())
    return [token[:-1] if token.endswith("s") and not token.endswith("ss") else token for token in tokens if token]


def _words_of(path: str) -> frozenset[str]:
    """Return the words in the names of an image's folders, or at the beginning or end of its own name."""
    own = _tokens(_stem_of(path))
    return _words_of_folder(_folder_of(path)) | _ALL_WORDS.intersection(own[:1] + own[-1:])


@functools.lru_cache(maxsize=1024)  # images in one folder follow each other
def _words_of_folder(folder: str) -> frozenset[str]:
    return _ALL_WORDS.intersection(_tokens(folder))


def _num_gray(images: list[Named]) -> int:
    return sum(is_gray for _, is_gray in images)


def _num_paired(one: list[Named], other: list[Named]) -> int:
    """Return the number of images in `one` that have the name of one in `other`, each of which counts once."""
    counts = [Counter(map(_key, images)) for images in (one, other)]
    return (counts[0] & counts[1]).total()


def _key(image: Named) -> tuple[str, ...]:
    """Return the part of a name that an image and its mask share: 01.jpg and 01_mask.png, rgb_1.png and depth_1.png."""
    return tuple(token for token in _tokens(_stem_of(image[0])) if token not in _UNSPECIFIC_WORDS)


def _question(name: str, *kinds: list[Named]) -> UserError:
    described = []
    for images in kinds:
        num_gray = _num_gray(images)
        mode = "gray" if num_gray == len(images) else "colour" if not num_gray else f"{num_gray:,} of them gray"
        folders = Counter(_folder_of(path) for path, _ in images)
        folder = folders.most_common(1)[0][0]
        more = f" and {len(folders) - 1:,} more folders" if len(folders) > 1 else ""
        place = f"in '{folder}'{more}" if folder else f"such as '{images[0][0]}'"
        described.append(f"{len(images):,} {place} ({mode})")
    return UserError(
        f"'{name}' holds images and what seem to be their masks or the like: {'; '.join(described)}",
        "Give the folder that you mean as --dataset (unpack it if it is in an archive); or train on all of them: "
        "--image_mode rgb, or gray.",
    )
