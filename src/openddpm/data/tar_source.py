"""Images in tar files, WebDataset shards among them, read one after the other without unpacking to the disk."""

import bz2
import contextlib
import gzip
import lzma
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from openddpm.config import DataOptions
from openddpm.data.decode import EncodedImage, RefusedImage
from openddpm.data.formats import image_suffixes
from openddpm.data.image_source import ImageSource, choose_column, digest_files, too_large
from openddpm.data.member_splits import group, of_split, split_folder_of, split_in
from openddpm.data.zip_source import HARMLESS_BYTES, MAX_SHRINKAGE
from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.record.schema import LeftOut

SIDE_SUFFIXES = (
    *(".txt", ".json", ".jsonl", ".cls", ".cls2", ".index", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".md"),
    *(".caption", ".html", ".log", ".license"),
)  # what stands beside images: captions, classes, descriptions
MAX_HEADER_BYTES = 2**20  # assumed: of a header with a name in it; tarfile reads one whole, however long it says it is
_UNFOLDING: dict[bytes, Callable[[IO[bytes]], Any]] = {  # by first bytes
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
MAX_ROLES = 8  # assumed: kinds of images in a sample; names with dots in them make more


@dataclass(frozen=True)
class _Member:
    shard: Path
    name: str
    offset: int
    num_bytes: int

    @property
    def role(self) -> str:
        """What follows the first dot of its name: what a WebDataset calls its column."""
        return PurePosixPath(self.name).name.lower().partition(".")[2]

    @property
    def sample(self) -> tuple[Path, str]:
        """What the members of one sample have in common."""
        path = PurePosixPath(self.name)
        return self.shard, str(path.with_name(path.name.partition(".")[0] or path.name))


def tar_source(paths: Sequence[Path], options: DataOptions) -> ImageSource:
    """Return the images in tar files, file after file, in the order in which they lie there.

    Of a WebDataset's samples with several images each, --image_column names the one to take, by its suffix.

    Raises:
        UserError: a file is damaged or unfolds as no images do, or there are no images, or a choice is needed.
    """
    listed: dict[Path, tuple[list[_Member], list[str]]] = {}
    shards, split, left_out = of_split(
        [(path.name, split_in(path.name), path) for path in paths], options.dataset_split, as_text(options.dataset)
    )
    for path in shards:
        with _damage_named(path):
            listed[path] = _list(path)
    members = [member for images, _ in listed.values() for member in images]
    others = [name for _, names in listed.values() for name in names]
    if not members:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in Counter(map(_suffix, others)).most_common(5))
        found = f"no images in '{as_text(shards[0])}'" + (f" and {len(shards) - 1} more" if shards[1:] else "")
        raise UserError(found + (f", but {as_text(kinds)}" if kinds else ""), "It takes tar files of image files.")
    if split is None:
        named = [(member.name, split_folder_of(member.name), member) for member in members]
        members, split, by_folder = of_split(named, options.dataset_split, as_text(options.dataset))
        left_out += by_folder
    members, other_roles = _of_one_role(members, options)
    left_out += other_roles + _left_out(others)

    by_shard: dict[Path, list[_Member]] = {path: [] for path in shards}
    for member in members:
        by_shard[member.shard].append(member)

    def items() -> Iterator[tuple[str, EncodedImage]]:
        for path, of_shard in by_shard.items():
            prefix = f"{path.name}/" if len(shards) > 1 else ""
            with _damage_named(path), _opened(path) as file:
                for member in of_shard:
                    yield as_text(prefix + member.name), _read(file, member)

    return ImageSource(
        as_text(options.dataset),
        digest_files(shards) + (options.image_column or "") + (split or ""),
        len(members),
        items,
        split=split,
        left_out=tuple(left_out),
    )


