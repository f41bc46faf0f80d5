"""Forecasts from curves whose future is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from openddpm.analysis.course import Course
from openddpm.analysis.forecast import forecast
from openddpm.analysis.text import duration
from openddpm.record.schema import EvaluationRow, Forecast, MetricsRow, RunRecord

EVALUATIONS = np.arange(1, 41) * 1000
"""Images at each evaluation; a step takes ten, a second a thousand."""


def forecast_of(
    gain: float,
    exponent: float,
    images: np.ndarray = EVALUATIONS,
    scatter: float = 1e-4,
    total_images: int = 10**6,
    images_per_second: float = 1000,
) -> Forecast | None:
    """Return the forecast for a skill of 0.5 - gain * (n / last) ** -exponent, with some scatter."""
    random = np.random.default_rng(0)
    skills = 0.5 - gain * (images / images[-1]) ** -exponent + scatter * random.normal(size=len(images))
    rows = [
        EvaluationRow.model_construct(
            step=int(n) // 10, images_seen=int(n), weights="raw", heldout_loss=1 - skill, train_loss=1 - skill,
            skill=float(skill), train_skill=float(skill),
        )
        for n, skill in zip(images, skills, strict=True)
    ]  # fmt: skip
    run = RunRecord.model_construct(total_steps=total_images // 10, dataset=SimpleNamespace(num_heldout=1))
    seconds = images[-1] / images_per_second if images_per_second else 0.0
    metrics = [MetricsRow.model_construct(images_seen=int(images[-1]), wall_seconds=seconds)]
    return forecast(Course(run, metrics, rows, None))


def flat_at(gain: float, exponent: float) -> float:
    """Return after how many images, as a multiple of the last, a doubling gains 0.02."""
    return float((gain * (1 - 2**-exponent) / 0.02) ** (1 / exponent))


@pytest.mark.parametrize(
    ("gain", "exponent"), [(0.1, 0.5), (0.2, 0.8), (0.05, 1.0), (0.1, 1.5), (0.2, 2.0), (0.15, 0.3)]
)
def test_exact_curves_are_met_closely(gain: float, exponent: float) -> None:
    """Where a power law is met to a hair's breadth the range is a tenth to either side, in images and in hours."""
    found = forecast_of(gain, exponent, scatter=1e-7)
    expected = flat_at(gain, exponent) * EVALUATIONS[-1]
    assert found is not None
    assert found.images_low == pytest.approx(0.9 * expected, rel=1e-3)
    assert found.images_high == pytest.approx(1.1 * expected, rel=1e-3)
    for images, hours in ((found.images_low, found.hours_low), (found.images_high, found.hours_high)):
        assert hours == pytest.approx((images - EVALUATIONS[-1]) / 1000 / 3600, rel=1e-4)


def test_scatter_widens_the_range() -> None:
    """With more scatter more exponents fit, and the range still holds what comes."""
    narrow, wide = (forecast_of(0.1, 0.8, scatter=scatter) for scatter in (1e-5, 1e-2))
    assert narrow is not None and wide is not None
    expected = flat_at(0.1, 0.8) * EVALUATIONS[-1]
    assert wide.images_low < narrow.images_low < expected < narrow.images_high < wide.images_high


