from collections.abc import Iterable

import pytest

from openddpm.data.kinds import Kinds

GRAY, COLOUR = True, False


def asked(*kinds: Iterable[tuple[str, bool]]) -> str | None:
    """Return what is asked of a set of images."""
    found = Kinds()
    for images in kinds:
        for path, is_gray in images:
            found.add(path, is_gray)
    question = found.question("pictures")
    return question and question.found


def numbered(pattern: str, is_gray: bool, count: int = 20, first: int = 0) -> list[tuple[str, bool]]:
    """Return paths that a number makes different."""
    return [(pattern.format(number), is_gray) for number in range(first, first + count)]


@pytest.mark.parametrize(
    ("pictures", "others"),
    [
        (("images/{}.jpg", COLOUR), ("masks/{}.png", GRAY)),
        (("images/{}.jpg", COLOUR), ("SegmentationClass/{}.png", COLOUR)),
        (("images/{}.png", GRAY), ("labels/{}.png", GRAY)),
        (("train/rgb/rgb_{}.jpg", COLOUR), ("train/depth/depth_{}.png", GRAY)),
        (("{}.jpg", COLOUR), ("{}_mask.png", GRAY)),
        (("{}.jpg", COLOUR), ("annotations/a{}.png", GRAY)),
        (("x/{}.jpg", COLOUR), ("y/{}.png", GRAY)),
        (("a/{}.jpg", COLOUR), ("alpha/{}.png", GRAY)),
    ],
)
def test_two_kinds_of_data_are_asked_about(pictures: tuple[str, bool], others: tuple[str, bool]) -> None:
    """Masks, labels, depth and the like beside images are asked about, with how many there are of each."""
    found = asked(numbered(*pictures), numbered(*others))
    assert found is not None and found.count("20 ") == 2
    few_missing = asked(numbered(*pictures), numbered(*others, count=15))
    assert few_missing is not None


@pytest.mark.parametrize(
    "kinds",
    [
        [("{}.png", COLOUR, 36), ("old{}.png", GRAY, 4)],
        [("cat/{}.png", COLOUR), ("dog/{}.png", COLOUR), ("dog/x{}.png", GRAY, 5)],
        [("cat/{}.png", COLOUR), ("xray/scan{}.png", GRAY)],
        [("mask/{}.png", COLOUR), ("mask/x{}.png", GRAY, 3)],
        [("with_mask/{}.jpg", COLOUR), ("without_mask/{}.jpg", COLOUR)],
        [("NORMAL/{}.jpg", GRAY), ("PNEUMONIA/{}.jpg", GRAY)],
        [("alpha/{}.png", GRAY), ("beta/{}.png", GRAY)],
        [("{}/01.jpg", COLOUR, 90), ("{}/01.jpg", GRAY, 10, 90)],
        [("{}.jpg", COLOUR, 40), ("label.png", GRAY, 1)],
        [("{}.jpg", GRAY, 40)],
    ],
)
def test_images_of_one_kind_are_not_asked_about(kinds: list[tuple[str, bool]]) -> None:
    """Gray images among others, classes of any name, and persons with a folder each are plain images."""
    assert asked(*(numbered(*kind) for kind in kinds)) is None


def test_the_question_names_what_lies_there() -> None:
    """What is asked names both kinds with their folders, numbers and colours; where there are many, one of them."""
    found = asked(numbered("images/{}.jpg", COLOUR), numbered("masks/{}.png", GRAY, 12))
    assert found is not None and "20 in 'images' (colour); 12 in 'masks' (gray)" in found
    found = asked(*(numbered(f"{part}/images/{{}}.jpg", COLOUR) for part in "abc"), numbered("masks/{}.png", GRAY, 30))
    assert found is not None and "60 in 'a/images' and 2 more folders (colour); 30 in 'masks' (gray)" in found
    found = asked(numbered("{}.jpg", COLOUR), numbered("{}_mask.jpg", GRAY))
    assert found is not None and "20 such as '0.jpg' (colour); 20 such as '0_mask.jpg' (gray)" in found
