import pytest

from openddpm.errors import UserError, closest


@pytest.mark.parametrize(("hint", "shown"), [("Do that.", "found this\nDo that."), ("", "found this")])
def test_user_errors_say_what_and_what_next(hint: str, shown: str) -> None:
    """A UserError shows what was found and, where there is one, the way out."""
    error = UserError("found this", hint)
    assert (str(error), error.found, error.hint) == (shown, "found this", hint)


@pytest.mark.parametrize(
    ("name", "hint"), [("learning_rat", "did you mean 'learning_rate'? known: "), ("xyz", "known: ")]
)
def test_hints_name_the_nearest_and_all(name: str, hint: str) -> None:
    """A hint names the nearest known name, if one is near, and then all of them."""
    assert closest(name, ["seed", "learning_rate"]) == f"{hint}seed, learning_rate"
