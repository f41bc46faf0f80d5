"""Is it working? An answer in words and numbers, from the record alone. docs/baselines.md explains it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from openddpm.analysis.course import MIN_TREND_POINTS, Course, Trend
from openddpm.analysis.data_checks import NEAR_DUPLICATE_SHARE, near_duplicate_share, near_duplicates_text
from openddpm.analysis.forecast import forecast
from openddpm.analysis.samples import samples_finding
from openddpm.analysis.symptoms import GAP, find_symptoms
from openddpm.analysis.text import count, listed, signed, skill_words
from openddpm.record.bands import Band
from openddpm.record.schema import (
    RAW,
    BaselinesRecord,
    EvaluationRow,
    Evidence,
    MetricsRow,
    RunRecord,
    SamplesRow,
    Verdict,
    VerdictCode,
)

LEVEL = 0.005  # skill below this is shown as none
FLAT_PER_DOUBLING = 0.01  # gain of skill per doubling of the images; with its error, at most three times that
MIN_PLATEAU_EVALUATIONS = 8

GOOD_CODES = ("learning", "plateaued", "finished")  # codes that bad samples would contradict

BAND_WORDS: dict[Band, tuple[str, str]] = {  # its name, what samples look like while it is bad
    "layout": ("layout", "wrong colours and composition"),
    "shape": ("shape", "parts that do not fit together"),
    "detail": ("fine detail", "speckle or blur"),
}
BAD_SKILL: dict[Band, float] = {"layout": -1.0, "shape": -0.3, "detail": 0.0}
"""Measured: below it, samples show it. A linear filter is so good at strong noise that little is lost above it."""


@np.errstate(all="ignore")  # what cannot be computed, such as the logarithm of a loss of 0, is left out
def judge(
    run: RunRecord,
    metrics: Sequence[MetricsRow],
    evaluations: Sequence[EvaluationRow],
    baselines: BaselinesRecord | None,
    samples: Sequence[SamplesRow] = (),
) -> Verdict:
    """Return the verdict on a run from its record, complete or still growing."""
    course = Course(run, metrics, evaluations, baselines)
    last = course.last
    is_lost = bool(np.isnan(course.better_skill[-1:]).any())  # no need to wait for a trend
    has_enough = last is not None and (is_lost or len(course.steps) >= MIN_TREND_POINTS)
    is_judged = baselines is not None and (has_enough or run.failure is not None)
    symptoms = find_symptoms(course) if is_judged else []
    decisive = next((symptom for symptom in symptoms if symptom.code), None)
    code, sentence = _state(course) if decisive is None else (decisive.code, decisive.sentence)
    assert code is not None
    step = max([run.progress.step, *(row.step for row in metrics[-1:])])
    stopped = [f"The run was ended by an error after step {step:,}."] if run.status == "failed" else []
    shown = samples_finding(course, samples) if course.last and course.baselines else None
    sentences = [
        *stopped,
        sentence,
        *([shown.sentence] if shown and shown.sentence and code in GOOD_CODES else []),
        *(symptom.sentence for symptom in symptoms if symptom.code is None),
    ]
    return Verdict(
        code=code,
        sentence=" ".join(sentences),
        evidence=[
            *(symptom.evidence for symptom in symptoms),
            *([shown.evidence] if shown else []),
            *_evidence(course, {symptom.evidence.name for symptom in symptoms}),
        ],
        forecast=forecast(course) if code == "learning" and run.status == "running" else None,
        step=last.step if last else 0,
        images_seen=last.images_seen if last else 0,
        skill=float(course.better_skill[-1]) if last and np.isfinite(course.better_skill[-1]) else None,
        weights=last.weights if last else None,
    )


def _state(course: Course) -> tuple[VerdictCode, str]:
    """Return code and sentence of a run without a decisive symptom."""
    if course.baselines is None:
        return "too_early", "This record has no baselines, so its losses cannot be judged."
    if course.last is None or not np.isfinite(course.better_skill[-1]):
        return "too_early", "Too early to tell: nothing has been measured yet."
    skill, trend = float(course.better_skill[-1]), course.trend
    so_far = f"On images it has never seen it is {skill_words(skill)}"
    if not course.has_heldout:
        so_far = f"On its training images, as none is held out, it is {skill_words(skill)}"
    is_flat = trend is not None and _is_flat(course, trend)
    if course.run.status == "finished" and not (is_flat and skill < 0):
        if skill < 0:
            return "finished", f"Finished too early: {_lower(so_far)}. Train for longer."
        more = " and was still getting better: training for longer would help" if _still_rises(trend) else ""
        return "finished", f"Finished: {_lower(so_far)}{more}."
    if len(course.steps) < MIN_TREND_POINTS:
        number, needed = len(course.steps), MIN_TREND_POINTS
        return "too_early", f"Too early to tell: {number} of the {needed} evaluations that show a trend are done."
    if trend is not None and trend.per_doubling < -2 * trend.error - FLAT_PER_DOUBLING:
        return "plateaued", f"It has been getting worse rather than better lately. {so_far}."
    if is_flat and skill < 0:
        return "not_learning", f"It has stopped getting better, and {_lower(so_far)}."
    if is_flat:
        return "plateaued", f"It works, but has stopped getting better. {so_far}."
    if skill < 0:
        outlook = "on course to beat one before the run ends"
        if course.skill_at_end is not None and course.skill_at_end < 0:
            outlook = "and at this pace the run ends before it beats one"
        return "learning", f"It is learning: {_lower(so_far)} so far, {outlook}."
    return "learning", f"It works and is still learning. {so_far}."


def _is_flat(course: Course, trend: Trend) -> bool:
    upper = trend.per_doubling + 2 * trend.error
    return (
        len(course.steps) >= MIN_PLATEAU_EVALUATIONS
        and trend.per_doubling < FLAT_PER_DOUBLING
        and upper < 3 * FLAT_PER_DOUBLING
    )


def _still_rises(trend: Trend | None) -> bool:
    return trend is not None and trend.is_rising and trend.per_doubling > FLAT_PER_DOUBLING


def _evidence(course: Course, named: set[str]) -> list[Evidence]:
    """Return the other evidence of the verdict; `named` are the names that symptoms have given already."""
    if course.last is None or course.baselines is None:
        return []
    found = [_skill(course), _trend(course), _bands(course.last), _gap(course, named), _better_weights(course, named)]
    return [*(one for one in found if one is not None), *_near_duplicates(course.run), *_gradients(course)]


def _skill(course: Course) -> Evidence | None:
    last, skill = course.last, course.better_skill[-1]
    if last is None or not np.isfinite(skill):
        return None
    text = f"Skill {signed(skill)} after {count(last.images_seen)} images; 0: the best linear filter, 1: no error."
    return Evidence(name="skill", kind="good" if skill > 0 else "note", text=text, value=skill, error=last.skill_error)


def _trend(course: Course) -> Evidence | None:
    trend = course.trend
    if trend is None:
        return None
    change = signed(trend.per_doubling, plus=True)
    text = f"Recently, doubling the images changed the skill by {change} \N{PLUS-MINUS SIGN} {2 * trend.error:.2f}."
    kind: Literal["good", "note"] = "good" if trend.is_rising else "note"
    return Evidence(name="skill_trend", kind=kind, text=text, value=trend.per_doubling, error=trend.error)


def _bands(last: EvaluationRow) -> Evidence | None:
    skills = {band: last.bands[band].skill for band in BAND_WORDS if band in last.bands}
    known = {band: skill for band, skill in skills.items() if skill is not None}
    learned = [BAND_WORDS[band][0] for band, skill in known.items() if skill > LEVEL]
    worse = [BAND_WORDS[band][0] for band, skill in known.items() if skill < -LEVEL]
    seen = [BAND_WORDS[band][1] for band, skill in known.items() if skill < BAD_SKILL[band]]
    if not learned and not worse:
        return None
    parts = []
    if learned:
        parts.append(f"{listed(learned)} {'beats' if len(learned) == 1 else 'beat'} a linear filter")
    if worse:
        standard = "one" if learned else "a linear filter"
        parts.append(f"{listed(worse)} {'is' if len(worse) == 1 else 'are'} not yet as good as {standard}")
    text = ", ".join(parts) + (f": expect {listed(seen)} in the samples." if seen else ".")
    return Evidence(name="bands", kind="note" if worse else "good", text=text[0].upper() + text[1:])


def _gap(course: Course, named: set[str]) -> Evidence | None:
    if course.train_heldout_gap is None or "train_heldout_gap" in named or not course.better_skill[-1] > -1:
        return None  # where nothing is learned, nothing is memorized
    gap, error = course.train_heldout_gap
    if abs(gap) + 2 * error > 2 * GAP:  # too uncertain
        return None
    difference = signed(gap, plus=True)
    text = f"Training images are denoised about as well as held-out ones (skill differs by {difference}): "
    text += "nothing is memorized."
    return Evidence(name="train_heldout_gap", kind="good", text=text, value=gap, error=error)


def _better_weights(course: Course, named: set[str]) -> Evidence | None:
    if course.averaged is None:
        return None
    ema, raw = course.skill(course.averaged), course.skill(RAW)
    if named & {"ema_lag", "copied_average"} or not np.isfinite([ema[-1], raw[-1]]).all():
        return None
    better, worse = ("averaged", "raw") if ema[-1] >= raw[-1] else ("raw", "averaged")
    if round(abs(ema[-1] - raw[-1]), 2) == 0:
        return None
    text = f"The {better} weights are better than the {worse} ones by {abs(ema[-1] - raw[-1]):.2f} of skill."
    return Evidence(name="ema_lead", kind="note", text=text, value=float(ema[-1] - raw[-1]))


def _near_duplicates(run: RunRecord) -> list[Evidence]:
    share = near_duplicate_share(run)
    if share < NEAR_DUPLICATE_SHARE:
        return []
    text = f"{near_duplicates_text(run)}. This makes the held-out loss too good."
    return [Evidence(name="near_duplicates", kind="warning", text=text, value=share)]


def _gradients(course: Course) -> list[Evidence]:
    norms = np.array([row.grad_norm for row in course.metrics if row.grad_norm is not None])
    if len(norms) < 10:
        return []
    recent = norms[-max(10, len(norms) // 3) :]
    limit = float(course.run.config.get("max_grad_norm", np.inf))
    clipped = float((recent > limit).mean())
    text = f"The gradient norm is {np.median(recent):.2g}, recently at most {recent.max():.2g}; "
    text += f"{100 * clipped:.0f} % of steps are clipped at {limit:g}."
    return [Evidence(name="grad_norm", kind="note", text=text, value=float(np.median(recent)))]


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
