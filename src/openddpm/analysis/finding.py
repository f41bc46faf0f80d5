"""What a check has to say."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
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
    hint: str
    images: tuple[str, ...] = ()
    """Paths of all images it is about, where it names some; for programs."""


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return `findings`, the gravest first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
