"""The course of a run as arrays, for verdict and forecast."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from openddpm.record.schema import (
    RAW,
    BaselinesRecord,
    EvaluationRow,
    MetricsRow,
    RunRecord,
    Weights,
    exported_weights,
    weights_in_order,
)

Column = NDArray[np.float64]

RECENT = 3.0  # a trend is fitted to the evaluations after the first third of the images
MIN_TREND_POINTS = 4  # evaluations; assumed: fewer show no trend


@dataclass(frozen=True)
class Trend:
    """Change of a quantity each time that the number of images doubles, by least squares."""

    per_doubling: float
    error: float
    """Standard error, from the scatter about the line."""

    @property
    def is_rising(self) -> bool:
        """Whether the rise is more than chance."""
        return self.per_doubling > 2 * self.error

    @property
    def is_falling(self) -> bool:
        """Whether the fall is more than chance."""
        return self.per_doubling < -2 * self.error


@dataclass(frozen=True)
class Course:
    """A run's record, complete or still growing. Columns have an entry per evaluated step, NaN if there is no value."""

    run: RunRecord
    metrics: Sequence[MetricsRow]
    evaluations: Sequence[EvaluationRow]
    baselines: BaselinesRecord | None

    @cached_property
    def steps(self) -> list[int]:
        """The evaluated steps."""
        return sorted({row.step for row in self.evaluations})

    @cached_property
    def images(self) -> Column:
        """Training images consumed by each of them."""
        images = {row.step: row.images_seen for row in self.evaluations}
        return np.array([images[step] for step in self.steps], dtype=np.float64)

    @cached_property
    def weights(self) -> list[Weights]:
        """The names of the weights that were evaluated, averages first."""
        return weights_in_order(row.weights for row in self.evaluations)

    @cached_property
    def averaged(self) -> Weights | None:
        """The average that is exported; None without any."""
        exported = exported_weights(self.weights)
        return None if exported == RAW else exported

    @cached_property
    def has_heldout(self) -> bool:
        """Whether images are held out; if not, training images are used in their place."""
        return self.run.dataset.num_heldout > 0

    def loss(self, weights: Weights) -> Column:
        """Return the held-out loss of these weights."""
        return self._column(weights, "heldout_loss" if self.has_heldout else "fixed_train_loss")

    def fixed_train_loss(self, weights: Weights) -> Column:
        """Return the loss on the fixed training samples."""
        return self._column(weights, "fixed_train_loss")

    def skill(self, weights: Weights) -> Column:
        """Return the held-out skill of these weights."""
        return self._column(weights, "skill" if self.has_heldout else "train_skill")

    @cached_property
    def better_skill(self) -> Column:
        """The skill of whichever weights are best, at each step."""
        return np.fmax.reduce([self.skill(name) for name in (RAW, *self.weights)])

    @cached_property
    def last(self) -> EvaluationRow | None:
        """The row with the best skill of the last evaluation; without a skill, the first in the order of `weights`."""
        last = {row.weights: row for row in self.evaluations if row.step == self.steps[-1]}
        rows = [last[name] for name in self.weights if name in last]
        return max(rows, key=lambda row: _number(self._skill_of(row), -np.inf), default=None)

    @cached_property
    def trend(self) -> Trend | None:
        """Trend of the skill of the best weights; None while there are too few evaluations."""
        return fit_trend(self.images, self.better_skill)

    @cached_property
    def better_loss(self) -> Column:
        """The held-out loss of whichever weights are best, at each step."""
        return np.fmin.reduce([self.loss(name) for name in (RAW, *self.weights)])

    @cached_property
    def loss_trend(self) -> Trend | None:
        """Trend of the logarithm to base 2 of `better_loss`."""
        return fit_trend(self.images, np.log2(self.better_loss))

    @cached_property
    def skill_at_end(self) -> float | None:
        """The highest skill expected at the run's last step if the trend of the loss holds."""
        if self.loss_trend is None:
            return None
        doublings = max(0.0, float(np.log2(self.run.total_steps / self.steps[-1])))
        fall = min(0.0, self.loss_trend.per_doubling - 2 * self.loss_trend.error)
        return float(1 - (1 - self.better_skill[-1]) * 2 ** (fall * doublings))

    @cached_property
    def train_heldout_gap(self) -> tuple[float, float] | None:
        """Skill of the best weights on training images minus that on held-out ones, and its standard error.

        Taken from the last evaluation; None if one of the two is not known.
        """
        last = self.last
        if last is None or last.skill is None or last.train_skill is None:
            return None
        return last.train_skill - last.skill, float((last.skill_error or 0.0) * np.sqrt(2))

    @cached_property
    def images_per_second(self) -> float | None:
        """Mean rate of the whole run, pauses included; None before anything is logged."""
        if not self.metrics or self.metrics[-1].wall_seconds <= 0:
            return None
        return self.metrics[-1].images_seen / self.metrics[-1].wall_seconds

    def _column(self, weights: Weights, field: str) -> Column:
        values = {row.step: getattr(row, field) for row in self.evaluations if row.weights == weights}
        return np.array([_number(values.get(step), np.nan) for step in self.steps])

    def _skill_of(self, row: EvaluationRow) -> float | None:
        return row.skill if self.has_heldout else row.train_skill


def fit_trend(images: Column, values: Column) -> Trend | None:
    """Fit a line over the logarithm of the images to the recent finite values; None if there are too few."""
    images, values = images[np.isfinite(values)], values[np.isfinite(values)]
    if len(images) < MIN_TREND_POINTS:
        return None
    count = max(MIN_TREND_POINTS, int((images >= images[-1] / RECENT).sum()))
    x, y = np.log2(images[-count:]), values[-count:]
    x = x - x.mean()
    if not x.any():
        return None
    slope = float((x * y).sum() / (x * x).sum())
    residuals = y - y.mean() - slope * x
    error = float(np.sqrt((residuals**2).sum() / (len(y) - 2) / (x * x).sum()))
    return Trend(slope, error)


def _number(value: float | None, missing: float) -> float:
    return missing if value is None else value
