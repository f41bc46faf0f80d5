"""What metadata.csv and metadata.jsonl, as the `datasets` library has them beside images, say of these images."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import PurePosixPath

from openddpm.data.decode import RefusedImage
from openddpm.data.entries import File
from openddpm.data.left_out import NUM_EXAMPLES
from openddpm.data.listing import METADATA_NAMES, Selection
from openddpm.record.schema import LeftOut

MAX_BYTES = 64 * 2**20  # assumed: a line for each of half a million images


def described(
    selection: Selection[File], images: Collection[PurePosixPath], read: Callable[[File], bytes | RefusedImage]
) -> Iterator[LeftOut]:
    """Say which of the images each metadata file names, and which it names that are not there.

    All images are taken whether they are named or not, and what else stands in such a file is not used.

    Args:
        images: the paths of those that are taken.
    """
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
        named = {entry.path.parent / name for name in _names(entry.path.suffix, content)}
        num_beside = num_below[entry.path.parent]
        reason = f"{entry.path.name}: names {len(named & taken):,} of the {num_beside:,} images beside it"
        reason += "; all of these are taken, captions and labels are not"
        yield LeftOut(reason=reason, count=1, examples=[str(entry.path)], is_data=False)
        if missing := sorted(map(str, named - present)):
            yield LeftOut(
                reason=f"named by {entry.path.name} and not there", count=len(missing), examples=missing[:NUM_EXAMPLES]
            )


def _names(suffix: str, content: bytes) -> Iterator[str]:
    """Yield the names of files in a table, by the column that `datasets` reads them from; nothing if it is damaged."""
    text = content.decode("utf-8-sig", "replace")
    try:
        if suffix == ".csv":
            rows: Iterator[object] = iter(csv.DictReader(io.StringIO(text, newline="")))
        else:
            rows = (json.loads(line) for line in text.split("\n") if line.strip())  # others may stand in texts
        for row in rows:
            name = row.get("file_name") if isinstance(row, dict) else None
            if isinstance(name, str) and name:
                yield name
    except (csv.Error, ValueError, RecursionError):
        return
