"""Labels that sources have: taken where there is one choice, and said where there are several."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from openddpm.config import DataOptions
from openddpm.data.image_source import ImageSource
from openddpm.data.labels import Label
from openddpm.data.sources import open_source
from openddpm.data.user_source import user_source
from picture_files import labels, open_path, png, write, write_parquet, write_tar, write_zip

CLASSES = {"cat/1.png": "cat", "cat/2.png": "cat", "dog/3.png": "dog"}


def lay_out(kind: str, folder: Path, files: dict[str, bytes]) -> Path:
    """Write files as a folder, a zip or a tar."""
    if kind == "zip":
        return write_zip(folder / "set.zip", list(files.items()))
    if kind == "tar":
        folder.mkdir(parents=True, exist_ok=True)
        return write_tar(folder / "set.tar", list(files.items()))
    for name, content in files.items():
        write(folder / "set" / name, content)
    return folder / "set"


def pictures(names: Any) -> dict[str, bytes]:
    """Return image files in different tones."""
    return {name: png(tone) for tone, name in enumerate(names)}


def found(source: ImageSource) -> tuple[dict[str, Label], str, str]:
    """Return labels by path, where they are from, and why there are none."""
    return labels(source), source.labels.origin, source.labels.note


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_subfolders_are_labels(kind: str, tmp_path: Path) -> None:
    """In folders and archives alike, below a folder of the split, and above folders that all classes have."""
    assert found(open_path(lay_out(kind, tmp_path / "a", pictures(CLASSES)))) == (CLASSES, "sub-folders", "")
    deep = {f"train/{name.replace('/', '/images/')}": label for name, label in CLASSES.items()}
    source = open_path(lay_out(kind, tmp_path / "b", pictures([*deep, "test/cat/images/4.png"])))
    assert list(labels(source).values()) == list(deep.values())


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["1.png", "2.png"], ""),
        (["all/1.png", "all/2.png"], ""),
        (["1.png", "dog/2.png", "cat/3.png"], "sub-folders of several depths"),
        (["cat/old/1.png", "cat/young/2.png", "dog/old/3.png"], "sub-folders of several levels"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_subfolders_that_are_no_labels(kind: str, names: list[str], note: str, tmp_path: Path) -> None:
    """One folder tells nothing apart; of several levels or depths none is guessed, and that is said."""
    none, origin, said = found(open_path(lay_out(kind, tmp_path, pictures(names))))
    assert none == dict.fromkeys(names) and not origin
    assert note in said and bool(note) == bool(said)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_metadata_file_says_labels(kind: str, tmp_path: Path) -> None:
    """Its one column of labels wins over sub-folders, images that it does not name have none; numbers stay numbers."""
    names = ["a/1.png", "a/2.png", "b/3.png"]
    table = b"file_name,label,text\na/1.png,x,one\nb/3.png,y,three\n"
    source = open_path(lay_out(kind, tmp_path / "csv", {**pictures(names), "metadata.csv": table}))
    assert list(labels(source).values()) == ["x", None, "y"]
    assert source.labels.origin == "the column of the metadata file 'label'"
    numbers = table.replace(b"x", b"12").replace(b"y", b"7")
    source = open_path(lay_out(kind, tmp_path / "n", {**pictures(names), "metadata.csv": numbers}))
    assert list(labels(source).values()) == [12, None, 7]
    lines = b"".join(json.dumps({"file_name": name, "class": name[0]}).encode() + b"\n" for name in names)
    source = open_path(lay_out(kind, tmp_path / "jsonl", {**pictures(names), "metadata.jsonl": lines}))
    assert list(labels(source).values()) == ["a", "a", "b"]
    several = b"file_name,label,category\na/1.png,x,z\n"
    source = open_path(lay_out(kind, tmp_path / "both", {**pictures(names), "metadata.csv": several}))
    assert set(labels(source).values()) == {None}
    assert "several" in source.labels.note and "(label, category)" in source.labels.note


def test_other_labels_are_another_data_set(tmp_path: Path) -> None:
    """A folder's digest changes with the labels in its metadata file: no stale ones are taken from the store."""
    folder = lay_out("folder", tmp_path, pictures(["1.png", "2.png"]))
    digests = []
    for content in (b"file_name,label\n1.png,x\n", b"file_name,label\n1.png,y\n", b"file_name,text\n1.png,y\n"):
        write(folder / "metadata.csv", content)
        digests.append(open_path(folder).digest)
    assert len({*digests}) == 3


def images(count: int) -> list[Any]:
    """Return cells with images."""
    return [{"bytes": png(tone), "path": None} for tone in range(count)]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": [3, 1, None]}, [3, 1, None]),
        ({"Class": ["cat", "dog", "cat"], "caption": ["a", "b", "c"]}, ["cat", "dog", "cat"]),
        ({"label": [[1], [2], [3]]}, [None] * 3),
        ({"label": [0.5, 0.25, 0.0]}, [None] * 3),
        ({"number": [1, 2, 3]}, [None] * 3),
    ],
)
def test_a_column_called_so_holds_labels(columns: dict[str, list[Any]], expected: list[Label], tmp_path: Path) -> None:
    """One of whole numbers or texts; lists and measures are none, and neither is a column of another name."""
    source = open_path(write_parquet(tmp_path / "a.parquet", image=images(3), **columns))
    assert list(labels(source).values()) == expected
    assert bool(source.labels.origin) == (expected != [None] * 3) and not source.labels.note


