from pathlib import Path

import pytest

from openddpm.names import MAX_NAME_CHARS, as_text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[2Ja.png", r"\x1b[2Ja.png"),
        ("\x9b31ma.png", r"\x9b31ma.png"),
        ("a\nb\r\t.png", r"a\nb\r\t.png"),
        ("a\0.png", r"a\x00.png"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe", r"\u202egnp.exe"),
        ("\N{FIRST STRONG ISOLATE}a\N{POP DIRECTIONAL ISOLATE}", r"\u2068a\u2069"),
        ("a\N{LINE SEPARATOR}b", r"a\u2028b"),
        ("caf\udce9.png", "caf\N{REPLACEMENT CHARACTER}.png"),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_harmful_characters_are_spelled_out(name: str, shown: str) -> None:
    """What a terminal, a page or an encoder would obey or fail on is written as its escape, or as not decodable."""
    assert as_text(name) == as_text(Path(name)) == shown
    assert as_text(shown) == shown


@pytest.mark.parametrize(
    "name",
    [
        "Übergrößenträger/straße.png",
        "写真/猫.jpg",
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}.png",
        "\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}.png",
        "עברית.png",
        r"C:\photos\new.png",
        "<img src=x onerror=alert(1)> & [bold]'\"",
    ],
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    """Umlauts, CJK, joined emoji, right-to-left scripts, backslashes and markup come through unchanged."""
    assert as_text(name) == name


def test_names_without_end_are_cut() -> None:
    """A name longer than any path is cut, and says so."""
    shown = as_text("a" * 10**6)
    assert shown == "a" * MAX_NAME_CHARS + "\N{HORIZONTAL ELLIPSIS}"
