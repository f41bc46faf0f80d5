"""What of a folder is trained on, what is not, and what is said of it."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from openddpm.data import folder_source
from openddpm.data.image_source import ImageSource
from openddpm.data.text_heads import TextHeads
from openddpm.errors import UserError
from picture_files import image_dataset, open_path, png, tones, write, write_parquet, write_tar, write_zip

Make = Callable[[Path, dict[str, int]], Path]


def as_folder(path: Path, images: dict[str, int]) -> Path:
    """Write images in one tone each below a folder."""
    for name, tone in images.items():
        write(path / name, png(tone))
    return path


def as_zip(path: Path, images: dict[str, int]) -> Path:
    """Write the same into a zip file."""
    return write_zip(path / "set.zip", [(name, png(tone)) for name, tone in images.items()])


def counts(source: ImageSource) -> dict[str, int]:
    """Return how many were left out, by the first words of the reason."""
    return {one.reason.partition(": ")[0]: one.count for one in source.left_out}


both = pytest.mark.parametrize("make", [as_folder, as_zip])


@both
def test_a_class_called_train_is_a_class(make: Make, tmp_path: Path) -> None:
    """Beside boat/ and car/ a folder train/ is one class of three, and all images are taken."""
    source = open_path(make(tmp_path, {"boat/a.png": 1, "car/a.png": 2, "train/a.png": 3}))
    assert sorted(tones(source).values()) == [1, 2, 3]
    assert source.left_out == ()


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_images_under_the_names_of_texts_are_told(kind: str, tmp_path: Path) -> None:
    """Images that are called .txt or .html are told by their content; of real texts only a few are looked into."""
    names = {"a.png": png(1), **{f"b{n}.txt": png(n) for n in range(70)}, "c.html": png(2), "d.txt": b"P1 of 10"}
    path = tmp_path / "set"
    if kind == "folder":
        for name, content in names.items():
            write(path / name, content)
    elif kind == "zip":
        path = write_zip(tmp_path / "set.zip", list(names.items()))
    else:
        path = write_tar(tmp_path / "set.tar", names.items())
    assert [(one.reason.partition(":")[0], one.count, one.is_data) for one in open_path(path).left_out] == [
        (".txt", 70, True),
        (".html", 1, True),
        (".txt files", 1, False),
    ]
    contents = iter([b"a text"] * 100)
    heads = TextHeads()
    for _ in range(100):
        heads.read(".txt", lambda: next(contents))
    assert len(list(contents)) == 100 - 64


def test_rows_of_a_table_that_is_left_out_are_counted(tmp_path: Path) -> None:
    """A table beside the splits counts as its rows."""
    for name, number in (("train", 2), ("test", 3), ("train_old", 5)):
        write_parquet(tmp_path / f"{name}.parquet", image=[png(n) for n in range(number)])
    assert counts(open_path(tmp_path)) == {"outside the splits": 5, "split 'test'": 3}


@both
@pytest.mark.parametrize("above", ["", "set/"])
@pytest.mark.parametrize("asked", ["val", "valid", "validation", "Val"])
def test_splits_are_found_in_any_spelling(make: Make, above: str, asked: str, tmp_path: Path) -> None:
    """Folders of splits are found in folders and zips, one folder deeper too, by any of their spellings."""
    images = {f"{above}training/boat/a.png": 1, f"{above}training/car/a.png": 2, f"{above}VALID/boat/a.png": 3}
    path = make(tmp_path, images)
    chosen, default = open_path(path, dataset_split=asked), open_path(path)
    assert sorted(tones(chosen).values()) == [3]
    assert sorted(tones(default).values()) == [1, 2]
    assert (chosen.split, default.split) == ("validation", "train")
    assert [(one.count, one.is_data) for one in default.left_out] == [(1, False)]
    assert [(one.count, one.is_data) for one in chosen.left_out] == [(2, False)]
    assert chosen.digest != default.digest


@both
def test_splits_that_are_not_there_are_refused(make: Make, tmp_path: Path) -> None:
    """A split that a source does not have is refused with those that it has, and never replaced by another."""
    path = make(tmp_path, {"test/a.png": 1, "val/a.png": 2, "val/b.png": 3})
    with pytest.raises(UserError, match=r"no split 'train'; its splits are test \(1\), val \(2\)"):
        open_path(path)
    plain = make(tmp_path / "plain", {"a.png": 1})
    with pytest.raises(UserError, match="of the split 'dev'"):
        open_path(plain, dataset_split="dev")


def test_what_lies_beside_the_splits_is_said(tmp_path: Path) -> None:
    """Images that are of no split, where there are splits, may have been meant, and are counted as such."""
    source = open_path(as_folder(tmp_path, {"train/a.png": 1, "test/a.png": 2, "more/a.png": 3, "b.png": 4}))
    assert tones(source) == {"a.png": 1}
    (outside,) = [one for one in source.left_out if one.is_data]
    assert (outside.count, set(outside.examples)) == (2, {"more/a.png", "b.png"})


@pytest.mark.parametrize("make", [lambda path: write_parquet(path, image=[png(1)]), None], ids=["file", "built-in"])
def test_sources_of_one_piece_refuse_another_split(make: Callable[[Path], Path] | None, tmp_path: Path) -> None:
    """A single file and a built-in set refuse a split that they are not, instead of passing over the option."""
    with pytest.raises(UserError, match="--dataset_split asks for 'val'"):
        open_path(make(tmp_path / "a.parquet") if make else "avatars-16", dataset_split="val")


def test_a_file_named_by_its_split_is_that_split(tmp_path: Path) -> None:
    """test-00000.parquet is the split test, and no other."""
    path = write_parquet(tmp_path / "test-00000.parquet", image=[png(1)])
    assert open_path(path, dataset_split="testing").num_items == 1
    with pytest.raises(UserError, match="is the split 'test'"):
        open_path(path, dataset_split="val")


@both
def test_what_systems_leave_is_skipped_and_said(make: Make, tmp_path: Path) -> None:
    """Hidden folders, thumbnails of a NAS and companions of macOS are no data, in folders and zips alike."""
    left = [".ipynb_checkpoints/a.png", "@eaDir/a.png", "__MACOSX/a.png", "x/.cache/a.png", "._a.png", "x/Thumbs.db"]
    source = open_path(make(tmp_path, {"x/a.png": 1, **dict.fromkeys(left, 9)}))
    assert list(tones(source).values()) == [1]
    assert sum(one.count for one in source.left_out) == len(left)
    assert not any(one.is_data for one in source.left_out)


def test_companions_of_tables_are_skipped(tmp_path: Path) -> None:
    """The ._ file that macOS leaves beside a table does not keep the table from being read."""
    write_parquet(tmp_path / "a.parquet", image=[png(1)])
    write(tmp_path / "._a.parquet", b"\0\5\x16\7")
    assert tones(open_path(tmp_path)) == {"a 0": 1}


@both
def test_files_without_a_suffix_are_looked_into(make: Make, tmp_path: Path) -> None:
    """Images without a suffix are taken by their first bytes, and texts without one are counted."""
    path = make(tmp_path, {"a": 1, "b.2024": 2})
    if path.suffix:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("LICENSE", "PX is not a picture")
    else:
        write(path / "LICENSE", b"PX is not a picture")
    source = open_path(path)
    assert tones(source) == {"a": 1, "b.2024": 2}
    assert counts(source) == {"files without a suffix": 1}
    assert [one.is_text for one in source.left_out] == [True]


@both
def test_what_is_passed_over_is_counted_by_suffix(make: Make, tmp_path: Path) -> None:
    """Files that cannot be read are counted by suffix, as data where they may be images, with the way on."""
    source = open_path(make(tmp_path, {"a.png": 1, "b.HEIC": 2, "c.heic": 3, "d.txt": 4, "e.png~": 5}))
    found = {one.reason: (one.count, one.is_data) for one in source.left_out if ".heic" not in one.reason}
    heic = [one for one in source.left_out if "pip install pillow-heif" in one.reason]
    if heic:  # the plugin may be there
        assert [(one.count, one.is_data) for one in heic] == [(2, True)]
    assert found == {
        ".png~: images under the names of other files; rename them": (1, True),
        ".txt: images under the names of other files; rename them": (1, True),
    }


def test_nothing_to_read_says_what_there_is(tmp_path: Path) -> None:
    """Where nothing can be read, the error counts what there is, and says what to do with it."""
    write(tmp_path / "clip.mp4", b"\0\0\0\x18ftypmp42")
    with pytest.raises(UserError, match=r"no images in the folder(.|\n)*1  \.mp4: .*ffmpeg"):
        open_path(tmp_path)
    for name, content in (("inner.zip", b"PK"), ("a.parquet", b"PAR1")):
        with pytest.raises(UserError, match=r"no images in(.|\n)*unpack"):
            open_path(write_zip(tmp_path / "outer.zip", [(name, content)]))


def test_tables_win_over_a_cover_picture(tmp_path: Path) -> None:
    """In a clone of a Hub data set the table is the data, and the picture beside it is left out and said."""
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", image=[png(tone) for tone in range(30)])
    write(tmp_path / "assets" / "cover.png", png(99))
    source = open_path(tmp_path)
    assert sorted(tones(source).values()) == list(range(30))
    assert [(one.count, one.examples, one.is_data) for one in source.left_out] == [(1, ["assets/cover.png"], True)]


def test_images_win_over_tables_without_any(tmp_path: Path) -> None:
    """Image files beside a table of numbers are the data; a table beside one with images is passed over and said."""
    write_parquet(tmp_path / "labels.parquet", label=list(range(90)))
    write_parquet(tmp_path / "tables" / "a.parquet", image=[png(1)])
    write_parquet(tmp_path / "tables" / "a_labels.parquet", label=[1, 2])
    tables = open_path(tmp_path / "tables")
    assert tones(tables) == {"a 0": 1} and counts(tables) == {"tables without a column of images": 1}
    as_folder(tmp_path, {f"{index}.png": index for index in range(5)})
    images = open_path(tmp_path)
    assert len(tones(images)) == 5
    assert counts(images) == {"tables without a column of images": 2, "parquet files": 1}


def test_two_kinds_of_like_size_are_asked_about(tmp_path: Path) -> None:
    """Where images and a table are about as many, neither is taken: both are named, with how to choose."""
    table = write_parquet(tmp_path / "data" / "a.parquet", image=[png(1), png(2)])
    as_folder(tmp_path / "pictures", {"a.png": 3, "b.png": 4})
    with pytest.raises(UserError, match=r"2 images in .*2 images in") as error:
        open_path(tmp_path)
    assert f"--dataset '{table}'" in error.value.hint and f"--dataset '{tmp_path / 'pictures'}'" in error.value.hint


def test_a_damaged_table_is_not_replaced_by_a_picture(tmp_path: Path) -> None:
    """Beside a table that cannot be read, or a Git LFS pointer in its place, the cover picture is not trained on."""
    write(tmp_path / "cover.png", png(1))
    write(tmp_path / "a.parquet", b"PAR1 torn")
    with pytest.raises(UserError, match="cannot be read"):
        open_path(tmp_path)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name in ("a.parquet", "images.zip"):
        write(tmp_path / name, pointer)
        with pytest.raises(UserError, match="is a Git LFS pointer") as error:
            open_path(tmp_path)
        assert "lfs pull" in error.value.hint
        (tmp_path / name).unlink()


@both
def test_a_picture_is_not_taken_for_a_large_archive(make: Make, tmp_path: Path) -> None:
    """Beside an archive that is not opened and far larger, a few pictures are asked about."""
    path = make(tmp_path, {"preview.png": 1})
    if path.suffix:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("images.7z", os.urandom(5000))
    else:
        write(path / "images.7z", os.urandom(5000))
    with pytest.raises(UserError, match=r"images\.7z.*may be the data"):
        open_path(path)


def test_a_picture_is_not_taken_for_a_damaged_tar(tmp_path: Path) -> None:
    """Beside a tar file that cannot be read and is far larger, a few pictures are asked about."""
    write(tmp_path / "preview.png", png(1))
    write(tmp_path / "images.tar", os.urandom(5000))
    with pytest.raises(UserError, match=r"images\.tar.*may be the data"):
        open_path(tmp_path)


@both
def test_pickles_are_named_with_the_way_on(make: Make, tmp_path: Path) -> None:
    """Where there is nothing but pickles, under any name, the error says what they are and what to do."""
    path = make(tmp_path, {})
    if path.suffix:
        write_zip(path, [("data_batch_1", b"\x80\2}q\1.")])
    else:
        write(path / "data_batch_1", b"\x80\2}q\1.")
    with pytest.raises(UserError, match=r"no images in(.|\n)*1  no suffix, .*a pickle, which is never loaded") as error:
        open_path(path)
    assert "cifar-10-binary" in error.value.hint


@pytest.mark.parametrize("mark", ["run.json", "imported.json"])
def test_pictures_of_runs_are_counted(mark: str, tmp_path: Path) -> None:
    """Pictures and other data in the folder of an earlier run are passed over and counted; its other files are not."""
    as_folder(tmp_path, {"a.png": 1, "run/samples/b.png": 2, "run/generated/c.png": 3})
    write(tmp_path / "run" / mark, b"{}")
    write_parquet(tmp_path / "run" / "data.parquet", image=[png(4)] * 9)
    source = open_path(tmp_path)
    assert tones(source) == {"a.png": 1}
    table, pictures = source.left_out
    assert table.reason.startswith("parquet files, by run.json") and table.is_data
    assert (pictures.reason, pictures.count) == ("pictures of an earlier run", 2)


def test_what_links_lead_to_is_not_taken_twice(tmp_path: Path) -> None:
    """In a cache of the Hub, whose links lead to files without a suffix, every image is taken once."""
    write(tmp_path / "blobs" / "0f0f", png(1))
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "a.png").symlink_to("../blobs/0f0f")
    source = open_path(tmp_path)
    assert list(tones(source).values()) == [1]
    assert counts(source) == {"targets of links in the folder": 1}


def test_parts_of_a_table_are_named(tmp_path: Path) -> None:
    """Of a table in several files, given one alone, the others are counted by rows; those that are lost are named."""
    for index in (0, 2):
        write_parquet(tmp_path / f"train-{index:05d}-of-00003.parquet", image=[png(index)] * 4)
    alone = {one.reason[:5]: one for one in open_path(tmp_path / "train-00000-of-00003.parquet").left_out}
    assert (alone["other"].count, alone["other"].examples) == (4, ["train-00002-of-00003.parquet"])
    assert (alone["parts"].count, alone["parts"].examples) == (1, ["train-00001-of-00003.parquet"])
    whole = open_path(tmp_path)
    assert whole.num_items == 8
    assert [(one.count, one.is_data) for one in whole.left_out] == [(1, True)]


def test_arrow_files_of_a_folder_are_one_data_set(tmp_path: Path) -> None:
    """A folder of arrow files is read file after file, and what map and filter cached there is not read."""
    image_dataset(1, 2, 3).save_to_disk(tmp_path / "saved", num_shards=2)
    for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow"):
        write(tmp_path / "plain" / name, (tmp_path / "saved" / name).read_bytes())
    write(tmp_path / "plain" / "cache-0123456789abcdef.arrow", (tmp_path / "saved" / name).read_bytes())
    assert tones(open_path(tmp_path / "plain")) == {"row 0": 1, "row 1": 2, "row 2": 3}


@both
def test_metadata_says_which_images_it_names(make: Make, tmp_path: Path) -> None:
    """All images are taken; how many of them metadata.csv names is said, and what it names that is not there."""
    path = make(tmp_path, {"a.png": 1, "b.png": 2, "c.png": 3})
    content = b"file_name,text\na.png,x\nlost.png,y\nb.png,z\n"
    if path.suffix:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("metadata.csv", content)
    else:
        write(path / "metadata.csv", content)
    source = open_path(path)
    assert len(tones(source)) == 3
    lost, named = source.left_out
    assert (lost.count, lost.examples, lost.is_data) == (1, ["lost.png"], True)
    assert "names 2 of the 3 images" in named.reason and not named.is_data


@both
def test_metadata_of_all_splits_names_no_lost_images(make: Make, tmp_path: Path) -> None:
    """What a metadata file names of another split is there, and captions may hold ends of lines of other kinds."""
    path = make(tmp_path, {"train/a.png": 1, "train/b.png": 2, "test/c.png": 3})
    names = ("train/a.png", "train/b.png", "test/c.png")
    content = "".join(f'{{"file_name": "{name}", "text": "a\u2028b"}}\n' for name in names).encode()
    if path.suffix:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("metadata.jsonl", content)
    else:
        write(path / "metadata.jsonl", content)
    reasons = [one.reason for one in open_path(path).left_out]
    assert len(reasons) == 2 and "names 2 of the 2 images" in "".join(reasons)


def test_names_that_begin_elsewhere_are_decoded_anew(tmp_path: Path) -> None:
    """Once test/ lies beside train/ the same files have other names, which the decoded images' cache must not mix."""
    as_folder(tmp_path, {"train/a.png": 1})
    alone = open_path(tmp_path)
    as_folder(tmp_path, {"test/b.png": 2})
    beside = open_path(tmp_path)
    assert (tones(alone), tones(beside)) == ({"train/a.png": 1}, {"a.png": 1})
    assert alone.digest != beside.digest


def test_damaged_metadata_keeps_no_image_out(tmp_path: Path) -> None:
    """A metadata file that is no table is passed over like any other text."""
    for name, content in (("metadata.jsonl", b"{torn"), ("metadata.csv", b"\xff\0\0")):
        folder = as_folder(tmp_path / name, {"a.png": 1})
        write(folder / name, content)
        assert tones(open_path(folder)) == {"a.png": 1}


def test_every_kind_that_holds_many_images_can_be_opened() -> None:
    """Each kind of data in the table of kinds, but single images, has a way to be opened."""
    names = {kind.name for kind in folder_source.KINDS if kind.is_container}
    assert names == set(folder_source.OPENERS)
