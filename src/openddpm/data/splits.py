"""Splits of a data set by the names of folders and files: train, test, val and their other spellings."""

import re
from collections.abc import Iterable, Mapping

from openddpm.config import DataOptions
from openddpm.errors import UserError
from openddpm.names import as_text

DEFAULT_SPLIT = "train"
_SPELLINGS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "t10k"),  # MNIST's 10,000
    "validation": ("val", "valid", "validation"),
    "evaluation": ("eval", "evaluation"),
    "dev": ("dev",),
}
_SPLIT_OF = {spelling: split for split, spellings in _SPELLINGS.items() for spelling in spellings}
_IN_NAMES = {**_SPLIT_OF, "data": "train"}  # CIFAR has data_batch_1 and test_batch
_WORDS = "|".join([*sorted(_SPLIT_OF, key=len, reverse=True), "data(?=_batch)"])
_WORD = re.compile(rf"(?<![A-Za-z])(?i:{_WORDS})(?![a-z])")  # a separate word, as in seg_train, train2017 and trainA
_NUMBERING = re.compile(r"[\d._\s-]+|of(?![A-Za-z])")  # of shards, years and copies


def split_of(name: str) -> str:
    """Return the split that `name` spells in any case, or else the name: Val -> validation, boat -> boat."""
    return _SPLIT_OF.get(name.lower(), name)


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each of `names` that names one.

    A name does if another one differs from it in the split alone: train and test, train2017 and val2017,
    set-train-00000-of-00002 and set-test-00000-of-00001. A class called train beside boat does not.
    """
    alike: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        words = list(_WORD.finditer(name))
        if len(words) == 1:
            before, after = name[: words[0].start()], name[words[0].end() :]
            key = (_NUMBERING.sub("", before).lower(), _NUMBERING.sub("", after).lower())
            alike.setdefault(key, {})[name] = _IN_NAMES[words[0][0].lower()]
    return {name: split for group in alike.values() if len(set(group.values())) > 1 for name, split in group.items()}


def named_in(name: str) -> str | None:
    """Return the only split that a file's name contains, if any: test-00000-of-00001 -> test."""
    words = {_IN_NAMES[word[0].lower()] for word in _WORD.finditer(name)}
    return words.pop() if len(words) == 1 else None


def counted(num_by_split: Mapping[str, int]) -> str:
    """Return counts as text: {"train": 30, "test": 12} -> train (30), test (12)."""
    return ", ".join(f"{split} ({number:,})" for split, number in num_by_split.items())


def no_such_split(where: str, asked: str, num_by_split: Mapping[str, int], else_hint: str = "") -> UserError:
    """Return the error of a source that has splits, but not the requested one."""
    return UserError(
        f"'{where}' has no split '{as_text(asked)}'; its splits are {as_text(counted(num_by_split))}",
        f"Choose one: --dataset_split {as_text(next(iter(num_by_split)))}{else_hint}.",
    )


def alike_but_for_numbers(names: Iterable[str]) -> bool:
    """Return whether names differ in numbers alone, like parts of one data set: data_batch_1, data_batch_2."""
    return len({_NUMBERING.sub("", name).lower() for name in names}) < 2


def check_split(options: DataOptions, split: str | None, where: str) -> None:
    """Check that no other split is requested of a source that has no several splits.

    Args:
        split: the split in the source's own name, if any.

    Raises:
        UserError: --dataset_split names another split.
    """
    asked = options.dataset_split
    if asked != DEFAULT_SPLIT and (split is None or split_of(asked) != split_of(split)):
        known = f"{where} is the split '{as_text(split)}'" if split is not None else f"{where} has no splits"
        raise UserError(f"{known}, but --dataset_split asks for '{as_text(asked)}'", "Leave --dataset_split out.")
