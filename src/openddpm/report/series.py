"""The curves of a run as columns of numbers, with no more points than a screen can show."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openddpm.record.bands import BANDS, BANDS_AS_DECIDED, Band
from openddpm.record.reader import RunFolder
from openddpm.record.schema import EvaluationRow, Weights

MAX_POINTS = 2000  # about the width of a large plot in pixels

Column = NDArray[np.float64]
JsonColumns = dict[str, list[float | None]]

METRICS = ("train_loss", "learning_rate", "grad_norm", "images_per_second", "ema_decay")
BASELINES = ("zero", "linear", "memorizing_train", "memorizing_heldout")


def metrics_columns(run: RunFolder) -> JsonColumns:
    """Return the metrics over step, images and hours; None for missing values."""
    columns = {name: _column([getattr(row, name) for row in run.metrics]) for name in ("step", "images_seen", *METRICS)}
    columns["hours"] = _column([row.wall_seconds for row in run.metrics]) / 3600
    return to_json(thin(columns, MAX_POINTS))


def evaluation_columns(run: RunFolder, weights: Weights) -> JsonColumns:
    """Return losses and skills of these weights on the fixed samples, over step, images and hours.

    Without held-out images, `skill` and the bands' skills are of the training images.
    """
    rows = [row for row in run.evaluations if row.weights == weights]
    columns = {name: _column([getattr(row, name) for row in rows]) for name in ("step", "images_seen")}
    columns["hours"] = _hours_at(run, columns["images_seen"])
    for name in ("heldout_loss", "fixed_train_loss"):
        columns[name] = _column([getattr(row, name) for row in rows])
    columns["skill"] = _column([row.train_skill if row.heldout_loss is None else row.skill for row in rows])
    for band in BANDS_AS_DECIDED:
        columns[band] = _column([_band_skill(row, band) for row in rows])
    return to_json(thin(columns, MAX_POINTS))


def reference_columns(run: RunFolder) -> JsonColumns:
    """Return the band of the reference that the run follows, of the loss that runs are judged by; empty without."""
    bands = {band.field: band for band in run.reference_band.bands} if run.reference_band else {}
    band = bands.get("heldout_loss") or bands.get("fixed_train_loss")
    if band is None:
        return {}
    images = _column([float(count) for count in band.images_seen])
    so_far = images <= (run.metrics[-1].images_seen if run.metrics else 0)
    hours = np.where(so_far, _hours_at(run, images), np.nan)  # the pace to come is not known
    columns = {"images_seen": images, "step": images / run.run.global_batch_size, "hours": hours}
    return to_json({**columns, **{name: _column(getattr(band, name)) for name in ("low", "mean", "high")}})


def noise_columns(run: RunFolder) -> JsonColumns:
    """Return the last losses of all weights by name, and of the baselines, over increasing SNR.

    Empty without baselines; weights without a loss for each group are left out.
    """
    if run.baselines is None:
        return {}
    columns = {name: _column(getattr(run.baselines, name)) for name in ("snr", *BASELINES)}
    for row in run.evaluations:
        columns[row.weights] = _column(row.by_timestep)
    order = np.argsort(columns["snr"])
    return to_json({name: column[order] for name, column in columns.items() if len(column) == len(order)})


def band_edges() -> JsonColumns:
    """Return the two ends of each band as the logarithm to base 10 of the SNR; None for an open end."""
    with np.errstate(divide="ignore"):
        return to_json({band: np.log10(BANDS[band]) for band in BANDS_AS_DECIDED})


def images_at_steps(run: RunFolder, steps: list[int]) -> list[int]:
    """Return the number of training images consumed by each of `steps`, interpolated between the logged steps."""
    progress = run.run.progress
    known = [(0, 0), (progress.step, progress.images_seen), *((row.step, row.images_seen) for row in run.metrics)]
    logged = np.array(known, dtype=np.float64)
    logged = logged[np.argsort(logged[:, 0], kind="stable")]
    return [round(images) for images in np.interp(np.array(steps, dtype=np.float64), *logged.T)]


def thin(columns: dict[str, Column], max_points: int) -> dict[str, Column]:
    """Shorten columns of equal length to `max_points`: the first, the last, and means of equal buckets between them.

    NaN stands for a missing value: means ignore it, and a bucket of nothing else becomes NaN.
    """
    length = len(next(iter(columns.values())))
    if length <= max_points:
        return columns
    starts = np.linspace(0, length - 2, max_points - 2, endpoint=False).astype(int)
    return {name: np.concatenate([c[:1], _bucket_means(c[1:-1], starts), c[-1:]]) for name, c in columns.items()}


def smooth(values: Column, time_constant: float) -> Column:
    """Return the exponential moving average over about `time_constant` points, or a tenth of those so far if fewer.

    The shorter average at the start follows a loss that falls steeply. The same as `smooth` in plots.js.
    """
    mean, weight, result = 0.0, 0.0, np.full_like(values, np.nan)
    for index, value in enumerate(values):
        if np.isfinite(value):
            keep = np.exp(-1 / min(time_constant, 1 + index / 10))
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
            result[index] = mean / weight
    return result


def to_json(columns: dict[str, Column]) -> JsonColumns:
    """Return lists of numbers with at most 8 digits; None for values that are not finite."""
    return {
        name: [float(f"{value:.8g}") if np.isfinite(value) else None for value in column]
        for name, column in columns.items()
    }


def _column(values: Sequence[float | None]) -> Column:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _bucket_means(values: Column, starts: NDArray[np.intp]) -> Column:
    present = np.isfinite(values)
    sums = np.add.reduceat(np.where(present, values, 0.0), starts)
    counts = np.add.reduceat(present.astype(np.float64), starts)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _hours_at(run: RunFolder, images: Column) -> Column:
    logged_images = [0, *(row.images_seen for row in run.metrics)]
    logged_hours = [0.0, *(row.wall_seconds / 3600 for row in run.metrics)]
    return np.interp(images, logged_images, logged_hours)


def _band_skill(row: EvaluationRow, band: Band) -> float | None:
    score = row.bands.get(band)
    return score.skill if score else None
