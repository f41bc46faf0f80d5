import gzip
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from openddpm.config import DataOptions
from openddpm.data.decode import RefusedImage
from openddpm.data.tar_source import NO_END, tar_source
from openddpm.errors import UserError
from picture_files import open_path, png, tones, write, write_tar


def left_out(path: Path, **options: str) -> list[tuple[str, int, bool]]:
    """Return what the source leaves out: reason, number, whether it may be images that were meant."""
    return [(entry.reason, entry.count, entry.is_data) for entry in open_path(path, **options).left_out]


SAMPLES = [
    (f"{n:06d}{suffix}", png(n) if suffix == ".PNG" else b"{}") for n in range(3) for suffix in (".PNG", ".json")
]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_shards_are_read_packed_or_not(mode: str, tmp_path: Path) -> None:
    """The images of a WebDataset shard come in their order, by whatever it is packed, and the rest is counted."""
    path = write_tar(tmp_path / f"a.tar{mode[1:].replace(':', '.')}", SAMPLES, mode)
    assert list(tones(open_path(path)).items()) == [(f"{n:06d}.PNG", n) for n in range(3)]
    assert left_out(path) == [(".json files", 3, False)]


def test_what_is_no_image_is_counted_by_kind(tmp_path: Path) -> None:
    """Members that may be images in another format, captions, links and what a system left are told apart."""
    names = ["a.tga", "b.tga", "c.txt", "._a.png", "x/.thumbnails/a.png", "LICENSE", "a.npy"]
    images = [("a.png", png(1)), ("noext", png(2))]
    path = write_tar(tmp_path / "a.tar", [*images, *((name, b"x") for name in names)])
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert tones(open_path(path)) == {"a.png": 1, "noext": 2}
    assert left_out(path) == [
        (".tga: a format that is not read; convert it to PNG", 2, True),
        ("array files inside an archive are not read; unpack it and give its folder", 1, True),
        ("links and devices in the archive, which are not followed", 1, True),
        *((".txt files", 1, False), ("files without a suffix", 1, False)),
        ("hidden or system files: ._* files", 1, False),
        ("hidden or system files: folder .thumbnails", 1, False),
    ]


def test_several_images_a_sample_need_a_choice(tmp_path: Path) -> None:
    """Where samples have several images, the suffixes to choose from are named, and the chosen one is taken."""
    pairs = [(f"{n}.{role}", png(n + at)) for n in range(3) for at, role in ((0, "png"), (10, "mask.png"))]
    path = write_tar(tmp_path / "a.tar", pairs)
    with pytest.raises(UserError, match=r"several image columns.*: mask\.png, png\nChoose one: --image_column"):
        open_path(path)
    assert list(tones(open_path(path, image_column="mask.png")).values()) == [10, 11, 12]
    assert left_out(path, image_column="png") == [("other images of the samples: mask.png", 3, False)]
    mixed = write_tar(tmp_path / "b.tar", [("a.png", png(1)), ("b.v2.png", png(2)), ("c.bmp", png(3))])
    assert list(tones(open_path(mixed)).values()) == [1, 2, 3]


@pytest.mark.parametrize("where", ["folders", "shards"])
def test_splits_in_tars_are_kept_apart(where: str, tmp_path: Path) -> None:
    """Folders train/ and test/ in a tar, or shards of these names, are splits; what they leave out is counted."""
    members = {
        split: [(f"set/{split if where == 'folders' else 'x'}/{n}.png", png(n + at)) for n in range(3)]
        for at, split in ((0, "train"), (9, "val"))
    }
    path = tmp_path
    if where == "folders":
        path = write_tar(tmp_path / "a.tar", [*members["train"], *members["val"]])
    else:
        for split in members:
            write_tar(tmp_path / f"{split}-0.tar", members[split])

    def opened(split: str) -> tuple[list[int | str], list[int]]:
        source = open_path(path, dataset_split=split)
        assert all(entry.reason.startswith("split '") for entry in source.left_out)
        return list(tones(source).values()), [entry.count for entry in source.left_out]

    assert opened("train") == ([0, 1, 2], [3])
    assert opened("validation") == opened("val") == ([9, 10, 11], [3])
    with pytest.raises(UserError, match=r"no split 'test'; its splits are train .*, val"):
        opened("test")
    alone = write_tar(tmp_path / "alone.tar", [("train/a.png", png(1)), ("car/b.png", png(2))])
    assert list(tones(open_path(alone)).values()) == [1, 2]
    named = write_tar(tmp_path / "val-00.tar", [("a.png", png(1))])
    assert open_path(named, dataset_split="valid").num_items == 1


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_without_its_end_is_told(mode: str, tmp_path: Path) -> None:
    """A tar cut off between two members, before it was packed or never packed, is read, and told to have no end."""
    images = [(f"{n}.png", png(n)) for n in range(4)]
    whole = write_tar(tmp_path / "whole.tar", images).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as archive:
        cut = whole[: archive.getmembers()[2].offset]
    path = write(tmp_path / "cut.tar", gzip.compress(cut) if mode == "w:gz" else cut)
    assert list(tones(open_path(path)).values()) == [0, 1]
    assert left_out(path) == [(NO_END, 1, True)]
    path.write_bytes(cut + bytes(512))  # as some programs end them
    assert left_out(path) == []


