"""Images in a zip file, read without unpacking it, however hostile the archive."""

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath

from openddpm.data.decode import EncodedImage, RefusedImage
from openddpm.data.image_source import ImageSource, digest_files, too_large
from openddpm.errors import UserError
from openddpm.names import as_text

MAX_SHRINKAGE = 200  # assumed: a page of text in an uncompressed BMP shrinks 100-fold, a photo less than two-fold
HARMLESS_BYTES = 4 * 2**20  # may shrink as it likes: an uncompressed BMP in one colour does so 1,000-fold
UNREADABLE = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError)  # what opening a damaged archive raises
KNOWN_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unfolds others past the size that is declared


def zip_source(path: Path, names_image: Callable[[Path], bool]) -> ImageSource:
    """Return the images in a zip file, in the order of their names.

    Args:
        names_image: tells by its name whether a member is meant as an image.

    Raises:
        UserError: it is damaged, its members share their bytes, or none of them is an image.
    """
    with _opened(path) as archive:
        members = [member for member in archive.infolist() if names_image(Path(member.filename))]
    members = sorted((member for member in members if not member.is_dir()), key=lambda member: member.filename)
    if not members:
        raise UserError(f"no images in '{as_text(path)}'", "It takes a zip file with image files in it.")
    if sum(member.compress_size for member in members) > path.stat().st_size:
        found = f"the members of '{as_text(path)}' are larger than the file: they overlap, or their sizes are made up"
        raise UserError(found, "Make or download it again; a file from a stranger may be meant to fill your memory.")

    def items() -> Iterator[tuple[str, EncodedImage]]:
        with _opened(path) as archive:
            for member in members:
                yield as_text(member.filename), read_member(archive, member)

    return ImageSource(as_text(path), digest_files([path]), len(members), items)


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | RefusedImage:
    """Return what a member holds, or why it is not to be read or cannot be."""
    try:
        if refusal := _misplaced(member) or _shrunk_too_far(member) or too_large(member.file_size):
            return refusal
        if member.compress_type not in KNOWN_METHODS:
            return RefusedImage("packed by a method that images are not: only stored and deflated ones are read")
        with archive.open(member) as file:
            return file.read(member.file_size)  # without a size it would unfold all that there is
    except Exception as error:  # encrypted or damaged: every kind of compression has errors of its own
        return RefusedImage(f"cannot be read: {error}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except UNREADABLE as error:
        found = f"'{as_text(path)}' is not a whole zip file: {as_text(str(error))}"
        raise UserError(found, "Make or download it again.") from error
    with archive:
        yield archive


def _misplaced(member: zipfile.ZipInfo) -> RefusedImage | None:
    """Refuse a name that would lead out of the folder where somebody unpacks the archive, on any system."""
    name = PureWindowsPath(member.filename)  # understands both kinds of slashes, and drives
    if name.drive or name.root or ".." in name.parts:
        return RefusedImage("its name leads out of the archive")
    return None


def _shrunk_too_far(member: zipfile.ZipInfo) -> RefusedImage | None:
    if member.file_size <= max(HARMLESS_BYTES, MAX_SHRINKAGE * member.compress_size):
        return None
    return RefusedImage(f"{member.compress_size:,} bytes unfold to {member.file_size:,}, as in no picture")
