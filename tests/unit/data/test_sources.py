import hashlib
import io
import os
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path, PurePosixPath, PureWindowsPath

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from openddpm.config import DataOptions
from openddpm.data import image_source
from openddpm.data.decode import Preprocessing, decode_image
from openddpm.data.sources import BUILT_IN, open_source
from openddpm.errors import UserError
from openddpm.names import name_below
from picture_files import image_dataset, open_path, png, tones, write, write_parquet, write_tar, write_zip


def test_folders_are_searched_for_images_by_name(tmp_path: Path) -> None:
    """All images of a folder and its sub-folders come in the order of their paths, and other files are ignored."""
    for number, name in enumerate(["b.PNG", "a/z.jpeg", "a/b/c.webp", "notes.txt", "._b.PNG", "__MACOSX/b.png"]):
        write(tmp_path / name, png(number))
    (tmp_path / "folder.png").mkdir()
    source = open_path(tmp_path)
    assert list(tones(source).items()) == [(str(Path("a/b/c.webp")), 2), (str(Path("a/z.jpeg")), 1), ("b.PNG", 0)]
    assert source.name == str(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8_are_shown_as_text(tmp_path: Path) -> None:
    """A file whose name is no valid UTF-8 is read, under a name that JSON and people can take."""
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")), png(3))
    source = open_path(tmp_path)
    assert source.digest
    assert tones(source) == {"caf\N{REPLACEMENT CHARACTER}.png": 3}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("kind", ["folder", "zip", "parquet", "column"])
def test_names_with_commands_in_them_are_shown_spelled_out(kind: str, tmp_path: Path) -> None:
    """Wherever a name comes from, one with a terminal's commands in it is shown spelled out."""
    name, shown = "\x1b[2J\n\N{RIGHT-TO-LEFT OVERRIDE}.png", r"\x1b[2J\n\u202e.png"
    if kind == "column":
        with pytest.raises(UserError) as error:
            open_path(write_parquet(tmp_path / "a.parquet", **{name: [1]}))
        assert shown in str(error.value) and name not in str(error.value)
        return
    if kind == "folder":
        write(tmp_path / "data" / name, png(3))
    elif kind == "zip":
        write_zip(tmp_path / "data.zip", [(name, png(3))])
    else:
        write_parquet(tmp_path / "data.parquet", image=[{"bytes": png(3), "path": name}])
    (made,) = tmp_path.iterdir()
    assert tones(open_path(made)) == {shown: 3}


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda folder: folder, "no images in the folder"),
        (lambda folder: folder / "missing", "no file or folder"),
        (lambda folder: "./missing", "no file or folder"),
        (lambda folder: "missing.parquet", "no file or folder"),
        (lambda folder: "MISSING.ZIP", "no file or folder"),
        (lambda folder: write(folder / "list.csv", b"a,b"), "is not a data set that can be read"),
        (lambda folder: write(folder / "a.zip", b"PK\3\4 torn"), "is not a whole zip file"),
        (lambda folder: write(folder / "a.parquet", b"PAR1 torn"), "cannot be read"),
        (lambda folder: write(folder / "a.arrow", b"ARROW1 torn"), "cannot be read"),
        (lambda folder: write_zip(folder / "a.ZIP", [("notes.txt", b"")]), "no images in"),
        (lambda folder: "", "no data set is given"),
    ],
    ids=[
        *("empty", "missing", "relative", "missing parquet", "missing zip", "csv"),
        *("torn zip", "torn parquet", "torn arrow", "zip of text", "unnamed"),
    ],
)
def test_what_is_no_data_set_is_the_users_error(make: Callable[[Path], Path | str], found: str, tmp_path: Path) -> None:
    """A path that is missing, empty, damaged or of another kind is a UserError that says so and what to do."""
    with pytest.raises(UserError, match=found) as error:
        open_path(make(tmp_path))
    assert error.value.hint


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that goes away, or is larger than any image, is refused with its reason, and the others come."""
    write(tmp_path / "a.png", png(1))
    write(tmp_path / "b.png", png(2))
    write(tmp_path / "c.png", png(3) + b"\0" * 500)
    source = open_path(tmp_path)
    (tmp_path / "a.png").unlink()
    monkeypatch.setattr(image_source, "MAX_ENCODED_BYTES", 500)
    found = tones(source)
    assert found["a.png"] == "cannot be read: No such file or directory"
    assert found["b.png"] == 2
    assert "more than the limit" in str(found["c.png"])


@pytest.mark.parametrize(
    ("name", "num_images", "shape"), [("avatars-16", 6000, (3, 16, 16)), ("digits-8", 1797, (1, 8, 8))]
)
def test_a_built_in_set_is_the_one_it_says(name: str, num_images: int, shape: tuple[int, int, int]) -> None:
    """A built-in set opens by its name alone, and is the file whose checksum and licence lie beside it."""
    folder = resources.files("openddpm.data") / "builtin"
    checksums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(checksums) == {f"{one}.parquet" for one in BUILT_IN}
    assert hashlib.sha256((folder / f"{name}.parquet").read_bytes()).hexdigest() == checksums[f"{name}.parquet"]
    assert f"# {name}.parquet\n" in (folder / "LICENSE.md").read_text("utf-8")
    source = open_path(name)
    pixels, changes, *_ = decode_image(next(source.items())[1], Preprocessing(shape[1], "auto", "white"))
    assert source.num_items == num_images
    assert (pixels.shape, changes) == (shape, [])


def test_the_built_in_digits_are_those_of_scikit_learn() -> None:
    """digits-8 has each digit of load_digits in its order, its levels of gray spread over 0..255, with its label."""
    digits, source = load_digits(), open_path("digits-8")
    examples = list(source.items())
    assert [example.label for example in examples] == digits.target.tolist()
    for example, levels in zip(examples, digits.images, strict=True):
        pixels = decode_image(example[1], Preprocessing(8, "auto", "white"))[0]
        assert np.array_equal(pixels[0], np.round(levels * 255 / 16))


def test_folders_with_splits_give_the_one_asked_for(tmp_path: Path) -> None:
    """Where a folder has sub-folders or parquet files named by split, other splits are not trained on."""
    for split, tone in (("train", 1), ("test", 2)):
        write(tmp_path / "images" / split / "a.png", png(tone))
        write_parquet(tmp_path / "tables" / f"{split}-0.parquet", image=[png(tone)])
    assert tones(open_path(tmp_path / "images")) == {"a.png": 1}
    assert tones(open_path(tmp_path / "images", dataset_split="test")) == {"a.png": 2}
    assert tones(open_path(tmp_path / "tables")) == {"train-0 0": 1}
    assert tones(open_path(tmp_path / "tables", dataset_split="test")) == {"test-0 0": 2}


def test_a_split_that_is_not_there_is_the_users_error(tmp_path: Path) -> None:
    """Asked for a split that a folder does not have, it lists the sub-folders instead of training on others."""
    write(tmp_path / "train" / "a.png", png(1))
    with pytest.raises(UserError, match=r"split 'test'(.|\n)*give one of: train"):
        open_path(tmp_path, dataset_split="test")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe, a socket, a device, links to nothing and to themselves are refused unread, with a reason each."""
    write(tmp_path / "a.png", png(1))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    source = open_path(tmp_path)
    assert source.digest
    found = tones(source)
    assert found.pop("a.png") == 1
    assert {name: str(reason).removeprefix("cannot be read: ") for name, reason in found.items()} == {
        "pipe.png": "no regular file",
        "device.png": "no regular file",
        "dangling.png": "No such file or directory",
        "self.png": "Too many levels of symbolic links",
    }


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make every folder of this name one that cannot be listed, for root too."""
    scandir = os.scandir

    def guarded(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return "closed"


@pytest.mark.parametrize("name", ["a.png", "train-0.parquet"])
def test_a_folder_that_cannot_be_listed_stops_the_run(name: str, locked: str, tmp_path: Path) -> None:
    """A sub-folder that may not be listed can hold a whole class, so it is an error that names it, in any data."""
    write_parquet(tmp_path / name, image=[png(1)]) if name.endswith("parquet") else write(tmp_path / name, png(1))
    (tmp_path / "birds" / locked).mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot list the folder 'birds/closed' in '.*'.*[\s\S]*Make it readable"):
        open_path(tmp_path)
    with pytest.raises(UserError, match=r"cannot list '.*closed'"):
        open_path(tmp_path / "birds" / locked)


@pytest.mark.parametrize("hidden", [".git", "@eaDir"])
def test_a_locked_folder_of_a_system_is_no_error(hidden: str, locked: str, tmp_path: Path) -> None:
    """What is passed over in any case may be locked."""
    write(tmp_path / "a.png", png(1))
    (tmp_path / hidden / locked).mkdir(parents=True)
    assert tones(open_path(tmp_path)) == {"a.png": 1}


def test_a_locked_folder_of_another_split_is_told(locked: str, tmp_path: Path) -> None:
    """Of the split that is asked for all must be seen; a locked folder of another is counted as left out."""
    write(tmp_path / "train" / "a.png", png(1))
    write(tmp_path / "test" / "b.png", png(2))
    (tmp_path / "test" / locked).mkdir()
    source = open_path(tmp_path)
    assert tones(source) == {"a.png": 1}
    assert ("folders outside the split that cannot be listed", ["test/closed"]) in [
        (one.reason, one.examples) for one in source.left_out
    ]
    with pytest.raises(UserError, match="cannot list the folder 'test/closed'"):
        open_path(tmp_path, dataset_split="test")


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_a_split_that_cannot_be_listed_is_not_called_missing(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A locked train/ beside test/ is there, though nobody can tell what it holds."""
    write(tmp_path / "train" / "a.png", png(1))
    write(tmp_path / "test" / "b.png", png(2))
    scandir = os.scandir

    def guarded(path: str) -> object:
        if Path(path).name == "train" or (split == "val" and Path(path).name == "test"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    if split == "test":
        assert list(tones(open_path(tmp_path, dataset_split="test")).values()) == [2]
    else:
        with pytest.raises(UserError, match=r"cannot list the folder 't(rain|est)'"):
            open_path(tmp_path, dataset_split=split)


def test_links_that_may_not_be_read_are_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that the system does not let one read, as /proc/1/cwd, is one more file that is no image."""
    write(tmp_path / "a.png", png(1))
    (tmp_path / "cwd").symlink_to("elsewhere")
    realpath = os.path.realpath

    def guarded(path: str | Path) -> str:
        if Path(path).name == "cwd":
            raise PermissionError(13, "Permission denied", str(path))
        return realpath(path)

    monkeypatch.setattr(os.path, "realpath", guarded)
    assert tones(open_path(tmp_path)) == {"a.png": 1}


@pytest.mark.parametrize("name", ["~nobody-of-this-name/images", "/" + "a" * 5000, "./a\0b"])
def test_names_that_nothing_can_have_are_the_users_error(name: str) -> None:
    """A path that the system calls impossible is told like one that is missing."""
    with pytest.raises(UserError, match="no file or folder"):
        open_path(name)


def test_pictures_of_runs_are_no_training_images(tmp_path: Path) -> None:
    """A run folder inside the folder of images is passed over, and linked sub-folders are followed once."""
    write(tmp_path / "data" / "a.png", png(1))
    write(tmp_path / "data" / "run" / "samples" / "b.png", png(2))
    write(tmp_path / "data" / "run" / "run.json", b"{}")
    write(tmp_path / "elsewhere" / "c.png", png(3))
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "linked-too").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data")
    assert sorted(tones(open_path(tmp_path / "data")).values()) == [1, 3]


@pytest.mark.parametrize(
    ("own", "options"),
    [
        ([Image.new("L", (4, 4), 7)], {}),
        ((np.full((4, 4, 3), 7, np.uint8),), {}),
        (np.full((1, 4, 4, 1), 7, np.uint8), {}),
        ([(Image.new("L", (4, 4), 7), "label")], {}),
        ([[Image.new("L", (4, 4), 7), 3]], {}),
        ([{"image": png(7), "label": 3}], {}),
        ([{"image": png(7), "mask": png(8)}], {"image_column": "image"}),
    ],
    ids=["PIL", "array", "one array", "tuple", "list", "dict", "chosen"],
)
def test_sequences_of_ones_own_are_read(own: object, options: dict[str, str]) -> None:
    """Any sequence of images, or of tuples or dicts that hold one, is a data set that is decoded afresh every time."""
    source = open_source(DataOptions(**options), own)
    assert tones(source) == {"item 0": 7}
    assert source.digest is None


@pytest.mark.parametrize("own", [[Image.new("L", (4, 4), 7)], image_dataset(7)], ids=["list", "Dataset"])
def test_own_data_sets_refuse_a_split(own: object) -> None:
    """A data set given from Python has no splits to choose from, and says so where one is asked for."""
    with pytest.raises(UserError, match="no splits, but --dataset_split asks for 'test'"):
        open_source(DataOptions(dataset_split="test"), own)


@pytest.mark.parametrize("option", ["dataset_config", "dataset_revision"])
@pytest.mark.parametrize("kind", ["folder", "file", "built-in", "own"])
def test_local_data_refuses_options_of_the_hub(kind: str, option: str, tmp_path: Path) -> None:
    """A configuration or a revision, which local data does not have, is refused and not passed over."""
    path = write_zip(tmp_path / "a.zip", [("a.png", png(1))])
    dataset = {"folder": str(tmp_path), "file": str(path), "built-in": "avatars-16", "own": ""}[kind]
    options = DataOptions(dataset=dataset, **{option: "main"})
    with pytest.raises(UserError, match=rf"--{option} 'main' is for data sets of the Hub, but .* is local"):
        open_source(options, None if dataset else [Image.new("L", (4, 4))])


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_plain_images_refuse_a_column(kind: str, tmp_path: Path) -> None:
    """A column, which plain image files do not have, is refused and not passed over."""
    path = write(tmp_path / "a.png", png(1)).parent
    if kind == "zip":
        path = write_zip(tmp_path / "a.zip", [("a.png", png(1))])
    elif kind == "tar":
        path = write_tar(tmp_path / "a.tar", [("a.png", png(1))])
    with pytest.raises(UserError, match=r"no columns, but --image_column asks for 'photo'"):
        open_path(path, image_column="photo")


@pytest.mark.parametrize(
    ("dataset", "hint"),
    [
        ("file:///data/my%20set", "Give the plain path: --dataset '/data/my set'"),
        ("https://example.org/x.zip", "Download it first"),
        ("https://huggingface.co/datasets/some/flowers", "--dataset 'some/flowers'"),
        ("hf://datasets/some/flowers", "--dataset 'some/flowers'"),
    ],
)
def test_addresses_are_refused_with_the_way_on(dataset: str, hint: str) -> None:
    """An address is neither a path nor a name of the Hub, and what to give in its place is said."""
    with pytest.raises(UserError) as error:
        open_source(DataOptions(dataset=dataset))
    assert hint in error.value.hint


@pytest.mark.parametrize(
    "path",
    [
        *("C:\\images", "c:/images", "C://images", "C:images", "\\\\server\\share", "\\images", "images\\train"),
        *("some\\set.zip", "D:\\a.parquet", "/images", "./images", "~/no-such-images"),
    ],
)
def test_a_path_of_any_system_is_never_taken_for_a_name_on_the_hub(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drive letter, a backslash or a slash that leads nowhere is a path that is not there, and nobody is asked."""

    def ask(*_: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("openddpm.data.hub_source.load_from_hub", ask)
    with pytest.raises(UserError, match="no file or folder") as error:
        open_source(DataOptions(dataset=path))
    assert path in error.value.found


def test_names_have_slashes_on_every_system() -> None:
    """What a file is called in its folder, from which classes are told, does not depend on the system."""
    assert name_below(PureWindowsPath("C:\\images\\cats\\a.png"), PureWindowsPath("C:\\images")) == "cats/a.png"
    assert name_below(PurePosixPath("/images/cats/a.png"), PurePosixPath("/images")) == "cats/a.png"


@pytest.mark.parametrize("name", ["a.zip", "a.parquet", "a.arrow", "a.tar", "a.npz", "a.npy"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has no permission to read a file is told so, and not to make or download it again."""
    path = write(tmp_path / name, b"x" * 99)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    for opener in ("zipfile.ZipFile", "pyarrow.parquet.ParquetFile", "datasets.Dataset.from_file"):
        monkeypatch.setattr(opener, refuse)
    with pytest.raises(UserError, match=r"cannot be read: permission denied\nMake it readable"):
        open_path(path)


def test_tensors_are_refused_with_the_way_on() -> None:
    """Tensors of a transform made for another training loop are refused with what to leave out of it."""
    own = image_dataset(1).with_transform(lambda rows: {"pixels": [torch.zeros(3, 4, 4) for _ in rows["image"]]})
    with pytest.raises(UserError, match=r"leave out the transform that makes them"):
        open_source(DataOptions(), own)


def test_own_images_that_fail_to_open_are_refused() -> None:
    """An image of a caller's data set that fails to open is refused, like a damaged file in a folder."""

    class Photos:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Image.Image:
            return Image.open(io.BytesIO([b"torn", png(4)][index]))

    found = tones(open_source(DataOptions(), Photos()))
    assert "cannot identify" in str(found["item 0"])
    assert found["item 1"] == 4


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (iter([1]), "has no length"),
        (image_dataset(1).to_iterable_dataset(), "has no length"),
        (datasets.DatasetDict(train=image_dataset(1), test=image_dataset(2)), "several data sets.*train, test"),
        ([3], "holds int, not images"),
        ([()], "holds tuple, not images"),
        ([{"a": png(1), "b": png(2)}], "several image columns: a, b"),
        ([{"a": 1}], "no image column: its columns are a"),
    ],
    ids=["iterator", "IterableDataset", "DatasetDict", "numbers", "empty tuple", "two images", "no image"],
)
def test_own_data_of_another_kind_is_the_users_error(own: object, found: str) -> None:
    """What is no sequence of images is refused with its type and what to give instead."""
    with pytest.raises(UserError, match=found) as error:
        list(open_source(DataOptions(), own).items())
    assert error.value.hint


def test_digests_change_with_the_files_only(tmp_path: Path) -> None:
    """The digest stays while nothing changes, and differs when a file is touched, added, renamed or resized."""
    first = write(tmp_path / "a.png", png(1))
    os.utime(first, ns=(10**18, 10**18))
    digests = [open_path(tmp_path).digest]
    write(tmp_path / "notes.txt", b"not an image")
    assert open_path(tmp_path).digest == digests[0]
    for change in (
        lambda: os.utime(first, ns=(10**18, 10**18 + 1)),
        lambda: write(tmp_path / "b.png", png(2)),
        lambda: (tmp_path / "b.png").rename(tmp_path / "c.png"),
        lambda: (write(first, png(1) + b"\0"), os.utime(first, ns=(10**18, 10**18 + 1))),
    ):
        change()
        digests.append(open_path(tmp_path).digest)
    assert len(set(digests)) == len(digests)
