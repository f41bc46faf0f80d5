import pytest

from openddpm.data.splits import named_in, split_of, splits_among


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "test"], {"train": "train", "test": "test"}),
        (["Training", "VAL", "extra"], {"Training": "train", "VAL": "validation"}),
        (["train2017", "val2017"], {"train2017": "train", "val2017": "validation"}),
        (["seg_train", "seg_test", "seg_pred"], {"seg_train": "train", "seg_test": "test"}),
        (["trainA", "trainB", "testA"], {"trainA": "train", "testA": "test"}),
        (
            ["train-00000-of-00002", "dev-00000-of-00001"],
            {"train-00000-of-00002": "train", "dev-00000-of-00001": "dev"},
        ),
        (["train-images-idx3", "t10k-images-idx3"], {"train-images-idx3": "train", "t10k-images-idx3": "test"}),
        (["data_batch_1", "test_batch"], {"data_batch_1": "train", "test_batch": "test"}),
        (["train", "eval"], {"train": "train", "eval": "evaluation"}),
        (["boat", "car", "train"], {}),
        (["data", "test"], {}),
        (["train", "training"], {}),
        (["train", "trainer", "rain", "contest"], {}),
        (["train_station", "test_tube"], {}),
        (["train-00000", "train_labels"], {}),
        (["train-test", "val"], {}),
    ],
)
def test_a_name_is_a_split_only_beside_its_like(names: list[str], expected: dict[str, str]) -> None:
    """Names are splits where two of them differ by the split alone, in any spelling; a class called train is none."""
    assert splits_among(names) == expected


def test_spellings_of_a_split_are_one() -> None:
    """val, valid and validation are one split, training and train another, and other names stand for themselves."""
    assert {split_of(name) for name in ("val", "Valid", "VALIDATION")} == {"validation"}
    assert {split_of(name) for name in ("train", "Training")} == {"train"}
    assert split_of("unlabeled") == "unlabeled"
    assert (named_in("test-00000-of-00001"), named_in("photos"), named_in("train-test")) == ("test", None, None)
