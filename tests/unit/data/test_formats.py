import io

import pytest
from PIL import Image

from openddpm.data.formats import HEAD_BYTES, image_suffixes, is_image_head, suffix_of, suffix_of_head, why_left_out


def test_suffixes_are_those_that_pillow_opens() -> None:
    """Every spelling of a format that is opened counts as an image, and formats that are not opened do not."""
    assert {
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".ppm",
    } < image_suffixes()
    assert image_suffixes().isdisjoint({".pdf", ".eps", ".psd", ".mpg", ".h5", ".txt"})


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *(("a.PNG", ".png"), ("noext", ""), (".hidden", ""), ("scan.2024", ""), ("Mr. Smith at sea", ""), ("a.", "")),
        *(("a.b.jpg_large", ".jpg_large"), ("deadbeef.0123456789abcdef", "")),
    ],
)
def test_what_follows_a_dot_is_not_always_a_suffix(name: str, suffix: str) -> None:
    """Years, words and hashes behind a dot are no suffix, so that such files are looked at by their first bytes."""
    assert suffix_of(name) == suffix


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_images_are_known_by_their_first_bytes(kind: str) -> None:
    """The first bytes of an image tell that it is one, whatever its name."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, kind)
    assert is_image_head(buffer.getvalue()[:HEAD_BYTES])


@pytest.mark.parametrize(
    "head",
    [b"", b"P", b"BMW is a maker of cars and so on", b"P3rhaps a text", b"hello", b"%PDF-1.7", b"RIFF    WAVEfmt "],
)
def test_texts_are_no_images(head: bytes) -> None:
    """Texts and other files are no images, though they may begin with the same letters."""
    assert not is_image_head(head)


def test_files_that_need_a_package_name_it() -> None:
    """What Pillow opens only with a plugin says which; by its content too, where its name has no suffix."""
    assert "pip install pillow-heif" in why_left_out(".heic")[0]
    assert "pip install pillow-jxl-plugin" in why_left_out(".jxl")[0]
    assert why_left_out(suffix_of_head(b"\0\0\0\x18ftypheic"))[1]
    assert why_left_out(".txt") == (".txt files", False)
