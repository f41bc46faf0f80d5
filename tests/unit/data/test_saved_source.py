"""Folders of `datasets.save_to_disk`, whole and damaged."""

import json
from pathlib import Path

import datasets
import pytest

from openddpm.errors import UserError
from picture_files import image_dataset, open_path, png, tones, write


@pytest.mark.parametrize("named", ["set", ""], ids=["its folder", "the folder above"])
def test_a_saved_data_set_is_read_whole(named: str, tmp_path: Path) -> None:
    """All shards of a saved Dataset are read, by its folder or the one above."""
    image_dataset(1, 2, 3, 4).save_to_disk(tmp_path / "set", num_shards=3)
    source = open_path(tmp_path / named)
    assert list(tones(source).values()) == [1, 2, 3, 4]
    assert source.digest


@pytest.mark.parametrize("named", ["set", ""], ids=["its folder", "the folder above"])
def test_a_saved_dict_gives_the_split_asked_for(named: str, tmp_path: Path) -> None:
    """Of a saved DatasetDict one split is read, whatever the splits are called, and the others are counted by rows."""
    splits = {"train": image_dataset(1, 2), "test": image_dataset(3), "unlabeled": image_dataset(4, 5, 6)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    for split, expected in (("train", [1, 2]), ("testing", [3]), ("unlabeled", [4, 5, 6])):
        source = open_path(tmp_path / named, dataset_split=split)
        assert list(tones(source).values()) == expected
        others = {one.reason: one.count for one in source.left_out if one.reason.startswith("split")}
        assert sum(others.values()) == 6 - len(expected)
    with pytest.raises(UserError, match=r"no split 'val'; its splits are test \(1\), train \(2\), unlabeled \(3\)"):
        open_path(tmp_path / named, dataset_split="val")


def test_several_saved_sets_are_asked_about(tmp_path: Path) -> None:
    """Two saved sets that are no splits of one are named, and neither is taken."""
    for name in ("cats", "dogs"):
        image_dataset(1).save_to_disk(tmp_path / name)
    with pytest.raises(UserError, match=r"several data sets .*: cats, dogs"):
        open_path(tmp_path)


def test_a_saved_set_with_a_lost_shard_is_refused(tmp_path: Path) -> None:
    """Where a shard is gone, the rest is not taken for the whole."""
    image_dataset(1, 2, 3).save_to_disk(tmp_path, num_shards=3)
    (tmp_path / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(UserError, match=r"incomplete: 'data-00001-of-00003\.arrow' is missing"):
        open_path(tmp_path)


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/secret.arrow", "sub/secret.arrow", 7])
def test_a_saved_set_names_files_of_its_folder_only(name: object, tmp_path: Path) -> None:
    """A state file from a stranger that names a table elsewhere is refused, and that table is not read."""
    image_dataset(9).save_to_disk(tmp_path / "elsewhere")
    image_dataset(1).save_to_disk(tmp_path / "set")
    write(tmp_path / "secret.arrow", next((tmp_path / "elsewhere").glob("*.arrow")).read_bytes())
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    state["_data_files"] = [{"filename": name}]
    (tmp_path / "set" / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"cannot be read: .*outside its folder"):
        open_path(tmp_path / "set")


@pytest.mark.parametrize("content", ["{torn", "[]", "{}", '{"_data_files": [{}]}'])
def test_damaged_state_is_the_users_error(content: str, tmp_path: Path) -> None:
    """A saved set whose state file is damaged is named as unreadable."""
    image_dataset(1).save_to_disk(tmp_path)
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read"):
        open_path(tmp_path)


def test_the_digest_follows_the_shards(tmp_path: Path) -> None:
    """Saved again with other images, a set has another digest."""
    image_dataset(1, 2).save_to_disk(tmp_path / "a")
    first = open_path(tmp_path / "a").digest
    image_dataset(1, 3).save_to_disk(tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        write(tmp_path / "a" / path.name, path.read_bytes())
    assert open_path(tmp_path / "a").digest != first
    assert png(1) != png(3)
