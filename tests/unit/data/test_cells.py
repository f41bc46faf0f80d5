import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.cells import ONE_OF_SEVERAL
from openddpm.data.decode import Preprocessing, decode_image
from openddpm.data.image_source import ImageSource
from openddpm.data.sources import open_source
from openddpm.errors import UserError
from picture_files import open_path, png, tones, write_parquet

Opened = Callable[[datasets.Dataset, Path], ImageSource]


def as_own(dataset: datasets.Dataset, folder: Path) -> ImageSource:
    """Open a data set as the caller's own."""
    return open_source(DataOptions(), dataset)


def as_parquet(dataset: datasets.Dataset, folder: Path) -> ImageSource:
    """Open a data set as the parquet file that it is written to."""
    dataset.to_parquet(folder / "a.parquet")
    return open_path(folder / "a.parquet")


def as_arrow(dataset: datasets.Dataset, folder: Path) -> ImageSource:
    """Open a data set as the arrow file that it is saved to."""
    dataset.save_to_disk(folder / "saved")
    (path,) = (folder / "saved").glob("*.arrow")
    return open_path(path)


every_table = pytest.mark.parametrize("opened", [as_own, as_parquet, as_arrow])


def pixels_of(source: ImageSource) -> list[np.ndarray]:
    """Return the images as (H, W, C)."""
    found = [decode_image(encoded, Preprocessing(8, "auto", "white"))[0] for _, encoded, _ in source.items()]
    assert source.num_items == len(found)
    return [pixels.transpose(1, 2, 0) for pixels in found]


def stack(number: int = 3) -> np.ndarray:
    """Return colour images (N, H, W, C)."""
    return np.random.default_rng(0).integers(0, 256, (number, 8, 8, 3), dtype=np.uint8)


