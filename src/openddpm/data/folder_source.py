"""Folders as data sets: image files, tables, or data sets saved by `datasets`, selected by listing.py."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from openddpm.config import DataOptions
from openddpm.data.array_source import array_source, count_images
from openddpm.data.declared import README, Declared, OddReadmeError, declared_files
from openddpm.data.entries import ARRAYS, ARROW, IMAGES, KINDS, PARQUET, TAR, Entry
from openddpm.data.foreign_files import ARCHIVE_SUFFIXES
from openddpm.data.formats import HEAD_BYTES, suffix_of
from openddpm.data.image_source import (
    Example,
    ImageSource,
    check_no_columns,
    check_no_hub_options,
    check_no_lfs_pointer,
    digest_files,
    digest_names,
    read_encoded,
    with_labels,
)
from openddpm.data.left_out import LeftOutCounts
from openddpm.data.listing import CLEAR_RATIO, Selection, check_no_larger_archives, nothing_to_read, select
from openddpm.data.metadata_files import described
from openddpm.data.saved_source import is_saved, saved_source
from openddpm.data.shards import MISSING, missing_shards
from openddpm.data.splits import DEFAULT_SPLIT, counted
from openddpm.data.tables import arrow_source, count_rows, parquet_source, with_images
from openddpm.data.tar_source import count_images as count_tar_images
from openddpm.data.tar_source import tar_source
from openddpm.errors import UserError
from openddpm.names import as_text, name_below
from openddpm.record.data_record import LeftOut

Open = Callable[[Sequence[Path], DataOptions], ImageSource]
OPENERS: dict[str, Open] = {  # of the kinds in entries.py whose files hold many images
    PARQUET.name: parquet_source,
    ARROW.name: arrow_source,
    TAR.name: tar_source,
    ARRAYS.name: array_source,
}
MAX_FOLDERS = 5  # named in a line
TABLES = (PARQUET.name, ARROW.name)


@dataclass(frozen=True)
class _Candidate:
    """Files of one kind, which may be the data set."""

    noun: str
    paths: list[Path]
    source: ImageSource


def folder_source(folder: Path, options: DataOptions) -> ImageSource:
    """Return the images in a folder and its sub-folders.

    Raises:
        UserError: there are none, it is not clear which of several kinds of data is meant, or a split is missing.
    """
    entries, targets = _walk(folder)
    where = as_text(folder)
    left_out = LeftOutCounts()
    left_out.add("targets of links in the folder", targets, is_data=False)
    declared = _declared(folder, entries, options, left_out)
    selection = select(entries, options.dataset_split, where, _count, declared=declared)
    selection.left_out.extend(left_out.listed())
    unread: list[Path] = []
    candidates = list(_candidates(folder, selection, options, unread))
    if not candidates:
        hint = f"Choose another configuration, or remove 'configs' from {README} to take all files." if declared else ""
        raise nothing_to_read(f"the folder '{where}'", selection, hint=hint)
    _check_archives(where, selection, unread)
    chosen, *rest = sorted(candidates, key=lambda one: -one.source.num_items)
    for other in rest:
        if chosen.source.num_items < CLEAR_RATIO * other.source.num_items:
            raise _ambiguous(folder, chosen, other)
        reason = f"{other.noun}s: the data are {chosen.source.num_items:,} images in {chosen.noun}s"
        names = [name_below(path, folder) for path in other.paths]
        selection.left_out.add(reason, names, is_data=True, count=other.source.num_items)
    is_of_files = chosen.noun == IMAGES.noun
    if is_of_files:
        check_no_columns(options, f"the folder '{where}'")
    images = [entry.path for entry in selection.by_kind[IMAGES.name]] if is_of_files else []
    labels, label_source = described(selection, images, read_encoded)
    source = with_labels(chosen.source, labels, label_source) if is_of_files else chosen.source
    selection.left_out.extend(source.left_out)
    split = as_text(selection.split) if selection.split else source.split
    return replace(source, split=split, left_out=selection.left_out.listed())


def _declared(
    folder: Path, entries: Sequence[Entry[Path]], options: DataOptions, left_out: LeftOutCounts
) -> Declared | None:
    """Return what a README.md in the folder declares, and count as left out what cannot be used of it.

    Raises:
        UserError: --dataset_config is given, but no configurations are declared.
    """
    files = [entry.path for entry in entries if not entry.is_unlisted_folder]
    unlisted = [entry.path for entry in entries if entry.is_unlisted_folder]
    declared = None
    try:
        declared = declared_files(folder, files, unlisted, options.dataset_config, options.dataset_split)
    except OddReadmeError as error:
        left_out.add(f"declarations in {README}, which cannot be read: {error}", [README], is_data=False)
    if declared is not None:
        left_out.add(f"named by {README}, but missing", declared.unmatched, is_data=True)
    else:
        check_no_hub_options(options, f"'{as_text(folder)}'", f", without configurations in a {README}")
    return declared


def _check_archives(where: str, selection: Selection[Path], unread: Sequence[Path]) -> None:
    """Check that archives that are not opened, or cannot be, are not the data: see check_no_larger_archives."""
    archives = [entry.file for entry in selection.others if suffix_of(entry.path.name) in ARCHIVE_SUFFIXES]
    archives += [path for path in unread if TAR.is_one(PurePosixPath(path))]
    if archives:
        for path in archives:
            check_no_lfs_pointer(path)
        not_read = set(unread)
        num_bytes = sum(_size(entry.file) for entry in selection.all_data() if entry.file not in not_read)
        check_no_larger_archives(where, num_bytes, {str(path): _size(path) for path in archives})


def _count(entry: Entry[Path]) -> int:
    """Return the number of images in a file, 1 if that cannot be found quickly."""
    if TAR.is_one(entry.path):
        return count_tar_images(entry.file)
    return count_images(entry.file) if ARRAYS.is_one(entry.path) else count_rows(entry.file)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _walk(folder: Path) -> tuple[list[Entry[Path]], list[str]]:
    """Return the content of a folder and its sub-folders, also linked ones, each folder once, in the order of paths.

    Returns:
        all files, and the folders that cannot be listed; the names of files without a suffix that are left out because
        links in the folder lead to them, as in a cache of the Hub.
    """
    found: list[tuple[PurePosixPath, Path]] = []
    errors: list[OSError] = []
    seen = set()
    for parent, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        real = _real(parent)
        if real in seen:  # circular links
            folders.clear()
            continue
        seen.add(real)
        above = Path(parent)
        below = PurePosixPath(*above.relative_to(folder).parts)
        found += [(below / name, above / name) for name in names]
    linked = {_real(path) for _, path in found if _is_link(path)}
    plain = (path for _, path in found if linked and not suffix_of(path.name))
    targets = {path for path in plain if _real(path) in linked and not _is_link(path)}
    found.sort(key=lambda one: one[0].parts)
    entries = [Entry(below, path, read_head) for below, path in found if not targets or path not in targets]
    unlisted = sorted(Path(os.fsdecode(error.filename or folder)) for error in errors)
    if folder in unlisted:
        raise UserError(f"cannot list '{as_text(folder)}'", "Make it readable.")
    entries += [Entry(PurePosixPath(*path.relative_to(folder).parts), path, read_head, True) for path in unlisted]
    return entries, sorted(name_below(path, folder) for path in targets)


def _is_link(path: Path) -> bool:
    return os.path.islink(path)  # noqa: PTH114 - is_symlink raises PermissionError where a folder may not be entered


def _real(path: str | Path) -> str:
    """Return a path with its links resolved, or the path itself if they may not be read."""
    try:
        return os.path.realpath(path)
    except OSError:  # such as /proc/1/cwd
        return str(Path(path).absolute())


def read_head(path: Path) -> bytes:
    """Return a file's first bytes, none if it is no regular file or cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading from a pipe could wait for ever
            return b""
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError):
        return b""


