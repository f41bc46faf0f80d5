"""What an inspection finds in a folder of made-up images, good and bad, and what its page shows of them."""

import base64
import io
import re
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.dataset_statistics import DUPLICATE
from openddpm.data.store import open_images
from openddpm.errors import UserError
from openddpm.inspection import Inspection, inspect_images
from openddpm.inspection.gallery import GALLERY_SIZE, MAX_SHOWN
from openddpm.inspection.page import render_page
from openddpm.inspection.thumbnails import SIDE
from tiny import write_tiny_folder

BUILT = datetime(2026, 3, 14, 10, 30, tzinfo=timezone.utc)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def inspected(folder: Path, **options: Any) -> Inspection:
    """Inspect a folder at 8 pixels."""
    return inspect_images(DataOptions(dataset=str(folder), **{"resolution": 8, **options}))


def picture_of(uri: str) -> np.ndarray:
    """Return a data URI's pixels, (H, W, 4) uint8."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGBA"))


def halves(left: tuple[int, ...], right: tuple[int, ...], size: tuple[int, int] = (16, 16)) -> Image.Image:
    """Return an image whose left half differs from its right one."""
    mode = "RGBA" if len(left) == 4 else "RGB"
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def test_a_good_folder_is_accepted_and_nothing_is_noticed(tmp_path: Path) -> None:
    """Of good images all are usable and shown, nothing is noticed, and no file appears beside them."""
    folder = write_tiny_folder(tmp_path / "images")
    inspection = inspected(folder)
    assert inspection.objections == [] and inspection.gallery.sections == {}
    assert inspection.shape == [24, 3, 8, 8]
    assert len(inspection.gallery.gallery) == 24
    assert (inspection.gallery.smallest, inspection.gallery.largest) == ((8, 8), (8, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_the_record_is_that_of_training(tmp_path: Path) -> None:
    """The data record of an inspection is, to the last field, the one that training leaves in data.json."""
    folder = write_tiny_folder(tmp_path / "images", 30)
    halves((*RED, 255), (*BLUE, 0)).save(folder / "alpha.png")
    Image.new("RGB", (5, 7), RED).save(folder / "small.png")
    Image.new("RGB", (5, 7), RED).save(folder / "small-again.png")
    (folder / "empty.png").write_bytes(b"")
    options = DataOptions(dataset=str(folder), resolution=8, cache_dir=str(tmp_path / "cache"))
    _, store = open_images(options, quiet=True)
    inspection = inspect_images(options)
    assert inspection.data == store.data
    assert inspection.shape == list(store.images.shape)


def test_what_the_model_sees_stands_beside_the_original(tmp_path: Path) -> None:
    """Transparent pixels are shown as such before, and as the background after; EXIF turns only what comes after."""
    folder = write_tiny_folder(tmp_path / "images", 2)
    halves((*RED, 255), (*BLUE, 0)).save(folder / "alpha.png")
    mirrored = Image.Exif()
    mirrored[0x0112] = 2
    halves(RED, BLUE).save(folder / "mirrored.jpg", exif=mirrored, quality=95)
    sections = inspected(folder, background="lime").gallery.sections
    assert set(sections) == {"alpha composited", "EXIF orientation applied"}

    (alpha,) = sections["alpha composited"].shown
    before, after = picture_of(alpha.original), picture_of(alpha.picture)
    assert before[0, 0].tolist() == [*RED, 255] and before[-1, -1, 3] == 0
    assert after[0, 0].tolist() == [*RED, 255] and after[-1, -1].tolist() == [0, 255, 0, 255]

    (turned,) = sections["EXIF orientation applied"].shown
    before, after = picture_of(turned.original), picture_of(turned.picture)
    assert before[0, 0, 0] > 200 > 50 > before[0, -1, 0]
    assert after[0, 0, 0] < 50 < 200 < after[0, -1, 0]


def test_the_bits_of_sixteen_bit_originals_can_be_seen(tmp_path: Path) -> None:
    """Beside a 12-bit image that comes out dark, the original is shown from black to white."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.linspace(0, 4095, 256).reshape(16, 16).astype(np.uint16)).save(folder / "twelve.png")
    inspection = inspected(folder)
    (shown,) = inspection.gallery.sections["16 bits scaled to 8"].shown
    assert picture_of(shown.picture)[..., :3].max() < 20
    assert picture_of(shown.original)[..., :3].max() == 255
    page = render_page(inspection, BUILT)
    assert ": nearly black, try --pixel_range 0 4095" in page
    assert "the greatest value here 4095" in page
    ranged = inspected(folder, pixel_range=(0, 4095))
    (shown,) = ranged.gallery.sections["scaled to 8 bits by --pixel_range"].shown
    assert picture_of(shown.picture)[..., :3].max() > 240 and shown.original is not None
    assert "Values from 0, black, to 4095, white" in render_page(ranged, BUILT)