@every_table
@pytest.mark.parametrize(
    ("feature", "change"),
    [
        (datasets.Array3D((8, 8, 3), "uint8"), lambda images: images),
        (datasets.Array3D((3, 8, 8), "uint8"), lambda images: images.transpose(0, 3, 1, 2)),
        (datasets.Array2D((8, 8), "uint8"), lambda images: images[..., 0]),
        (datasets.Array3D((8, 8, 3), "int64"), lambda images: images),
        (datasets.List(datasets.List(datasets.List(datasets.Value("int64")))), lambda images: images),
    ],
    ids=["HWC", "CHW", "HW", "int64", "nested lists"],
)
def test_arrays_of_pixels_are_images(
    opened: Opened, feature: object, change: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    """A column of arrays, (H, W), (H, W, C) or (C, H, W), is found by its type, and its images are the arrays'."""
    own = datasets.Dataset.from_dict({"x": change(stack()).tolist()}, features=datasets.Features({"x": feature}))
    expected = stack()[..., :1] if isinstance(feature, datasets.Array2D) else stack()
    np.testing.assert_array_equal(pixels_of(opened(own, tmp_path)), expected)


def test_arrays_that_are_no_pixels_are_refused(tmp_path: Path) -> None:
    """Arrays of real numbers, of too large ones, ragged, with gaps or of unclear axes are refused with the reason."""
    for values, reason in (
        ([[[0.5, 1.0, 0.0]] * 5] * 5, "float64.*numbers from 0 to 1: .*--pixel_range"),
        ([[[-1.0, 1.0, 0.0]] * 5] * 5, "numbers from -1 to 1: .*--pixel_range"),
        ([[[300, 0, 0]] * 5] * 5, "int64.*numbers from 0 to 300: .*--pixel_range"),
        ([[[1, 2, 3]] * 4, [[1, 2, 3]] * 3], "rows of several lengths"),
        ([[[1, 2, None]] * 5] * 5, "with gaps"),
        ([[[1] * 3] * 4] * 3, "not clear which axis holds the channels"),
        ([[[1] * 5] * 4] * 5, "expected .H, W."),
    ):
        (encoded,) = tones(open_path(write_parquet(tmp_path / "a.parquet", x=[values]))).values()
        assert re.search(reason, str(encoded)), encoded


def test_tables_of_numbers_are_no_images(tmp_path: Path) -> None:
    """Boxes and embeddings, lists of lists of numbers, are not taken for images."""
    with pytest.raises(UserError, match=r"no image column.*: its columns are boxes, embedding"):
        open_path(write_parquet(tmp_path / "a.parquet", boxes=[[[1, 2, 3, 4]]], embedding=[[0.5, 1.0]]))


def test_arrays_of_other_numbers_are_scaled_by_a_range(tmp_path: Path) -> None:
    """With --pixel_range each array of a column is scaled by it, one that happens to fit 8 bits too."""
    path = write_parquet(tmp_path / "a.parquet", x=[[[[300, 0, 0]] * 8] * 8, [[[100, 0, 0]] * 8] * 8])
    options = DataOptions(dataset=str(path), pixel_range=(0, 510), resolution=8)
    items = open_source(options).items()
    assert [decode_image(encoded, Preprocessing.of(options)).pixels.max() for _, encoded, _ in items] == [150, 50]


@every_table
def test_each_image_of_a_list_is_an_item(opened: Opened, tmp_path: Path) -> None:
    """Of a column of lists each image is an item of its own, which is said; rows without any are counted."""
    rows = {"images": [[png(1), png(2)], [], [png(3)]]}
    features = datasets.Features({"images": datasets.List(datasets.Image())})
    source = opened(datasets.Dataset.from_dict(rows, features=features), tmp_path)
    assert list(tones(source).values()) == [1, 2, 3]
    changes = [decode_image(encoded, Preprocessing(4, "auto", "white"))[1] for _, encoded, _ in source.items()]
    assert changes == [[ONE_OF_SEVERAL], [ONE_OF_SEVERAL], []]
    (left_out,) = source.left_out
    assert (left_out.count, left_out.examples, left_out.is_data) == (1, ["row 1"], False)


def test_lists_by_others_and_lists_of_arrays_are_read(tmp_path: Path) -> None:
    """Lists of bytes without metadata, and lists of arrays, are lists of images; an image column goes before both."""
    assert list(tones(open_path(write_parquet(tmp_path / "a.parquet", x=[[png(1), png(2)]]))).values()) == [1, 2]
    arrays = write_parquet(tmp_path / "b.parquet", x=[stack(2).tolist(), stack(1).tolist()])
    np.testing.assert_array_equal(pixels_of(open_path(arrays)), [*stack(2), *stack(1)])
    both = write_parquet(tmp_path / "c.parquet", frames=[[png(1), png(2)]], image=[png(7)])
    assert list(tones(open_path(both)).values()) == [7]


@pytest.mark.parametrize("in_list", [False, True])
@pytest.mark.parametrize("opened", [as_parquet, as_arrow])
def test_modes_that_a_file_declares_are_honoured(opened: Opened, in_list: bool, tmp_path: Path) -> None:
    """The Image(mode="L") in a file's metadata, in a list too, makes colour images gray as the caller's rows are."""
    image = datasets.Image(mode="L")
    colour = {"bytes": png_of(stack(1)[0]), "path": None}
    rows = {"image": [[colour] if in_list else colour]}
    own = datasets.Dataset.from_dict(
        rows, features=datasets.Features({"image": datasets.List(image) if in_list else image})
    )
    shown = own[0]["image"][0] if in_list else own[0]["image"]
    np.testing.assert_array_equal(pixels_of(opened(own, tmp_path))[0][..., 0], np.asarray(shown))


def png_of(pixels: np.ndarray) -> bytes:
    """Return a PNG file of (H, W, C) pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("mode", [7, ["L"], {"a": 1}])
def test_modes_that_are_no_text_are_passed_over(mode: object, tmp_path: Path) -> None:
    """Metadata with a mode of another type declares none."""
    metadata = {"info": {"features": {"image": {"_type": "Image", "mode": mode}}}}
    table = pa.table({"image": [png(1)]}).replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert list(tones(open_path(tmp_path / "a.parquet")).values()) == [1]
