"""The charts of a comparison: losses with the reference's band, differences from its mean, how far a seed parted."""

import numpy as np

from openddpm.comparison.band import Band
from openddpm.comparison.compare import Comparison, Standing
from openddpm.comparison.curves import Column, Curve, Quantity, curve_of
from openddpm.comparison.same_run import Relation, relative_difference, rows_before
from openddpm.record.reader import RunFolder
from openddpm.report.charts import Area, Chart, Line, Mark, rounded

IMAGES = "training images seen"
CANDIDATE, MEAN, SEED = "--accent", "--ink", "--training"


def loss_chart(comparison: Comparison, standing: Standing) -> Chart:
    """Return the loss of the candidate over the reference's runs, with their mean and band if there are enough."""
    quantity, band = standing.quantity, band_of(comparison, standing.quantity)
    lines = [_seed(run, curve_of(run, quantity)) for run in comparison.reference]
    if band is not None:
        lines.append(_mean(band.images, band.mean))
    curve = curve_of(comparison.candidate, quantity)
    return Chart(
        label=f"{quantity.name} of the candidate and of the reference, over {IMAGES}",
        x_title=IMAGES,
        lines=[*lines, _candidate(curve.images, curve.values)],
        areas=[] if band is None else [Area(rounded(band.images), rounded(band.low), rounded(band.high))],
        marks=_left(standing, curve.at(np.array([standing.left_at or np.nan]))[0]),
    )


def difference_chart(comparison: Comparison, standing: Standing, band: Band) -> Chart:
    """Return the same as a difference from the reference's mean, in percent: so the width of the band can be seen."""
    mean = Curve(band.images, band.mean)
    lines = []
    for run in comparison.reference:
        curve = curve_of(run, standing.quantity)
        lines.append(_seed(run, _difference(curve, mean)))
    relative = _difference(curve_of(comparison.candidate, standing.quantity), mean)
    height = np.nan  # without a line that the mark could lie on
    if len(relative.images):
        height = float(np.interp(standing.left_at or np.nan, relative.images, relative.values))
    low, high = (100 * (end / band.mean - 1) for end in (band.low, band.high))
    return Chart(
        label=f"{standing.quantity.name}, difference from the reference's mean in percent, over {IMAGES}",
        x_title=IMAGES,
        lines=[*lines, _candidate(relative.images, relative.values)],
        areas=[Area(rounded(band.images), rounded(low), rounded(high))],
        marks=_left(standing, height),
        is_log_y=False,
        unit="%",
    )


def apart_chart(relation: Relation, candidate: RunFolder) -> Chart:
    """Return how far the logged numbers are from those of the run with the same seed, at the steps that both logged.

    Means of the training loss over other steps are left out.
    """
    theirs = {row.step: row for row in relation.other.metrics}
    begins = [rows_before(run.metrics) for run in (candidate, relation.other)]
    pairs = [(row, theirs[row.step]) for row in candidate.metrics if row.step in theirs]
    steps, has_dots = rounded(row.step for row, _ in pairs), len(pairs) < 60
    loss = [
        _apart(row.train_loss, other.train_loss) if begins[0][row.step] == begins[1][row.step] else None
        for row, other in pairs
    ]
    norm = [_apart(row.grad_norm, other.grad_norm) for row, other in pairs]
    found = {"first difference": relation.first, "more than rounding": relation.parted}
    return Chart(
        label="Relative difference of training loss and gradient norm, by step",
        x_title="step",
        lines=[
            Line("gradient norm", steps, rounded(norm), SEED, width=1.5, has_dots=has_dots),
            Line("training loss", steps, rounded(loss), CANDIDATE, has_dots=has_dots),
        ],
        marks=[Mark(one.step, f"{words}: step {one.step:,}") for words, one in found.items() if one is not None],
        is_log_x=True,
    )


def band_of(comparison: Comparison, quantity: Quantity) -> Band | None:
    """Return the band of a quantity; None if the reference has too few runs for one."""
    return next((band for band in comparison.bands if band.quantity == quantity), None)


def _apart(one: float | None, other: float | None) -> float | None:
    """Return the relative difference; None without one, which no logarithmic axis can show."""
    return None if one is None or other is None or one == other else relative_difference(one, other)


def _difference(curve: Curve, mean: Curve) -> Curve:
    """Return by how many percent a curve is above `mean`, where both are known."""
    percent = 100 * (curve.values / mean.at(curve.images) - 1)
    known = np.isfinite(percent)
    return Curve(curve.images[known], percent[known])


def _candidate(images: Column, values: Column) -> Line:
    return Line("candidate", rounded(images), rounded(values), CANDIDATE, width=3, has_dots=len(images) < 40)


def _mean(images: Column, values: Column) -> Line:
    return Line("mean of the reference", rounded(images), rounded(values), MEAN, width=1.5, dash="5 4")


def _seed(run: RunFolder, curve: Curve) -> Line:
    name = f"seed {run.run.seed}"
    return Line(name, rounded(curve.images), rounded(curve.values), SEED, width=1, is_named=False)


def _left(standing: Standing, height: float) -> list[Mark]:
    """Return the place where the candidate left the band, if it did; `height` is that of its curve there."""
    if standing.left_at is None:
        return []
    return [Mark(standing.left_at, f"left the band at {standing.left_at:,.0f}", rounded([height])[0])]