def test_refused_images_show_why(tmp_path: Path) -> None:
    """A refused image has no picture, and its name and reason stand on the page."""
    folder = write_tiny_folder(tmp_path / "images")
    (folder / "page.jpg").write_text("<html>404</html>")
    inspection = inspected(folder)
    (shown,) = inspection.gallery.sections["refused"].shown
    assert (shown.path, shown.picture, shown.original) == ("page.jpg", None, None)
    assert "not an image in a known format" in render_page(inspection, BUILT)
    assert inspection.objections == []


def test_duplicates_are_shown_beside_what_they_repeat(tmp_path: Path) -> None:
    """A duplicate is shown with the name of the image that it repeats, each with its picture."""
    folder = write_tiny_folder(tmp_path / "images", 3)
    (folder / "copy.png").write_bytes((folder / "001.png").read_bytes())
    inspection = inspected(folder)
    (shown,) = inspection.gallery.sections[DUPLICATE].shown
    assert (shown.path, shown.repeats) == ("copy.png", "001.png")
    page = render_page(inspection, BUILT)
    assert page.count(shown.picture) == 2 + 2  # among all images, and side by side
    assert page.count(">001.png<") == 1


@pytest.mark.parametrize("num_gray", [1, 5])
def test_gray_among_colour_is_shown(num_gray: int, tmp_path: Path) -> None:
    """Gray images among others are accepted as colour, counted and shown; the record is that of training."""
    folder = write_tiny_folder(tmp_path / "images", 3)
    for index in range(num_gray):
        Image.new("L", (8, 8), 40 * index).save(folder / f"gray-{index}.png")
    inspection = inspected(folder)
    assert inspection.objections == [] and inspection.shape == [3 + num_gray, 3, 8, 8]
    assert inspection.num_by_mode == {"colour": 3, "gray": num_gray}
    section = inspection.gallery.sections["gray to colour"]
    assert [shown.path for shown in section.shown] == [f"gray-{index}.png" for index in range(num_gray)]
    assert inspection.data.counts["gray to colour"] == section.num_images == num_gray
    assert f"colour; {num_gray} of {3 + num_gray} are gray" in render_page(inspection, BUILT)
    _, store = open_images(
        DataOptions(dataset=str(folder), resolution=8, cache_dir=str(tmp_path / "cache")), quiet=True
    )
    assert (inspection.data, inspection.shape) == (store.data, list(store.images.shape))
    chosen = inspected(folder, image_mode="gray")
    assert chosen.objections == [] and chosen.shape == [3 + num_gray, 1, 8, 8]


def test_masks_beside_images_are_an_objection(tmp_path: Path) -> None:
    """Where training asks which of two folders is meant, so does an inspection, and the page says it."""
    write_tiny_folder(tmp_path / "set" / "images", 4)
    write_tiny_folder(tmp_path / "set" / "masks", 4)
    inspection = inspected(tmp_path / "set")
    (objection,) = inspection.objections
    assert "4 in 'images' (colour); 4 in 'masks' (colour)" in objection.found
    assert inspected(tmp_path / "set", image_mode="rgb").objections == []


def test_the_most_cut_images_are_shown(tmp_path: Path) -> None:
    """Of images that cropping cuts much of, the worst are shown first, before and after, with what they lose."""
    folder = write_tiny_folder(tmp_path / "images", 2)
    for index in range(MAX_SHOWN + 5):
        halves(RED, BLUE, (20, 10)).save(folder / f"wide-{index:02}.png")
    halves(RED, BLUE, (40, 10)).save(folder / "widest.png")
    inspection = inspected(folder)
    section = inspection.gallery.sections["cut by more than a quarter"]
    assert section.num_images == inspection.data.counts["cut by more than a quarter"] == MAX_SHOWN + 6
    assert [shown.path for shown in section.shown[:3]] == ["widest.png", "wide-00.png", "wide-01.png"]
    assert len(section.shown) == MAX_SHOWN
    widest = section.shown[0]
    assert (widest.note, widest.size) == ("75% cut away", (40, 10))
    assert picture_of(widest.original).shape[:2] == (30, 120) and picture_of(widest.picture).shape[:2] == (128, 128)
    page = render_page(inspection, BUILT)
    assert f"cut by more than a quarter: {MAX_SHOWN + 6} of {MAX_SHOWN + 8}, most widest.png (75%)" in page
    assert "40x10, 75% cut away" in page
    padded = inspected(folder, fit="pad", background="lime")
    assert set(padded.gallery.sections) == {"padded to a square", DUPLICATE}
    assert picture_of(padded.gallery.sections["padded to a square"].shown[0].picture)[0, 0].tolist() == [0, 255, 0, 255]


def test_too_many_refused_are_an_objection(tmp_path: Path) -> None:
    """Where more images are refused than --max_refused_share allows, training would not accept the set."""
    folder = write_tiny_folder(tmp_path / "images", 7)
    for index in range(3):
        (folder / f"empty-{index}.png").write_bytes(b"")
    (objection,) = inspected(folder).objections
    assert "3 of 10" in objection.found
    assert "--max_refused_share" in objection.hint
    assert inspected(folder, max_refused_share=0.3).objections == []


