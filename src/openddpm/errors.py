"""Errors for users: what was found, what was expected, what to do."""

from openddpm.names import as_text


class UserError(Exception):
    """Input that only the user can correct; shown without a traceback, exit status 2.

    Args:
        found: what is wrong, with the value that was found.
        hint: what to do about it, ideally a command or an option to type.
    """

    def __init__(self, found: str, hint: str = "") -> None:
        self.found = _printable(found)
        self.hint = _printable(hint)
        super().__init__(f"{self.found}\n{self.hint}" if hint else self.found)


def _printable(message: str) -> str:
    """Return a message of one or several lines in which no untrusted name can send commands to a terminal."""
    return "\n".join(map(as_text, message.split("\n")))


def closest(name: str, known: list[str]) -> str:
    """Return a phrase that names the closest of `known`, and then all of them."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(known)}"
