import hashlib
import json
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data import image_file, pool
from openddpm.data.decode import Decoding, EncodedImage, Preprocessing
from openddpm.data.image_source import Example, ImageSource
from openddpm.data.labels import Label, LabelSource
from openddpm.data.pool import pixel_digest
from openddpm.data.store import ImageStore, default_cache_dir, open_images, open_store
from openddpm.errors import UserError
from openddpm.record.data_record import ImageFinding

AS_GIVEN = Preprocessing(4, "auto", "white")
DROPPING = Preprocessing(4, "auto", "white", "drop")


def source(images: list[EncodedImage], digest: str | None = "abc") -> ImageSource:
    """Return a source of `images`, named by their positions."""
    named = [Example(f"{number}.png", image) for number, image in enumerate(images)]
    return ImageSource("pictures", digest, len(named), lambda: iter(named))


def unreadable_source(digest: str | None = "abc") -> ImageSource:
    """Return a source that fails when it is read."""

    def items() -> Iterator[Example]:
        raise AssertionError("decoded again")

    return ImageSource("pictures", digest, 1, items)


def gray(count: int, size: int = 4) -> list[EncodedImage]:
    """Return gray arrays, each in its own tone."""
    return [np.full((size, size), number % 256, np.uint8) for number in range(count)]


def opened(
    of: ImageSource, cache_dir: Path, preprocessing: Preprocessing = AS_GIVEN, max_refused_share: float = 0.05
) -> ImageStore:
    """Open a store without a progress bar."""
    return open_store(of, preprocessing, cache_dir, max_refused_share, quiet=True)


def cached(cache_dir: Path) -> list[str]:
    """Return what decoding left in the cache, but for locks."""
    return [path.name for path in cache_dir.glob("decoded/*") if path.suffix != ".lock"]


def test_images_are_decoded_once(tmp_path: Path) -> None:
    """The second opening takes everything from the cache: the images, their checksum and what was met in decoding."""
    first = opened(source([np.zeros((3, 3), np.uint8)]), tmp_path)
    second = opened(unreadable_source(), tmp_path)
    np.testing.assert_array_equal(first.images, second.images)
    assert (first.sha256, first.data) == (second.sha256, second.data)
    assert second.data.counts == {"upscaled": 1}


@pytest.mark.parametrize(
    ("digest", "preprocessing"),
    [
        ("changed", AS_GIVEN),
        ("abc", Preprocessing(5, "auto", "white")),
        ("abc", Preprocessing(4, "rgb", "white")),
        ("abc", Preprocessing(4, "auto", "black")),
        ("abc", DROPPING),
        ("abc", Preprocessing(4, "auto", "white", fit="pad")),
    ],
)
def test_the_cache_knows_what_it_was_made_of(digest: str, preprocessing: Preprocessing, tmp_path: Path) -> None:
    """Other images, or another way to prepare them, are decoded anew and kept beside the earlier ones."""
    opened(source(gray(1)), tmp_path)
    opened(source(gray(2), digest), tmp_path, preprocessing)
    assert len(cached(tmp_path)) == 2


