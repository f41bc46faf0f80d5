"""Comparison of the samples with the training images, from the record: brightness, contrast, colour, structure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openddpm.analysis.course import Course
from openddpm.analysis.text import HUGE, count, listed, number_of
from openddpm.record.schema import Evidence, SamplesRow, SampleStatistic, StatisticName, Weights

NAMES: dict[StatisticName, str] = {
    "brightness": "brightness",
    "contrast": "contrast",
    "colour": "colour",
    "medium": "medium structure",
    "fine": "fine structure",
}
WORDS: dict[StatisticName, tuple[str, str]] = {  # samples with more of it, with less of it
    "brightness": ("brighter", "darker"),
    "contrast": ("of stronger contrast", "of weaker contrast"),
    "colour": ("more colourful", "grayer"),
    "medium": ("rougher", "smoother"),
    "fine": ("noisier", "blurrier"),
}
VISIBLE = 0.03  # of 0..1, assumed: a smaller difference is not seen, however sure it is
VISIBLE_STRUCTURE = (0.01, 0.2)  # of medium and fine: absolute, and as a share of the training images'; assumed
SAMPLER_STATISTICS = ("brightness", "contrast", "colour")  # if these are off at a good loss, the sampler is the cause


@dataclass(frozen=True)
class Difference:
    """A statistic in which the samples differ visibly from the training images."""

    name: StatisticName
    word: str
    """"brighter", "grayer", ..."""
    statistic: SampleStatistic

    @property
    def text(self) -> str:
        """The difference with its numbers: darker (brightness 0.120 beside 0.490 ± 0.040)."""
        one = self.statistic
        numbers = f"{level(one.samples)} beside {level(one.data)} \N{PLUS-MINUS SIGN} {level(one.error)}"
        return f"{self.word} ({NAMES[self.name]} {numbers})"


@dataclass(frozen=True)
class SamplesFinding:
    """Evidence from the samples, and a sentence for the verdict if they contradict a good loss."""

    evidence: Evidence
    sentence: str = ""


def level(number: float) -> str:
    """0.70312 -> 0.703"""
    return f"{number:.3f}" if abs(number) < HUGE else f"{number:.1e}"


def latest_samples(rows: Sequence[SamplesRow], weights: Weights | None) -> SamplesRow | None:
    """Return the newest row, that of these weights if its step has one; None without rows."""
    return max(rows, key=lambda row: (row.step, row.weights == weights), default=None)


def differences(row: SamplesRow) -> list[Difference]:
    """Return the statistics that differ by more than any group of as many training images, and visibly."""
    found = []
    for name, one in row.statistics.items():
        visible = max(VISIBLE_STRUCTURE[0], VISIBLE_STRUCTURE[1] * one.data) if name in ("medium", "fine") else VISIBLE
        if not one.low <= one.samples <= one.high and abs(one.samples - one.data) >= visible:
            found.append(Difference(name, WORDS[name][one.samples < one.data], one))
    return found


def samples_finding(course: Course, rows: Sequence[SamplesRow]) -> SamplesFinding | None:
    """Return what the newest samples of the best weights show; None before there are any.

    Samples that differ are a warning once the weights that made them are better than a linear filter: before that
    they cannot be expected to look right.
    """
    row = latest_samples(rows, course.last.weights if course.last else None)
    if row is None or not row.statistics:
        return None
    off = differences(row)
    value = max((_errors_apart(one) for one in row.statistics.values()), key=abs)  # if infinite, none is recorded
    if not off:
        text = (
            f"As far as {number_of(row.num_samples, 'sample')} can show, brightness and sharpness are as in the data."
        )
        return SamplesFinding(Evidence(name="samples", kind="good", text=text, value=value))
    words = listed([one.word for one in off])
    text = f"The samples of step {count(row.step)} are {listed([one.text for one in off])} than the training images"
    if "transform" in course.run.user_supplied:
        text += ", which are measured without your transform."
        return SamplesFinding(Evidence(name="samples", kind="note", text=text, value=value))
    if not _skill_when_sampled(course, row) >= 0:
        text += ", as expected of a model that is not yet as good as a linear filter."
        return SamplesFinding(Evidence(name="samples", kind="note", text=text, value=value))
    text += f"; \N{PLUS-MINUS SIGN} is the standard error for {number_of(row.num_samples, 'image')}."
    if any(one.name in SAMPLER_STATISTICS for one in off):
        text += " If the loss is good, check how they are sampled: the solver, its steps, the noise schedule."
    sentence = f"But its samples are {words} than the training images."
    return SamplesFinding(Evidence(name="samples", kind="warning", text=text, value=value), sentence)


def _errors_apart(one: SampleStatistic) -> float:
    difference = one.samples - one.data
    if one.error:
        return difference / one.error
    return np.inf if difference else 0.0


def _skill_when_sampled(course: Course, row: SamplesRow) -> float:
    """Return the skill at the last evaluation up to the step of these samples; NaN if there is none."""
    skills = course.skill(row.weights)[np.array(course.steps) <= row.step]
    return float(skills[-1]) if len(skills) else np.nan
