"""The band in which a run with another seed lies, over its whole course, with a given probability.

For each quantity, the logarithms of the reference's curves have a mean and a standard deviation s at each of the
numbers of images where all were evaluated; s is averaged over neighbouring ones. A new run is inside if it differs by
less than c s sqrt(1 + 1/K) from the mean of K runs, everywhere and in all quantities at once. c is found by simulation
(the sup-t band of Montiel Olea and Plagborg-Moller, 2019, for a new curve instead of a mean): K + 1 curves are drawn
whose neighbours correlate as those of the reference do, are treated the same way, and c is exceeded somewhere by only
5 % of them. So it includes that few runs know s badly, that there are many points, and that they are not independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openddpm.comparison.curves import Column, Curve, Quantity, curve_of, quantities_of
from openddpm.record.reader import RunFolder
from openddpm.record.schema import RAW

COVERAGE = 0.95
MIN_RUNS = 3  # assumed: fewer say too little about how much seeds differ
MIN_SPREAD = 1e-3  # of a logarithm; assumed: differences of about a tenth of a percent are never told apart
NEIGHBOURS = 2  # to each side, over which the variance is averaged
MAX_CORRELATION = 0.95  # of neighbours
MAX_POINTS = 64  # of a band; assumed: closer ones would say the same
SIMULATIONS, AT_ONCE = 4000, 250
DETECTED = 0.84  # standard deviations: what leaves the band on average by this much leaves it 4 times in 5


@dataclass(frozen=True)
class Band:
    """Where a new run's curve of one quantity lies, if it is another seed of the reference; columns are (N,)."""

    quantity: Quantity
    images: Column
    mean: Column
    low: Column
    high: Column
    spread: Column
    """Standard deviation of the logarithm, from seed to seed."""

    def outside(self, curve: Curve) -> Column:
        """Return +1 where a curve is above the band, -1 where it is below, 0 inside, NaN where it has no value near."""
        values = curve.near(self.images)
        sides = np.where(values > self.high, 1.0, np.where(values < self.low, -1.0, 0.0))
        return np.where(np.isnan(values), np.nan, sides)

    def detectable(self, images: float) -> float:
        """Return the relative change that is found 4 times in 5 at the last point up to `images`; 0.08 is 8 %."""
        last = max(0, int(np.searchsorted(self.images, images, side="right")) - 1)
        return float(self.high[last] / self.mean[last] * np.exp(DETECTED * self.spread[last]) - 1)


def make_bands(runs: Sequence[RunFolder]) -> list[Band]:
    """Return a band for each quantity that the runs of a reference have; none for fewer than `MIN_RUNS` runs."""
    if len(runs) < MIN_RUNS:
        return []
    curves = {quantity: [curve_of(run, quantity) for run in runs] for quantity in quantities_of(runs[0])}
    if all(row.weights == RAW for run in runs for row in run.evaluations):
        curves = {quantity: found for quantity, found in curves.items() if not quantity.of_raw}
    return bands_of(curves)


def bands_of(curves: Mapping[Quantity, Sequence[Curve]]) -> list[Band]:
    """Return a band for each quantity of which all curves, one a run and `MIN_RUNS` at least, have points."""
    images = common_images([curve for found in curves.values() for curve in found if len(curve.images)])
    curves = {quantity: found for quantity, found in curves.items() if all(len(curve.images) for curve in found)}
    if not curves or not len(images):
        return []
    images = images[np.unique(np.linspace(0, len(images) - 1, MAX_POINTS).round().astype(int))]
    logs = np.log([[curve.at(images) for curve in found] for found in curves.values()])  # (Q, K, T)
    mean = logs.mean(axis=1)
    spread = np.maximum(_spread(logs), MIN_SPREAD)
    width = _critical_value(logs) * np.sqrt(1 + 1 / logs.shape[1]) * spread
    return [
        Band(quantity, images, np.exp(mean[q]), np.exp(mean[q] - width[q]), np.exp(mean[q] + width[q]), spread[q])
        for q, quantity in enumerate(curves)
    ]


def common_images(curves: Sequence[Curve]) -> Column:
    """Return the numbers of images at which all curves have a value."""
    common = set(curves[0].images) if curves else set()
    for curve in curves[1:]:
        common &= set(curve.images)
    return np.array(sorted(common), dtype=np.float64)


def _spread(logs: Column) -> Column:
    """Return the standard deviation over curves, averaged over neighbours: (..., K, T) -> (..., T)."""
    variance = logs.var(axis=-2, ddof=1)
    count = variance.shape[-1]
    near = np.abs(np.subtract.outer(np.arange(count), np.arange(count))) <= NEIGHBOURS
    return np.asarray(np.sqrt(variance @ (near / near.sum(axis=0))))


def _critical_value(logs: Column) -> float:
    """Return the c of the band for reference curves (Q, K, T), by simulation; the same for the same curves."""
    num_quantities, num_runs, num_points = logs.shape
    residuals = logs - logs.mean(axis=1, keepdims=True)
    standard = residuals / np.maximum(_spread(logs), MIN_SPREAD)[:, None]
    along = float((standard[..., 1:] * standard[..., :-1]).sum() / max((standard**2).sum(), 1e-12))
    along = min(max(along, 0.0), MAX_CORRELATION)
    across = np.cov(standard.reshape(num_quantities, -1)).reshape(num_quantities, num_quantities)
    across = 0.9 * across + 0.1 * np.eye(num_quantities)  # few runs: not to be trusted to the end
    scale = np.sqrt(np.diag(across))
    mix = np.linalg.cholesky(across / np.outer(scale, scale))
    generator = np.random.default_rng(0)
    largest = []
    for _ in range(SIMULATIONS // AT_ONCE):
        drawn = generator.standard_normal((AT_ONCE, num_runs + 1, num_points, num_quantities)) @ mix.T
        for point in range(1, num_points):
            drawn[:, :, point] = along * drawn[:, :, point - 1] + np.sqrt(1 - along**2) * drawn[:, :, point]
        drawn = drawn.transpose(0, 3, 1, 2)  # (S, Q, K + 1, T)
        reference, new = drawn[:, :, :-1], drawn[:, :, -1]
        error = (new - reference.mean(axis=2)) / (_spread(reference) * np.sqrt(1 + 1 / num_runs))
        largest.append(np.abs(error).max(axis=(1, 2)))
    return float(np.quantile(np.concatenate(largest), COVERAGE))
