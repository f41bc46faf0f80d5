"""Selection of the data among the files of a folder or an archive."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Generic, NamedTuple

from openddpm.data import splits
from openddpm.data.declared import Declared
from openddpm.data.entries import IMAGES, KINDS, Entry, File, Kind, kind_of, named_kind
from openddpm.data.formats import (
    TEXT_SUFFIXES,
    foreign_format,
    image_suffixes,
    is_image_head,
    suffix_of,
    suffix_of_head,
    why_left_out,
)
from openddpm.data.left_out import LeftOutCounts
from openddpm.data.text_heads import TextHeads
from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.record.writer import IMPORTED_FILE, RUN_FILE

SAVED_DICT_FILE = "dataset_dict.json"  # of datasets.DatasetDict.save_to_disk: every sub-folder is a split
CLEAR_RATIO = 5  # assumed: of two kinds of data, the one that is so many times as large is meant
METADATA_NAMES = ("metadata.csv", "metadata.jsonl")  # as the `datasets` library has them beside images

_DATASETS_CACHE = re.compile(r"cache-[0-9a-f]{16}.*\.arrow")  # results of map and filter beside a data set
_SYSTEM_NAMES = frozenset(
    ("@eadir", "__macosx", "thumbs.db", "desktop.ini", "lost+found", "$recycle.bin", "#recycle", "#snapshot")
    + ("system volume information", "__pycache__")
)


class _Place(NamedTuple):
    """The split of a file, and where its name was found."""

    split: str
    folder: PurePosixPath | None
    """The folder with the split's name; None if it is in the file's own name."""

    @property
    def shown(self) -> str:
        """Return the split as the folder spells it."""
        return self.folder.name if self.folder else self.split


@dataclass
class Selection(Generic[File]):
    """The data of a folder or archive: the files of each kind in the order of their paths."""

    by_kind: dict[str, list[Entry[File]]] = field(default_factory=dict)
    others: list[Entry[File]] = field(default_factory=list)
    """Files that are no data of a known kind; counted as left out, except METADATA_NAMES."""
    other_splits: list[Entry[File]] = field(default_factory=list)
    """Data of splits that were not requested; counted as left out."""
    left_out: LeftOutCounts = field(default_factory=LeftOutCounts)
    split: str | None = None
    """The chosen split, if there are splits."""
    root: PurePosixPath = field(default_factory=PurePosixPath)
    """The folder of that split, if it has just one."""
    text_heads: TextHeads = field(default_factory=TextHeads)

    def all_data(self) -> list[Entry[File]]:
        """Return the data of every kind and split."""
        return [entry for entries in self.by_kind.values() for entry in entries] + self.other_splits


def select(
    entries: Sequence[Entry[File]],
    asked_split: str,
    where: str,
    count_images: Callable[[Entry[File]], int] = lambda entry: 1,
    own_split: str | None = None,
    declared: Declared | None = None,
) -> Selection[File]:
    """Select the data among all files of a folder or an archive.

    Args:
        entries: all files, in the order of their paths.
        asked_split: the value of --dataset_split.
        where: the name of the folder or archive, for messages.
        count_images: returns the number of images in a file of another split, or of none.
        own_split: the split in the name of an archive, which counts if it holds no splits.
        declared: the files of each split, if a README.md declares them.

    Raises:
        UserError: there is no such split, or a folder of it cannot be listed.
    """
    selection: Selection[File] = Selection()
    kinds = {entry: kind_of(entry) for entry in _visible(entries, selection.left_out)}
    unlisted = [entry for entry in kinds if entry.is_unlisted_folder]
    if declared is not None:
        kinds = _within(kinds, declared, selection.left_out, count_images)
    if declared is not None and declared.split is not None:
        chosen: str | None = declared.split
        places = {entry: _Place(declared.places[entry.path], None) for entry in kinds if entry.path in declared.places}
    else:
        places = _splits(kinds)
        chosen = _choose_split(asked_split, places, kinds, where, count_images, own_split)
    has_splits = any(kinds[entry] for entry in places)
    by_other_split: dict[str, list[Entry[File]]] = defaultdict(list)
    folders: set[PurePosixPath | None] = set()
    within = [entry for entry in unlisted if entry in kinds]
    if needed := [one for one in within if chosen is None or (one in places and places[one].split == chosen)]:
        raise cannot_list(where, needed)
    names = [str(entry.path) for entry in unlisted]
    selection.left_out.add("folders outside the split that cannot be listed", names, is_data=False)
    for entry, kind in kinds.items():
        place = places.get(entry)
        if entry.is_unlisted_folder:
            continue
        if chosen is None or (place is not None and place.split == chosen):
            folders.add(place.folder if place else None)
            if kind is not None:
                selection.by_kind.setdefault(kind.name, []).append(entry)
            else:
                _leave_out(entry, selection)
        elif place is not None:
            by_other_split[place.shown] += [entry] if kind else []
        elif kind:
            reason = "outside the splits" if has_splits else f"not in --dataset_split {asked_split}"
            selection.left_out.add(reason, [str(entry.path)], is_data=has_splits, count=count_images(entry))
        else:
            _leave_out(entry, selection)
    for split, members in by_other_split.items():
        names = [str(entry.path) for entry in members]
        count = sum(map(count_images, members))
        selection.left_out.add(f"split '{split}': --dataset_split chooses one", names, is_data=False, count=count)
        selection.other_splits += members
    selection.split = chosen
    if chosen is not None and len(folders) == 1:
        selection.root = folders.pop() or selection.root
    return selection


def nothing_to_read(where: str, selection: Selection[File], kinds: Sequence[Kind] = KINDS, hint: str = "") -> UserError:
    """Return the error of a source without images, with what it holds instead and what to do.

    Args:
        kinds: the kinds of data that were looked for.
        hint: what to do, if known.
    """
    held = f"; it holds{summary}" if (summary := selection.left_out.summary()) else ""
    formats = (foreign_format(entry.path.name, entry.read_head) for entry in selection.others)
    hints = [hint] if hint else list(dict.fromkeys(one.hint for one in formats if one))
    looked_for = f"{', '.join(f'{kind.noun}s' for kind in kinds)} ({' '.join(sorted(image_suffixes()))})"
    return UserError(f"no images in {where}{held}", " ".join(hints) or f"Looked in all sub-folders for {looked_for}.")


def cannot_list(where: str, unlisted: Sequence[Entry[File]]) -> UserError:
    """Return the error of folders that cannot be listed, and may hold many images, such as a whole class."""
    others = f" and {len(unlisted) - 1:,} more" if len(unlisted) > 1 else ""
    return UserError(
        f"cannot list the folder '{as_text(str(unlisted[0].path))}'{others} in '{where}', so all images in it would be "
        "missing",
        "Make it readable (chmod u+rx, or ask its owner), move it out, or give another folder as --dataset.",
    )


def check_no_larger_archives(where: str, num_bytes: int, archives: Mapping[str, int]) -> None:
    """Check that the selected images are not merely examples of the data in unopened archives beside them.

    Args:
        num_bytes: size of the images, of all splits.
        archives: bytes of each archive, by name.

    Raises:
        UserError: an archive is CLEAR_RATIO times as large as all images.
    """
    name = max(archives, key=lambda name: archives[name], default=None)
    if name is not None and archives[name] > CLEAR_RATIO * num_bytes:
        found = f"'{where}' holds images of {num_bytes:,} bytes beside '{as_text(name)}' of {archives[name]:,} bytes, "
        hint = "Unpack it and give its folder as --dataset, or give a folder with the images alone."
        raise UserError(f"{found}which is not opened and may be the data", hint)


def num_images(entries: Sequence[Entry[File]]) -> int:
    """Return the number of image files, without hidden ones and those of a system."""
    return sum(kind_of(entry) is IMAGES for entry in _visible(entries, LeftOutCounts()))


def _visible(entries: Sequence[Entry[File]], left_out: LeftOutCounts) -> Iterator[Entry[File]]:
    """Yield files that are neither hidden, nor of a system, nor part of a run's folder; count the others."""
    runs = {entry.path.parent for entry in entries if entry.path.name in (RUN_FILE, IMPORTED_FILE)}
    for entry in entries:
        hidden = next((part for part in entry.path.parts if _is_hidden(part)), None)
        if hidden is not None:
            is_folder = hidden != entry.path.name or entry.is_unlisted_folder
            what = f"folder {hidden}" if is_folder else "._* files" if hidden.startswith("._") else "files"
            left_out.add(f"hidden or system files: {what}", [str(entry.path)], is_data=False)
        elif runs and not runs.isdisjoint(entry.path.parents):
            if kind := named_kind(entry.path):
                what = "pictures" if kind is IMAGES else f"{kind.noun}s, by {RUN_FILE} beside or above them,"
                left_out.add(f"{what} of an earlier run", [str(entry.path)], is_data=kind is not IMAGES)
        elif _DATASETS_CACHE.fullmatch(entry.path.name):
            left_out.add("caches of the `datasets` library", [str(entry.path)], is_data=False)
        else:
            yield entry


