"""Numbers, durations and lists in words."""

import pytest

from openddpm.analysis.text import (
    byte_size,
    count,
    duration,
    listed,
    number_of,
    plain,
    short_count,
    signed,
    significant,
    skill_words,
    utc_text,
)


def test_counts_have_separators_and_plurals() -> None:
    """Thousands are separated, and one is no plural."""
    assert count(12345) == "12,345"
    assert [number_of(n, "image") for n in (0, 1, 2, 1200)] == ["0 images", "1 image", "2 images", "1,200 images"]


@pytest.mark.parametrize(
    ("number", "text", "size"),
    [
        (0, "0", "0 kB"),
        (999, "999", "0.999 kB"),
        (999.4, "999", "0.999 kB"),
        (999.5, "1 k", "1 kB"),
        (12_345, "12.3 k", "12.3 kB"),
        (999_400, "999 k", "999 kB"),
        (999_500, "1 M", "1 MB"),
        (231_440_643, "231 M", "231 MB"),
        (999_400_000, "999 M", "999 MB"),
        (999_500_000, "1 B", "1 GB"),
        (2.5e12, "2.5e+03 B", "2.5 TB"),
    ],
)
def test_units_begin_where_three_digits_reach_them(number: float, text: str, size: str) -> None:
    """A number is given in the first unit that it fills once rounded, with three digits."""
    assert (short_count(number), byte_size(number)) == (text, size)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0831234, "0.0831"), (0.1, "0.100"), (1e-3, "0.00100"), (9.9e-4, "0.00099"), (99.94, "99.9"), (99.95, "100")],
)
def test_three_digits_matter(number: float, text: str) -> None:
    """Numbers have three digits, zeros at the end as well from a thousandth up to a hundred."""
    assert (significant(number), significant(-number)) == (text, f"-{text}")


@pytest.mark.parametrize(
    ("number", "text"),
    [(-0.284, "−0.28"), (0.001, "0.00"), (-0.001, "0.00"), (9_999.0, "9999.00"), (1e4, "1.0e+04"), (-1e4, "−1.0e+04")],  # noqa: RUF001
)
def test_signs_are_typeset(number: float, text: str) -> None:
    """A minus is no hyphen, no zero has a sign, and from ten thousand on the power of ten is given."""
    assert signed(number) == text
    assert signed(number, plus=True) == (text if number <= -0.01 or text == "0.00" else f"+{text}")


@pytest.mark.parametrize(
    ("skill", "words"),
    [
        (0.32, "32 % better than a linear filter"),
        (-0.32, "32 % worse than a linear filter"),
        (0.004, "level with a linear filter"),
        (-0.004, "level with a linear filter"),
        (-0.99, "99 % worse than a linear filter"),
        (-1.0, "2.0 times as far off as a linear filter"),
        (0.996, "100 % better than a linear filter"),
        (-8.9, "9.9 times as far off as a linear filter"),
        (-9.0, "10 times as far off as a linear filter"),
        (-10_000.0, "10,001 times as far off as a linear filter"),
        (-10_001.0, "far worse than knowing nothing"),
        (float("nan"), "far worse than knowing nothing"),
    ],
)
def test_skill_in_words(skill: float, words: str) -> None:
    """Skill is told in per cent near the linear filter, in times far below it, and not at all beyond measure."""
    assert skill_words(skill) == words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.6, "1 s"),
        (59, "59 s"),
        (60, "1 min"),
        (112, "1 min 52 s"),
        (3_600, "1 h"),
        (3_601, "1 h 1 s"),
        (11_220, "3 h 7 min"),
        (11_227, "3 h 7 min"),
        (86_400, "1 d"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_have_two_parts_at_most(seconds: float, text: str) -> None:
    """The two largest parts of a duration are given."""
    assert duration(seconds) == text


def test_lists_and_times() -> None:
    """The last of several is joined by "and"; times are in UTC, and text that is none stays as it is."""
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert utc_text("2026-03-14T09:26:53+01:00") == "2026-03-14 08:26 UTC"
    assert utc_text("some day") == "some day"


def test_values_are_plain_words() -> None:
    """No value is shown as Python writes it."""
    values = [None, "", [], True, False, 0, 1e-3, "adamw", (0, 255), ["a: 1, but 2 there", "b"]]
    expected = ["none", "none", "none", "yes", "no", "0", "0.001", "adamw", "0 255", "a: 1, but 2 there; b"]
    assert [*map(plain, values)] == expected
