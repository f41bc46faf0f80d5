"""Labels of images: where a source has them, and how the store numbers them. Ambiguous labels are not taken."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from openddpm.names import as_text
from openddpm.record.data_record import LabelsRecord

Label = int | str | None
"""A name; a number, whose name the source may know; or None."""

NONE = -1  # number of an image without a label, as the `datasets` library has it
MAX_LABELS = 10_000  # assumed: more are numbers or captions of single images
MAX_LABEL_CHARS = 200  # assumed: longer texts are captions
MAX_NAMED = 100  # labels that are counted by name in data.json
COLUMN_NAMES = frozenset(
    ("label", "labels", "class", "classes", "class_name", "class_label", "class_id", "category", "target", "targets")
)


@dataclass(frozen=True)
class LabelSource:
    """Where the labels of a source come from."""

    origin: str = ""
    """Text for people: "sub-folders", "the column 'label'"; empty if no labels are taken."""
    names: tuple[str, ...] = ()
    """Names of labels that are numbers from 0 on, if the source has them."""
    note: str = ""
    """Why no labels are taken although there may be some."""


NO_LABELS = LabelSource()


def names_labels(name: str) -> bool:
    """Return whether a column has a usual name of label columns."""
    return name.strip().lower() in COLUMN_NAMES


def chosen_labels(candidates: Sequence[str], what: str, names: tuple[str, ...] = ()) -> LabelSource:
    """Return the labels in the only candidate; no labels if there are none or several.

    Args:
        what: what the candidates are, for people.
        names: names of its labels.
    """
    if len(candidates) > 1:
        listed = as_text(", ".join(candidates[:MAX_NAMED]))
        return LabelSource(note=f"no labels are taken: several {what}s may be labels ({listed})")
    return LabelSource(f"the {what} '{as_text(candidates[0])}'", names) if candidates else LabelSource()


def plain_label(value: Any) -> Label:
    """Return a label as a Python int or str; None for any other type."""
    if getattr(value, "ndim", None) == 0:  # numpy or torch scalar
        value = value.item()
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def labels_of_folders(paths: Sequence[PurePosixPath]) -> tuple[list[Label], LabelSource]:
    """Return the sub-folder of each file as its label, if the folders differ in one level alone."""
    parents = [str(path).rpartition("/")[0] for path in paths]
    folders = {parent: PurePosixPath(parent).parts for parent in dict.fromkeys(parents)}
    none: list[Label] = [None] * len(paths)
    if len(folders) < 2:
        return none, LabelSource()
    if len({len(parts) for parts in folders.values()}) > 1:
        return none, LabelSource(note="no labels are taken: the images lie in sub-folders of several depths")
    varying = [level for level, parts in enumerate(zip(*folders.values(), strict=True)) if len(set(parts)) > 1]
    if len(varying) > 1:
        return none, LabelSource(note="no labels are taken: sub-folders of several levels may be labels")
    return [folders[parent][varying[0]] for parent in parents], LabelSource("sub-folders")


class LabelTable:
    """Collects the labels of images, one after the other, and numbers them.

    The numbers are those of the source's names, or else positions in the sorted order of all labels.
    """

    def __init__(self, source: LabelSource) -> None:
        self._source, self._note = source, source.note
        if len(set(source.names)) < len(source.names):
            self._note = f"no labels are taken from {source.origin}: two of them have the same name"
        self._names: dict[str, int] = {as_text(name): number for number, name in enumerate(source.names)}
        self._known: dict[int | str, int] = dict(enumerate(range(len(source.names))))
        self._numbers = array("i")
        self._are_numbers = not source.names

    def add(self, label: Label) -> None:
        """Add the label of the next image."""
        self._numbers.append(NONE if label is None or self._note else self._number(label))

    def finish(self) -> tuple[np.ndarray, list[str], LabelsRecord | None]:
        """Return each image's number, (N,) int32, the names of the numbers, and their record in data.json."""
        numbers, names = np.array(self._numbers, np.int32), list(self._names)
        if self._note or not names:
            record = LabelsRecord(origin="", note=self._note) if self._note else None
            return np.full(len(numbers), NONE, np.int32), [], record
        if not self._source.names:
            order = sorted(range(len(names)), key=lambda at: int(names[at]) if self._are_numbers else names[at])
            place = np.empty(len(names) + 1, np.int32)  # the last one for NONE
            place[order], place[NONE] = np.arange(len(names)), NONE
            numbers, names = place[numbers], [names[at] for at in order]
        counts = np.bincount(numbers[numbers != NONE], minlength=len(names))
        record = LabelsRecord(
            origin=self._source.origin,
            num_labels=len(names),
            num_labelled=int(counts.sum()),
            counts=dict(zip(names[:MAX_NAMED], counts.tolist(), strict=False)),
            are_numbers=self._are_numbers,
        )
        return numbers, names, record

    def _number(self, label: int | str) -> int:
        number = self._known.get(label)
        if number is not None:
            return number
        text = as_text(str(label))
        if self._source.names and isinstance(label, int):
            number = NONE  # -1 of `datasets`, or a number without a name
        else:
            self._are_numbers &= isinstance(label, int)
            number = self._names.setdefault(text, len(self._names))
        self._known[label] = number
        if len(self._known) > MAX_LABELS or len(text) > MAX_LABEL_CHARS:
            self._note = f"no labels are taken from {self._source.origin}: too many or too long to be labels"
        return number