def test_several_columns_are_no_choice(tmp_path: Path) -> None:
    """Of two columns that may be labels none is taken, and files of which each has another are said."""
    two = open_path(write_parquet(tmp_path / "a.parquet", image=images(2), label=[1, 2], target=["a", "b"]))
    assert set(labels(two).values()) == {None} and "(label, target)" in two.labels.note
    write_parquet(tmp_path / "set" / "1.parquet", image=images(2), label=[1, 2])
    write_parquet(tmp_path / "set" / "2.parquet", image=images(2), target=[1, 2])
    other = open_path(tmp_path / "set")
    assert set(labels(other).values()) == {None} and "different columns of labels" in other.labels.note


@pytest.mark.parametrize("kind", ["parquet", "arrow", "own"])
def test_class_labels_have_names(kind: str, tmp_path: Path) -> None:
    """A declared column wins over one that is only called so, and lists of images have the label of their row."""
    features = datasets.Features(
        {
            "image": datasets.List(datasets.Image()),
            "animal": datasets.ClassLabel(names=["cat", "dog"]),
            "label": datasets.Value("string"),
        }
    )
    rows = {"image": [images(2), images(1)], "animal": [1, 0], "label": ["x", "y"]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    if kind == "parquet":
        dataset.to_parquet(str(tmp_path / "a.parquet"))
        source = open_path(tmp_path / "a.parquet")
    elif kind == "arrow":
        dataset.save_to_disk(str(tmp_path / "saved"))
        source = open_path(tmp_path / "saved")
    else:
        source = open_source(DataOptions(), dataset)
    assert list(labels(source).values()) == [1, 1, 0]
    assert source.labels.names == ("cat", "dog")
    assert source.labels.origin == "the column 'animal'"


class Pairs(list[Any]):
    """A data set as torchvision has them."""

    classes = ("cat", "dog")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (Pairs([(np.zeros((4, 4), np.uint8), 1), (np.ones((4, 4), np.uint8), np.int64(0))]), [1, 0]),
        ([(np.zeros((4, 4), np.uint8), 1)], [None]),
        ([{"image": np.zeros((4, 4), np.uint8), "label": "x"}], ["x"]),
        ([{"image": np.zeros((4, 4), np.uint8), "label": 1, "class": 2}], [None]),
    ],
)
def test_labels_of_the_callers_own_items(own: Any, expected: list[Label]) -> None:
    """A key that is called so, or the second of a pair where the data set names its classes; no other pairs."""
    assert list(labels(user_source(own, DataOptions())).values()) == expected


def idx(array: np.ndarray) -> bytes:
    """Return an idx file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def test_labels_of_array_files(tmp_path: Path) -> None:
    """Those of an npz file by their names, of the split; of MNIST in the file beside; of CIFAR before each image."""
    stack = np.arange(3 * 16 * 15, dtype=np.uint16).astype(np.uint8).reshape(3, 16, 15)
    digits = np.array([7, 0, 7], np.uint8)
    np.savez(tmp_path / "a.npz", x_train=stack, y_train=digits[:, None], x_test=stack, y_test=digits * 0, scale=digits)
    source = open_path(tmp_path / "a.npz")
    assert list(labels(source).values()) == [7, 0, 7] and source.labels.origin == "the array 'y_train'"
    assert [(one.reason, one.examples) for one in source.left_out if "arrays" in one.reason] == [
        ("other arrays", ["y_test", "scale"])
    ]
    np.savez(tmp_path / "b.npz", images=stack, labels=np.array(["a", "b", "a"]), target=digits)
    assert "(labels, target)" in open_path(tmp_path / "b.npz").labels.note
    write(tmp_path / "mnist" / "train-images-idx3-ubyte", idx(stack))
    packed = write(tmp_path / "mnist" / "train-labels-idx1-ubyte.gz", gzip.compress(idx(digits)))
    for path in (tmp_path / "mnist", tmp_path / "mnist" / "train-images-idx3-ubyte"):
        source = open_path(path)
        assert list(labels(source).values()) == [7, 0, 7] and source.labels.origin == "the files of labels"
        assert not source.left_out
    write(packed, gzip.compress(idx(digits[:2])))
    assert set(labels(open_path(tmp_path / "mnist")).values()) == {None}
    pixels = np.zeros(3072, np.uint8).tobytes()
    ten = open_path(write(tmp_path / "ten" / "data_batch_1.bin", b"".join(bytes([n]) + pixels for n in (9, 3))))
    assert list(labels(ten).values()) == [9, 3] and ten.labels.origin == "the files' labels"
    hundred = open_path(write(tmp_path / "hundred" / "train.bin", (bytes([19, 99]) + pixels) * 2))
    assert set(labels(hundred).values()) == {None} and "several" in hundred.labels.note
