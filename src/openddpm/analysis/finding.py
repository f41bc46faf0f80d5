"""The result of a check."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The most severe first."""


@dataclass(frozen=True)
class Finding:
    """Something about a run that its author should know."""

    name: str
    """Name for programs; unique among the findings on a run."""
    severity: Severity
    what: str
    """Statement of what was found, with its numbers."""
    why: str
    """Why it matters."""
    hint: str
    images: tuple[str, ...] = ()
    """Paths of all images it is about, if it names some; for programs."""


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return `findings`, the most severe first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
