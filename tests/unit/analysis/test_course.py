"""Columns, trends and gaps of a course, against textbook formulas."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import linregress

from openddpm.analysis.course import MIN_TREND_POINTS, Course, Trend, fit_trend
from openddpm.record.schema import EvaluationRow, MetricsRow, RunRecord, Weights


def row(step: int, weights: Weights = "ema", **values: Any) -> EvaluationRow:
    """Return an evaluation after `step` steps of ten images."""
    given = {"heldout_loss": None, "fixed_train_loss": None, "by_timestep": [], "seconds": 0.0, **values}
    return EvaluationRow(step=step, images_seen=10 * step, weights=weights, bands={}, **given)


def course(*rows: EvaluationRow, num_heldout: int = 5, total_steps: int = 80) -> Course:
    """Return the course of a run of which no more than this is known."""
    dataset = type("Dataset", (), {"num_heldout": num_heldout})()
    run = RunRecord.model_construct(dataset=dataset, total_steps=total_steps)
    return Course(run, [], rows, None)


def logged(images: int, seconds: float) -> MetricsRow:
    """Return a logged line as far as pace is concerned."""
    return MetricsRow.model_construct(images_seen=images, wall_seconds=seconds)


def test_a_trend_is_the_regression_on_the_recent_third() -> None:
    """Slope and its error are those of a regression on log2 of the images since a third of the last, ends included."""
    random = np.random.default_rng(0)
    images = np.array([10.0, 20, 40, 99, 100, 120, 160, 200, 240, 300])
    values = np.log(images) + random.normal(size=10)
    recent = images >= 100
    expected = linregress(np.log2(images[recent]), values[recent])
    found = fit_trend(images, values)
    assert found is not None
    assert (found.per_doubling, found.error) == (pytest.approx(expected.slope), pytest.approx(expected.stderr))


def test_a_trend_takes_four_points_however_old() -> None:
    """Where fewer are recent the last four are taken; entries that are no numbers count as none, and three are no
    trend; nor are any at the same number of images."""
    images, values = np.array([1.0, 2, 4, 8, 500, 1000]), np.array([9.0, 1.0, np.nan, 2.0, 5.0, 3.0])
    found = fit_trend(images, values)
    chosen = [1, 3, 4, 5]
    expected = linregress(np.log2(images[chosen]), values[chosen])
    assert MIN_TREND_POINTS == 4 and found is not None and found.per_doubling == pytest.approx(expected.slope)
    assert fit_trend(images[2:], values[2:]) is None
    assert fit_trend(np.full(4, 8.0), np.arange(4.0)) is None


@pytest.mark.parametrize(
    ("per_doubling", "rises", "falls"),
    [(0.21, True, False), (0.2, False, False), (-0.2, False, False), (-0.21, False, True)],
)
def test_a_trend_is_one_beyond_two_errors(per_doubling: float, rises: bool, falls: bool) -> None:
    """Up to two standard errors it may be chance."""
    trend = Trend(per_doubling, 0.1)
    assert (trend.is_rising, trend.is_falling) == (rises, falls)


def test_columns_hold_what_is_known_of_each_step() -> None:
    """Rows in any order make a column by step, NaN where weights have none; the better of both is that of either."""
    one = course(
        row(20, "ema", heldout_loss=0.2, fixed_train_loss=0.1, skill=0.5, train_skill=0.6),
        row(10, "ema", heldout_loss=0.4, fixed_train_loss=0.3, skill=0.3, train_skill=0.4),
        row(20, "raw", heldout_loss=0.1, fixed_train_loss=0.05, skill=0.7, train_skill=0.8),
    )
    assert (one.steps, one.images.tolist(), one.images.dtype) == ([10, 20], [100, 200], np.float64)
    np.testing.assert_array_equal(one.loss("raw"), [np.nan, 0.1])
    np.testing.assert_array_equal(one.fixed_train_loss("ema"), [0.3, 0.1])
    assert (one.better_skill.tolist(), one.better_loss.tolist()) == ([0.3, 0.7], [0.4, 0.1])
    unheld = course(*one.evaluations, num_heldout=0)
    assert (unheld.loss("ema").tolist(), unheld.skill("ema").tolist()) == ([0.3, 0.1], [0.4, 0.6])
    assert course(*one.evaluations, num_heldout=1).has_heldout
    assert (one.averaged, course(one.evaluations[2]).averaged) == ("ema", None)


def test_the_last_row_is_the_better_one() -> None:
    """Of the last step the better weights count; EMA where both are level, and any number before none."""
    rows = [row(20, "raw", skill=0.5), row(20, "ema", skill=0.4), row(10, "ema", skill=0.9)]
    assert course(*rows).last == course(*rows[::2]).last == rows[0]
    level = [row(20, "ema", skill=0.5), row(20, "raw", skill=0.5)]
    assert course(*level).last == level[0] and course(*level[::-1]).last == level[0]
    assert course(row(20, "ema"), row(20, "raw", skill=-3.0)).last == row(20, "raw", skill=-3.0)
    by_training = [row(20, "ema", skill=0.1, train_skill=0.2), row(20, "raw", skill=0.0, train_skill=0.3)]
    assert course(*by_training, num_heldout=0).last == by_training[1]
    assert course().last is None


def test_skill_at_the_end_follows_the_trend_of_the_loss() -> None:
    """A loss that halves with each doubling is a quarter two doublings on; one that rises is taken as it is."""
    rows = [row(step, heldout_loss=8 / step, skill=1 - 8 / step) for step in (1, 2, 4, 8, 20)]
    assert course(*rows).skill_at_end == pytest.approx(1 - 8 / 80)
    assert course(*rows, total_steps=10).skill_at_end == pytest.approx(1 - 8 / 20)  # which has passed
    rising = [row(step, heldout_loss=step / 8, skill=1 - step / 8) for step in (1, 2, 4, 8)]
    assert course(*rising).skill_at_end == pytest.approx(0)
    assert course(*rows[:3]).skill_at_end is None


def test_skill_at_the_end_is_at_most_what_the_scatter_allows() -> None:
    """The trend is taken two standard errors steeper than it is."""
    losses = [0.8, 0.5, 0.45, 0.2]
    one = course(*(row(2**n, heldout_loss=loss, skill=1 - loss) for n, loss in enumerate(losses)), total_steps=32)
    line = linregress(range(4), np.log2(losses))
    assert one.skill_at_end == pytest.approx(1 - 0.2 * 2 ** (2 * (line.slope - 2 * line.stderr)))


def test_the_gap_is_of_the_last_better_row() -> None:
    """It is training skill less held-out skill, with the error of a difference; None where one is not known."""
    last = row(20, skill=0.3, train_skill=0.5, skill_error=0.1)
    assert course(row(10, skill=0.0, train_skill=0.9), last).train_heldout_gap == (
        pytest.approx(0.2),
        pytest.approx(0.1 * 2**0.5),
    )
    assert course(row(20, skill=0.3, train_skill=0.5)).train_heldout_gap == (pytest.approx(0.2), 0)
    assert course(row(20, skill=0.3)).train_heldout_gap is None
    assert course(row(20, train_skill=0.3)).train_heldout_gap is None
    assert course().train_heldout_gap is None


def test_pace_is_of_the_whole_run() -> None:
    """It is all images over all seconds; None before a second is known."""
    one = course()
    assert one.images_per_second is None
    assert Course(one.run, [logged(10, 0.0)], [], None).images_per_second is None
    assert Course(one.run, [logged(100, 1.0), logged(200, 1.5), logged(300, 0.5)], [], None).images_per_second == 600
