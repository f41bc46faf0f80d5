"""Finds images among files that are called as texts are, without reading all texts."""

from collections import Counter
from collections.abc import Callable

from openddpm.data.formats import is_image_head

MAX_TEXT_HEADS = 64  # assumed: of texts of each suffix that are looked into; images under such names are many


class TextHeads:
    """Reads the first bytes of files under the suffixes of texts, until MAX_TEXT_HEADS of a suffix are no images."""

    def __init__(self) -> None:
        self._num_texts: Counter[str] = Counter()

    def read(self, suffix: str, read_head: Callable[[], bytes]) -> bytes:
        """Return the first bytes of an image, nothing for a text or where enough of its suffix were looked into."""
        if self._num_texts[suffix] >= MAX_TEXT_HEADS:
            return b""
        head = read_head()
        if b"\0" in head and is_image_head(head):  # no text has a zero byte, and every image has soon
            return head
        self._num_texts[suffix] += 1
        return b""
