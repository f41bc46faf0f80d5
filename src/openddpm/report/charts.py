"""Line charts of the pages that do without plotly, which is as large as 50 such pages; charts.js draws them."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

Numbers = list[float | None]

DIGITS = 5  # more cannot be seen


@dataclass(frozen=True)
class Line:
    """A curve; None in `y` is a gap."""

    name: str
    x: Numbers
    y: Numbers
    colour: str
    """Variable of report.css."""
    width: float = 2.0
    dash: str = ""
    """stroke-dasharray of SVG."""
    has_dots: bool = False
    key: str = ""
    """By which scripts switch it on and off."""
    is_named: bool = True
    """Whether the pointer shows its values."""


@dataclass(frozen=True)
class Area:
    """A band from `low` to `high`."""

    x: Numbers
    low: Numbers
    high: Numbers


@dataclass(frozen=True)
class Mark:
    """A place on the x axis with a few words, and a dot at `y` if given."""

    x: float
    text: str
    y: float | None = None


@dataclass(frozen=True)
class Span:
    """A stretch of the x axis, drawn as a bar below the curves; a later one covers an earlier one."""

    first: float
    last: float
    row: int
    """0 is the uppermost."""
    colour: str
    """Variable of report.css."""


@dataclass(frozen=True)
class Chart:
    """A chart; axes start at zero if linear in x, and fit the curves in y."""

    label: str
    """The chart in words, for screen readers."""
    x_title: str
    lines: list[Line]
    areas: list[Area] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    """If there are any, the chart needs no curve."""
    is_log_x: bool = False
    is_log_y: bool = True
    unit: str = ""
    """Of y: "%" shows signs and has a line at 0."""

    def spec(self) -> dict[str, Any]:
        """Return it as JSON for charts.js."""
        return asdict(self)


def rounded(values: Iterable[float | None]) -> Numbers:
    """Return numbers for a page; None for those that are missing or not finite."""
    return [None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}") for value in values]
