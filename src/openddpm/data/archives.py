"""Rules that zip and tar files share: which members are images, what is left out, and limits for untrusted archives."""

from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath

from openddpm.data.decode import RefusedImage
from openddpm.data.entries import IMAGES, KINDS, Entry, File
from openddpm.data.foreign_files import ARCHIVE_SUFFIXES
from openddpm.data.formats import suffix_of
from openddpm.data.labels import Label, LabelSource
from openddpm.data.listing import Selection, check_no_larger_archives, nothing_to_read
from openddpm.data.metadata_files import described

MAX_SHRINKAGE = 200  # assumed: a page of text in an uncompressed BMP shrinks 100-fold, a photo less than two-fold
HARMLESS_BYTES = 4 * 2**20  # up to this size any shrinkage is allowed: a BMP in one colour shrinks 1,000-fold


def images_of_archive(
    selection: Selection[File],
    where: str,
    num_bytes: Callable[[File], int],
    read: Callable[[File], bytes | RefusedImage],
) -> tuple[list[Entry[File]], list[Label], LabelSource]:
    """Return the images that were selected in an archive with their labels, and count other data as left out.

    Args:
        where: the name of the archive, for messages.
        num_bytes: returns the bytes that a member takes in the archive.
        read: reads a member.

    Raises:
        UserError: there are none, or so few that unopened members may be the data.
    """
    taken = selection.by_kind.get(IMAGES.name, [])
    unread = []
    for kind in KINDS:
        if kind is not IMAGES and (members := selection.by_kind.get(kind.name)):
            reason = f"{kind.noun}s inside an archive are not read; unpack it and give its folder"
            selection.left_out.add(reason, [str(entry.path) for entry in members], is_data=True)
            unread += members
    labels, label_source = described(selection, [entry.path for entry in taken], read)
    if not taken:
        hint = "Unpack it into a folder, and give that as --dataset." if unread else ""
        raise nothing_to_read(f"'{where}'", selection, [IMAGES], hint)
    unread += [entry for entry in selection.others if suffix_of(entry.path.name) in ARCHIVE_SUFFIXES]
    sizes = {str(entry.path): num_bytes(entry.file) for entry in unread}
    check_no_larger_archives(where, sum(num_bytes(entry.file) for entry in [*taken, *selection.other_splits]), sizes)
    return taken, labels, label_source


def member_path(name: str) -> PurePosixPath:
    """Return the path of a member, with forward slashes."""
    return PurePosixPath(name.replace("\\", "/"))


def misplaced(name: str) -> RefusedImage | None:
    """Refuse a name that would lead out of the folder into which the archive is unpacked, on any system."""
    path = PureWindowsPath(name)  # understands both kinds of slashes, and drives
    return RefusedImage("its name leads out of the archive") if path.drive or path.root or ".." in path.parts else None
