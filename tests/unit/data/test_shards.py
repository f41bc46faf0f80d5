"""Which parts of a data set are missing, by the numbers in the names of those that are there."""

from pathlib import Path

import numpy as np
import pytest

from openddpm.data.shards import missing_shards
from picture_files import open_path


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["train-000000.tar", "train-000001.tar", "train-000003.tar"], ["train-000002.tar"]),
        (["a-0.tar.bz2", "a-2.tar.bz2"], ["a-1.tar.bz2"]),
        (["0-idx3-ubyte.gz", "2-idx3-ubyte.gz"], ["1-idx3-ubyte.gz"]),
        (["x_1.npy", "x_3.npy", "y_2.npy"], ["x_2.npy"]),
        (["data_batch_1.bin", "data_batch_2.bin", "data_batch_4.bin"], ["data_batch_3.bin"]),
        (["8.tar", "9.tar", "11.tar"], ["10.tar"]),
        (["a-00000-of-00003.parquet", "a-00002-of-00003.parquet"], ["a-00001-of-00003.parquet"]),
        (["a-1.npy", "a-2.npy", "b-7.npy"], []),
        (["set-2012.tar", "set-2014.tar"], []),
        (["20240101.tar", "20240305.tar"], []),
        (["a.npy", "b.npy", f"{'9' * 40}.npy", "1.npy"], []),
    ],
)
def test_gaps_in_numbers_are_named(names: list[str], missing: list[str], tmp_path: Path) -> None:
    """A number that is left out between equal names is a missing part; years, dates and other names are no numbers."""
    assert missing_shards([tmp_path / name for name in names]) == missing


def test_a_missing_file_of_arrays_is_told(tmp_path: Path) -> None:
    """A folder of numbered arrays with a gap is read, and the part that is not there is said to be none."""
    for number in (0, 2):
        np.save(tmp_path / f"images-{number}.npy", np.full((2, 8, 8), 9 + number, np.uint8))
    source = open_path(tmp_path)
    (found,) = source.left_out
    assert (source.num_items, found.examples, found.is_data) == (4, ["images-1.npy"], True)
