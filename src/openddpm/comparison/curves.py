"""Curves that runs are compared by, over the training images seen."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from openddpm.record.bands import Band
from openddpm.record.reader import RunFolder
from openddpm.record.schema import RAW, EvaluationRow, exported_weights

Column = NDArray[np.float64]

LEAST = 1e-9  # a loss of 0 counts as this, since it has no logarithm
MAX_BETWEEN = 0.02
"""Product of a number of images' distances, in logarithms, from the evaluations around it. Straight lines between the
evaluations of digits-8 are off by 0.9 times the product among the first 2,000 images, and 0.13 times later (measured by
leaving out every other one): so by 2 % at most."""


@dataclass(frozen=True)
class Quantity:
    """A loss on the fixed samples that each evaluation records."""

    field: str
    """Name for programs."""
    name: str
    """Name for people."""
    value: Callable[[EvaluationRow], float | None]
    of_raw: bool = False
    """Whether it is taken of the raw weights, not of the exported ones."""


def _band_loss(band: Band) -> Callable[[EvaluationRow], float | None]:
    return lambda row: row.bands[band].loss if band in row.bands else None


QUANTITIES = (
    Quantity("heldout_loss", "held-out loss", lambda row: row.heldout_loss),
    Quantity("heldout_loss_raw", "held-out loss of the raw weights", lambda row: row.heldout_loss, of_raw=True),
    Quantity("fixed_train_loss", "loss on fixed training samples", lambda row: row.fixed_train_loss),
    *(Quantity(f"{band}_loss", f"held-out loss of the {band} band", _band_loss(band)) for band in get_args(Band)),
)
"""What is compared, the most important first."""

_WITHOUT_HELDOUT = tuple(
    replace(one, name=f"loss on fixed training samples, {one.name.partition(', ')[2]}")
    if one.field in {f"{band}_loss" for band in get_args(Band)}
    else one
    for one in QUANTITIES
)


def quantities_of(run: RunFolder) -> tuple[Quantity, ...]:
    """Return what is compared of a run, by what it is of: without held-out images, bands are of training samples."""
    return QUANTITIES if run.run.dataset.num_heldout else _WITHOUT_HELDOUT


@dataclass(frozen=True)
class Curve:
    """Positive values at increasing numbers of training images seen, (N,) each."""

    images: Column
    values: Column

    def at(self, images: Column) -> Column:
        """Return the values at other numbers of images, on straight lines in logarithms; NaN outside the curve."""
        if not len(self.images):
            return np.full(len(images), np.nan)
        logs = np.interp(np.log(images), np.log(self.images), np.log(self.values), left=np.nan, right=np.nan)
        return np.asarray(np.exp(logs))

    def near(self, images: Column) -> Column:
        """Return the values as `at` does, but NaN where the evaluations around are far."""
        values = self.at(images)
        if len(self.images):
            last = len(self.images) - 1
            after = np.minimum(np.searchsorted(self.images, images, side="left"), last)
            before = np.maximum(np.searchsorted(self.images, images, side="right") - 1, 0)
            values[np.log(images / self.images[before]) * np.log(self.images[after] / images) > MAX_BETWEEN] = np.nan
        return values


def curve_of(run: RunFolder, quantity: Quantity, of_broken: float | None = None) -> Curve:
    """Return a quantity of a run; values that are missing are left out.

    Args:
        of_broken: value where the weights are not finite; None leaves these out, too.
    """
    exported = exported_weights(row.weights for row in run.evaluations)
    weights = RAW if quantity.of_raw else exported
    points = {
        row.images_seen: max(value, LEAST)
        for row in run.evaluations
        if row.weights == weights and row.images_seen
        if (value := of_broken if _is_broken(row) else quantity.value(row)) is not None
    }
    images = sorted(points)
    return Curve(np.array(images, dtype=np.float64), np.array([points[count] for count in images], dtype=np.float64))


def _is_broken(row: EvaluationRow) -> bool:
    """Tell whether weights that are not finite were evaluated: the schema has null for what they give."""
    return row.heldout_loss is None and row.fixed_train_loss is None
