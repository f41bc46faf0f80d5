import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data import image_source
from openddpm.data.decode import EncodedImage, Preprocessing, RefusedImage, decode_image
from openddpm.data.sources import ImageSource, open_source
from openddpm.errors import UserError


def png(tone: int) -> bytes:
    """Return a PNG file in one gray tone."""
    buffer = io.BytesIO()
    Image.new("L", (4, 4), tone).save(buffer, "PNG")
    return buffer.getvalue()


def tone(encoded: EncodedImage) -> int | str:
    """Return the tone of an image in one tone, or why it is refused."""
    try:
        return int(decode_image(encoded, Preprocessing(4, "gray", "white"))[0][0, 0, 0])
    except RefusedImage as refusal:
        return str(refusal)


def tones(source: ImageSource) -> dict[str, int | str]:
    """Return the tone of each item by its path."""
    items = list(source.items())
    assert source.num_items == len(items)
    return {path: tone(encoded) for path, encoded in items}


def write(path: Path, content: bytes) -> Path:
    """Write a file and the folders on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_zip(path: Path, members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip file."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def write_parquet(path: Path, **columns: list[object]) -> Path:
    """Write a parquet file as others than `datasets` do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def image_dataset(*values: int) -> datasets.Dataset:
    """Return a data set of images in one tone each, with labels."""
    rows = {"label": list(values), "image": [{"bytes": png(value), "path": None} for value in values]}
    return datasets.Dataset.from_dict(
        rows, features=datasets.Features({"label": datasets.Value("int64"), "image": datasets.Image()})
    )


def open_path(path: Path | str, **options: str) -> ImageSource:
    """Open what --dataset names."""
    return open_source(DataOptions(dataset=str(path), **options))


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


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda folder: folder, "no images in the folder"),
        (lambda folder: folder / "missing", "no file or folder"),
        (lambda folder: "./missing", "no file or folder"),
        (lambda folder: "missing.parquet", "no file or folder"),
        (lambda folder: write(folder / "list.csv", b"a,b"), "is no data set that can be read"),
        (lambda folder: write(folder / "a.zip", b"PK\3\4 torn"), "is not a whole zip file"),
        (lambda folder: write(folder / "a.parquet", b"PAR1 torn"), "cannot be read"),
        (lambda folder: write(folder / "a.arrow", b"ARROW1 torn"), "cannot be read"),
        (lambda folder: write_zip(folder / "a.ZIP", [("notes.txt", b"")]), "no images in"),
        (lambda folder: "", "no data set is named"),
    ],
    ids=[
        *("empty", "missing", "relative", "missing parquet", "csv"),
        *("torn zip", "torn parquet", "torn arrow", "zip of text", "unnamed"),
    ],
)
def test_what_is_no_data_set_is_the_users_error(make: Callable[[Path], Path | str], found: str, tmp_path: Path) -> None:
    """A path that is missing, empty, damaged or of another kind is a UserError that says so and what to do."""
    with pytest.raises(UserError, match=found) as error:
        open_path(make(tmp_path))
    assert error.value.todo


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


def test_zips_are_read_without_unpacking(tmp_path: Path) -> None:
    """The images of a zip come in the order of their names; Mac metadata and folders are not images."""
    members = [("b.png", png(1)), ("a/c.png", png(2)), ("__MACOSX/._b.png", b"x"), ("d.png/", b""), ("e.txt", b"")]
    assert tones(open_path(write_zip(tmp_path / "a.zip", members))) == {"a/c.png": 2, "b.png": 1}


def test_zip_names_cannot_leave_the_archive(tmp_path: Path) -> None:
    """A member named like a path outside is read as any other, and nothing is written anywhere."""
    path = write_zip(tmp_path / "a.zip", [("../../evil.png", png(1)), ("/etc/evil.png", png(2))])
    assert sorted(tones(open_path(path)).values()) == [1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_zip_members_are_refused(method: int, tmp_path: Path) -> None:
    """A member whose bytes are damaged, by whatever compression, is refused with its path, and the others come."""
    path = write_zip(tmp_path / "a.zip", [("a.png", png(1)), ("bad.png", png(2)), ("c.png", png(3))], method)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("bad.png").header_offset + len("bad.png") + 30
    content = bytearray(path.read_bytes())
    content[start : start + 12] = b"\xff" * 12
    path.write_bytes(content)
    found = tones(open_path(path))
    assert (found["a.png"], found["c.png"]) == (1, 3)
    assert str(found["bad.png"]).startswith("cannot be read: ")


def test_encrypted_zip_members_are_refused(tmp_path: Path) -> None:
    """A member that needs a password is refused with its path and that reason."""
    path = write_zip(tmp_path / "a.zip", [("a.png", png(1))])
    content = bytearray(path.read_bytes())
    for header, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + offset] |= 1
    path.write_bytes(content)
    assert "password" in str(tones(open_path(path))["a.png"])


def test_the_built_in_set_is_the_one_it_says() -> None:
    """avatars-16 opens by its name alone, and is the file whose checksum lies beside it."""
    folder = resources.files("openddpm.data") / "builtin"
    checksum, name = (folder / "SHA256SUMS").read_text().split()
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
    source = open_path("avatars-16")
    pixels, changes = decode_image(next(source.items())[1], Preprocessing(16, "auto", "white"))
    assert source.num_items >= 6000
    assert (pixels.shape, changes) == ((3, 16, 16), [])


def test_parquet_by_others_is_read_by_its_types(tmp_path: Path) -> None:
    """Without metadata the one column of bytes is taken, and rows without bytes are refused."""
    path = write_parquet(tmp_path / "a.parquet", label=[1, 2, 3], jpg=[png(1), None, png(3)])
    found = tones(open_path(path))
    assert found == {"a 0": 1, "a 1": "NoneType in place of an image's bytes", "a 2": 3}


