"""The folder of generated images: whole files, settings beside it, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from openddpm.errors import UserError
from openddpm.sampling_run.folder import ImageFolder, Settings
from openddpm.sampling_run.npz import write_npz

SHAPE = (3, 8, 6)


def settings(**changes: Any) -> Settings:
    """Return settings, some of them replaced."""
    values = {
        "run_id": "f" * 16, "step": 7, "weights": "ema", "sha256": "0" * 64, "solver": "ddim",
        "num_inference_steps": 50, "seed": 0, "scheduler": {"beta_schedule": "linear"}, "device": "cpu",
        "precision": "float32", "openddpm": "0", "num_images": 5, "batch_size": 2,
    }  # fmt: skip
    return Settings(**{**values, **changes})


def pixels(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return the image of a number."""
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder with three of five images."""
    images = ImageFolder(tmp_path / "[out]", SHAPE, 5)
    with images.locked():
        assert images.begin(settings()) == []
        for number in range(3):
            images.write(number, pixels(number))
    return images.folder


def begin(folder: Path, num_images: int = 5, **changes: Any) -> tuple[ImageFolder, list[str]]:
    """Begin again in a folder."""
    images = ImageFolder(folder, SHAPE, num_images)
    with images.locked():
        return images, images.begin(settings(**changes))


def everything(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_that_are_there_are_kept(begun: Path) -> None:
    """A second call finds the images, to the pixel, and says how many; the folder holds nothing but them."""
    images, said = begin(begun)
    assert images.missing(range(5)) == [3, 4]
    assert said == ["continuing: 3 of 5 images are there"]
    assert sorted(path.name for path in begun.iterdir()) == ["00000.png", "00001.png", "00002.png"]
    with Image.open(begun / "00001.png") as picture:
        assert (np.asarray(picture) == pixels(1).transpose(1, 2, 0)).all()


@pytest.mark.parametrize("num_bytes", [0, 20, 60, -1])
def test_torn_images_are_made_again(begun: Path, num_bytes: int) -> None:
    """A file cut anywhere, or filled with zeros as a power loss leaves it, counts as missing; leftovers are removed."""
    whole = (begun / "00001.png").read_bytes()
    (begun / "00001.png").write_bytes(whole[:num_bytes])
    (begun / "00002.png").write_bytes(bytes(len(whole)))
    (begun / ".00003.77.openddpm-tmp").write_bytes(b"half")
    (begun.parent / ".[out].npz.77.openddpm-tmp").write_bytes(b"half")
    images, said = begin(begun)
    assert images.missing(range(5)) == [1, 2, 3, 4]
    assert said[0].startswith("2 incomplete images, as after a power loss")
    assert not list(begun.parent.rglob(".*openddpm-tmp"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed: 0 there, 1 asked for"),
        ({"step": 8, "sha256": "1" * 64}, "step: 7 there, 8 asked for"),
        ({"weights": "raw"}, "weights: ema there, raw asked for"),
        ({"run_id": "e" * 16}, "run_id"),
        ({"scheduler": {"beta_schedule": "cosine"}}, "beta_schedule: linear there, cosine asked for"),
        ({"device": "cuda"}, "device: cpu there, cuda asked for"),
    ],
)
def test_images_made_otherwise_are_refused(begun: Path, changes: dict[str, Any], words: str) -> None:
    """Whatever makes other images is named, and nothing is overwritten; with no image there, nothing is in the way."""
    before = everything(begun.parent)
    with pytest.raises(UserError) as caught:
        begin(begun, **changes)
    assert words in caught.value.found
    assert everything(begun.parent) == before
    for path in begun.iterdir():
        path.unlink()
    begin(begun, **changes)


def test_fewer_images_are_refused_and_more_are_added(begun: Path) -> None:
    """A folder never holds more images than were asked for; it may grow, in batches of another size, which is said."""
    with pytest.raises(UserError, match=r"has 3 images, more than --num_images 2"):
        begin(begun, num_images=2)
    images, said = begin(begun, num_images=9, batch_size=4)
    assert images.missing(range(9)) == [3, 4, 5, 6, 7, 8]
    assert "up to rounding" in said[1]


AMONG_OURS = ("[out]/grid.png", "[out]/.hidden.png", "[out]/0001.png", "[out]/sub/x.png", "[out]/00004.jpg")
ALONE = ("[out]/00000.png", "[out]/notes.txt", "[out].png", "[out].npz")


@pytest.mark.parametrize(
    ("name", "is_ours"), [*((name, True) for name in AMONG_OURS), *((name, False) for name in ALONE)]
)
def test_foreign_files_are_refused(begun: Path, name: str, is_ours: bool) -> None:
    """What this command did not make is named and left alone, in the folder and beside it."""
    if not is_ours:
        for path in (*begun.iterdir(), begun.parent / "[out].json"):
            path.unlink()
    path = begun.parent / name
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (6, 8)).save(path, "png")
    before = everything(begun.parent)
    with pytest.raises(UserError, match="did not make") as caught:
        begin(begun)
    assert (path.relative_to(begun).parts[0] if begun in path.parents else path.name) in caught.value.found
    assert everything(begun.parent) == before


def test_an_image_of_another_size_is_foreign(begun: Path) -> None:
    """A picture that somebody has resized in place is not overwritten."""
    Image.new("RGB", (12, 16)).save(begun / "00002.png")
    with pytest.raises(UserError, match=r"00002\.png"):
        begin(begun)


def test_other_settings_files_and_clutter(begun: Path) -> None:
    """A JSON file of somebody else's is refused; what desktops leave in a folder is in nobody's way."""
    (begun / ".DS_Store").write_bytes(b"finder")
    begin(begun)
    (begun.parent / "[out].json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="was not written by openddpm sample"):
        begin(begun)
    assert (begun.parent / "[out].json").read_text() == '{"mine": 1}'


def test_a_folder_at_work_is_refused(begun: Path) -> None:
    """Two calls never write into one folder."""
    with FileLock(begun.parent / ".[out].lock"), pytest.raises(UserError, match="is writing to"):
        begin(begun)


def test_a_refused_new_folder_is_removed(tmp_path: Path) -> None:
    """A call that is refused leaves no empty folder behind."""
    (tmp_path / "new.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"new\.png"):
        begin(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new.png"]


def test_what_has_gone_meanwhile_is_found(begun: Path) -> None:
    """A folder with fewer or other files than asked for does not pass for whole."""
    images, _ = begin(begun)
    with pytest.raises(UserError, match="has 3 complete images of 5"):
        images.check_whole()
    for number in (3, 4):
        images.write(number, pixels(number))
    images.check_whole()
    (begun / "grid.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"grid\.png"):
        images.check_whole()


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_has_the_images(tmp_path: Path, channels: int) -> None:
    """arr_0 is (N, H, W, 3) uint8 without pickles, header of version 1.0, in the order of numbers; gray three times."""
    shape = (channels, 8, 6)
    images = ImageFolder(tmp_path / "out", shape, 12)
    with images.locked():
        images.begin(settings(num_images=12))
        for number in range(12):
            images.write(number, pixels(number, shape))
        images.write_npz()
        first = images.npz_file.read_bytes()
        images.write_npz()
    assert images.npz_file.read_bytes() == first
    with np.load(images.npz_file, allow_pickle=False) as file:
        array = file["arr_0"]
    assert array.dtype == np.uint8 and array.shape == (12, 8, 6, 3)
    for number in range(12):
        assert (array[number] == pixels(number, shape).transpose(1, 2, 0)).all()


def test_the_grid_holds_at_most_64(tmp_path: Path) -> None:
    """The grid shows the first 64 images, 8 by 8, beside the folder."""
    images = ImageFolder(tmp_path / "out", SHAPE, 70)
    with images.locked():
        images.begin(settings(num_images=70))
        for number in range(70):
            images.write(number, np.full(SHAPE, number, np.uint8))
        images.write_grid()
    with Image.open(tmp_path / "out.png") as picture:
        shades = set(np.unique(np.asarray(picture)))
    assert shades == {*range(64), 128}, "128 between them"


def test_an_npz_that_finds_no_room(tmp_path: Path) -> None:
    """What cannot be written leaves the file before it as it was, and nothing half written."""
    (tmp_path / "a.npz").write_bytes(b"before")

    def images() -> Iterator[np.ndarray]:
        yield np.zeros((4, 4, 3), np.uint8)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_npz(tmp_path / "a.npz", images(), (2, 4, 4))
    assert everything(tmp_path) == {str(tmp_path / "a.npz"): b"before"}
