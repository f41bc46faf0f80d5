"""What a check has to say."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["fault", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("fault", "warning", "note")
"""The gravest first."""


@dataclass(frozen=True)
class Finding:
    """Something about a run that its author should know."""

    name: str
    """For programs; no two findings on one run share it."""
    severity: Severity
    what: str
    """What was found, with the numbers."""
    why: str
    """Why it matters."""
    todo: str
    images: tuple[str, ...] = ()
    """Paths of all images it is about, where it names some; for programs."""


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return `findings`, the gravest first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def number_of(number: int, noun: str) -> str:
    """1, "image" -> 1 image; 1200, "image" -> 1,200 images"""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def byte_size(num_bytes: float) -> str:
    """16400000 -> 16.4 MB"""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if num_bytes >= 0.9995 * size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"