@pytest.mark.parametrize(("images", "scatter"), [(EVALUATIONS, 1e-2), (EVALUATIONS[:9], 3e-3)])
def test_all_exponents_within_three_standard_errors_count(images: np.ndarray, scatter: float) -> None:
    """The ends of the range are those of all exponents whose squares are within 1 + 9 / (N - 3) of the least."""
    found = forecast_of(0.1, 0.8, images, scatter)
    random = np.random.default_rng(0)
    skills = 0.5 - 0.1 * (images / images[-1]) ** -0.8 + scatter * random.normal(size=len(images))
    recent = images / images[-1] >= 1 / 8
    x, y = images[recent] / images[-1], skills[recent]
    fits = []
    for exponent in np.arange(4, 41) * 0.05:
        slope, offset = np.polyfit(-(x**-exponent), y, 1)
        fits.append((((slope * -(x**-exponent) + offset - y) ** 2).sum(), flat_at(slope, exponent)))
    least = min(squares for squares, _ in fits)
    ends = [end for squares, end in fits if squares <= least * (1 + 9 / (len(x) - 3))]
    assert found is not None and 1 < len(ends) < 37
    assert found.images_low == pytest.approx(max(1, 0.9 * min(ends)) * images[-1], rel=1e-3)
    assert found.images_high == pytest.approx(1.1 * max(ends) * images[-1], rel=1e-3)


def test_too_little_supports_nothing() -> None:
    """Seven recent evaluations, and a curve that does not rise, have no forecast; one flat already is so now."""
    assert forecast_of(0.2, 0.8, EVALUATIONS[:8], 1e-6) is not None
    assert forecast_of(0.2, 0.8, EVALUATIONS[:7], 1e-6) is None
    old = np.array([1_000, 2_000, 3_000, 12_200, *np.array([81, 82, 84, 88, 92, 96, 100]) * 1000])
    assert forecast_of(0.2, 0.8, old, 1e-6) is None  # since an eighth of the images: 7
    assert forecast_of(0.2, 0.8, np.array([12_500, *old[4:]]), 1e-6) is not None
    assert forecast_of(-0.1, 0.8) is None and forecast_of(0.1, 0.8, images_per_second=0) is None
    flat = forecast_of(0.02, 0.8)
    assert flat is not None and (flat.images_low, flat.images_high, flat.hours_low) == (40_000, 44_000, 0)
    assert "40 k to 44 k images, 1 min from now" in flat.text


def test_what_is_too_far_off_is_not_told() -> None:
    """Beyond thirty times the images so far is guessing."""
    near, far = ((29 / 1.1, 1e-8), (31 / 1.1, 1e-8))
    for (reach, scatter), is_told in ((near, True), (far, False)):
        gain = reach * 0.02 / (1 - 2**-1.0)
        assert (forecast_of(gain, 1.0, scatter=scatter) is not None) == is_told


def test_what_is_too_uncertain_is_not_told() -> None:
    """Neither is a range whose end is more than eight times its beginning, nor one that any exponent gives."""
    assert [forecast_of(0.15, 0.3, scatter=scatter) is not None for scatter in (0.005, 0.007)] == [True, False]
    assert [forecast_of(0.005, 0.8, scatter=scatter) is not None for scatter in (0.007, 0.01)] == [True, False]


def test_the_sentence_says_when() -> None:
    """Images to two digits and the time from now; and whether the run is planned to end before."""
    found = forecast_of(0.2, 0.8, scatter=1e-7)
    expected = flat_at(0.2, 0.8) * EVALUATIONS[-1]
    assert found is not None
    low, high = (f"{float(f'{factor * expected:.2g}') / 1000:.3g} k" for factor in (0.9, 1.1))
    assert f"flattens after {low} to {high} images, " in found.text
    minutes = [round((factor * expected - EVALUATIONS[-1]) / 1000 / 60) for factor in (0.9, 1.1)]
    assert f"{minutes[0]} min to {minutes[1]} min from now" in found.text
    assert "gains less than 0.02" in found.text and "will end before" not in found.text
    slow = forecast_of(0.2, 0.8, scatter=1e-7, images_per_second=10)
    times = [duration(round((factor * expected - EVALUATIONS[-1]) / 10 / 60) * 60) for factor in (0.9, 1.1)]
    assert slow is not None and f"{times[0]} to {times[1]} from now" in slow.text
    short = forecast_of(0.2, 0.8, scatter=1e-7, total_images=100_000)
    assert short is not None and short.text.endswith("The run will end before that, after 100 k.")
