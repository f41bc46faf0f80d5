import gzip
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from openddpm.config import DataOptions
from openddpm.data.decode import Preprocessing, decode_image
from openddpm.data.formats import names_arrays
from openddpm.data.image_source import ImageSource
from openddpm.data.sources import open_source
from openddpm.errors import UserError
from picture_files import open_path, png, write


def stack(number: int = 3, seed: int = 0) -> np.ndarray:
    """Return colour images (N, H, W, C) in uint8."""
    return np.random.default_rng(seed).integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)


def pixels_of(source: ImageSource) -> np.ndarray:
    """Return the images as (N, H, W, C)."""
    found = [decode_image(encoded, Preprocessing(32, "auto", "white"))[0] for _, encoded, _ in source.items()]
    assert source.num_items == len(found)
    return np.stack(found).transpose(0, 2, 3, 1)


def left_out(source: ImageSource) -> list[tuple[str, int]]:
    """Return what a source leaves out: reason and number."""
    assert not any(entry.is_data for entry in source.left_out)
    return [(entry.reason, entry.count) for entry in source.left_out]


def idx(images: np.ndarray, kind: int = 8) -> bytes:
    """Return an idx file."""
    return bytes([0, 0, kind, images.ndim]) + struct.pack(f">{images.ndim}I", *images.shape) + images.tobytes()


def cifar(images: np.ndarray, *labels: int) -> bytes:
    """Return a binary file of CIFAR, of one label an image or two."""
    return b"".join(bytes(labels) + image.transpose(2, 0, 1).tobytes() for image in images)


@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed], ids=["npy", "npz", "compressed"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW", "NHW1", "RGBA"])
def test_arrays_of_each_layout_are_images(save: Callable[..., None], layout: str, tmp_path: Path) -> None:
    """Arrays (N, H, W), (N, H, W, C) and (N, C, H, W) are the images that they hold, to the bit."""
    opaque = np.full((3, 32, 32, 1), 255, np.uint8)
    saved = {
        "NHWC": stack(),
        "NCHW": stack().transpose(0, 3, 1, 2),
        "NHW": stack()[..., 0],
        "NHW1": stack()[..., :1],
        "RGBA": np.concatenate([stack(), opaque], axis=-1),
    }[layout]
    path = tmp_path / f"a.{'npy' if save is np.save else 'npz'}"
    save(path, saved)
    expected = stack()[..., :1] if layout in ("NHW", "NHW1") else stack()
    np.testing.assert_array_equal(pixels_of(open_path(path)), expected)


def test_idx_and_cifar_files_are_images(tmp_path: Path) -> None:
    """MNIST's idx files, packed or not and under any name, and CIFAR's binary files are told by what is in them."""
    gray = stack()[..., 0]
    for name, content, expected in (
        ("train-images-idx3-ubyte", idx(gray), gray[..., None]),
        ("train-images.idx3-ubyte.gz", gzip.compress(idx(gray)), gray[..., None]),
        ("digits", idx(gray), gray[..., None]),
        ("svhn-idx4-ubyte", idx(stack()), stack()),
        ("data_batch_1.bin", cifar(stack(), 9), stack()),
        ("train.bin", cifar(stack(), 19, 99), stack()),
    ):
        path = write(tmp_path / name, content)
        np.testing.assert_array_equal(pixels_of(open_path(path)), expected)
        assert names_arrays(name) == (name != "digits")


def test_other_files_are_no_arrays(tmp_path: Path) -> None:
    """Labels out of their range and damaged files under the names of arrays are not taken for them."""
    for name, content in (
        ("data_batch_1.bin", cifar(stack(), 10)),
        ("train.bin", cifar(stack(), 9)[:-1]),
        ("a-idx3-ubyte", b"\1\2\3\4"),
        ("a-idx3-ubyte.gz", b"\x1f\x8btorn"),
        ("model.bin", cifar(stack(), 10)),
    ):
        with pytest.raises(
            UserError, match=r"no array that can be read|cannot be read|not a data set that can be read"
        ):
            open_path(write(tmp_path / name, content))
    assert not names_arrays("pytorch_model.bin") and not names_arrays("a.png")


def test_of_several_arrays_the_images_are_taken(tmp_path: Path) -> None:
    """Of an npz file the one array of images is taken, or that of the split, and the rest is counted."""
    path, labels = tmp_path / "a.npz", np.zeros(3)
    np.savez(path, images=stack(), labels=labels)
    assert left_out(open_path(path)) == [("other arrays", 1)]
    np.savez(path, x_train=stack(), y_train=labels, x_test=stack(2, seed=1), y_test=labels)
    train, test = open_path(path), open_path(path, dataset_split="test")
    assert (train.split, test.split) == ("train", "test")
    assert train.digest != test.digest
    assert left_out(train) == [("other arrays", 2), ("split 'test': --dataset_split chooses one", 2)]
    np.testing.assert_array_equal(pixels_of(test), stack(2, seed=1))
    with pytest.raises(UserError, match=r"no split 'validation'; its splits are train \(3\), test \(2\)"):
        open_path(path, dataset_split="validation")
    np.savez(path, images=stack(), masks=stack()[..., 0])
    with pytest.raises(UserError, match=r"several arrays.*: images \(3, 32, 32, 3\), masks(.|\n)*--image_column"):
        open_path(path)
    assert pixels_of(open_path(path, image_column="masks")).shape == (3, 32, 32, 1)
    with pytest.raises(UserError, match="no array 'image'\ndid you mean 'images'"):
        open_path(path, image_column="image")
    np.savez(path, images=stack(), names=np.array([{}, None]))
    assert pixels_of(open_path(path)).shape == (3, 32, 32, 3)


def test_files_side_by_side_are_one_set(tmp_path: Path) -> None:
    """Batches follow each other; tests, and compressed copies of files beside them are counted and left out."""
    gray = stack()[..., 0]
    for name, content in (
        ("t10k-images-idx3-ubyte", idx(gray[:2])),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(idx(gray[:2]))),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(2, np.uint8))),
        ("train-images-idx3-ubyte", idx(gray)),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(gray))),
        ("train-labels-idx1-ubyte", idx(np.zeros(3, np.uint8))),
    ):
        write(tmp_path / "mnist" / name, content)
    source = open_path(tmp_path / "mnist")
    np.testing.assert_array_equal(pixels_of(source)[..., 0], gray)
    assert source.split == "train"
    assert left_out(source) == [
        ("split 'test': --dataset_split chooses one", 2),
        ("compressed copies of files beside them", 1),
    ]
    assert source.labels.origin == "the files of labels"
    assert open_path(tmp_path / "mnist", dataset_split="test").num_items == 2
    for seed, name in enumerate(("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin")):
        write(tmp_path / "cifar" / name, cifar(stack(seed=seed), 1))
    np.testing.assert_array_equal(pixels_of(open_path(tmp_path / "cifar")), [*stack(), *stack(seed=1)])
    test = pixels_of(open_path(tmp_path / "cifar", dataset_split="test"))
    np.testing.assert_array_equal(test, stack(seed=2))
    np.testing.assert_array_equal(pixels_of(open_path(tmp_path / "cifar" / "test_batch.bin")), test)


