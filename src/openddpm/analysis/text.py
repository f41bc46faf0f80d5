"""Numbers as text for people."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

HUGE = 10_000.0  # beyond it only the power of ten is informative


def count(number: int) -> str:
    """12345 -> 12,345"""
    return f"{number:,}"


def short_count(number: float) -> str:
    """231440643 -> 231 M"""
    return _scaled(number, (1e9, "B"), (1e6, "M"), (1e3, "k")) or f"{number:.0f}"


def byte_size(num_bytes: float) -> str:
    """16400000 -> 16.4 MB"""
    return _scaled(num_bytes, (1e12, "TB"), (1e9, "GB"), (1e6, "MB")) or f"{num_bytes / 1e3:.3g} kB"


def number_of(number: int, noun: str) -> str:
    """1, "image" -> 1 image; 1200, "image" -> 1,200 images"""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def significant(number: float) -> str:
    """0.0831234 -> 0.0831"""
    return f"{number:#.3g}" if 1e-3 <= abs(number) < 99.95 else f"{number:.3g}"


def signed(number: float, plus: bool = False) -> str:
    """-0.284 -> -0.28, but with a minus sign in place of the hyphen"""
    kind = ".2f" if abs(number) < HUGE else ".1e"
    shown = f"{number:{'+' if plus else ''}{kind}}"
    return "0.00" if shown in ("-0.00", "+0.00") else shown.replace("-", "\N{MINUS SIGN}")


def skill_words(skill: float) -> str:
    """0.32 -> 32 % better than a linear filter; -2.5 -> 3.5 times as far off as a linear filter"""
    if skill < -HUGE or not math.isfinite(skill):
        return "far worse than knowing nothing"
    percent = round(100 * abs(skill))
    if not percent:
        return "level with a linear filter"
    if percent >= 100 and skill < 0:
        return f"{1 - skill:,.{0 if skill <= -9 else 1}f} times as far off as a linear filter"
    return f"{percent} % {'better' if skill > 0 else 'worse'} than a linear filter"


def duration(seconds: float) -> str:
    """11220 -> 3 h 7 min"""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left, "s")]
    shown = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown[:2]) or "0 s"


def listed(words: Sequence[str]) -> str:
    """["layout", "shape", "detail"] -> layout, shape and detail"""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def plain(value: Any) -> str:
    """None or [] -> none; True -> yes; [0, 255] -> 0 255; ["a: 1, but 2 there", "b"] -> a: 1, but 2 there; b"""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(one, str) for one in value) else " ").join(map(plain, value)) or "none"
    return "none" if value is None or value == "" else str(value)


def utc_text(iso_time: str) -> str:
    """2026-03-14T09:26:53+01:00 -> 2026-03-14 08:26 UTC; text that is no ISO time stays as it is."""
    try:
        return f"{datetime.fromisoformat(iso_time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return iso_time


def _scaled(number: float, *units: tuple[float, str]) -> str | None:
    """Return `number` in the first unit that it reaches, rounded to three digits; None if it reaches none."""
    return next((f"{number / size:.3g} {unit}" for size, unit in units if number >= 0.9995 * size), None)