def _candidates(
    folder: Path, selection: Selection[Path], options: DataOptions, unread: list[Path]
) -> Iterator[_Candidate]:
    """Yield each kind of data in a folder, count tables without images as left out, and add what fails to `unread`."""
    if selection.split is not None:  # the split is already chosen
        options = options.model_copy(update={"dataset_split": DEFAULT_SPLIT})
    present = {kind: [entry.file for entry in selection.by_kind.get(kind.name, [])] for kind in KINDS}
    num_kinds = sum(map(bool, present.values()))
    for kind, paths in present.items():
        if kind is IMAGES:
            if paths:
                yield _Candidate(kind.noun, paths, _image_files(folder, selection, paths))
            continue
        if kind is ARROW and (saved := sorted({path.parent for path in paths if is_saved(path.parent)})):
            paths = [path for path in paths if path.parent not in saved]
            if len(saved) > 1:
                names = ", ".join(name_below(one, folder) for one in saved)
                found = f"'{as_text(folder)}' holds several data sets saved by `datasets`: {names}"
                raise UserError(found, "Give the folder of one of them as --dataset.")
            yield _Candidate("file of a saved data set", saved, saved_source(saved[0], options))
        if paths and kind.name in TABLES:
            paths = _tables_with_images(folder, paths, selection, options, is_only_kind=num_kinds == 1)
        if not paths:
            continue
        try:
            source = OPENERS[kind.name](paths, options)
        except UserError as error:  # such as features or masks beside the data itself
            if num_kinds == 1 or kind.name in TABLES:
                raise
            unreadable = [name_below(path, folder) for path in paths]
            selection.left_out.add(
                f"{kind.noun}s that cannot be read as images: {error.found}", unreadable, is_data=True
            )
            unread += paths
        else:
            if kind.name in TABLES:
                selection.left_out.extend(_joined_folders(folder, paths))
            yield _Candidate(kind.noun, paths, _with_missing_shards(source, paths))


