"""Which held-out images are taken for nearly a training image."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openddpm.data import near_duplicates
from openddpm.data.near_duplicates import find_near_duplicates, near_duplicates_across
from openddpm.data.store import ImageStore
from openddpm.record.data_record import DataRecord
from tiny import digests_of

COLOURS = np.random.default_rng(3).integers(0, 256, (2, 6, 3), dtype=np.uint8)  # two palettes
NUM = 24


def drawings(side: int, count: int = NUM, seed: int = 0) -> np.ndarray:
    """Return pictures of rectangles in the colours of a palette, (count, side, side) of 0..5."""
    random = np.random.default_rng(seed)
    pictures = np.zeros((count, side, side), int)
    for picture in pictures:
        for colour in (1, 2, 3, 4, 5, 1, 2):
            (top, left), (height, width) = random.integers(0, side - 3, 2), random.integers(3, side // 2 + 2, 2)
            picture[top : top + height, left : left + width] = colour
    return pictures


def painted(pictures: np.ndarray, palette: int = 0) -> np.ndarray:
    """Return (n, 3, side, side), uint8."""
    return np.ascontiguousarray(COLOURS[palette][pictures].transpose(0, 3, 1, 2))


def recompressed(images: np.ndarray) -> np.ndarray:
    """Return the images as JPEG leaves them."""

    def one(image: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(stream, "JPEG", quality=75)
        return np.asarray(Image.open(stream)).transpose(2, 0, 1)

    return np.stack([one(image) for image in images])


def shifted(images: np.ndarray) -> np.ndarray:
    """Return the images moved down and left by a pixel."""
    moved = np.roll(images, (1, -1), (2, 3))
    moved[:, :, 0], moved[..., -1] = moved[:, :, 1], moved[..., -2]
    return moved


VARIANTS = {
    "mirrored": lambda pictures: painted(pictures)[..., ::-1],
    "recoloured": lambda pictures: painted(pictures, palette=1),
    "mirrored and recoloured": lambda pictures: painted(pictures, palette=1)[..., ::-1],
    "recompressed": lambda pictures: recompressed(painted(pictures)),
    "shifted": lambda pictures: shifted(painted(pictures)),
}


@pytest.mark.parametrize("side", [16, 32, 48, 64, 136])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_in_training_is_found_and_named(variant: str, side: int) -> None:
    """A held-out image that training has recoloured, mirrored, recompressed or shifted by a pixel is found."""
    pictures = drawings(side)
    others = painted(drawings(side, 4 * NUM, seed=1))
    images = np.concatenate([painted(pictures), VARIANTS[variant](pictures), others])
    found = find_near_duplicates(images, np.arange(NUM, len(images)), np.arange(NUM))
    how = {"recompressed": "nearly identical", "shifted": "nearly identical"}.get(variant, variant)
    right = [pair for pair in found.pairs if pair.train == pair.heldout + NUM and pair.how == how]
    assert found.num_compared == NUM
    assert len(right) >= NUM - 1, found.pairs  # at 16 pixels recompressing may cost one


@pytest.mark.parametrize("side", [8, 16, 64])
def test_other_pictures_of_the_same_parts_are_not(side: int) -> None:
    """Images that differ in one part, such as a mouth, are no near duplicates; neither are blank or noisy ones."""
    base = np.repeat(drawings(side, 1), NUM, 0)
    parts = np.random.default_rng(0).integers(0, 6, (NUM, 2, 2)).repeat(side // 4, 1).repeat(side // 4, 2)
    base[:, side // 4 : side // 4 + parts.shape[1], side // 4 : side // 4 + parts.shape[2]] = parts
    _, first = np.unique(base.reshape(NUM, -1), axis=0, return_index=True)
    faces = painted(base[first])
    noise = np.random.default_rng(1).integers(0, 256, faces.shape, np.uint8)
    faint = 250 + np.random.default_rng(2).integers(0, 3, faces.shape, np.uint8)
    for images in (faces, noise, faint):
        found = find_near_duplicates(images, np.arange(0, len(images), 2), np.arange(1, len(images), 2))
        assert [pair for pair in found.pairs if "recoloured" not in pair.how] == []


def test_a_layout_that_all_images_share_makes_them_no_duplicates() -> None:
    """Fields of random colours have their edges at the same places, and are different pictures."""
    fields = np.random.default_rng(0).integers(0, 256, (200, 3, 4, 4), np.uint8).repeat(4, 2).repeat(4, 3)
    assert find_near_duplicates(fields, np.arange(180), np.arange(180, 200)).pairs == []


def test_images_too_small_to_tell_are_not_compared() -> None:
    """Below 8 pixels, and without held-out images, nothing is said."""
    tiny = np.zeros((10, 1, 4, 4), np.uint8)
    assert find_near_duplicates(tiny, np.arange(5), np.arange(5, 10)).num_compared == 0
    assert find_near_duplicates(painted(drawings(16)), np.arange(5), np.arange(0)).num_compared == 0


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pairs are found whether training images are looked at all at once or a few at a time."""
    pictures = drawings(16, 60)
    images = np.concatenate([painted(pictures), painted(pictures, 1)[::-1]])
    heldout, train = np.arange(0, 60, 7), np.setdiff1d(np.arange(120), np.arange(0, 60, 7))
    whole = find_near_duplicates(images, train, heldout)
    monkeypatch.setattr(near_duplicates, "CHUNK_IMAGES", 7)
    monkeypatch.setattr(near_duplicates, "BLOCK_QUERIES", 4)
    assert find_near_duplicates(images, train, heldout) == whole
    assert len(whole.pairs) == len(heldout)


def test_what_was_found_is_cached_by_images_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time nothing is compared; another split is looked at anew; a damaged cache is not believed."""
    images = np.concatenate([painted(drawings(16))] * 2)
    store = ImageStore(images, digests_of(images), "sha", DataRecord(num_images=len(images), counts={}, images=[]))
    train, heldout = np.arange(NUM, 2 * NUM), np.arange(NUM)
    first = near_duplicates_across(store, train, heldout, tmp_path)
    assert len(first.pairs) == NUM
    calls: list[int] = []
    monkeypatch.setattr(
        near_duplicates, "find_near_duplicates", lambda *arguments: calls.append(1) or find_near_duplicates(*arguments)
    )
    assert near_duplicates_across(store, train, heldout, tmp_path) == first
    assert not calls
    near_duplicates_across(store, train, heldout[:5], tmp_path)
    assert len(calls) == 1
    for path in tmp_path.glob("near_duplicates/*"):
        path.write_text('{"pairs": [[1, 99999, "identical"]], "num_compared": 3}')
    assert near_duplicates_across(store, train, heldout, tmp_path) == first
