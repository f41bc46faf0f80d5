"""Splits by the names of files, of members of archives and of arrays, where several of them stand side by side."""

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.record.schema import LeftOut

SPLITS = {  # as they are written -> as the `datasets` library names them
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "t10k"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
NUM_EXAMPLES = 3

Named = TypeVar("Named")


def split_in(name: str) -> str | None:
    """Return the split that a name has among its words: train of x_train, test of t10k-images-idx3-ubyte."""
    if name.lower().startswith("data_batch"):  # CIFAR's, beside its test_batch
        return "train"
    found = {SPLITS[word] for word in re.split("[^a-z0-9]+", name.lower()) if word in SPLITS}
    return found.pop() if len(found) == 1 else None


def split_folder_of(path: str) -> str | None:
    """Return the split that is the name of a folder on a path."""
    return next((SPLITS[part] for part in path.lower().split("/")[:-1] if part in SPLITS), None)


def of_split(
    named: Sequence[tuple[str, str | None, Named]], asked: str, where: str
) -> tuple[list[Named], str | None, list[LeftOut]]:
    """Return what belongs to the split that is asked for; everything, unless several splits stand side by side.

    Args:
        named: (name, its split or None, the thing itself).
        where: they are found, for messages.

    Returns:
        the things of that split; the split, None where there are none; the others, by split.

    Raises:
        UserError: there are splits, and not the one asked for.
    """
    splits = sorted({split for _, split, _ in named if split})
    if len(splits) < 2:  # a class may be called train, or a lone file after its split
        return [thing for _, _, thing in named], None, []
    wanted = SPLITS.get(asked, asked)
    if wanted not in splits:
        found = f"{where} has no split '{as_text(asked)}'"
        raise UserError(found, f"Give one of: {', '.join(f'--dataset_split {split}' for split in splits)}.")
    kept = [thing for _, split, thing in named if split == wanted]
    others = [split for split in (*splits, None) if split != wanted]
    left_out = [
        group(f"split '{split}'" if split else "beside the folders of splits", names, split is None)
        for split in others
        if (names := [name for name, own, _ in named if own == split])
    ]
    return kept, wanted, left_out


def group(reason: str, names: Iterable[str], is_data: bool, count: int | None = None) -> LeftOut:
    """Return what is left out for one reason, with the first of its names."""
    names = list(names)
    examples = [as_text(name) for name in names[:NUM_EXAMPLES]]
    return LeftOut(reason=reason, count=len(names) if count is None else count, examples=examples, is_data=is_data)
