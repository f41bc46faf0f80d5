"""Names of files and columns are untrusted: they are shown, but must not control a terminal or a page."""

import re
from pathlib import Path, PurePath

MAX_NAME_CHARS = 4096  # what Linux allows a path; an archive or a table can hold names of any length

_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, among them the escape that begins a terminal's commands
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of writing, and so hide a suffix
    "\u2028\u2029"  # ends of lines
    "\ud800-\udfff]"  # placeholders of bytes that are not UTF-8
)


def as_text(name: Path | str) -> str:
    """Return a name or message for terminals, JSON and pages: valid UTF-8 on one line, harmful characters escaped.

    Each byte that is not UTF-8 becomes U+FFFD, and other harmful characters their escape, such as ``\\x1b``.
    """
    text = _HARMFUL.sub(_escaped, str(name))
    return text if len(text) <= MAX_NAME_CHARS else f"{text[:MAX_NAME_CHARS]}\N{HORIZONTAL ELLIPSIS}"


def one_line(text: object) -> str:
    """Return `text` on one line, without the characters that are not printable."""
    return "".join(character for character in " ".join(str(text).split()) if character.isprintable())


def name_below(path: PurePath, folder: PurePath) -> str:
    """Return a file's path relative to `folder` as text, with forward slashes on every system."""
    return as_text(path.relative_to(folder).as_posix())


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if "\ud800" <= character <= "\udfff":
        return "\N{REPLACEMENT CHARACTER}"
    return character.encode("unicode_escape").decode("ascii")
