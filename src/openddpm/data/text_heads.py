"""Detection of images under the names of text files, without reading all texts."""

from collections import Counter
from collections.abc import Callable

from openddpm.data.formats import is_image_head

MAX_TEXT_HEADS = 64  # assumed: texts per suffix that are read; images under such names are many


class TextHeads:
    """Reads the first bytes of files with suffixes of texts, until MAX_TEXT_HEADS of a suffix were no images."""

    def __init__(self) -> None:
        self._num_texts: Counter[str] = Counter()

    def read(self, suffix: str, read_head: Callable[[], bytes]) -> bytes:
        """Return the first bytes of an image; nothing for a text, or if enough of its suffix were read."""
        if self._num_texts[suffix] >= MAX_TEXT_HEADS:
            return b""
        head = read_head()
        if b"\0" in head and is_image_head(head):  # texts have no zero bytes, and every image has one early
            return head
        self._num_texts[suffix] += 1
        return b""