def _within(
    kinds: Mapping[Entry[File], Kind | None],
    declared: Declared,
    left_out: LeftOutCounts,
    count_images: Callable[[Entry[File]], int],
) -> dict[Entry[File], Kind | None]:
    """Return the declared files, with those that are no data in any case, and count the others."""
    within: dict[Entry[File], Kind | None] = {}
    for entry, kind in kinds.items():
        if entry.path in declared.places or not (kind or entry.is_unlisted_folder):
            within[entry] = kind
        elif kind:
            other = declared.outside.get(entry.path)
            reason = "not among the files that README.md declares"
            if other is not None:
                reason = f"configuration '{other}': --dataset_config chooses one"
            left_out.add(reason, [str(entry.path)], is_data=other is None, count=count_images(entry))
    return within


def _is_hidden(part: str) -> bool:
    return (part.startswith(".") and part != "..") or part.lower() in _SYSTEM_NAMES


def _leave_out(entry: Entry[File], selection: Selection[File]) -> None:
    """Count a file that is of no kind that is read."""
    suffix = suffix_of(entry.path.name)
    reason, is_data = why_left_out(suffix)
    is_text = suffix in TEXT_SUFFIXES
    head = b""
    if not is_data:
        head = selection.text_heads.read(suffix, entry.read_head) if is_text else entry.read_head()
    if is_image_head(head):
        reason, is_data = f"{suffix}: images under the names of other files; rename them", True
        is_text = False
    elif not suffix and (by_content := suffix_of_head(head)):
        reason, is_data = why_left_out(by_content)
        reason = f"no suffix, but by their content {reason}"
    elif not suffix:
        is_text = b"\0" not in head
        reason += "" if is_text else " that are not text"
    selection.others.append(entry)
    if entry.path.name not in METADATA_NAMES:
        selection.left_out.add(reason, [str(entry.path)], is_data, is_text=is_text)


