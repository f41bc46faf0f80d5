"""The common interface of all sources of images, and functions that they share."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from openddpm.config import DataOptions
from openddpm.data.decode import MAX_ENCODED_BYTES, EncodedImage, RefusedImage
from openddpm.data.formats import LFS_POINTER
from openddpm.data.labels import NO_LABELS, Label, LabelSource
from openddpm.errors import UserError, closest
from openddpm.names import as_text
from openddpm.record.data_record import LeftOut


class Example(NamedTuple):
    """One item of a source."""

    path: str
    """Path or another name."""
    image: EncodedImage
    """Encoded image, or the reason why it cannot be read."""
    label: Label = None


@dataclass(frozen=True)
class ImageSource:
    """A finite sequence of encoded images, which may have labels.

    `digest` changes if images or labels may have changed; None if that is not known. `items` starts from the first
    image at every call.
    """

    name: str
    digest: str | None
    num_items: int
    items: Callable[[], Iterator[Example]]
    revision: str | None = None
    split: str | None = None
    labels: LabelSource = NO_LABELS
    left_out: tuple[LeftOut, ...] = ()
    """What was found but is not among the items, each kind once."""


def with_labels(source: ImageSource, labels: Sequence[Label], origin: LabelSource) -> ImageSource:
    """Return `source` with a label for each of its items, in their order."""

    def items() -> Iterator[Example]:
        for example, label in zip(source.items(), labels, strict=True):
            yield example._replace(label=label)

    digest = source.digest and digest_names(source.digest, [origin.origin, origin.note, *map(str, labels)])
    return replace(source, digest=digest, items=items, labels=origin)


def read_encoded(path: Path) -> bytes | RefusedImage:
    """Return a file's content, or why it cannot be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading from a pipe could wait for ever
            return RefusedImage("no regular file")
        if refusal := too_large(status.st_size):
            return refusal
        with path.open("rb") as file:
            return file.read(status.st_size)  # no more, even if the file grows
    except OSError as error:
        return RefusedImage(f"cannot be read: {error.strerror}")
    except ValueError:
        return RefusedImage("cannot be read: no file can have this name")


def too_large(num_bytes: int) -> RefusedImage | None:
    """Return a refusal if a file is too large to be read into memory."""
    if num_bytes <= MAX_ENCODED_BYTES:
        return None
    return RefusedImage(f"{num_bytes:,} bytes, more than the limit of {MAX_ENCODED_BYTES:,}")


def digest_files(paths: Sequence[Path]) -> str:
    """Return a digest of names, sizes and modification times: quick, and different if a file is."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path.absolute()))
        try:
            status = path.stat()
            digest.update(f" {status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError as error:  # a link to nothing, or a file that was removed since it was listed
            digest.update(f" {error.errno}\n".encode())
    return digest.hexdigest()


def digest_names(digest: str, names: Iterable[str]) -> str:
    """Return a digest of `digest` and the names of what was chosen from its files."""
    parts = (name.encode("utf-8", "surrogatepass") for name in names)
    return hashlib.sha256(b"\0".join([digest.encode(), *parts])).hexdigest()


def check_no_lfs_pointer(path: Path) -> None:
    """Check that a file that cannot be read is not a Git LFS pointer.

    Raises:
        UserError: it is one.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(LFS_POINTER))
    except OSError:
        return
    if head == LFS_POINTER:
        hint = f"Download the files themselves: git -C '{as_text(path.parent)}' lfs pull"
        raise UserError(f"'{as_text(path)}' is a Git LFS pointer in place of the file", hint)


@contextlib.contextmanager
def damage_named(path: Path, found: str = "cannot be read") -> Iterator[None]:
    """Turn any error from reading a damaged file into a UserError with the file's name."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        check_no_lfs_pointer(path)
        check_permitted(path, error)
        reason = f"'{as_text(path)}' {found}: {as_text(str(error) or type(error).__name__)}"
        raise UserError(reason, "Make or download it again.") from error


def check_permitted(path: Path, error: Exception) -> None:
    """Check that an error is not that a file may not be read.

    Raises:
        UserError: it is; making or downloading the file again would not help.
    """
    if isinstance(error, PermissionError):
        hint = f"Make it readable: chmod u+r '{as_text(path)}'; or ask its owner."
        raise UserError(f"'{as_text(path)}' cannot be read: permission denied", hint) from error


def check_no_hub_options(options: DataOptions, where: str, but: str = "") -> None:
    """Check that options for data sets of the Hub are not given for local data.

    Args:
        but: condition under which they could be given, for the message.

    Raises:
        UserError: one is.
    """
    for name in ("dataset_config", "dataset_revision"):
        if (value := getattr(options, name)) is not None:
            found = f"--{name} '{as_text(value)}' is for data sets of the Hub, but {where} is local{but}"
            raise UserError(found, f"Leave --{name} out, or give the name of a data set of the Hub as --dataset.")


def check_no_columns(options: DataOptions, where: str) -> None:
    """Check that no column of a table is requested of plain image files.

    Raises:
        UserError: --image_column is given.
    """
    if options.image_column is not None:
        found = f"{where} holds plain image files, which have no columns, but --image_column asks for"
        raise UserError(f"{found} '{as_text(options.image_column)}'", "Leave --image_column out.")


def choose_column(candidates: list[str], columns: list[str], options: DataOptions) -> str:
    """Return the requested column, or the only one with images.

    Raises:
        UserError: there is no such column, none with images, or several.
    """
    asked = options.image_column
    if asked is not None:
        if asked not in columns:
            raise UserError(f"no column '{as_text(asked)}'", closest(asked, [as_text(name) for name in columns]))
        return asked
    if len(candidates) == 1:
        return candidates[0]
    where = f" in '{as_text(options.dataset)}'" if options.dataset else ""
    if not candidates:
        raise UserError(
            f"no image column{where}: its columns are {as_text(', '.join(columns))}",
            "Give the one with images, if there is one: --image_column NAME.",
        )
    found = f"several image columns{where}: {as_text(', '.join(candidates))}"
    raise UserError(found, "Choose one: --image_column NAME.")
