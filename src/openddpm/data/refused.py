"""Refusals of single images."""

from openddpm.names import as_text


class RefusedImage(Exception):
    """Error of one image that cannot be used; the message says why, and is safe to print to a terminal."""

    def __init__(self, reason: str) -> None:
        super().__init__(as_text(reason))


class TooSmall(RefusedImage):
    """Refusal of an image that is smaller than the resolution and must not be enlarged."""
