import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from openddpm.data import zip_source
from openddpm.errors import UserError
from picture_files import open_path, png, tones, write_zip

CENTRAL, LOCAL = b"PK\1\2", b"PK\3\4"  # what headers of members begin with


def test_zips_are_read_without_unpacking(tmp_path: Path) -> None:
    """The images of a zip come in the order of their names; Mac metadata and folders are not images."""
    members = [("b.png", png(1)), ("a/c.png", png(2)), ("__MACOSX/._b.png", b"x"), ("d.png/", b""), ("e.txt", b"")]
    assert tones(open_path(write_zip(tmp_path / "a.zip", members))) == {"a/c.png": 2, "b.png": 1}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
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
    reason = str(tones(open_path(path))["a.png"])
    assert "encrypted: unpack the zip file with its password" in reason and "ZipInfo" not in reason


@pytest.mark.parametrize(
    "name",
    [
        "../a.png",
        "a/../../b.png",
        "/etc/a.png",
        "C:/a.png",
        "C:a.png",
        "..\\a.png",
        "\\a.png",
        "\\\\host\\share\\a.png",
    ],
)
def test_names_that_lead_out_of_a_zip_are_refused(name: str, tmp_path: Path) -> None:
    """A member named like a path outside, on any system, is refused and listed, and nothing is written anywhere."""
    path = write_zip(tmp_path / "a.zip", [(name, png(1)), ("b../c..d.png", png(2))])
    assert tones(open_path(path)) == {name: "its name leads out of the archive", "b../c..d.png": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


def test_odd_zips_are_read_as_what_they_are(tmp_path: Path) -> None:
    """A zip64 member is read, an empty zip has no images, and a zip in a zip is none."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, archive.open("a.png", "w", force_zip64=True) as file:
        file.write(png(3))
    assert tones(open_path(tmp_path / "a.zip")) == {"a.png": 3}
    for members in ([], [("inner.zip", (tmp_path / "a.zip").read_bytes())]):
        with pytest.raises(UserError, match="no images in"):
            open_path(write_zip(tmp_path / "b.zip", members))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99])
def test_other_ways_to_pack_are_refused(method: int, tmp_path: Path) -> None:
    """A member packed by a method that can unfold without bounds, or that nobody knows, is refused, not unpacked."""
    path = write_zip(tmp_path / "a.zip", [("a.png", png(1)), ("b.png", png(2))], zipfile.ZIP_STORED)
    change_headers(path, {"method": method})
    found = tones(open_path(path))
    assert "use deflate" in str(found["a.png"])
    assert found["b.png"] == 2


def change_headers(path: Path, changes: dict[str, int]) -> None:
    """Make the first member's headers say something else."""
    places = {"method": (10, 8, "<H"), "size": (24, 22, "<I"), "packed size": (20, 18, "<I")}
    content = bytearray(path.read_bytes())
    for field, value in changes.items():
        in_central, in_local, kind = places[field]
        struct.pack_into(kind, content, content.index(CENTRAL) + in_central, value)
        struct.pack_into(kind, content, content.index(LOCAL) + in_local, value)
    path.write_bytes(content)


def test_zip_bombs_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that would unfold 1,000-fold is refused by what it declares, without being read."""
    path = write_zip(tmp_path / "a.zip", [("bomb.png", bytes(20_000_000))])

    def read(*_: object) -> None:
        raise AssertionError("unpacked")

    monkeypatch.setattr(zipfile.ZipFile, "open", read)
    assert "decompress to 20,000,000" in str(tones(open_path(path))["bomb.png"])


def test_plain_pictures_are_no_bombs(tmp_path: Path) -> None:
    """An uncompressed picture in one colour, which shrinks 1,000-fold, is read as long as it is small."""
    bitmap = io.BytesIO()
    Image.new("L", (1500, 1500), 7).save(bitmap, "BMP")
    path = write_zip(tmp_path / "a.zip", [("a.bmp", bitmap.getvalue())])
    assert path.stat().st_size * zip_source.MAX_SHRINKAGE < len(bitmap.getvalue())
    assert tones(open_path(path)) == {"a.bmp": 7}


def test_sizes_that_lie_fill_no_memory(tmp_path: Path) -> None:
    """A member that unfolds to more than it declares is refused, and no more of it is unfolded than declared."""
    path = write_zip(tmp_path / "a.zip", [("bomb.png", bytes(100_000_000)), ("b.png", png(2))])
    change_headers(path, {"size": 1000})
    source = open_path(path)
    tracemalloc.start()
    try:
        found = tones(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "CRC" in str(found["bomb.png"]) and found["b.png"] == 2
    assert peak < 10_000_000


def test_members_that_overlap_are_the_users_error(tmp_path: Path) -> None:
    """An archive whose members are larger in sum than the file, since they share their bytes, is not read."""
    path = write_zip(tmp_path / "a.zip", [("a.png", png(1))])
    change_headers(path, {"packed size": 1_000_000})
    with pytest.raises(UserError, match="they overlap"):
        open_path(path)


def test_a_zip_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    """A zip file without a suffix, or under one that nothing else has, is read."""
    for name in ("download", "a.cbz"):
        assert tones(open_path(write_zip(tmp_path / name, [("a.png", png(5))]))) == {"a.png": 5}


def test_a_zip_that_goes_away_is_the_users_error(tmp_path: Path) -> None:
    """An archive that is gone when its images are read is named, and not the cache."""
    path = write_zip(tmp_path / "a.zip", [("a.png", png(1))])
    source = open_path(path)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.zip' is not a whole zip file: .*No such file"):
        tones(source)
