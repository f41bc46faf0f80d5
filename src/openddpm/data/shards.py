"""Data sets in several numbered files, such as train-00000-of-00003.parquet or images-0.npy."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from openddpm.data.formats import TAR_SUFFIXES

MISSING = "parts of the data set that are missing, by the numbers in their names"
_NUMBERED = re.compile(r"(?P<stem>.*?-)(?P<index>\d{5})-of-(?P<total>\d{5})(?P<end>.*)", re.DOTALL)
_INDEXED = re.compile(r"(?P<stem>.*?)(?P<index>\d+)(?P<end>\D*)", re.DOTALL)  # by the last number in a name
_END_WITH_NUMBER = re.compile(r"[.-]idx\d-ubyte(\.gz)?$", re.IGNORECASE)
_YEARS = range(1900, 2100)  # need not be complete
MAX_SHARDS = 10_000  # assumed: larger numbers in names do not count shards
MAX_DIGITS = 9  # assumed: longer numbers do not count parts


def other_shards(path: Path) -> list[Path]:
    """Return the other files of the data set of which `path` is a numbered part, whether they exist or not."""
    match = _NUMBERED.fullmatch(path.name)
    if not match or int(match["total"]) > MAX_SHARDS:
        return []
    total = int(match["total"])
    names = (f"{match['stem']}{index:05d}-of-{total:05d}{match['end']}" for index in range(total))
    return [path.with_name(name) for name in names if name != path.name]


def missing_shards(paths: Sequence[Path]) -> list[str]:
    """Return the names of numbered parts that are missing from `paths`."""
    present = set(paths)
    expected: Iterable[Path] = dict.fromkeys(shard for path in _first_of_each(paths) for shard in other_shards(path))
    return [path.name for path in expected if path not in present] + _gaps(paths)


def _gaps(paths: Sequence[Path]) -> list[str]:
    """Return the names in the gaps between names that differ in their last number alone.

    If more are missing than present, the numbers are considered something else, such as dates.
    """
    series: dict[tuple[Path, str, str], dict[int, str]] = {}
    for path in paths:
        bare, suffix = _without_suffix(path.name)
        if (match := _INDEXED.fullmatch(bare)) and not _NUMBERED.fullmatch(path.name):
            digits = match["index"]
            if len(digits) <= MAX_DIGITS:
                series.setdefault((path.parent, match["stem"], match["end"] + suffix), {})[int(digits)] = digits
    missing = []
    for (_, stem, end), present in series.items():
        first, last = min(present), max(present)
        num_missing = last - first + 1 - len(present)
        if 0 < num_missing <= len(present) and not all(index in _YEARS for index in present):
            width = min(map(len, present.values()))
            missing += [f"{stem}{index:0{width}d}{end}" for index in range(first, last) if index not in present]
    return missing


def _without_suffix(name: str) -> tuple[str, str]:
    """Split a file's name before its suffix: the numbers in .tar.bz2 and -idx3-ubyte do not count parts."""
    if match := _END_WITH_NUMBER.search(name):
        return name[: match.start()], match[0]
    suffix = next((end for end in TAR_SUFFIXES if name.lower().endswith(end)), Path(name).suffix)
    bare = name[: len(name) - len(suffix)]
    return bare, name[len(bare) :]


def _first_of_each(paths: Sequence[Path]) -> list[Path]:
    """Return one path of each numbered series."""
    found: dict[tuple[Path, str, str, str], Path] = {}
    for path in paths:
        if match := _NUMBERED.fullmatch(path.name):
            found.setdefault((path.parent, match["stem"], match["total"], match["end"]), path)
    return list(found.values())
