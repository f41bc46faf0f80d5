"""Images in a zip file, which may be untrusted, read without unpacking it."""

import contextlib
import functools
import zipfile
from collections.abc import Iterator
from pathlib import Path

from openddpm.config import DataOptions
from openddpm.data.archives import HARMLESS_BYTES, MAX_SHRINKAGE, images_of_archive, member_path, misplaced
from openddpm.data.decode import RefusedImage
from openddpm.data.entries import Entry
from openddpm.data.formats import HEAD_BYTES
from openddpm.data.image_source import (
    Example,
    ImageSource,
    check_no_columns,
    check_no_lfs_pointer,
    check_permitted,
    digest_files,
    digest_names,
    too_large,
    with_labels,
)
from openddpm.data.listing import select
from openddpm.data.splits import named_in
from openddpm.errors import UserError
from openddpm.names import as_text

ZIP_START = b"PK\3\4"
UNREADABLE = (zipfile.BadZipFile, OSError, ValueError, NotImplementedError)  # errors on opening a damaged archive
ENCRYPTED = 1  # bit of a member's flags
KNOWN_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile decompresses others beyond the declared size


def zip_source(path: Path, options: DataOptions) -> ImageSource:
    """Return the images in a zip file, in the order of their names, selected as in folders.

    Raises:
        UserError: it is damaged, its members overlap, none of them is an image, or a split is missing.
    """
    where = as_text(path)
    with _opened(path) as archive:
        members = sorted((one for one in archive.infolist() if not one.is_dir()), key=lambda one: one.filename)
        head_of = functools.partial(_read_head, archive)
        entries = [Entry(member_path(one.filename), one, head_of) for one in members]
        selection = select(entries, options.dataset_split, where, own_split=named_in(path.name))
        taken, labels, label_source = images_of_archive(
            selection, where, lambda member: member.compress_size, lambda member: read_member(archive, member)
        )
    check_no_columns(options, f"'{where}'")
    if sum(entry.file.compress_size for entry in taken) > path.stat().st_size:
        found = f"the members of '{where}' are larger than the file: they overlap, or their sizes are false"
        raise UserError(found, "Make or download it again; an untrusted file may be meant to fill your memory.")

    def items() -> Iterator[Example]:
        with _opened(path) as archive:
            for entry in taken:
                yield Example(as_text(entry.file.filename), read_member(archive, entry.file))

    source = ImageSource(
        name=where,
        digest=digest_names(digest_files([path]), (entry.file.filename for entry in taken)),
        num_items=len(taken),
        items=items,
        split=as_text(selection.split) if selection.split else None,
        left_out=selection.left_out.listed(),
    )
    return with_labels(source, labels, label_source)


def _read_head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the first bytes of a member, none if it may not or cannot be read."""
    try:
        if misplaced(member.filename) or member.compress_type not in KNOWN_METHODS:
            return b""
        with archive.open(member) as file:
            return file.read(HEAD_BYTES)
    except Exception:  # as in read_member
        return b""


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | RefusedImage:
    """Return a member's content, or why it may not or cannot be read."""
    try:
        if refusal := misplaced(member.filename) or _expands_too_much(member) or too_large(member.file_size):
            return refusal
        if member.compress_type not in KNOWN_METHODS:
            return RefusedImage(
                "compressed by a method that is not read: unpack the zip file and give the folder, or use deflate"
            )
        if member.flag_bits & ENCRYPTED:
            return RefusedImage("encrypted: unpack the zip file with its password, and give the folder as --dataset")
        with archive.open(member) as file:
            return file.read(member.file_size)  # no more than declared
    except Exception as error:  # damaged: every kind of compression has its own errors
        return RefusedImage(f"cannot be read: {error}")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except UNREADABLE as error:
        check_no_lfs_pointer(path)
        check_permitted(path, error)
        found = f"'{as_text(path)}' is not a whole zip file: {as_text(str(error))}"
        raise UserError(found, "Make or download it again.") from error
    with archive:
        yield archive


def _expands_too_much(member: zipfile.ZipInfo) -> RefusedImage | None:
    if member.file_size <= max(HARMLESS_BYTES, MAX_SHRINKAGE * member.compress_size):
        return None
    return RefusedImage(f"{member.compress_size:,} bytes decompress to {member.file_size:,}, more than an image does")