def test_a_set_without_one_usable_image_has_a_page(tmp_path: Path) -> None:
    """When every image is refused the page says so and lists them; nothing is averaged over no pixels."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "empty.png").write_bytes(b"")
    inspection = inspected(folder)
    assert len(inspection.objections) == 1 and inspection.shape is None
    assert (inspection.data.num_images, inspection.data.counts) == (0, {"refused": 1})
    page = render_page(inspection, BUILT)
    assert "None of the images can be used." in page and "empty file" in page


@pytest.mark.parametrize("policy", ["upscale", "drop", "error"])
def test_small_images_follow_their_option(policy: str, tmp_path: Path) -> None:
    """Images below the resolution are enlarged, left out with their original shown, or an objection, as is asked."""
    folder = write_tiny_folder(tmp_path / "images", 3)
    Image.new("RGB", (5, 7), RED).save(folder / "small.png")
    inspection = inspected(folder, small_images=policy)
    if policy == "upscale":
        (shown,) = inspection.gallery.sections["upscaled"].shown
        assert shown.size == (5, 7) and shown.picture and shown.original
        assert inspection.data.num_images == 4
    elif policy == "drop":
        (shown,) = inspection.gallery.sections["dropped"].shown
        assert shown.picture is None and shown.original
        assert inspection.data.num_images == 3
        assert "5x7" in render_page(inspection, BUILT)
    assert len(inspection.objections) == (policy == "error")


def test_the_page_stays_small_however_many_there_are(tmp_path: Path) -> None:
    """Of many images a few stand for all, at even distances, and of many findings the first; the rest are counted."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(150):
        Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(folder / f"{index:03d}.png")
    inspection = inspected(folder)
    gallery = [int(Path(shown.path).stem) for shown in inspection.gallery.gallery]
    assert len(gallery) == GALLERY_SIZE and set(np.diff(gallery)) == {2, 3}
    section = inspection.gallery.sections["upscaled"]
    assert (section.num_images, len(section.shown)) == (150, MAX_SHOWN)
    page = render_page(inspection, BUILT)
    assert f"and {150 - MAX_SHOWN} more" in page
    assert len(page) < 1_000_000


def test_pictures_are_bounded_and_without_metadata(tmp_path: Path) -> None:
    """A large photograph becomes a small picture on the page, and what its camera noted stays out of it."""
    folder = tmp_path / "images"
    folder.mkdir()
    noted = Image.Exif()
    noted[0x010E] = "a secret place"
    noted[0x0112] = 3
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg", exif=noted, comment="a secret place")
    inspection = inspected(folder, resolution=512)
    (shown,) = inspection.gallery.sections["EXIF orientation applied"].shown
    assert picture_of(shown.original).shape == (SIDE * 3 // 4, SIDE, 4)
    for uri in (shown.picture, shown.original):
        content = base64.b64decode(uri.partition(",")[2])
        assert max(picture_of(uri).shape) == SIDE and len(content) < 20_000 and b"secret" not in content


def test_names_and_options_are_data(tmp_path: Path) -> None:
    """Markup in names is escaped, and the page holds no script, no style attribute and no address to fetch from."""
    folder = tmp_path / "<script>alert(1)<" / "script>"
    write_tiny_folder(folder, 3)
    Image.new("RGB", (5, 5), RED).save(folder / "<img src=x onerror='alert(2)'>.png")
    (folder / '"><b onmouseover="alert(3)">.png').write_bytes(b"")
    inspection = inspected(folder)
    page = render_page(replace(inspection, objections=[UserError("<b found>", "<b hint> --page")]), BUILT)
    assert "&lt;b hint&gt; <code>--page</code>" in page
    assert "<script" not in page and "<img src=x" not in page and "<b " not in page
    assert set(re.findall(r' (?:src|href)="(.{5})', page)) <= {"data:", "#sect"}
    assert "default-src &#39;none&#39;" in page


def test_the_caller_hears_of_progress(tmp_path: Path) -> None:
    """After each image, refused ones too, the caller learns how many."""
    folder = write_tiny_folder(tmp_path / "images", 5)
    (folder / "empty.png").write_bytes(b"")
    told: list[int] = []
    inspect_images(DataOptions(dataset=str(folder), resolution=8), told.append)
    assert told == [6] * 6


def test_no_such_colour(tmp_path: Path) -> None:
    """A background that is no colour is a user error, not a set of refused images."""
    with pytest.raises(UserError, match="mauvish"):
        inspected(write_tiny_folder(tmp_path / "images", 1), background="mauvish")


def test_what_is_left_out_stands_on_the_page(tmp_path: Path) -> None:
    """The page counts what lies beside the images with examples, and warns if it is more than they are."""
    folder = write_tiny_folder(tmp_path / "images", 3)
    for index in range(4):
        (folder / f"<b>clip{index}.mp4").write_bytes(b"video")
    inspection = inspected(folder)
    assert [(one.count, one.is_data) for one in inspection.data.left_out] == [(4, True)]
    page = render_page(inspection, BUILT)
    assert "more was left out than used" in page
    assert "&lt;b&gt;clip0.mp4" in page and "<b>clip" not in page
    (folder / "<b>clip0.mp4").unlink()
    assert "more was left out than used" not in render_page(inspected(folder), BUILT)