def test_images_without_a_digest_are_never_cached(tmp_path: Path) -> None:
    """Images of which nothing tells whether they changed are decoded at each opening, and leave nothing behind."""
    assert len(opened(source(gray(2), None), tmp_path).images) == 2
    with pytest.raises(AssertionError, match="decoded again"):
        opened(unreadable_source(None), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("write_bytes", [1, 100, image_file.WRITE_BYTES])
def test_order_is_kept(write_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long each takes, and in whatever pieces they are written, images keep their order and joint checksum."""
    monkeypatch.setattr(image_file, "WRITE_BYTES", write_bytes)
    images = [image.repeat(1 if number % 3 else 300, axis=0) for number, image in enumerate(gray(250))]
    images = [np.ascontiguousarray(image) for image in images]
    found = opened(source(images), tmp_path)
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], np.arange(250))
    assert found.sha256 == hashlib.sha256(np.asarray(found.images).tobytes()).hexdigest()


@pytest.mark.parametrize("digest", ["abc", None])
def test_images_stay_on_disk(digest: str | None, tmp_path: Path) -> None:
    """The images are a read-only memory map of uint8, so that a data set larger than the memory can be opened."""
    images = opened(source([np.zeros((4, 4, 3), np.uint8)] * 2, digest), tmp_path).images
    assert type(images) is np.memmap
    assert (images.shape, images.dtype) == ((2, 3, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 1


@pytest.mark.parametrize("write_bytes", [1, 1000])
@pytest.mark.parametrize("first", ["gray", "colour"])
def test_gray_among_colour_becomes_colour(
    first: str, write_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gray images among images in colour become colour wherever they stand, as image_mode "rgb" makes them, counted."""
    monkeypatch.setattr(image_file, "WRITE_BYTES", write_bytes)
    draw = np.random.default_rng(0).integers
    colour, grays = list(draw(0, 256, (3, 4, 4, 3), np.uint8)), list(draw(0, 256, (5, 4, 4), np.uint8))
    images = [*grays[:3], colour[0], *grays[3:], *colour[1:]] if first == "gray" else [*colour, *grays]
    found = opened(source(images), tmp_path)
    forced = opened(source(images), tmp_path, Preprocessing(4, "rgb", "white"))
    np.testing.assert_array_equal(found.images, forced.images)
    assert found.images.shape == (8, 3, 4, 4)
    assert found.sha256 == forced.sha256 == hashlib.sha256(np.asarray(found.images).tobytes()).hexdigest()
    assert found.data.counts == forced.data.counts
    assert found.data.counts["gray to colour"] == 5
    assert {finding.path for finding in found.data.images} == {finding.path for finding in forced.data.images}
    assert found.data.pixel_mean == forced.data.pixel_mean
    kept = {"images.uint8", "digests", "names.utf8", "labels.int32", "store.json"}
    assert {path.name for path in tmp_path.glob("decoded/*/*")} == kept


def test_gray_and_the_same_in_colour_are_duplicates(tmp_path: Path) -> None:
    """A gray image repeats one in colour of the same pixels: in the store they are alike."""
    images = [np.full((4, 4, 3), 9, np.uint8), np.full((4, 4), 9, np.uint8)]
    assert opened(source(images), tmp_path).data.num_duplicates == 1


def test_masks_beside_images_are_asked_about(tmp_path: Path) -> None:
    """Images and masks in folders of their own are a UserError with both folders, and nothing is kept; a mode helps."""
    named = [Example(f"images/{number}.png", np.full((4, 4, 3), number, np.uint8)) for number in range(3)]
    named += [Example(f"masks/{number}.png", np.zeros((4, 4), np.uint8)) for number in range(3)]
    both = ImageSource("pictures", "abc", len(named), lambda: iter(named))
    with pytest.raises(UserError, match=r"3 in 'images' \(colour\); 3 in 'masks' \(gray\)") as error:
        opened(both, tmp_path)
    assert "--dataset" in error.value.hint and "--image_mode rgb" in error.value.hint
    assert cached(tmp_path) == []
    assert opened(both, tmp_path, Preprocessing(4, "rgb", "white")).images.shape == (6, 3, 4, 4)


def test_what_cropping_cuts_away_is_counted(tmp_path: Path) -> None:
    """Images that lose more than a quarter are counted, the worst are named, and no list grows with their number."""
    sizes = [(4, 4), (4, 3), (6, 4), *[(8, 4)] * 9, (16, 4), (4, 12)]  # (4, 3) loses just a quarter
    images = [np.full((*size, 3), number, np.uint8) for number, size in enumerate(sizes)]
    data = opened(source(images), tmp_path, Preprocessing(2, "auto", "white")).data
    assert data.counts == {"cut by more than a quarter": 12} and data.images == []
    most = [(entry.path, entry.share) for entry in data.most_cut]
    assert most == [("12.png", 0.75), ("13.png", 0.6667), ("3.png", 0.5), ("4.png", 0.5), ("5.png", 0.5)]
    assert data.cut_mean == pytest.approx((0.25 + 1 / 3 + 9 * 0.5 + 0.75 + 2 / 3) / 14, abs=1e-4)
    padded = opened(source(images), tmp_path, Preprocessing(2, "auto", "white", fit="pad")).data
    assert (padded.cut_mean, padded.most_cut, padded.counts) == (0, [], {"padded to a square": 13})


def test_the_range_of_deep_images_is_asked_and_kept(tmp_path: Path) -> None:
    """Signed images are refused with the range of them all, taken with one, and a range without such is an error."""
    images = [np.full((4, 4), value, np.int16) for value in (-900, 0, 2500)]
    with pytest.raises(UserError, match="numbers from -900 to -900") as error:
        opened(source(images), tmp_path)
    assert "such as --pixel_range -900 2500 (they hold -900 to 2500)" in error.value.hint
    ranged = Preprocessing(4, "auto", "white", pixel_range=(-900.0, 2500.0))
    found = opened(source(images), tmp_path, ranged)
    assert list(found.images[:, 0, 0, 0]) == [0, 68, 255]  # 900 / 3400 of 255 is 67.5
    assert (found.data.raw_min, found.data.raw_max) == (-900, 2500)
    with pytest.raises(UserError, match="none of the images in 'pictures' has more than 8 bits"):
        opened(source(gray(3), "8 bits"), tmp_path, ranged)


def test_a_few_refused_images_are_listed(tmp_path: Path) -> None:
    """Up to one image in twenty may be refused; each stands in the data record with its path and reason."""
    found = opened(source([b"", *gray(19)]), tmp_path)
    assert len(found.images) == found.data.num_images == 19
    assert found.data.counts == {"refused": 1}
    assert found.data.images == [ImageFinding(path="0.png", reason="empty file", action="refused")]


def test_many_refused_images_stop_the_run(tmp_path: Path) -> None:
    """Beyond one in twenty it is a UserError that counts them, names the option and shows five with their reasons."""
    with pytest.raises(UserError, match=r"7 of 107 .* cannot be used, 6\.54 %, but the limit is 5 %") as error:
        opened(source([b""] * 6 + gray(100) + [b"<html>"]), tmp_path)
    assert error.value.found.count("empty file") == 5
    assert "--max_refused_share" in error.value.hint
    assert cached(tmp_path) == []


@pytest.mark.parametrize("digest", ["abc", None])
def test_the_share_of_refused_images_is_an_option(digest: str | None, tmp_path: Path) -> None:
    """The limit holds as it is given each time, whatever limit the images in the cache were decoded under."""
    half = source([b"", *gray(1)], digest)
    for share, is_accepted in ((0.49, False), (0.5, True), (0.0, False), (1.0, True)):
        if is_accepted:
            assert len(opened(half, tmp_path, max_refused_share=share).images) == 1
        else:
            with pytest.raises(UserError, match="1 of 2 images"):
                opened(half, tmp_path, max_refused_share=share)


def test_small_images_are_dropped_and_listed(tmp_path: Path) -> None:
    """Dropped images stand in the data record as such, and count as refused nowhere."""
    found = opened(source([*gray(3, size=3), *gray(2)]), tmp_path, DROPPING, max_refused_share=0.0)
    assert len(found.images) == found.data.num_images == 2
    assert found.data.counts == {"dropped": 3}
    reason = "smaller than the resolution: 3x3"
    assert found.data.images == [ImageFinding(path=f"{n}.png", reason=reason, action="dropped") for n in range(3)]
    with pytest.raises(UserError, match=r"all 2 images in 'pictures' are smaller") as error:
        opened(source(gray(2, size=3), "others"), tmp_path, DROPPING)
    assert "--resolution" in error.value.hint


def test_small_images_can_be_an_error(tmp_path: Path) -> None:
    """Asked to accept none, the first few of them are named, with their number and what else there is to choose."""
    strict = Preprocessing(4, "auto", "white", "error")
    with pytest.raises(UserError, match=r"7 of 10 images in 'pictures' are smaller than the resolution of 4") as error:
        opened(source([*gray(7, size=3), *gray(2), b""]), tmp_path, strict, max_refused_share=0.5)
    assert error.value.found.count("3x3") == 5
    assert "--small_images drop" in error.value.hint
    assert cached(tmp_path) == []
    assert len(opened(source(gray(2), "others"), tmp_path, strict).images) == 2


@pytest.mark.parametrize("images", [[], [b""]])
def test_nothing_to_train_on_is_the_users_error(images: list[EncodedImage], tmp_path: Path) -> None:
    """A data set of which no image is left is a UserError that names it."""
    with pytest.raises(UserError, match="'pictures'"):
        opened(source(images), tmp_path)


def test_conversions_are_counted_and_listed_in_full(tmp_path: Path) -> None:
    """Every image that was changed is counted by its reason, and listed."""
    data = opened(source(gray(30, size=3)), tmp_path).data
    assert data.counts == {"upscaled": 30}
    assert [finding.path for finding in data.images] == [f"{number}.png" for number in range(30)]


def test_exact_duplicates_are_listed_and_kept(tmp_path: Path) -> None:
    """An image whose pixels an earlier one has is counted and listed with that one's path, and stays in the set."""
    one, other = gray(2)
    found = opened(source([one, other, one.copy(), one.copy()]), tmp_path)
    assert len(found.images) == 4
    assert (found.data.num_duplicates, found.data.counts) == (2, {"exact duplicate": 2})
    twin = "exact duplicate of 0.png"
    assert found.data.images == [ImageFinding(path=f"{n}.png", reason=twin, action="kept") for n in (2, 3)]


def test_the_brightness_of_a_set_is_that_of_all_its_pixels(tmp_path: Path) -> None:
    """Least, greatest, mean and standard deviation are of every pixel and channel of the decoded images."""
    images = list(np.random.default_rng(0).integers(3, 200, (5, 4, 4, 3), dtype=np.uint8))
    data = opened(source(images), tmp_path).data
    assert (data.pixel_min, data.pixel_max) == (np.min(images), np.max(images))
    assert data.pixel_mean == pytest.approx(np.mean(images), abs=1e-3)
    assert data.pixel_std == pytest.approx(np.std(images), abs=1e-3)
    assert data.num_duplicates == 0


def test_a_pixel_out_of_many_is_seen(tmp_path: Path) -> None:
    """Of a large image the least and the greatest value are of all pixels, the mean of evenly spaced ones."""
    image = np.full((300, 300), 100, np.uint8)
    image[1, 1], image[2, 2] = 0, 255
    data = opened(source([image]), tmp_path, Preprocessing(300, "auto", "white")).data
    assert (data.pixel_min, data.pixel_max) == (0, 255)
    assert (data.pixel_mean, data.pixel_std) == (100.0, 0.0)


def test_a_decode_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """When the source itself fails midway, its error comes through, no images are kept, and the next opening works."""

    def items() -> Iterator[Example]:
        yield Example("0.png", gray(1)[0])
        raise KeyError("out of files")

    with pytest.raises(KeyError, match="out of files"):
        opened(ImageSource("pictures", "abc", 2, items), tmp_path)
    assert cached(tmp_path) == []
    assert len(opened(source(gray(2)), tmp_path).images) == 2


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Half a decode, left by a process that was killed, is never taken for images and goes with the next decode."""
    opened(source(gray(2)), tmp_path)
    (name,) = cached(tmp_path)
    (tmp_path / "decoded" / name).rename(tmp_path / "decoded" / f"{name}-killed")
    (tmp_path / "decoded" / f"{name}-killed" / "store.json").unlink()
    assert len(opened(source(gray(3)), tmp_path).images) == 3
    assert cached(tmp_path) == [name]


def _open_slowly(cache_dir: Path, log: Path, ready: threading.Barrier) -> str:
    def items() -> Iterator[Example]:
        with log.open("a") as file:
            file.write("decoding\n")
        yield from source(gray(50)).items()

    ready.wait(30)
    return opened(ImageSource("pictures", "abc", 50, items), cache_dir).sha256


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_those_who_open_at_once_decode_once(kind: str, tmp_path: Path) -> None:
    """Of several threads or processes that open one data set at once, one decodes, and all get the same images."""
    log = tmp_path / "log"
    if kind == "threads":
        pool, ready = ThreadPoolExecutor(2), threading.Barrier(2)
    else:
        context = multiprocessing.get_context("forkserver")
        manager = context.Manager()
        pool, ready = ProcessPoolExecutor(2, context), manager.Barrier(2)
    with pool:
        futures = [pool.submit(_open_slowly, tmp_path, log, ready) for _ in range(2)]
        assert len({future.result(60) for future in futures}) == 1
    assert log.read_text() == "decoding\n"
    if kind == "processes":
        manager.shutdown()


def test_an_unwritable_cache_is_the_users_error(tmp_path: Path) -> None:
    """A cache folder that cannot be written is a UserError that names it and the option."""
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UserError, match=r"cannot keep decoded images in .*file") as error:
        opened(source(gray(1)), blocked)
    assert "--cache_dir" in error.value.hint


@pytest.mark.parametrize(("digest", "hint"), [("abc", "--cache_dir"), (None, "TMPDIR")])
def test_a_full_disk_is_the_users_error(
    digest: str | None, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up while decoding is a UserError that says where to choose another."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device") as error:
        opened(source(gray(1), digest), tmp_path)
    assert hint in error.value.hint
    assert cached(tmp_path) == []


@pytest.mark.parametrize("damage", ["images.uint8", "store.json"])
def test_a_damaged_cache_is_the_users_error(damage: str, tmp_path: Path) -> None:
    """Decoded images that were damaged on disk are named, with what to do about them."""
    opened(source(gray(2)), tmp_path)
    (path,) = tmp_path.glob(f"decoded/*/{damage}")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="are damaged") as error:
        opened(source(gray(2)), tmp_path)
    assert "Remove" in error.value.hint


def test_a_background_that_is_no_colour_is_said_first(tmp_path: Path) -> None:
    """An unknown background is a UserError before any image is read."""
    with pytest.raises(UserError, match="--background 'blau'"):
        opened(unreadable_source(), tmp_path, Preprocessing(4, "auto", "blau"))


def test_what_pillow_warns_of_stays_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's warnings about one image reach nobody, and warnings are as before once decoding is over."""

    def decode(_: EncodedImage, __: Preprocessing) -> Decoding:
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, "PIL/TiffImagePlugin.py", 1, "PIL.TiffImagePlugin")
        return Decoding(np.zeros((1, 4, 4), np.uint8), [], 0.0, None)

    monkeypatch.setattr(pool, "decode_image", decode)
    filters = list(warnings.filters)
    assert len(opened(source(gray(3)), tmp_path).images) == 3
    assert warnings.filters == filters


def test_the_header_is_plain(tmp_path: Path) -> None:
    """The cache describes itself in JSON: shape, checksum and data record."""
    found = opened(source(gray(2)), tmp_path)
    (header,) = tmp_path.glob("decoded/*/store.json")
    assert json.loads(header.read_text()) == {
        "shape": [2, 1, 4, 4],
        "sha256": found.sha256,
        "data": found.data.model_dump(),
        "label_names": [],
    }


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"OPENDDPM_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/openddpm"),
        ({"XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/openddpm"),
    ],
)
def test_the_cache_folder_follows_the_environment(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPENDDPM_CACHE decides, then the desktop's cache folder, then the home folder."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_cache_dir() == Path(expected)


def test_pointers_of_git_lfs_say_how_to_fetch_the_images(tmp_path: Path) -> None:
    """Where the images are Git LFS pointers, what to do is to fetch them."""
    for index in range(3):
        (tmp_path / f"{index}.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match="Git LFS pointer") as error:
        open_images(DataOptions(dataset=str(tmp_path), cache_dir=str(tmp_path / "cache")), quiet=True)
    assert "run git lfs pull" in error.value.hint


def test_what_is_left_out_stands_in_the_record_each_time(tmp_path: Path) -> None:
    """The record says what lies beside the images as it is at the time, also where the decoded images are kept."""
    options = DataOptions(dataset=str(tmp_path), cache_dir=str(tmp_path.with_name("cache")), resolution=4)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert open_images(options, quiet=True)[1].data.left_out == []
    (tmp_path / "b.mp4").write_bytes(b"video")
    (left_out,) = open_images(options, quiet=True)[1].data.left_out
    assert (left_out.count, left_out.examples, left_out.is_data) == (1, ["b.mp4"], True)


@pytest.mark.parametrize("digest", ["abc", None])
def test_duplicates_can_be_left_out(tmp_path: Path, digest: str | None) -> None:
    """With duplicates="drop" the first of equal images stays, the others are counted, and all numbers are true."""
    tones = [np.full((4, 4), tone, np.uint8) for tone in (1, 2, 1, 3, 2, 1)]
    kept = opened(source(tones, digest), tmp_path)
    left = opened(source(tones, digest), tmp_path, Preprocessing(4, "auto", "white", duplicates="drop"), 0.0)
    assert (len(kept.images), kept.data.num_duplicates, kept.data.num_duplicates_left_out) == (6, 3, 0)
    assert kept.names([0, 5]) == ["0.png", "5.png"]
    assert left.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert (left.data.num_images, left.data.num_duplicates, left.data.num_duplicates_left_out) == (3, 0, 3)
    assert left.data.images[0] == ImageFinding(path="2.png", reason="exact duplicate of 0.png", action="left out")
    assert left.sha256 == hashlib.sha256(np.ascontiguousarray(left.images).tobytes()).hexdigest() != kept.sha256
    assert left.data.pixel_mean == 2.0
    assert left.names([2]) == ["3.png"]


def labelled(labels: list[Label], origin: LabelSource, cache_dir: Path) -> ImageStore:
    """Return a store of images with these labels."""
    images = gray(len(labels))
    examples = [Example(f"{n}.png", image, label) for n, (image, label) in enumerate(zip(images, labels, strict=True))]
    return opened(ImageSource("pictures", None, len(labels), lambda: iter(examples), labels=origin), cache_dir)


@pytest.mark.parametrize(
    ("labels", "origin", "numbers", "names", "are_numbers"),
    [
        (["dog", "cat", None, "dog"], LabelSource("sub-folders"), [1, 0, -1, 1], ["cat", "dog"], False),
        ([10, 9, None, 10], LabelSource("the column 'y'"), [1, 0, -1, 1], ["9", "10"], True),
        ([10, "9", None, 10], LabelSource("the column 'y'"), [0, 1, -1, 0], ["10", "9"], False),
        ([2, 0, -1, 3], LabelSource("the column 'y'", ("a", "b", "c")), [2, 0, -1, -1], ["a", "b", "c"], False),
    ],
)
def test_labels_are_numbered(
    labels: list[Label], origin: LabelSource, numbers: list[int], names: list[str], are_numbers: bool, tmp_path: Path
) -> None:
    """By the source's names, or in sorted order; an image without one, or with a number without a name, has -1."""
    store = labelled(labels, origin, tmp_path)
    assert store.labels is not None and store.labels.tolist() == numbers
    assert store.labels.dtype == np.int32
    assert list(store.label_names) == names
    record = store.data.labels
    assert record is not None
    assert record.counts == {name: numbers.count(number) for number, name in enumerate(names)}
    counted = len(names), len(numbers) - numbers.count(-1), are_numbers, origin.origin
    assert (record.num_labels, record.num_labelled, record.are_numbers, record.origin) == counted


def test_what_is_no_label_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more labels than classes can be, of captions, and where a choice would be a guess none is taken, and said."""
    monkeypatch.setattr("openddpm.data.labels.MAX_LABELS", 2)
    column = LabelSource("the column 'label'")
    guess = LabelSource(note="no labels are taken: several")
    for labels, origin in (([1, 2, 3], column), (["a" * 201, "b"], column), ([None, None], guess)):
        store = labelled(list(labels), origin, tmp_path)
        assert store.labels is not None and set(store.labels.tolist()) == {-1}
        assert store.label_names == () and store.data.labels is not None
        assert "no labels are taken" in store.data.labels.note and not store.data.labels.origin
    assert labelled([None, None], LabelSource(), tmp_path).data.labels is None


def test_duplicates_left_out_take_their_labels_along(tmp_path: Path) -> None:
    """Labels and digests are of the images that are kept, in their order."""
    images = [np.full((4, 4), tone, np.uint8) for tone in (1, 1, 2)]
    examples = [Example(str(n), image, f"class {n}") for n, image in enumerate(images)]
    three = ImageSource("pictures", None, 3, lambda: iter(examples), labels=LabelSource("sub-folders"))
    store = opened(three, tmp_path, Preprocessing(4, "auto", "white", duplicates="drop"))
    assert store.labels is not None and store.labels.tolist() == [0, 1]
    assert store.label_names == ("class 0", "class 2")
    assert [bytes(digest) for digest in store.digests] == [pixel_digest(image) for image in store.images]
    assert store.image_shape == (1, 4, 4)