def _splits(kinds: Mapping[Entry[File], Kind | None]) -> dict[Entry[File], _Place]:
    """Return the split of each file that is in one, by its folders' names, or its own if it holds many images."""
    all_folders: set[tuple[PurePosixPath, ...]] = set()
    subfolders: dict[PurePosixPath, set[str]] = defaultdict(set)
    siblings: dict[tuple[PurePosixPath, str], set[str]] = defaultdict(set)
    saved = {entry.path.parent for entry in kinds if entry.path.name == SAVED_DICT_FILE}
    for entry, kind in kinds.items():
        if kind is None and not entry.is_unlisted_folder and not why_left_out(suffix_of(entry.path.name))[1]:
            continue  # folders of texts are no splits
        all_folders.add(entry.folders)
        if kind is not None and kind.is_container:
            siblings[entry.path.parent, kind.name].add(entry.path.stem)
    for folder in itertools.chain.from_iterable(all_folders):
        subfolders[folder.parent].add(folder.name)
    of_folders = {
        parent / name: split
        for parent, names in subfolders.items()
        for name, split in _splits_of_folders(names, parent in saved).items()
    }
    of_files = {key: splits.splits_among(stems) for key, stems in siblings.items()}
    places: dict[Entry[File], _Place] = {}
    for entry, kind in kinds.items():
        named = next((folder for folder in entry.folders if folder in of_folders), None)
        stems = of_files.get((entry.path.parent, kind.name), {}) if kind is not None and kind.is_container else {}
        if named is not None:
            places[entry] = _Place(of_folders[named], named)
        elif entry.path.stem in stems:
            places[entry] = _Place(stems[entry.path.stem], None)
    return places


def _splits_of_folders(names: set[str], are_all_splits: bool) -> dict[str, str]:
    return {name: splits.split_of(name) for name in names} if are_all_splits else splits.splits_among(names)


def _choose_split(
    asked: str,
    places: dict[Entry[File], _Place],
    kinds: Mapping[Entry[File], Kind | None],
    where: str,
    count_images: Callable[[Entry[File]], int],
    own_split: str | None,
) -> str | None:
    """Return the requested split; None if there are no splits and none is requested.

    A sub-folder or a table with the requested name is a split even without others, and is added to `places`.
    """
    wanted = splits.split_of(asked)
    present = {place.split: None for entry, place in places.items() if kinds[entry] or entry.is_unlisted_folder}
    if wanted in present or (not present and (asked == splits.DEFAULT_SPLIT or wanted == own_split)):
        return wanted if present else None
    if asked != splits.DEFAULT_SPLIT:
        named = dict(_named(wanted, kinds))
        if any(kinds[entry] or entry.is_unlisted_folder for entry in named):
            places.update(named)
            return wanted
    if present:
        counts: Counter[str] = Counter()
        for entry, place in places.items():
            if kinds[entry]:
                counts[place.shown] += count_images(entry)
        if not counts:
            raise cannot_list(where, [entry for entry in places if entry.is_unlisted_folder])
        raise splits.no_such_split(where, asked, counts, "; or give a sub-folder as --dataset")
    if (found := {kind for kind in kinds.values() if kind}) and all(kind.has_splits for kind in found):
        return None  # each file's reader chooses its split
    subfolders = dict.fromkeys(as_text(entry.folders[0].name) for entry in kinds if entry.folders)
    raise UserError(
        f"'{where}' has no sub-folder or table of the split '{as_text(asked)}'",
        f"Leave --dataset_split out, or give one of: {', '.join(subfolders) or 'no sub-folders there'}.",
    )


def _named(wanted: str, kinds: Mapping[Entry[File], Kind | None]) -> Iterator[tuple[Entry[File], _Place]]:
    """Yield files in a folder of that name, in the first two levels, and tables of that name."""
    for entry, kind in kinds.items():
        folder = next((folder for folder in entry.folders[:2] if splits.split_of(folder.name) == wanted), None)
        is_table = kind is not None and kind.is_container and splits.named_in(entry.path.stem) == wanted
        if folder is not None or is_table:
            yield entry, _Place(wanted, folder)
