"""Files metadata.csv and metadata.jsonl beside images, in the format of the `datasets` library."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

from openddpm.data.decode import RefusedImage
from openddpm.data.entries import File
from openddpm.data.labels import Label, LabelSource, chosen_labels, labels_of_folders, names_labels, plain_label
from openddpm.data.left_out import NUM_EXAMPLES
from openddpm.data.listing import METADATA_NAMES, Selection
from openddpm.record.data_record import LeftOut

MAX_BYTES = 64 * 2**20  # assumed: lines for half a million images


Row = dict[str, Label]


def described(
    selection: Selection[File], images: Sequence[PurePosixPath], read: Callable[[File], bytes | RefusedImage]
) -> tuple[list[Label], LabelSource]:
    """Return the label of each image: from metadata files, or else its sub-folder.

    All images are taken, whether metadata files name them or not. What these name, and what of it is missing, is
    counted as left out.

    Args:
        images: the paths of the images that are taken.
    """
    rows: dict[PurePosixPath, Row] = {}
    selection.left_out.extend(_described(selection, images, read, rows))
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    source = chosen_labels(columns, "column of the metadata file")
    if not columns:
        return labels_of_folders(images)
    labels = [rows.get(path, {}).get(columns[0]) if source.origin else None for path in images]
    if all(_is_number(label) for label in labels):  # csv files hold text only
        labels = [None if label is None else int(label) for label in labels]
    return labels, source


def _is_number(label: Label) -> bool:
    return label is None or re.fullmatch(r"-?[0-9]{1,9}", str(label)) is not None


def _described(
    selection: Selection[File],
    images: Sequence[PurePosixPath],
    read: Callable[[File], bytes | RefusedImage],
    rows: dict[PurePosixPath, Row],
) -> Iterator[LeftOut]:
    """Yield notes on each metadata file, and add its possible labels to `rows`, by the paths of images."""
    entries = [entry for entry in selection.others if entry.path.name in METADATA_NAMES]
    if not entries:
        return
    taken, present = set(images), {entry.path for entry in selection.all_data()}
    num_below = Counter(folder for path in taken for folder in path.parents)
    for entry in entries:
        content = read(entry.file) if taken else b""
        if isinstance(content, RefusedImage) or not content or len(content) > MAX_BYTES:
            yield LeftOut(reason=f"{entry.path.suffix} files", count=1, examples=[str(entry.path)], is_data=False)
            continue
        described = {entry.path.parent / name: row for name, row in _rows(entry.path.suffix, content)}
        rows |= described
        named = set(described)
        num_beside = num_below[entry.path.parent]
        reason = f"{entry.path.name}: names {len(named & taken):,} of the {num_beside:,} images beside it"
        reason += "; all images are taken, but no captions"
        yield LeftOut(reason=reason, count=1, examples=[str(entry.path)], is_data=False)
        if missing := sorted(map(str, named - present)):
            yield LeftOut(
                reason=f"named by {entry.path.name}, but missing", count=len(missing), examples=missing[:NUM_EXAMPLES]
            )


def _rows(suffix: str, content: bytes) -> Iterator[tuple[str, Row]]:
    """Yield file names from a table's column "file_name", as `datasets` does, with possible labels.

    Ends where the table is damaged.
    """
    text = content.decode("utf-8-sig", "replace")
    try:
        if suffix == ".csv":
            rows: Iterator[object] = iter(csv.DictReader(io.StringIO(text, newline="")))
        else:
            rows = (json.loads(line) for line in text.split("\n") if line.strip())  # texts may hold other line ends
        for row in rows:
            name = row.get("file_name") if isinstance(row, dict) else None
            if isinstance(row, dict) and isinstance(name, str) and name:
                labels = {str(key): plain_label(value) for key, value in row.items() if names_labels(str(key))}
                yield name, {key: label for key, label in labels.items() if label not in (None, "")}
    except (csv.Error, ValueError, RecursionError):
        return
