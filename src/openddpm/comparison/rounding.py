"""How far rounding moves the numbers of a run: limits made of what benchmarks/rounding.py measured (rounding.json).

Runs were repeated with another number of threads and with older instructions, from their seed and from checkpoints in
the middle, on two data sets, UNets and optimizers: that is what rounding makes. Others had another seed. A limit is the
geometric mean of the largest difference that rounding made and of the usual one that a seed makes, and at least MARGIN
times the first; where that is more than seeds make, it finds nothing. Since a run may be unstable sooner than those
were, rounding may be as large after k steps as it was after EARLIER * k.
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Quantity = Literal["train_loss", "mean_train_loss", "grad_norm", "evaluated_loss", "weights", "moments", "squares"]
Forward = Literal["losses", "losses_of_groups", "baselines"]

MARGIN = 3.0  # assumed; measured: no run exceeds limits made of the others (tests/unit/comparison/test_rounding.py)
EARLIER = 2.5  # assumed; the same
WINDOW = 10  # steps in the means that `mean_train_loss` is of; means of more steps differ less
NEGLIGIBLE = 1e-9  # assumed: a difference of losses that says nothing; predicting no noise has a loss of 1

ROUNDING, SEED = ("threads", "instructions"), ("seed",)
OTHER = "other"  # weights of other steps, or other noise

FIELDS: dict[Quantity, tuple[str, tuple[str, ...]]] = {
    "train_loss": ("steps", ("train_loss",)),
    "mean_train_loss": ("steps", ("mean_of_10_train_losses",)),
    "grad_norm": ("steps", ("grad_norm",)),
    "evaluated_loss": (
        "evaluated",
        ("heldout_loss raw", "heldout_loss ema", "fixed_train_loss raw", "fixed_train_loss ema"),
    ),
    "weights": ("saved", ("unet of_move", "ema of_move")),
    "moments": ("saved", ("momentum_buffer of_length", "exp_avg of_length")),
    "squares": ("saved", ("exp_avg_sq of_length",)),
}
"""For each quantity its steps and its values in an entry of `pairs`; logged ones are the largest within these steps."""
STATES: tuple[Quantity, ...] = ("weights", "moments", "squares")
"""Quantities of a state after some steps: only the state at the end counts, not what was before."""


@cache
def limit(quantity: Quantity, steps: int) -> float:
    """Return the largest relative difference that is taken for rounding.

    Args:
        quantity: a loss or norm as logged, or a loss on fixed samples; or a state. Distances of weights are divided by
            how far they moved in these steps, those of moments by their length.
        steps: since the two runs were equal.
    """
    return limit_from(measured()["pairs"], quantity, steps)


@cache
def limit_of_a_measurement(quantity: Forward) -> float:
    """Return the same of what is measured again with the same weights: losses, of groups of timesteps, of baselines."""
    entries = measured()["forward"]
    rounding = max(entry[quantity] for entry in entries if entry["apart"] in ROUNDING)
    other = min(entry[quantity] for entry in entries if entry["apart"] == OTHER and entry[quantity] > 0)
    return between(rounding, other)


@cache
def limits_of_pixels() -> tuple[float, int]:
    """Return the share of a preview's values that may be off, and by how many levels."""
    drawn = [(entry["apart"], values) for entry in measured()["forward"] for values in entry["previews"].values()]
    share = max(values["share"] for apart, values in drawn if apart in ROUNDING)
    levels = max(values["largest"] for apart, values in drawn if apart in ROUNDING)
    others = min(values["share"] for apart, values in drawn if apart == OTHER)
    levels_of_others = min(values["largest"] for apart, values in drawn if apart == OTHER)
    return between(share, others), round((levels * levels_of_others) ** 0.5)


def between(rounding: float, other: float) -> float:
    """Return the limit between what rounding makes and what something else makes."""
    return max((rounding * other) ** 0.5, MARGIN * rounding)


def limit_from(pairs: Sequence[dict[str, Any]], quantity: Quantity, steps: int) -> float:
    """Return the limit of a quantity as `pairs` of runs make it.

    Raises:
        ValueError: no pair has this quantity.
    """
    where, names = FIELDS[quantity]
    known = {
        step for pair in pairs if pair["apart"] in ROUNDING for name in names for step, _ in _values(pair, where, name)
    }
    steps = min(max(steps, min(known)), max(known))
    first = steps if quantity in STATES else 0
    by_rounding = max(largest(pairs, ROUNDING, quantity, first, EARLIER * steps))
    by_seeds = largest(pairs, SEED, quantity, first, EARLIER * steps if quantity in STATES else steps)
    return between(by_rounding, statistics.median(by_seeds))


def largest(
    pairs: Iterable[dict[str, Any]], aparts: Sequence[str], quantity: Quantity, first: float, last: float
) -> list[float]:
    """Return the largest difference of each pair of runs, from `first` to `last` steps after they were equal.

    Args:
        aparts: what the runs of a pair may differ in.
    """
    where, names = FIELDS[quantity]
    found = [
        [value for name in names for step, value in _values(pair, where, name) if first <= step <= last]
        for pair in pairs
        if pair["apart"] in aparts
    ]
    return [max(values) for values in found if values]


def _values(pair: dict[str, Any], where: str, name: str) -> list[tuple[int, float]]:
    """Return what was measured of a pair of runs, with the steps."""
    return [(step, value) for step, value in zip(pair[where], pair.get(name, ()), strict=False) if value is not None]


@cache
def measured() -> dict[str, Any]:
    """Return the content of rounding.json."""
    text = files("openddpm.comparison").joinpath("rounding.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