def test_files_of_other_names_are_asked_about(tmp_path: Path) -> None:
    """Images and masks in two files are not made one set; labels, and features beside image files, are left out."""
    for name in ("images.npy", "masks.npy"):
        np.save(tmp_path / name, stack())
    with pytest.raises(UserError, match=r"several array files.*images\.npy \(3, 32, 32, 3\), masks\.npy") as error:
        open_path(tmp_path)
    assert f"--dataset '{tmp_path / 'images.npy'}'" in error.value.hint
    np.save(tmp_path / "masks.npy", np.zeros(3))
    labels = open_path(tmp_path)
    np.testing.assert_array_equal(pixels_of(labels), stack())
    assert left_out(labels) == [("array files of another shape than images: (3,)", 1)]
    np.save(tmp_path / "images.npy", np.zeros((3, 512)))
    write(tmp_path / "a.png", png(1))
    source = open_path(tmp_path)
    assert source.num_items == 1 and sum(one.count for one in source.left_out if one.is_data) == 2


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int64, np.float32, ">i2"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
def test_a_range_makes_other_numbers_pixels(kind: type, layout: str, tmp_path: Path) -> None:
    """With --pixel_range arrays of any numbers are scaled to 8 bits, to the same pixels that uint8 holds."""
    low = 0 if kind is np.uint16 else -100
    saved = (stack().astype(np.int64) * 2 + low).astype(kind)
    arranged = {"NHWC": saved, "NCHW": saved.transpose(0, 3, 1, 2), "NHW": saved[..., 0]}[layout]
    np.save(tmp_path / "a.npy", np.ascontiguousarray(arranged))
    options = DataOptions(dataset=str(tmp_path / "a.npy"), pixel_range=(low, low + 510), resolution=32)
    found = [decode_image(encoded, Preprocessing.of(options)) for _, encoded, _ in open_source(options).items()]
    assert all(one.raw_range for one in found)
    expected = stack() if layout != "NHW" else stack()[..., :1]
    np.testing.assert_array_equal(np.stack([one.pixels.transpose(1, 2, 0) for one in found]), expected)


