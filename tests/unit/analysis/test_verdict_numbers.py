"""Sentences and evidence of the verdict, word for word and on either side of their limits, on courses of a few
numbers."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from made_up_run import made_up_samples
from openddpm.analysis.verdict import judge
from openddpm.record.schema import (
    Band,
    BandScore,
    BaselinesRecord,
    EvaluationRow,
    Evidence,
    MetricsRow,
    RunRecord,
    SamplesRow,
    Verdict,
)

LINEAR = 0.05
Skills = Sequence[float | None]


def judged(
    ema: Skills = (),
    raw: Skills = (),
    *,
    train: Skills | None = None,
    error: float | None = None,
    loss: float | None = None,
    bands: dict[Band, float | None] | None = None,
    metrics: Sequence[MetricsRow] = (),
    samples: Sequence[SamplesRow] = (),
    status: str = "running",
    total_steps: int = 1000,
    num_heldout: int = 1,
    num_compared: int = 100,
    last_step: int = 0,
    **config: Any,
) -> Verdict:
    """Judge a run with these skills after 1, 2, 4, ... steps of ten images.

    Args:
        train: skills on training images, if they differ.
        loss: where there is no skill.
    """
    rows = []
    for weights, skills in (("ema", ema), ("raw", raw)):
        for number, skill in enumerate(skills):
            training = skill if train is None else train[number]
            losses = [loss if one is None else (1 - one) * LINEAR for one in (skill, training)]
            rows.append(
                EvaluationRow.model_construct(
                    step=2**number, images_seen=10 * 2**number, weights=weights, heldout_loss=losses[0],
                    fixed_train_loss=losses[1], skill=skill, train_skill=training, skill_error=error,
                    bands={band: BandScore(loss=None, skill=one) for band, one in (bands or {}).items()},
                )
            )  # fmt: skip
    run = RunRecord.model_construct(
        status=status,
        failure=None,
        user_supplied=[],
        total_steps=total_steps,
        dataset=SimpleNamespace(num_heldout=num_heldout, num_near_duplicates=1, num_compared=num_compared),
        model=SimpleNamespace(num_parameters=10_000),
        progress=SimpleNamespace(step=last_step),
        config={"prediction_type": "epsilon", "adam_epsilon": 1e-8, "max_grad_norm": 1.0, **config},
    )
    return judge(run, metrics, rows, BaselinesRecord.model_construct(), samples)


def logged(*grad_norms: float | None) -> list[MetricsRow]:
    """Return a logged line a step."""
    return [
        MetricsRow.model_construct(
            step=step, images_seen=10 * step, wall_seconds=step / 100, train_loss=0.1, grad_norm=norm, ema_decay=0.99
        )
        for step, norm in enumerate(grad_norms, 1)
    ]


def line(last: float, slope: float, scatter: float = 0.0, number: int = 8) -> list[float]:
    """Return skills that rise by `slope` at each evaluation; the standard error of the trend is 0.6325 `scatter`."""
    signs = [1, -1, -1, 1]  # a trend is of the last four: others are older than a third of the images
    return [last + slope * (n - number + 1) + scatter * signs[n % 4] for n in range(number)]


def evidence(verdict: Verdict, name: str) -> Evidence | None:
    """Return the evidence of a name, if there is any."""
    return next((one for one in verdict.evidence if one.name == name), None)


BETTER, WORSE = "it is 30 % better than a linear filter", "it is 30 % worse than a linear filter"


@pytest.mark.parametrize(
    ("skills", "options", "code", "sentence"),
    [
        ([None], {"loss": 0.1}, "too_early", "Too early to tell: nothing has been measured yet."),
        (
            line(0.3, 0.02, number=3),
            {},
            "too_early",
            "Too early to tell: 3 of the 4 evaluations that show a trend are done.",
        ),
        (
            [0.3] * 3,  # frozen, if there were one more
            {"status": "failed", "last_step": 7},
            "too_early",
            "The run was ended by an error after step 7. Too early to tell: 3 of the 4 evaluations that show a trend "
            "are done.",
        ),
        (
            line(0.3, 0.02),
            {"status": "failed", "metrics": logged(1.0)},
            "learning",
            f"The run was ended by an error after step 1. It works and is still learning. On images it has never seen "
            f"{BETTER}.",
        ),
        (
            line(0.3, 0.02, number=4),
            {},
            "learning",
            f"It works and is still learning. On images it has never seen {BETTER}.",
        ),
        (
            line(0.3, 0.02),
            {"num_heldout": 0},
            "learning",
            f"It works and is still learning. On its training images, as none is held out, {BETTER}.",
        ),
        (line(0.3, 0.0101), {}, "learning", f"It works and is still learning. On images it has never seen {BETTER}."),
        (
            line(0.3, 0.0099),
            {},
            "plateaued",
            f"It works, but has stopped getting better. On images it has never seen {BETTER}.",
        ),
        (
            line(0.3, 0.0099, number=7),
            {},
            "learning",
            f"It works and is still learning. On images it has never seen {BETTER}.",
        ),
        (
            line(0.3, 0, 0.0236),  # with two standard errors: 0.0298
            {},
            "plateaued",
            "It works, but has stopped getting better. On images it has never seen it is 32 % better than a linear "
            "filter.",
        ),
        (
            line(0.3, 0, 0.0238),  # with two standard errors: 0.0301
            {},
            "learning",
            "It works and is still learning. On images it has never seen it is 32 % better than a linear filter.",
        ),
        (
            line(0.3, -0.03, 0.0157),  # with two standard errors: -0.0101
            {},
            "plateaued",
            "It has been getting worse rather than better lately. On images it has never seen it is 32 % better than a "
            "linear filter.",
        ),
        (
            line(0.3, -0.03, 0.0159),  # with two standard errors: -0.0099
            {},
            "plateaued",
            "It works, but has stopped getting better. On images it has never seen it is 32 % better than a linear "
            "filter.",
        ),
        (
            [0.1, 0.2, None, 0.3],  # no trend
            {},
            "learning",
            f"It works and is still learning. On images it has never seen {BETTER}.",
        ),
        (
            [0.3] * 4,
            {},
            "not_learning",
            "The weights do not change: is the model frozen, or does the optimizer not have its parameters?",
        ),
        (
            line(-0.3, 0.0099),
            {},
            "not_learning",
            f"It has stopped getting better, and on images it has never seen {WORSE}.",
        ),
        (
            line(0.0, 0.0099),
            {},
            "plateaued",
            "It works, but has stopped getting better. On images it has never seen it is level with a linear filter.",
        ),
        (
            line(0.0, 0.02),
            {},
            "learning",
            "It works and is still learning. On images it has never seen it is level with a linear filter.",
        ),
        (
            line(-0.3, 0.1),
            {"total_steps": 128 * 2**2},
            "learning",
            f"It is learning: on images it has never seen {WORSE} so far, and at this pace the run ends before it "
            "beats one.",
        ),
        (
            line(-0.3, 0.1),
            {"total_steps": 128 * 2**4},
            "learning",
            f"It is learning: on images it has never seen {WORSE} so far, on course to beat one before the run ends.",
        ),
        (
            [None, None, -0.4, -0.3],  # no trend
            {},
            "learning",
            f"It is learning: on images it has never seen {WORSE} so far, on course to beat one before the run ends.",
        ),
        (
            line(0.3, 0.0101, number=4),
            {"status": "finished"},
            "finished",
            f"Finished: on images it has never seen {BETTER} and was still getting better: training for longer would "
            "help.",
        ),
        (
            line(0.3, 0.0099, number=4),
            {"status": "finished"},
            "finished",
            f"Finished: on images it has never seen {BETTER}.",
        ),
        (
            line(0.3, 0.03, 0.0238),  # less than two standard errors
            {"status": "finished"},
            "finished",
            "Finished: on images it has never seen it is 32 % better than a linear filter.",
        ),
        ([0.3], {"status": "finished"}, "finished", f"Finished: on images it has never seen {BETTER}."),
        (
            line(0.0, 0.0099),
            {"status": "finished"},
            "finished",
            "Finished: on images it has never seen it is level with a linear filter.",
        ),
        (
            line(-0.3, 0.0101),
            {"status": "finished"},
            "finished",
            f"Finished too early: on images it has never seen {WORSE}. Train for longer.",
        ),
        (
            line(-0.3, 0.0099),
            {"status": "finished"},
            "not_learning",
            f"It has stopped getting better, and on images it has never seen {WORSE}.",
        ),
    ],
)
def test_the_sentence_says_where_the_run_stands(
    skills: Skills, options: dict[str, Any], code: str, sentence: str
) -> None:
    """By its skill, whether that still changes by a hundredth each doubling, and how far the run is."""
    verdict = judged(skills, [skill and skill - 0.001 for skill in skills], **options)
    assert (verdict.code, verdict.sentence) == (code, sentence)


@pytest.mark.parametrize(
    ("number", "is_told"),
    [(3, False), (4, True)],
)
def test_symptoms_are_looked_for_with_the_fourth_evaluation(number: int, is_told: bool) -> None:
    """Before that nothing is said of them, even if an evaluation has no skill."""
    ema, raw = [0.0, 0.005, None, 0.01][-number:], [0.28, 0.29, None, 0.31][-number:]
    assert ("look at the raw ones" in judged(ema, raw).sentence) == is_told


BAD = [made_up_samples(128, "ema", brightness=0.0)]


@pytest.mark.parametrize(
    ("skills", "options", "code", "is_told"),
    [
        (line(0.3, 0.02), {}, "learning", True),
        (line(0.3, 0.0099), {}, "plateaued", True),
        (line(0.3, 0.02), {"status": "finished"}, "finished", True),
        ([0.3] * 4, {}, "not_learning", False),
    ],
)
def test_bad_samples_contradict_good_news(skills: Skills, options: dict[str, Any], code: str, is_told: bool) -> None:
    """That they are bad is in the evidence, and in the sentence where that says that the run works."""
    verdict = judged(skills, [skill and skill - 0.001 for skill in skills], samples=BAD, **options)
    told = evidence(verdict, "samples")
    assert verdict.code == code and told is not None and told.kind == "warning"
    assert verdict.sentence.endswith(" But its samples are darker than the training images.") == is_told


def test_samples_without_an_evaluation_say_nothing() -> None:
    """Before the first evaluation the verdict is empty."""
    verdict = judged(samples=BAD)
    assert (verdict.code, verdict.evidence, verdict.step, verdict.images_seen) == ("too_early", [], 0, 0)


def test_the_whole_verdict() -> None:
    """All fields of the verdict on a healthy run, to the last number."""
    verdict = judged(line(0.3, 0.02), line(0.2, 0.02), train=line(0.35, 0.02), error=0.02, metrics=logged(*10 * [0.5]))
    assert verdict.model_dump() == {
        **{"code": "learning", "step": 128, "images_seen": 1280, "skill": 0.3, "weights": "ema"},
        "sentence": f"It works and is still learning. On images it has never seen {BETTER}.",
        "forecast": None,
        "following": None,
        "evidence": [
            {
                **{"name": "skill", "kind": "good", "value": 0.3, "error": 0.02},
                "text": "Skill 0.30 after 1,280 images; 0: the best linear filter, 1: no error.",
            },
            {
                **{"name": "skill_trend", "kind": "good", "value": pytest.approx(0.02)},
                "error": pytest.approx(0),
                "text": "Recently, doubling the images changed the skill by +0.02 \N{PLUS-MINUS SIGN} 0.00.",
            },
            {
                **{"name": "train_heldout_gap", "kind": "good"},
                **{"value": pytest.approx(0.05), "error": pytest.approx(0.02 * 2**0.5)},
                "text": "Training images are denoised about as well as held-out ones (skill differs by +0.05): "
                "nothing is memorized.",
            },
            {
                **{"name": "ema_lead", "kind": "note", "value": pytest.approx(0.1), "error": None},
                "text": "The averaged weights are better than the raw ones by 0.10 of skill.",
            },
            {
                **{"name": "grad_norm", "kind": "note", "value": 0.5, "error": None},
                "text": "The gradient norm is 0.5, recently at most 0.5; 0 % of steps are clipped at 1.",
            },
        ],
    }


@pytest.mark.parametrize(
    ("slope", "scatter", "kind", "change"),
    [
        (0.02, 0.0157, "good", "+0.02 \N{PLUS-MINUS SIGN} 0.02"),
        (0.02, 0.0159, "note", "+0.02 \N{PLUS-MINUS SIGN} 0.02"),
        (-0.2, 0.1, "note", "\N{MINUS SIGN}0.20 \N{PLUS-MINUS SIGN} 0.13"),
    ],
)
def test_the_trend_is_good_beyond_two_errors(slope: float, scatter: float, kind: str, change: str) -> None:
    """It is told with twice its standard error."""
    told = evidence(judged(line(0.3, slope, scatter)), "skill_trend")
    assert told is not None and told.kind == kind and f"changed the skill by {change}." in told.text


def test_no_skill_and_no_trend_are_no_evidence() -> None:
    """The skill of a linear filter is a note; where skill, trend or bands are not known, nothing is said of them."""
    level = evidence(judged([0.0]), "skill")
    assert level is not None and level.kind == "note"
    assert [one.name for one in judged([0.1]).evidence] == ["skill", "train_heldout_gap"]
    assert judged([None], loss=0.1).evidence == []
    one = evidence(judged([0.1], bands={"shape": -0.1}), "bands")
    assert one is not None and one.text == "Shape is not yet as good as a linear filter."


@pytest.mark.parametrize(
    ("layout", "shape", "detail", "kind", "text"),
    [
        (0.0051, 0.0051, 0.0051, "good", "Layout, shape and fine detail beat a linear filter."),
        (0.0051, 0.0, 0.005, "good", "Layout beats a linear filter."),
        (0.005, -0.005, 0.0, None, None),
        (None, -0.0051, 0.0, "note", "Shape is not yet as good as a linear filter."),
        (-1.0, -0.3, 0.0, "note", "Layout and shape are not yet as good as a linear filter."),
        (
            *(-1.01, -0.31, 0.1),
            "note",
            "Fine detail beats a linear filter, layout and shape are not yet as good as one: expect wrong colours and "
            "composition and parts that do not fit together in the samples.",
        ),
        (
            *(0.1, 0.1, -0.001),
            "good",
            "Layout and shape beat a linear filter: expect speckle or blur in the samples.",
        ),
    ],
)
def test_bands_say_what_to_expect(
    layout: float | None, shape: float, detail: float, kind: str | None, text: str | None
) -> None:
    """Bands above and below a linear filter by half a hundredth are named, and what those look like that are bad."""
    told = evidence(judged([0.1], bands={"layout": layout, "shape": shape, "detail": detail}), "bands")
    assert (told and told.kind, told and told.text) == (kind, text)


@pytest.mark.parametrize(
    ("skill", "gap", "error", "difference"),
    [
        (0.3, 0.05, 0.052, "+0.05"),  # with two errors of a difference: 0.197
        (0.3, 0.05, 0.054, None),  # 0.203
        (0.3, -0.05, 0.052, "\N{MINUS SIGN}0.05"),
        (0.3, -0.05, 0.054, None),
        (-0.99, 0.05, 0.0, "+0.05"),
        (-1.0, 0.05, 0.0, None),
    ],
)
def test_no_gap_is_good_if_it_is_certain(skill: float, gap: float, error: float, difference: str | None) -> None:
    """Up to a fifth of skill, errors included, in a run that has learned something."""
    told = evidence(judged([skill], train=[skill + gap], error=error), "train_heldout_gap")
    assert (told is None) == (difference is None)
    if told is not None:
        assert told.kind == "good" and f"(skill differs by {difference})" in told.text
        assert (told.value, told.error) == (pytest.approx(gap), pytest.approx(error * 2**0.5))


@pytest.mark.parametrize(("num_compared", "is_told"), [(50, True), (51, False)])
def test_near_duplicates_warn_from_two_per_cent(num_compared: int, is_told: bool) -> None:
    """Of the held-out images that were compared; that the loss is too good is said with it."""
    told = evidence(judged([0.1], num_compared=num_compared), "near_duplicates")
    assert (told is not None) == is_told
    if told is not None:
        assert (told.kind, told.value) == ("warning", 0.02) and told.text.startswith("1 of 50 held-out images (2.0%)")
        assert told.text.endswith(". This makes the held-out loss too good.")


def test_what_a_symptom_tells_is_not_told_again() -> None:
    """A gap, or an average that lags or is copied, stands once in the evidence, and in the sentence if it matters."""
    gap = judged(line(0.3, 0.02), train=line(0.45, 0.02))
    assert [(one.name, one.kind) for one in gap.evidence if one.name == "train_heldout_gap"] == [
        ("train_heldout_gap", "warning")
    ]
    assert gap.sentence.endswith("It also begins to memorize its training images: more images would help.")
    lags = judged(line(0.0, 0.02), line(0.3, 0.02))
    assert [one.name for one in lags.evidence if "ema" in one.name] == ["ema_lag"]
    assert "It works and is still learning." in lags.sentence and lags.sentence.endswith("look at the raw ones.")
    same = line(0.3, 0.02, number=4)
    copied = judged([*same, 0.33], [*same, 0.31], metrics=logged(1.0))
    assert [one.name for one in copied.evidence if one.name in ("copied_average", "ema_lead")] == ["copied_average"]


@pytest.mark.parametrize(
    ("ema", "raw", "text"),
    [
        (0.306, 0.3, "The averaged weights are better than the raw ones by 0.01 of skill."),
        (0.304, 0.3, None),
        (0.3, 0.306, "The raw weights are better than the averaged ones by 0.01 of skill."),
        (0.3, None, None),
        (None, 0.3, None),
    ],
)
def test_the_better_weights_are_told(ema: float | None, raw: float | None, text: str | None) -> None:
    """Where averaged and raw weights differ by a hundredth of skill; the value is how far the average is ahead."""
    told = evidence(judged([0.1, ema], [0.1, raw]), "ema_lead")
    assert (told and told.text) == text
    if told is not None and ema is not None and raw is not None:
        assert told.value == pytest.approx(ema - raw)
    assert evidence(judged(raw=[0.1, 0.2]), "ema_lead") is None


@pytest.mark.parametrize(
    ("norms", "text"),
    [
        ([0.5] * 9, None),
        ([None, *[0.5] * 9], None),
        ([9.0, *range(1, 11)], "The gradient norm is 5.5, recently at most 10; 90 % of steps are clipped at 1."),
        (
            [*[90.0] * 24, *[1.0] * 3, *[2.0] * 9],  # the last third
            "The gradient norm is 2, recently at most 2; 75 % of steps are clipped at 1.",
        ),
    ],
)
def test_gradients_are_of_the_last_third(norms: list[float | None], text: str | None) -> None:
    """Median and maximum of their norms, ten at least, and the share that is clipped."""
    told = evidence(judged([0.1], metrics=logged(*norms)), "grad_norm")
    assert (told and told.text) == text