def test_parquet_by_datasets_is_read_by_its_metadata(tmp_path: Path) -> None:
    """With the metadata of `datasets` the image column is taken, though another holds bytes, with the paths inside."""
    rows = {"clip": [b"x", b"y"], "image": [{"bytes": png(1), "path": "one.png"}, {"bytes": png(2), "path": None}]}
    features = datasets.Features({"clip": datasets.Value("binary"), "image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    assert tones(open_path(tmp_path / "a.parquet")) == {"one.png": 1, "a 1": 2}


@pytest.mark.parametrize("wrap", [lambda source: source, datasets.Dataset.from_dict], ids=["parquet", "Dataset"])
def test_columns_are_chosen_by_name(wrap: Callable[..., object], tmp_path: Path) -> None:
    """Of several image columns the choices are listed, a wrong name gets a hint, and a right one is taken."""
    columns = {"photo": [png(1)], "mask": [png(2)], "label": [0]}
    if wrap is datasets.Dataset.from_dict:
        features = {"photo": datasets.Image(), "mask": datasets.Image(), "label": datasets.Value("int64")}
        own = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        dataset = ""
    else:
        own, dataset = None, str(write_parquet(tmp_path / "a.parquet", **columns))

    def source(**options: str) -> ImageSource:
        return open_source(DataOptions(dataset=dataset, **options), own)

    with pytest.raises(UserError, match=r"several image columns.*: photo, mask"):
        source()
    with pytest.raises(UserError, match="no column 'foto'\ndid you mean 'photo'"):
        source(image_column="foto")
    assert list(tones(source(image_column="mask")).values()) == [2]
    assert list(tones(source(image_column="label")).values()) == ["int in place of an image's bytes"]


def test_tables_without_images_are_the_users_error(tmp_path: Path) -> None:
    """Where no column can hold images, the columns that are there are named."""
    with pytest.raises(UserError, match=r"no image column.*label, text"):
        open_path(write_parquet(tmp_path / "a.parquet", label=[1], text=["a"]))
    with pytest.raises(UserError, match="no image column: its columns are label"):
        open_source(DataOptions(), datasets.Dataset.from_dict({"label": [1]}))


def test_parquet_shards_follow_each_other(tmp_path: Path) -> None:
    """A folder of parquet files is one data set in the order of their names."""
    write_parquet(tmp_path / "data" / "train-1.parquet", image=[png(3)])
    write_parquet(tmp_path / "data" / "train-0.parquet", image=[png(1), png(2)])
    assert tones(open_path(tmp_path)) == {"train-0 0": 1, "train-0 1": 2, "train-1 0": 3}


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


def test_parquet_shards_must_agree(tmp_path: Path) -> None:
    """A shard without the image column of the first is named at once, not after hours of decoding."""
    write_parquet(tmp_path / "a.parquet", image=[png(1)])
    write_parquet(tmp_path / "b.parquet", picture=[png(2)])
    with pytest.raises(UserError, match=r"b\.parquet' has no column 'image': its columns are picture"):
        open_path(tmp_path)


def test_parquet_damaged_inside_is_the_users_error(tmp_path: Path) -> None:
    """A parquet file whose pages are damaged is named, and no other folder is blamed."""
    path = write_parquet(tmp_path / "a.parquet", image=[np.random.default_rng(0).bytes(5000) for _ in range(9)])
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet' cannot be read"):
        list(open_path(path).items())


def test_arrow_files_are_read(tmp_path: Path) -> None:
    """A file of `Dataset.save_to_disk` is a data set."""
    image_dataset(5, 6).save_to_disk(tmp_path)
    (path,) = tmp_path.glob("*.arrow")
    assert tones(open_path(path)) == {"row 0": 5, "row 1": 6}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda own: own, [1, 2, 3]),
        (lambda own: own.select([2, 0]), [3, 1]),
        (lambda own: own.filter(lambda row: row["label"] > 1), [2, 3]),
        (lambda own: own.with_format("numpy"), [1, 2, 3]),
        (lambda own: own.cast_column("image", datasets.Image(decode=False)), [1, 2, 3]),
        (lambda own: own.select([]), []),
    ],
    ids=["plain", "select", "filter", "format", "not decoded", "empty"],
)
def test_datasets_of_ones_own_keep_their_rows(
    change: Callable[[datasets.Dataset], datasets.Dataset], expected: list[int]
) -> None:
    """A datasets.Dataset gives just the rows it shows, whatever was selected or set on it, under a digest of them."""
    own = image_dataset(1, 2, 3)
    source = open_source(DataOptions(), change(own))
    assert list(tones(source).values()) == expected
    assert source.digest is not None
    assert (source.digest == open_source(DataOptions(), own).digest) == (change(own)._fingerprint == own._fingerprint)


def test_datasets_that_point_to_files_have_no_digest(tmp_path: Path) -> None:
    """A datasets.Dataset that holds only the paths of images is never taken from the cache: the files may change."""
    path = write(tmp_path / "a.png", png(1))
    own = datasets.Dataset.from_dict({"image": [str(path)]}).cast_column("image", datasets.Image())
    source = open_source(DataOptions(), own)
    assert tones(source) == {str(path): 1}
    assert source.digest is None


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
    assert error.value.todo


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


def test_digests_differ_by_column(tmp_path: Path) -> None:
    """Two columns of one file have digests of their own."""
    path = write_parquet(tmp_path / "a.parquet", photo=[png(1)], mask=[png(2)])
    assert len({open_path(path, image_column=name).digest for name in ("photo", "mask")}) == 2
