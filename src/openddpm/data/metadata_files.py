"""What metadata.csv and metadata.jsonl, as the `datasets` library has them beside images, say of these images."""

import csv
import io
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import PurePosixPath

from openddpm.data.decode import RefusedImage
from openddpm.data.listing import Entry, File
from openddpm.record.schema import LeftOut

MAX_BYTES = 64 * 2**20  # assumed: a line for each of half a million images


def described(
    others: Sequence[Entry[File]], images: Collection[PurePosixPath], read: Callable[[File], bytes | RefusedImage]
) -> Iterator[LeftOut]:
    """Say which of the images each metadata file names, and which it names that are not there.

    All images are taken whether they are named or not, and what else stands in such a file is not used.

    Args:
        others: what lies beside the images.
        images: the paths of those that are taken.
    """
    taken = set(images)
    for entry in others:
        if entry.path.name in ("metadata.csv", "metadata.jsonl"):
            content = read(entry.file)
            if isinstance(content, RefusedImage) or len(content) > MAX_BYTES:
                continue
            named = {entry.path.parent / name for name in _names(entry.path.suffix, content)}
            below = sum(path.is_relative_to(entry.path.parent) for path in taken)
            yield LeftOut(
                reason=f"{entry.path.name}: names {len(named & taken):,} of the {below:,} images beside it, of which "
                "all are taken; captions and labels are not used",
                count=1,
                examples=[str(entry.path)],
                is_data=False,
            )
            if missing := sorted(map(str, named - taken)):
                yield LeftOut(
                    reason=f"named by {entry.path.name} and not there", count=len(missing), examples=missing[:3]
                )


def _names(suffix: str, content: bytes) -> Iterator[str]:
    """Yield the names of files in a table, by the column that `datasets` reads them from; nothing if it is damaged."""
    text = content.decode("utf-8-sig", "replace")
    try:
        if suffix == ".csv":
            rows: Iterator[object] = iter(csv.DictReader(io.StringIO(text, newline="")))
        else:
            rows = (json.loads(line) for line in text.splitlines() if line.strip())
        for row in rows:
            name = row.get("file_name") if isinstance(row, dict) else None
            if isinstance(name, str) and name:
                yield name
    except (csv.Error, ValueError, RecursionError):
        return
