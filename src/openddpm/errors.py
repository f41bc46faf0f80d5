"""The errors meant for users: what was found, what was expected, what to do."""


class UserError(Exception):
    """Input that only its author can mend; shown without a traceback, exit status 2.

    Args:
        found: what is wrong, naming the value that was met.
        todo: what to do about it, ideally a command or an option to type.
    """

    def __init__(self, found: str, todo: str = "") -> None:
        self.found = found
        self.todo = todo
        super().__init__(f"{found}\n{todo}" if todo else found)


def closest(name: str, known: list[str]) -> str:
    """Return a phrase that names the nearest of `known` and then all of them."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(known)}"