def test_images_of_a_tar_that_is_left_out_are_counted(tmp_path: Path) -> None:
    """A tar beside the split counts as its images: not as one, nor with what is no image."""
    write_tar(tmp_path / "train.tar", [("a.png", png(1))])
    write_tar(tmp_path / "val.tar", [*((f"{n}.png", png(n)) for n in range(4)), ("a.txt", b"x"), ("._a.png", b"x")])
    (found,) = left_out(tmp_path)
    assert found[0].startswith("split 'val") and found[1] == 4


def test_splits_inside_the_only_tar_of_a_folder_can_be_chosen(tmp_path: Path) -> None:
    """A folder that holds nothing but a tar file with splits in it has these splits."""
    write_tar(tmp_path / "a.tar", [("train/a.png", png(1)), ("val/a.png", png(2))])
    assert list(tones(open_path(tmp_path, dataset_split="validation")).values()) == [2]
    assert list(tones(open_path(tmp_path)).values()) == [1]


def test_shards_follow_each_other(tmp_path: Path) -> None:
    """The images of several shards come shard after shard, named after them."""
    paths = [write_tar(tmp_path / f"{n}.tar", [("a.png", png(n))]) for n in (2, 1)]
    source = tar_source(paths, DataOptions(dataset="shards"))
    assert list(tones(source).items()) == [("2.tar/a.png", 2), ("1.tar/a.png", 1)]
    assert source.digest != tar_source(paths[:1], DataOptions()).digest


@pytest.mark.parametrize("name", ["../a.png", "a/../../b.png", "/etc/a.png", "C:/a.png", "..\\a.png"])
def test_names_that_lead_out_of_a_tar_are_refused(name: str, tmp_path: Path) -> None:
    """A member named like a path outside, on any system, is refused and listed, and nothing is written anywhere."""
    path = write_tar(tmp_path / "a.tar", [(name, png(1)), ("./b../c..d.png", png(2))])
    assert tones(open_path(path)) == {name: "its name leads out of the archive", "./b../c..d.png": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_damaged_tars_are_the_users_error(mode: str, tmp_path: Path) -> None:
    """A tar cut anywhere, damaged in a header, or followed by another is never read as the part that is whole."""
    whole = write_tar(tmp_path / "whole.tar", [(f"{n}.png", png(n)) for n in range(4)], mode)
    content = whole.read_bytes()
    damaged = [content[:end] for end in range(0, len(content) - 1100, max(1, len(content) // 40))]
    if mode == "w":
        with tarfile.open(whole) as archive:
            offset = archive.getmembers()[2].offset
        damaged = [content[:end] for end in range(0, offset + 600, 97)]
        damaged += [content[:offset] + b"\xff" * 512 + content[offset + 512 :], content + content]
    for bad in damaged:
        path = tmp_path / "bad.tar"
        path.write_bytes(bad)
        if len(bad) % 512 == 0 and bad and bad == content[: len(bad)]:
            continue  # a cut between two members is the end of a tar without its padding
        with pytest.raises(UserError, match=r"bad\.tar' is not a whole tar file"):
            list(open_path(path).items())


def test_packed_bombs_are_refused_unread(tmp_path: Path) -> None:
    """Tars that unfold as no images do, in a member or in a header that tarfile would read whole, fill no memory."""
    bomb = write_tar(tmp_path / "bomb.tar.gz", [("a.png", bytes(9_000_000))], "w:gz")
    header = tmp_path / "header.tar.gz"
    with tarfile.open(header, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 9_000_000}) as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    for path, found in ((bomb, "decompresses to more than"), (header, "a header of 9,")):
        tracemalloc.start()
        try:
            with pytest.raises(UserError, match=found):
                open_path(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 5_000_000


def test_headers_count_as_what_a_tar_unfolds_to(tmp_path: Path) -> None:
    """A packed tar of empty members, whose headers alone would fill the memory, is refused."""
    path = write_tar(tmp_path / "a.tar.bz2", [("a.png", b"")] * 20_000, "w:bz2")
    with pytest.raises(UserError, match="decompresses to more than"):
        open_path(path)


def test_members_too_large_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member larger than any image is refused by its size, and the others come."""
    path = write_tar(tmp_path / "a.tar", [("a.png", png(1) + bytes(500)), ("b.png", png(2))])
    monkeypatch.setattr("openddpm.data.image_source.MAX_ENCODED_BYTES", 500)
    found = {example.path: example.image for example in open_path(path).items()}
    assert "more than the limit" in str(found["a.png"]) and isinstance(found["a.png"], RefusedImage)
    assert found["b.png"] == png(2)


def test_tars_without_images_are_the_users_error(tmp_path: Path) -> None:
    """Where no member is an image, the kinds of members are named."""
    path = write_tar(tmp_path / "a.tar", [("a.npy", b""), ("b.npy", b""), ("c.txt", b"")])
    with pytest.raises(UserError, match=r"no images in .*a\.tar'; it holds\n  2  array files(.|\n)*Unpack"):
        open_path(path)
