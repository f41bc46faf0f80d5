"""Why one image cannot be used."""

from openddpm.names import as_text


class RefusedImage(Exception):
    """This one image cannot be used; the message says why, with nothing harmful to a terminal in it."""

    def __init__(self, reason: str) -> None:
        super().__init__(as_text(reason))


class TooSmall(RefusedImage):
    """This one image is smaller than the resolution, and is not to be enlarged."""
