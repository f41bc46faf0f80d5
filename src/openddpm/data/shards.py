"""Data sets in several files, numbered as train-00000-of-00003.parquet."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_NUMBERED = re.compile(r"(?P<stem>.*?-)(?P<index>\d{5})-of-(?P<total>\d{5})(?P<end>.*)", re.DOTALL)
MAX_SHARDS = 10_000  # assumed: a name that promises more is not believed


def other_shards(path: Path) -> list[Path]:
    """Return the other files of the data set that `path` is a numbered part of, whether they are there or not."""
    match = _NUMBERED.fullmatch(path.name)
    if not match or int(match["total"]) > MAX_SHARDS:
        return []
    total = int(match["total"])
    names = (f"{match['stem']}{index:05d}-of-{total:05d}{match['end']}" for index in range(total))
    return [path.with_name(name) for name in names if name != path.name]


def missing_shards(paths: Sequence[Path]) -> list[str]:
    """Return the names of numbered parts that are not among `paths` though others of theirs are."""
    present = set(paths)
    expected: Iterable[Path] = dict.fromkeys(shard for path in _first_of_each(paths) for shard in other_shards(path))
    return [path.name for path in expected if path not in present]


def _first_of_each(paths: Sequence[Path]) -> list[Path]:
    """Return one path of each numbered series."""
    found: dict[tuple[Path, str, str, str], Path] = {}
    for path in paths:
        if match := _NUMBERED.fullmatch(path.name):
            found.setdefault((path.parent, match["stem"], match["total"], match["end"]), path)
    return list(found.values())
