"""Gauges of the model's loss between the baselines, one for each band, on comparable scales."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from openddpm.analysis.text import HUGE, skill_words
from openddpm.analysis.verdict import BAD_SKILL
from openddpm.record.bands import BANDS_AS_DECIDED, Band
from openddpm.record.schema import BandScore, EvaluationRow, Weights, weights_in_order

SUBJECTS: dict[Band, str] = {
    "layout": "colours and composition",
    "shape": "the parts of the picture",
    "detail": "fine texture",
}
ZERO_LOSS = 1.0  # loss of predicting no noise, which has unit variance
LINEAR_PERCENT = 50.0  # position of the linear filter on every scale
LEAST_SHOWN_LOSS = 1e-4


@dataclass(frozen=True)
class Gauge:
    """One band: its loss and baselines as text, and the position of the needle on the scale, in percent from the left.

    `percent` is None if there is no loss or no linear baseline.
    """

    band: Band
    subject: str
    """What is decided in this band."""
    words: str
    tone: str
    """ "good", "note" or "warning"."""
    loss: str
    zero: str
    linear: str
    memorizing: str
    percent: float | None


def last_evaluation(evaluations: Sequence[EvaluationRow], weights: Weights | None) -> EvaluationRow | None:
    """Return the last row of `weights`; if None or without a row, that of the first weights in order."""
    last = {row.weights: row for row in evaluations}
    return next((last[name] for name in (weights, *weights_in_order(last)) if name in last), None)


def band_gauges(row: EvaluationRow | None) -> list[Gauge]:
    """Return a gauge for each band of an evaluation that has a linear baseline."""
    if row is None:
        return []
    scores = {band: row.bands[band] for band in BANDS_AS_DECIDED if band in row.bands}
    return [_gauge(band, score) for band, score in scores.items() if (score.linear or 0) > 0]


def needle_percent(loss: float, linear: float, memorizing: float | None) -> float:
    """Return the position of `loss` between predicting no noise (0), the linear filter (50) and memorization (100).

    The left half is logarithmic in the loss: that of the linear filter is often a hundredth of that of no noise.
    The right half is linear: the memorizing denoiser's loss may be almost 0, and a logarithm would hide any gain.
    """
    if loss >= linear:
        worse = math.log(loss / linear) / math.log(ZERO_LOSS / linear) if linear < ZERO_LOSS else 1.0
        return LINEAR_PERCENT * (1 - min(1.0, worse))
    floor = memorizing if memorizing is not None and memorizing < linear else 0.0
    return LINEAR_PERCENT + (100 - LINEAR_PERCENT) * min(1.0, (linear - loss) / (linear - floor))


def _gauge(band: Band, score: BandScore) -> Gauge:
    assert score.linear
    percent = None if score.loss is None else round(needle_percent(score.loss, score.linear, score.memorizing), 1)
    skill = None if score.loss is None else 1 - score.loss / score.linear
    return Gauge(
        band=band,
        subject=SUBJECTS[band],
        words="no longer a number" if skill is None else skill_words(skill),
        tone=_tone(band, skill),
        loss=_loss_text(score.loss),
        zero=f"{ZERO_LOSS:g}",
        linear=_loss_text(score.linear),
        memorizing=_loss_text(score.memorizing) if score.memorizing is None or score.memorizing < score.linear else "",
        percent=percent,
    )


def _tone(band: Band, skill: float | None) -> str:
    if skill is None or skill < BAD_SKILL[band]:
        return "warning"
    return "good" if skill > 0.005 else "note"  # half a percent is shown as 0


def _loss_text(loss: float | None) -> str:
    if loss is None:
        return "none"
    if loss < LEAST_SHOWN_LOSS:
        return f"< {LEAST_SHOWN_LOSS:.4f}"
    if loss >= HUGE:
        return f"{loss:.0e}"
    return f"{loss:#.2g}" if loss < 10 else f"{loss:,.0f}"
