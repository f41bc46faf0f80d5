"""Names and colours of the sets of weights on the page."""

from collections.abc import Iterable
from dataclasses import dataclass

from openddpm.record.schema import RAW, Weights, weights_in_order
from openddpm.report.terms import TERMS, Term

COLOURS = {"ema": "#2457d6", RAW: "#c2570c"}
OTHER_COLOURS = ("#3f7d20", "#7a4e2d", "#4a6572")  # of further averages, in turn
"""Colours on a light page; report.css has those of a dark one, as --ema, --raw, --average-1 and so on."""


@dataclass(frozen=True)
class DrawnWeights:
    """A set of weights on the page."""

    name: Weights
    label: str
    """ "raw", "EMA", "EMA-0.050"."""
    colour: str
    """The colour on a light page."""
    variable: str
    """Its variable in report.css."""

    @property
    def term(self) -> Term:
        """Its term on the page."""
        return TERMS[RAW] if self.name == RAW else Term(f"{self.label} weights", TERMS["ema"].sentence)


def drawn_weights(names: Iterable[Weights]) -> list[DrawnWeights]:
    """Return how the weights of a run are drawn, averages first."""
    drawn: list[DrawnWeights] = []
    for name in weights_in_order(names):
        number = sum(one.name not in COLOURS for one in drawn) % len(OTHER_COLOURS)
        colour = COLOURS.get(name, OTHER_COLOURS[number])
        variable = f"--{name}" if name in COLOURS else f"--average-{number + 1}"
        drawn.append(DrawnWeights(name, name.replace("ema", "EMA", 1), colour, variable))
    return drawn
