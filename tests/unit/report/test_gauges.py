import pytest
from hypothesis import given
from hypothesis import strategies as st

from openddpm.analysis.text import skill_words
from openddpm.record.schema import BandScore, EvaluationRow, Weights
from openddpm.report.gauges import band_gauges, last_evaluation, needle_percent


def evaluation(weights: Weights = "ema", step: int = 1, **bands: BandScore) -> EvaluationRow:
    """Return an evaluation of nothing but its bands."""
    nothing = {"heldout_loss": None, "fixed_train_loss": None, "by_timestep": [], "seconds": 0.0}
    return EvaluationRow(step=step, images_seen=step, weights=weights, bands=bands, **nothing)


@pytest.mark.parametrize(
    ("loss", "percent"), [(7.0, 0), (1.0, 0), (0.1, 25), (0.01, 50), (0.008, 75), (0.006, 100), (0.001, 100)]
)
def test_needle_stands_between_its_baselines(loss: float, percent: float) -> None:
    """With baselines 1, 0.01 and 0.006 the needle stands at 0, 50, 100 on them, halfway in log loss or loss between."""
    assert needle_percent(loss, 0.01, 0.006) == pytest.approx(percent)


losses = st.floats(0, 1e9)


@given(loss=losses, other=losses, linear=st.floats(1e-12, 10), memorizing=st.none() | losses)
def test_needle_never_leaves_the_scale_nor_turns_back(
    loss: float, other: float, linear: float, memorizing: float | None
) -> None:
    """Whatever losses and baselines, the needle stays on the scale, and a smaller loss never stands further left."""
    better, worse = sorted([loss, other])
    left, right = (needle_percent(value, linear, memorizing) for value in (worse, better))
    assert 0 <= left <= right <= 100


def test_skill_in_words_keeps_what_matters() -> None:
    """Skills read as percent better or worse, and as a multiple once the error has doubled."""
    words = {
        0.32: "32 % better than a linear filter",
        -0.34: "34 % worse than a linear filter",
        0.004: "level with a linear filter",
        -1.5: "2.5 times as far off as a linear filter",
        -1233.6: "1,235 times as far off as a linear filter",
    }
    assert {skill: skill_words(skill) for skill in words} == words


def test_gauges_say_skill_in_words_colour_and_place() -> None:
    """Better, worse and unmeasurable bands get their words, tone and needle, in the order layout to detail."""
    row = evaluation(
        detail=BandScore(loss=None, linear=0.4, memorizing=1e-9),
        shape=BandScore(loss=0.03, linear=0.04, memorizing=0.02),
        layout=BandScore(loss=0.0025, linear=0.001),
    )
    shown = [(gauge.band, gauge.words, gauge.tone, gauge.percent) for gauge in band_gauges(row)]
    assert shown == [
        ("layout", "2.5 times as far off as a linear filter", "warning", pytest.approx(43.4, abs=0.05)),
        ("shape", "25 % better than a linear filter", "good", 75.0),
        ("detail", "no longer a number", "warning", None),
    ]
    assert [gauge.memorizing for gauge in band_gauges(row)] == ["none", "0.020", "< 0.0001"]


def test_only_a_skill_that_samples_show_is_a_warning() -> None:
    """A layout somewhat worse than a linear filter is a note, as pictures hardly suffer; such a detail is a warning."""
    score = BandScore(loss=0.012, linear=0.01)
    assert [gauge.tone for gauge in band_gauges(evaluation(layout=score, detail=score))] == ["note", "warning"]


def test_no_baselines_no_gauges() -> None:
    """Without an evaluation, or without a linear baseline in it, there is nothing to read a loss by."""
    assert band_gauges(None) == []
    assert band_gauges(evaluation(shape=BandScore(loss=0.1))) == []


def test_gauges_are_of_the_weights_asked_for_at_their_last_evaluation() -> None:
    """The last row of the weights asked for is taken; unasked, that of the EMA weights, or of the raw if alone."""
    rows = [evaluation("ema", 1), evaluation("raw", 1), evaluation("ema", 2), evaluation("raw", 2)]
    assert last_evaluation(rows, "raw") == rows[3]
    assert last_evaluation(rows, None) == rows[2]
    assert last_evaluation(rows[1:2], "ema") == rows[1]
    assert last_evaluation([], None) is None