@pytest.mark.parametrize(
    ("saved", "found"),
    [
        ((stack() / 255).astype(np.float32), r"float32 values from 0.* to 1,(.|\n)*--pixel_range 0 1;"),
        (stack() / 127.5 - 1, r"float64 values from -1 to 1,(.|\n)*--pixel_range -1 1;"),
        (stack().astype(np.uint16) * 257, r"uint16 values from 0 to 65535,(.|\n)*--pixel_range 0 65535;"),
        (stack().astype(np.int64), r"int64 values from 0 to 255,(.|\n)*--pixel_range 0 255;"),
        (stack() > 100, "true and false"),
        (stack() // 128, "only the values 0 and 1, both nearly black"),
        (stack().reshape(3, -1), r"the shape \(3, 3072\)"),
        (stack()[0], "a single image, or 32 gray ones"),
        (np.zeros((9, 3, 24, 3), np.uint8), "not clear which axis holds the channels"),
        (stack()[..., :2], r"the shape \(3, 32, 32, 2\)"),
        (np.asfortranarray(stack()), "Fortran order"),
        (np.array([{"a": 1}]), "a pickle, which is never loaded"),
        (np.zeros(3, [("a", "u1")]), r"the shape \(3,\)"),
        (np.zeros((10**9, 0, 0), np.uint8), r"the shape \(1000000000, 0, 0\)"),
    ],
    ids=[
        *("0..1", "-1..1", "16 bits", "int64", "bool", "binary", "flat", "single", "ambiguous", "two channels"),
        *("Fortran", "object", "record", "no pixels"),
    ],
)
@pytest.mark.parametrize("save", [np.save, np.savez], ids=["npy", "npz"])
def test_arrays_that_are_no_pixels_are_the_users_error(
    save: Callable[..., None], saved: np.ndarray, found: str, tmp_path: Path
) -> None:
    """An array that is not images of 8 bits is refused with what it is and what to store."""
    path = tmp_path / ("a.npy" if save is np.save else "a.npz")
    save(path, saved)
    with pytest.raises(UserError, match=found) as error:
        open_path(path)
    assert error.value.hint


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed.npz", "idx", "idx.gz"])
def test_arrays_cut_anywhere_are_the_users_error(kind: str, tmp_path: Path) -> None:
    """A file cut off at any place, or with more in it than it says, is named, and never read in part."""
    path = tmp_path / f"whole.{kind}"
    if kind == "npy":
        np.save(path, stack())
    elif kind.endswith("npz"):
        (np.savez if kind == "npz" else np.savez_compressed)(path, stack())
    else:
        content = idx(stack()[..., 0])
        path.write_bytes(gzip.compress(content) if kind == "idx.gz" else content)
    content = path.read_bytes()
    bad_ones = [content[:end] for end in range(8, len(content), len(content) // 30)]
    if kind == "idx.gz":
        bad_ones.append(gzip.compress(gzip.decompress(content) + b"\1"))
    elif not kind.endswith("npz"):
        bad_ones.append(content + b"\1")
    for bad in bad_ones:
        bad_path = write(tmp_path / f"bad.{kind}", bad)
        with pytest.raises(UserError, match=rf"bad\.{kind}' (cannot be read|is not a data set)"):
            list(open_path(bad_path).items())


def test_sizes_that_are_made_up_are_the_users_error(tmp_path: Path) -> None:
    """A header that promises what the file cannot hold, or decompresses to more than images do, is refused unread."""
    huge = struct.pack(">2x2B3I", 8, 3, 10**6, 1000, 1000)
    for name, content in (
        ("a-idx3-ubyte", huge + bytes(1000)),
        ("a-idx3-ubyte.gz", gzip.compress(huge + bytes(1000))),
        ("b-idx3-ubyte.gz", gzip.compress(struct.pack(">2x2B3I", 8, 3, 10**4, 32, 32) + bytes(10_240_000))),
    ):
        with pytest.raises(UserError, match=r"cut off|more than images do"):
            open_path(write(tmp_path / name, content))
    np.savez_compressed(tmp_path / "bomb.npz", np.zeros((10_000, 32, 32), np.uint8))
    with pytest.raises(UserError, match="more than images do"):
        open_path(tmp_path / "bomb.npz")
    np.savez(tmp_path / "lie.npz", stack())
    with zipfile.ZipFile(tmp_path / "lie.npz") as archive:
        member = archive.read("arr_0.npy").replace(b"(3, 32,", b"(9, 32,")
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        archive.writestr("arr_0.npy", member)
    with pytest.raises(UserError, match="does not match its shape"):
        open_path(tmp_path / "lie.npz")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *(("a.pkl", "pickle.load"), ("a.pt", "torch.load"), ("a.pth", "torch.load"), ("a.mat", "scipy.io.loadmat")),
        *(("a.h5", "h5py"), ("a.tfrecord", "TFRecordDataset"), ("data.mdb", "lmdb"), ("a.7z", "Unpack")),
        *(("data_batch_1", "cifar-10-binary"), ("a.mp4", "ffmpeg")),
    ],
)
def test_formats_that_are_not_read_are_named_with_the_way_on(name: str, words: str, tmp_path: Path) -> None:
    """A file of a known format that is not read is refused with how to make it one that is; no pickle is loaded."""
    content = b"\x80\x04cos\nsystem\n(S'touch loaded'\ntR."
    with pytest.raises(UserError, match="is not a data set that can be read") as error:
        open_path(write(tmp_path / name, content))
    assert words in error.value.hint
    assert not Path("loaded").exists()


def test_labels_alone_are_the_users_error(tmp_path: Path) -> None:
    """A file of labels, given in place of the images, is named as such."""
    with pytest.raises(UserError, match="holds labels, not images"):
        open_path(write(tmp_path / "train-labels-idx1-ubyte", idx(np.zeros(3, np.uint8))))