def _tables_with_images(
    folder: Path, paths: list[Path], selection: Selection[Path], options: DataOptions, is_only_kind: bool
) -> list[Path]:
    """Return the tables that have a column of images; all tables if there is nothing else, so that opening fails."""
    holding = with_images(paths, options)
    if not holding and is_only_kind:
        return paths
    others = set(paths).difference(holding)
    names = [name_below(path, folder) for path in paths if path in others]
    selection.left_out.add("tables without a column of images", names, is_data=False)
    return holding


def _joined_folders(folder: Path, paths: Sequence[Path]) -> Iterator[LeftOut]:
    """Yield a note if tables of several folders, which may be separate data sets, are taken together."""
    if len({path.parent for path in paths}) > 1:
        counts: Counter[str] = Counter()
        for path in paths:
            counts[name_below(path.parent, folder)] += count_rows(path)
        shown = counted(dict(list(counts.items())[:MAX_FOLDERS])) + (", ..." if len(counts) > MAX_FOLDERS else "")
        reason = as_text(f"images from {len(counts):,} folders, taken together: {shown}; give one as --dataset to take")
        yield LeftOut(reason=f"{reason} it alone", count=1, is_data=False)


def _with_missing_shards(source: ImageSource, paths: Sequence[Path]) -> ImageSource:
    left_out = LeftOutCounts()
    left_out.extend(source.left_out)
    left_out.add(MISSING, missing_shards(paths), is_data=True)
    return replace(source, left_out=left_out.listed())


def _image_files(folder: Path, selection: Selection[Path], paths: list[Path]) -> ImageSource:
    root = folder / selection.root

    def items() -> Iterator[Example]:
        for path in paths:
            yield Example(name_below(path, root), read_encoded(path))

    digest = digest_names(digest_files(paths), [str(selection.root)])  # names are relative to it
    return ImageSource(as_text(root), digest, len(paths), items)


def _ambiguous(folder: Path, first: _Candidate, second: _Candidate) -> UserError:
    """Return the error that two kinds of data may be meant."""
    kinds = [
        f"{one.source.num_items:,} images in {one.noun}s, such as '{name_below(one.paths[0], folder)}'"
        for one in (first, second)
    ]
    places = [_place(one, other) for one, other in ((first, second), (second, first))]
    options = " or ".join(f"--dataset '{as_text(place)}'" for place in places if place is not None)
    hint = f"Give the one to train on: {options}." if options else "Move one of them to another folder."
    if options and None in places:
        hint += " Or move the other one to another folder."
    return UserError(f"'{as_text(folder)}' holds two kinds of data: {'; '.join(kinds)}", hint)


def _place(one: _Candidate, other: _Candidate) -> Path | None:
    """Return the file or folder that holds `one` and nothing of `other`; None without any."""
    if len(one.paths) == 1 and one.noun != IMAGES.noun:
        return one.paths[0]
    common = Path(os.path.commonpath([path.parent for path in one.paths]))
    return None if any(path.is_relative_to(common) for path in other.paths) else common