def _list(path: Path) -> tuple[list[_Member], list[str]]:
    """Return the images in a tar file, and the names of all else that it holds."""
    images, others = [], []
    num_bytes, most = 0, max(HARMLESS_BYTES, MAX_SHRINKAGE * path.stat().st_size)
    with _opened(path) as file, tarfile.open(fileobj=cast(IO[bytes], _ShortReads(file)), mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # or millions of them fill the memory
            num_bytes += member.size
            if num_bytes > most:
                raise UserError(
                    f"'{as_text(path)}' unfolds to more than {most:,} bytes, as no images do",
                    "Make or download it again; an untrusted file may be meant to fill your memory or disk.",
                )
            if member.isdir():
                continue
            if member.isreg() and not member.issparse() and _names_image(member.name):
                images.append(_Member(path, member.name, member.offset_data, member.size))
            else:
                others.append(member.name if member.isreg() else f"{member.name} (a link or a device)")
        _check_end(file, archive.offset)
    return images, others


class _ShortReads:
    """A file for `tarfile`, which reads whatever length a header demands in one go: none but short ones are given."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, num_bytes: int = -1) -> bytes:
        if not 0 <= num_bytes <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {num_bytes:,} bytes")
        return self._file.read(num_bytes)


def _check_end(file: IO[bytes], offset: int) -> None:
    """Check that nothing follows the last member: `tarfile` takes a damaged header for the end, without a word."""
    file.seek(offset)
    while block := file.read(MAX_HEADER_BYTES):
        if block.strip(b"\0"):
            raise tarfile.ReadError(
                "what follows its last whole member is no member: damaged, or several tar files behind each other"
            )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a tar file, unfolding it if it is compressed, by its first bytes."""
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        start = file.read(6)
        file.seek(0)
        for magic, unfold in _UNFOLDING.items():
            if start.startswith(magic):
                file = stack.enter_context(unfold(file))
        yield file


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what a damaged archive raises, of any kind of compression, into one message with its name."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = f"'{as_text(path)}' is not a whole tar file: {as_text(str(error))}"
        raise UserError(found, "Make or download it again.") from error


def _read(file: IO[bytes], member: _Member) -> bytes | RefusedImage:
    if refusal := _misplaced(member.name) or too_large(member.num_bytes):
        return refusal
    file.seek(member.offset)
    content = file.read(member.num_bytes)
    return content if len(content) == member.num_bytes else RefusedImage("cut off")


def _misplaced(name: str) -> RefusedImage | None:
    """Refuse a name that would lead out of the folder where somebody unpacks the archive, on any system."""
    path = PureWindowsPath(name)  # understands both kinds of slashes, and drives
    return RefusedImage("its name leads out of the archive") if path.drive or path.root or ".." in path.parts else None


def _names_image(name: str) -> bool:
    return _suffix(name) in image_suffixes() and (_misplaced(name) is not None or not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    """Whether a system left it there: ._a.png, .thumbnails/a.png, __MACOSX/a.png, @eaDir/a.png."""
    parts = [part for part in PurePosixPath(name).parts if part not in (".", "..")]
    return any(part.startswith(".") or part in ("__MACOSX", "@eaDir") for part in parts)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower() or "no suffix"


def _of_one_role(members: list[_Member], options: DataOptions) -> tuple[list[_Member], list[LeftOut]]:
    """Return one image of each sample; all images where each has one, under whatever suffix."""
    roles = sorted({member.role for member in members})
    has_choice = len({member.sample for member in members}) < len(members) and 1 < len(roles) <= MAX_ROLES
    if not has_choice and options.image_column is None:
        return members, []
    role = choose_column(roles, roles, options)
    others = [
        group(f"other images of the samples: {as_text(other)}", [m.name for m in members if m.role == other], False)
        for other in roles
        if other != role
    ]
    return [member for member in members if member.role == role], others


def _left_out(names: list[str]) -> list[LeftOut]:
    """Return what is not among the images, by suffix, the commonest first."""
    hidden = [name for name in names if _is_hidden(name)]
    by_suffix: dict[str, list[str]] = {}
    for name in names:
        if not _is_hidden(name):
            by_suffix.setdefault(_suffix(name.partition(" (a link")[0]), []).append(name)
    found = [
        group(as_text(suffix), own, suffix not in SIDE_SUFFIXES)
        for suffix, own in sorted(by_suffix.items(), key=lambda item: -len(item[1]))
    ]
    return found + ([group("hidden, or left by a system", hidden, False)] if hidden else [])
