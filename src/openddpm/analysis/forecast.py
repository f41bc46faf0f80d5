"""Forecast of when the skill will flatten: power laws fitted to its recent course, and the range of those that fit."""

import numpy as np

from openddpm.analysis.course import Column, Course
from openddpm.analysis.text import duration, short_count
from openddpm.record.schema import Forecast

MIN_POINTS = 8  # any curve fits fewer
REACH_BACK = 8.0  # the fit uses the evaluations after the first eighth of the images
FLAT = 0.02  # gain of skill per doubling of the images: assumed to be too little to train for
EXPONENTS = np.linspace(0.2, 2.0, 37)  # assumed: of power laws that losses have been seen to follow
MARGIN = 0.1  # assumed: share added at each end, since no single power law fits exactly
MAX_REACH = 30.0  # times the images so far: further ahead is guessing
MAX_SPREAD = 8.0  # ratio of the ends of the range: a wider one says nothing


def forecast(course: Course) -> Forecast | None:
    """Return when doubling the images will gain less than FLAT; None if the curve does not support a forecast.

    skill(n) = limit - c n^-p. All exponents count whose sum of squares is within three standard errors of the least
    one: F(1, N - 3) = 9, where 4 would do if evaluations on the same fixed samples had independent errors.
    """
    pace = course.images_per_second
    if pace is None or course.trend is None or not course.trend.is_rising:
        return None
    recent = np.isfinite(course.better_skill) & (course.images >= course.images[-1] / REACH_BACK)
    if recent.sum() < MIN_POINTS:
        return None
    images, skill = course.images[recent], course.better_skill[recent]
    now = float(images[-1])
    fits = [(*_fit(images / now, skill, exponent), float(exponent)) for exponent in EXPONENTS]
    allowed = min(squares for squares, _, _ in fits) * (1 + 9 / (len(images) - 3))
    ends = [now * max(1.0, gain * (1 - 2**-p) / FLAT) ** (1 / p) for squares, gain, p in fits if squares <= allowed]
    low, high = max(now, min(ends) * (1 - MARGIN)), max(ends) * (1 + MARGIN)
    if len(ends) == len(EXPONENTS) or high > MAX_REACH * now or high > MAX_SPREAD * low:
        return None
    hours_low, hours_high = ((end - now) / pace / 3600 for end in (low, high))
    planned = course.run.total_steps * now / course.steps[-1]
    return Forecast(
        images_low=round(low),
        images_high=round(high),
        hours_low=hours_low,
        hours_high=hours_high,
        text=_sentence(low, high, hours_low, hours_high, planned),
    )


def _fit(images: Column, skill: Column, exponent: float) -> tuple[float, float]:
    """Return the sum of squared residuals, and c in limit - c images^-exponent."""
    design = np.stack([np.ones_like(images), -(images**-exponent)], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, skill)
    return float(((design @ coefficients - skill) ** 2).sum()), float(coefficients[1])


def _sentence(low: float, high: float, hours_low: float, hours_high: float, planned: float) -> str:
    images = _range(*(short_count(float(f"{end:.2g}")) for end in (low, high)))
    time = _range(_hours(hours_low), _hours(hours_high))
    text = f"If it continues like this, the skill flattens after {images} images, {time} from now: "
    text += f"after that, doubling the images gains less than {FLAT}."
    if low > planned:
        text += f" The run will end before that, after {short_count(planned)}."
    return text


def _hours(hours: float) -> str:
    return duration(60 * max(1, round(hours * 60)))


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
