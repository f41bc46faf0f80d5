"""Images in tar files, including WebDataset shards, read one after the other without unpacking to the disk."""

import bz2
import contextlib
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from openddpm.config import DataOptions
from openddpm.data.archives import (
    HARMLESS_BYTES,
    MAX_SHRINKAGE,
    images_of_archive,
    member_path,
    misplaced,
)
from openddpm.data.decode import RefusedImage
from openddpm.data.entries import Entry
from openddpm.data.formats import HEAD_BYTES, TEXT_SUFFIXES, image_suffixes, suffix_of
from openddpm.data.image_source import (
    Example,
    ImageSource,
    check_no_columns,
    choose_column,
    damage_named,
    digest_files,
    digest_names,
    too_large,
    with_labels,
)
from openddpm.data.left_out import LeftOutCounts
from openddpm.data.listing import num_images, select
from openddpm.data.splits import named_in
from openddpm.data.text_heads import TextHeads
from openddpm.errors import UserError
from openddpm.names import as_text

MAX_HEADER_BYTES = 2**20  # assumed, for a header with a name; tarfile reads one whole, of any length that it declares
_DECOMPRESSION: dict[bytes, Callable[[IO[bytes]], Any]] = {  # by first bytes
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
NO_END = "the end of the tar file is missing: it may be cut off; make or download it again"
MAX_ROLES = 8  # assumed: images per sample; more suffixes come from dots in names


@dataclass(frozen=True, slots=True)
class _Member:
    shard: Path
    name: str
    offset: int
    num_bytes: int
    head: bytes = b""
    """Its first bytes, if its suffix does not tell what it is."""

    @property
    def role(self) -> str:
        """Return the part of its name after the first dot, which is the column of a WebDataset."""
        return PurePosixPath(self.name).name.lower().partition(".")[2]

    @property
    def sample(self) -> tuple[Path, str]:
        """Return what the members of one sample have in common: the shard, and the name up to its first dot."""
        path = PurePosixPath(self.name)
        return self.shard, str(path.with_name(path.name.partition(".")[0] or path.name))


def tar_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    """Return the images in tar files, file after file, in the order of each file.

    They are selected as in folders. If a WebDataset's samples have several images each, --image_column names the
    suffix of the one to take.

    Raises:
        UserError: a file is damaged or expands too much, there are no images, or a choice is needed.
    """
    entries: list[Entry[_Member]] = []
    links: list[str] = []
    without_end: list[str] = []
    for path in paths:
        with damage_named(path, "is not a whole tar file"):
            found, has_end = _list(path, links)
        entries += found
        without_end += [] if has_end else [path.name]
    where = as_text(paths[0] if len(paths) == 1 else options.dataset)
    own_split = named_in(paths[0].name) if len(paths) == 1 else None
    selection = select(entries, options.dataset_split, where, own_split=own_split)
    selection.left_out.add("links and devices in the archive, which are not followed", links, is_data=True)
    selection.left_out.add(NO_END, without_end, is_data=True)
    taken, labels, label_source = images_of_archive(selection, where, lambda member: member.num_bytes, _read_alone)
    label_of = dict(zip((entry.file for entry in taken), labels, strict=True))
    members = _of_one_role([entry.file for entry in taken], options, selection.left_out)
    by_shard: dict[Path, list[_Member]] = {path: [] for path in paths}
    for member in members:
        by_shard[member.shard].append(member)

    def items() -> Iterator[Example]:
        for path, of_shard in by_shard.items():
            prefix = f"{path.name}/" if len(paths) > 1 else ""
            with damage_named(path, "is not a whole tar file"), _opened(path) as file:
                for member in of_shard:
                    yield Example(as_text(prefix + member.name), _read(file, member))

    source = ImageSource(
        as_text(options.dataset),
        digest_names(digest_files(paths), (member.name for member in members)),
        len(members),
        items,
        split=as_text(selection.split) if selection.split else None,
        left_out=selection.left_out.listed(),
    )
    ordered = [label_of[member] for of_shard in by_shard.values() for member in of_shard]
    return with_labels(source, ordered, label_source)


def count_images(path: Path) -> int:
    """Return the number of images in a tar file, 1 if that is not known without decompressing it."""
    try:
        with path.open("rb") as file:
            is_compressed = file.read(6).startswith(tuple(_DECOMPRESSION))
        return 1 if is_compressed else num_images(_list(path, [])[0])
    except Exception:  # damaged; opening it as data says how
        return 1


def _list(path: Path, links: list[str]) -> tuple[list[Entry[_Member]], bool]:
    """Return the files in a tar file, and whether its end is there; add names of links and devices to `links`."""
    found = []
    most = max(HARMLESS_BYTES, MAX_SHRINKAGE * path.stat().st_size)
    texts = TextHeads()
    with _opened(path) as file, tarfile.open(fileobj=cast(IO[bytes], _ShortReads(file)), mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else millions of them could fill the memory
            if archive.offset > most:  # position of the next header
                raise UserError(
                    f"'{as_text(path)}' decompresses to more than {most:,} bytes, more than images do",
                    "Make or download it again; an untrusted file may be meant to fill your memory or disk.",
                )
            if member.isreg() and not member.issparse():
                found.append(_entry(file, _Member(path, member.name, member.offset_data, member.size), texts))
            elif not member.isdir():
                links.append(member.name)
        has_end = _has_end(file, archive.offset)
    return found, has_end


def _entry(file: IO[bytes], member: _Member, texts: TextHeads) -> Entry[_Member]:
    """Return a member, with its first bytes if its suffix does not tell what it is: they cannot be read later."""
    path = member_path(member.name)
    suffix = suffix_of(path.name)

    def read_head() -> bytes:
        file.seek(member.offset)
        return file.read(min(HEAD_BYTES, member.num_bytes))

    if suffix not in image_suffixes() and not misplaced(member.name):
        member = replace(member, head=texts.read(suffix, read_head) if suffix in TEXT_SUFFIXES else read_head())
    return Entry(path, member, lambda member: member.head)


class _ShortReads:
    """A file for `tarfile` that refuses long reads, since `tarfile` reads whatever length a header declares."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, num_bytes: int = -1) -> bytes:
        if not 0 <= num_bytes <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {num_bytes:,} bytes")
        return self._file.read(num_bytes)


def _has_end(file: IO[bytes], offset: int) -> bool:
    """Return whether zeros follow the last member, as at the end of every tar file that is not cut off.

    Raises:
        ReadError: something else follows it: `tarfile` silently takes a damaged header for the end.
    """
    file.seek(offset)
    num_zeros = 0
    while block := file.read(MAX_HEADER_BYTES):
        if block.strip(b"\0"):
            raise tarfile.ReadError(
                "unknown data follow its last whole member: it is damaged, or several tar files in one"
            )
        num_zeros += len(block)
    return num_zeros >= tarfile.BLOCKSIZE  # the format asks for two of them, but some programs write one


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a tar file, and decompress it if its first bytes say that it is compressed."""
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        start = file.read(6)
        file.seek(0)
        for magic, decompressed in _DECOMPRESSION.items():
            if start.startswith(magic):
                file = stack.enter_context(decompressed(file))
        yield file


def _read(file: IO[bytes], member: _Member) -> bytes | RefusedImage:
    if refusal := misplaced(member.name) or too_large(member.num_bytes):
        return refusal
    file.seek(member.offset)
    content = file.read(member.num_bytes)
    return content if len(content) == member.num_bytes else RefusedImage("cut off")


def _read_alone(member: _Member) -> bytes | RefusedImage:
    with damage_named(member.shard, "is not a whole tar file"), _opened(member.shard) as file:
        return _read(file, member)


def _of_one_role(members: list[_Member], options: DataOptions, left_out: LeftOutCounts) -> list[_Member]:
    """Return one image of each sample; all images if each sample has one, under any suffix."""
    roles = sorted({member.role for member in members})
    has_choice = len({member.sample for member in members}) < len(members) and 1 < len(roles) <= MAX_ROLES
    if not has_choice:
        if options.image_column not in roles:
            check_no_columns(options, f"'{as_text(options.dataset)}'")
        if options.image_column is None:
            return members
    role = choose_column(roles, roles, options)
    for other in roles:
        if other != role:
            names = [member.name for member in members if member.role == other]
            left_out.add(f"other images of the samples: {other}", names, is_data=False)
    return [member for member in members if member.role == role]
