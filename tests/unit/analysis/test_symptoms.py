"""Each symptom on either side of its limits, on courses of a few numbers."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from openddpm.analysis.course import Course
from openddpm.analysis.symptoms import Symptom, find_symptoms
from openddpm.record.schema import EvaluationRow, MetricsRow, RunRecord, Weights

LINEAR = 0.05


def course(
    raw: Sequence[float] = (),
    ema: Sequence[float] = (),
    *,
    train: Sequence[float] | None = None,
    skill_error: float | None = None,
    metrics: Sequence[MetricsRow] = (),
    failure: str | None = None,
    user_supplied: Sequence[str] = (),
    total_steps: int | None = None,
    num_parameters: int = 10_000,
    linear: float = LINEAR,
    **config: Any,
) -> Course:
    """Return a course with these held-out losses at 1, 2, 4, ... steps; `train` are those on training images."""
    rows = []
    for weights, losses in (("raw", raw), ("ema", ema)):
        for number, loss in enumerate(losses):
            training = loss if train is None else train[number]
            rows.append(row(2**number, weights, loss, training, skill_error, linear))  # type: ignore[arg-type]
    run = RunRecord.model_construct(
        failure=failure,
        user_supplied=list(user_supplied),
        total_steps=total_steps or 2 ** max(len(raw), len(ema)),
        dataset=SimpleNamespace(num_heldout=1),
        model=SimpleNamespace(num_parameters=num_parameters),
        config={"prediction_type": "epsilon", "adam_epsilon": 1e-8, "max_grad_norm": 1.0, **config},
    )
    return Course(run, metrics, rows, None)


def row(
    step: int, weights: Weights, loss: float, training: float, skill_error: float | None, linear: float
) -> EvaluationRow:
    """Return an evaluation."""
    return EvaluationRow.model_construct(
        step=step, images_seen=10 * step, weights=weights, heldout_loss=loss, fixed_train_loss=training,
        skill=1 - loss / linear, train_skill=1 - training / linear, skill_error=skill_error,
    )  # fmt: skip


def logged(
    losses: Sequence[float], first: int = 1, grad_norm: float | None = None, ema_decay: float | None = None
) -> list[MetricsRow]:
    """Return a logged line a step."""
    return [
        MetricsRow.model_construct(
            step=step, images_seen=10 * step, train_loss=loss, grad_norm=grad_norm, ema_decay=ema_decay
        )
        for step, loss in enumerate(losses, first)
    ]


def found(one: Course) -> dict[str, Symptom]:
    """Return symptoms by the names of their evidence."""
    return {symptom.evidence.name: symptom for symptom in find_symptoms(one)}


@pytest.mark.parametrize(
    ("losses", "linear", "prediction", "is_diverged"),
    [
        ((0.5, 0.125, 0.2, 0.375), 0.9, "epsilon", False),  # three times its best
        ((0.5, 0.125, 0.2, 0.376), 0.9, "epsilon", True),
        ((0.5, 0.125, 0.2, 0.376), 0.9, "sample", True),
        ((2.0, 1.0, 1.1, 1.2), LINEAR, "epsilon", False),
        ((2.0, 1.0, 1.1, 1.21), LINEAR, "epsilon", True),
        ((2.0, 1.0, 1.1, 1.21), LINEAR, "sample", False),
        ((0.2, 0.1, 0.12, 0.15), LINEAR, "epsilon", False),  # it is under way
    ],
)
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_diverged(losses: tuple[float, ...], linear: float, prediction: str, is_diverged: bool, weights: str) -> None:
    """A loss three times its lowest, or a fifth above it before anything is learned, has blown up."""
    both = {**dict.fromkeys(("raw", "ema"), (0.5, 0.4, 0.3, 0.2)), weights: losses}
    told = found(course(**both, linear=linear, prediction_type=prediction))
    assert ("loss" in told) == is_diverged
    if is_diverged:
        assert told["loss"].code == "diverged" and told["loss"].evidence.value == losses[-1]
        was, now = (f"{loss:#.3g}" for loss in (min(losses), losses[-1]))
        best = " at its best" * (now == "0.376")
        assert told["loss"].evidence.text.startswith(f"The loss of the {weights} weights was {was}{best} and is {now}")


def test_what_is_lost_is_told_alone() -> None:
    """A failure, or a loss that is no number, is all that there is to tell."""
    for one in (course((0.4, 0.3, 0.3), failure="loss_not_finite"), course((0.4, 0.3, float("inf")))):
        (symptom,) = find_symptoms(one)
        assert (symptom.code, symptom.evidence.name, symptom.evidence.value) == ("diverged", "loss", None)
    assert find_symptoms(course((0.04, float("inf"), 0.03))) == []  # it has recovered
    (frozen,) = find_symptoms(course((0.9, 0.9, 0.9, 0.9)))
    assert frozen.evidence.name == "frozen_weights"


@pytest.mark.parametrize(
    ("losses", "is_frozen"),
    [
        ((0.5, 0.5), False),
        ((0.5, 0.5, 0.5 + 0.4e-5), True),
        ((0.5, 0.5, 0.5 + 0.6e-5), False),
        ((1e5, 1e5, 1e5 + 1), True),
        ((1e5 - 1, 1e5, 1e5), False),
    ],
)
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_frozen(losses: tuple[float, ...], is_frozen: bool, weights: str) -> None:
    """Three evaluations within a hundred-thousandth of each other are of weights that do not change."""
    told = found(course(**{weights: losses}))
    assert ("frozen_weights" in told) == is_frozen
    if is_frozen:
        assert told["frozen_weights"].code == "not_learning"
        assert told["frozen_weights"].evidence.value == np.ptp(losses)


@pytest.mark.parametrize(
    ("losses", "heldout", "is_blown"),
    [
        ([100.0] * 5 + [1.51] * 10, 0.9, True),
        ([100.0] * 5 + [1.49] * 10, 0.9, False),
        ([1.0] * 5 + [1.51] * 9, 0.9, False),  # too few
        ([1.0] * 5 + [9.0] + [1.0] * 10, 0.9, True),
        ([1.0] * 5 + [15.0] + [0.0] * 9, 0.9, False),
        ([1.0] * 5 + [1.51] * 10, 0.167, True),
        ([1.0] * 5 + [1.51] * 10, 0.165, False),  # six tenths of the way to the linear filter
    ],
)
def test_blown_up(losses: list[float], heldout: float, is_blown: bool) -> None:
    """Ten logged losses above one and a half on average, after the first five, in a run that is not under way."""
    told = found(course((1.1 * heldout, 1.1 * heldout, heldout), metrics=logged(losses)))
    assert ("loss" in told) == is_blown
    if is_blown:
        assert told["loss"].code == "diverged" and "diverged early" in told["loss"].sentence
        assert told["loss"].evidence.value == pytest.approx(max(np.convolve(losses[5:], [0.1] * 10, "valid")))
        assert f"the held-out loss is {heldout:.3f}:" in told["loss"].evidence.text


@pytest.mark.parametrize(
    ("losses", "prediction", "is_guessing"),
    [
        ((0.9, 0.91, 0.9, 0.91, 0.9), "epsilon", True),
        ((0.9, 0.91, 0.9, 0.91, 0.899), "epsilon", False),
        ((1.5, 1.49, 1.5, 1.49, 1.5), "epsilon", True),
        ((1.5, 1.49, 1.5, 1.49, 1.501), "epsilon", False),
        ((0.9, 0.91, 0.9, 0.91, 0.9), "sample", False),
        ((0.9, 0.91, 0.9), "epsilon", False),  # no trend
        ((0.96, 0.95, 0.94, 0.93, 0.92), "epsilon", False),  # it falls
        (tuple(2 ** (-0.5e-5 * n) for n in range(5)), "epsilon", True),
        (tuple(2 ** (-1.5e-5 * n) for n in range(5)), "epsilon", False),
        ((0.98, 0.93, 0.99, 0.94, 0.95), "epsilon", True),  # no more than chance
        ((0.98, 0.98, 0.93, 0.94, 0.91), "epsilon", False),  # by 2.6 standard errors
    ],
)
def test_guessing(losses: tuple[float, ...], prediction: str, is_guessing: bool) -> None:
    """A loss about that of predicting no noise, which does not fall, is one of nothing learned."""
    told = found(course(losses, prediction_type=prediction))
    assert ("guessing" in told) == is_guessing
    if is_guessing:
        assert (told["guessing"].code, told["guessing"].evidence.value) == ("not_learning", losses[-1])
        after = f"After {10 * 2 ** (len(losses) - 1)} images the loss is {losses[-1]:#.3g};"
        assert told["guessing"].evidence.text.startswith(after)


@pytest.mark.parametrize(
    ("latest", "options", "is_replayed"),
    [
        (0.3, {}, True),
        (0.31, {}, False),
        (0.3, {"prediction_type": "v_prediction"}, False),
        (0.3, {"user_supplied": ["transform"]}, False),
        (0.3, {"user_supplied": ["unet"]}, True),
    ],
)
def test_replayed_noise(latest: float, options: dict[str, Any], is_replayed: bool) -> None:
    """Six tenths of the loss with fresh noise, over the last two intervals between evaluations, is too little."""
    metrics = logged([9.0, 9.0, *[latest] * 6])  # evaluated at 1, 2, 4 and 8: since step 2
    told = found(course((0.6, 0.6, 0.6, 0.62), train=(0.5, 0.45, 0.7, 0.5), metrics=metrics, **options))
    assert ("replayed_noise" in told) == is_replayed
    if is_replayed:
        assert told["replayed_noise"].code == "memorizing"
        assert told["replayed_noise"].evidence.value == pytest.approx(0.6)
        text = "The training loss is 0.300, but training images with fresh noise score 0.500."
        assert told["replayed_noise"].evidence.text == text


def test_replayed_noise_needs_something_to_compare() -> None:
    """Four evaluations, logged lines since, and a loss on training images that is a number."""
    losses = (0.6, 0.6, 0.6, 0.62)
    assert "replayed_noise" not in found(course(losses[1:], metrics=logged([0.1] * 8)))
    assert "replayed_noise" not in found(course(losses, metrics=logged([0.1] * 2)))
    assert "replayed_noise" not in found(course(losses, train=[*losses[:3], float("nan")], metrics=logged([0.1] * 8)))
    assert "replayed_noise" in found(course(losses, metrics=logged([0.1] * 8)))


@pytest.mark.parametrize(
    ("gap", "skill_error", "is_memorized"),
    [(0.101, None, True), (0.099, None, False), (0.38, 0.1, False), (0.39, 0.1, True)],
)
def test_memorized(gap: float, skill_error: float | None, is_memorized: bool) -> None:
    """A tenth of skill beyond two standard errors; while skill still rises it is no verdict."""
    for losses, code in (((0.04, 0.04, 0.04, 0.0401), "memorizing"), ((0.07, 0.06, 0.05, 0.04), None)):
        training = [loss - gap * LINEAR for loss in losses]
        told = found(course(losses, train=training, skill_error=skill_error))
        assert ("train_heldout_gap" in told) == is_memorized
        if is_memorized:
            symptom = told["train_heldout_gap"]
            assert symptom.code == code and symptom.evidence.value == pytest.approx(gap)
            assert symptom.evidence.error == pytest.approx((skill_error or 0) * 2**0.5)
            assert f"{1 - losses[-1] / LINEAR:.2f} on held-out" in symptom.evidence.text
            assert f"Skill is {1 - losses[-1] / LINEAR + gap:.2f} on training" in symptom.evidence.text
    one = course((0.05, 0.04), train=(0.01, 0.01))
    rows = [row.model_copy(update={"train_skill": None}) for row in one.evaluations]
    assert [found(Course(one.run, [], evaluations, None)).keys() for evaluations in (one.evaluations, rows)] == [
        {"train_heldout_gap"},
        set(),
    ]


@pytest.mark.parametrize(
    ("last", "training", "is_worse"),
    [
        (0.0331, lambda n: n**-0.5, True),
        (0.0329, lambda n: n**-0.5, False),  # three hundredths of skill below its best: 0.0015 of loss
        (0.0331, lambda n: n**0.5, False),
        (0.0331, None, False),
    ],
)
def test_worsening(last: float, training: Any, is_worse: bool) -> None:
    """Held-out skill well below its best and falling, while the training loss falls, is learning by heart."""
    losses = np.linspace(0.0315, last, 5)
    steps = np.arange(1, 17)
    metrics = logged(np.where(steps < 6, 1e-9, 0.0) + training(steps)) if training else []
    told = found(course(losses, train=losses, metrics=metrics))
    assert ("worsening" in told) == is_worse
    if is_worse:
        assert told["worsening"].code == "memorizing" and told["worsening"].evidence.value < 0
        assert f"was {1 - 0.0315 / LINEAR:.2f} after 10 images and is {1 - last / LINEAR:.2f}" in (
            told["worsening"].evidence.text
        )


@pytest.mark.parametrize(
    ("rises", "is_jumping"),
    [
        ((0.36, 0.36), True),
        ((0.34, 0.34), False),
        ((0.36, 0.1), False),
        ((1.06, 0.1), True),
        ((1.04, 0.1), False),
    ],
)
def test_jumping(rises: tuple[float, float], is_jumping: bool) -> None:
    """Two rises of the raw loss by two fifths, or one by far more, in the later two thirds of a run."""
    first, second = rises
    losses = 0.1 * np.exp([0, 2, -1, 0, first, 0, second, 0, 0])
    told = found(course(losses, [0.1] * 8 + [0.11]))
    assert ("loss_jumps" in told) == is_jumping
    if is_jumping:
        symptom = told["loss_jumps"]
        assert symptom.code == "unstable" and symptom.evidence.value == pytest.approx(max(rises))
        assert (" % once, " in symptom.evidence.text) == (first > 1) and ("2 times" in symptom.evidence.text) == (
            first < 1
        )
        assert f"{np.exp(max(rises)):.1f} times what it was" in symptom.evidence.text
        assert "by more than 42 %" in symptom.evidence.text
    assert "loss_jumps" not in found(course(losses[2:]))  # too few
    assert "loss_jumps" not in found(course([*losses[:5], float("nan"), *losses[6:]], losses))


@pytest.mark.parametrize(
    ("exponent", "options", "is_crawling"),
    [
        (0.29, {}, True),
        (0.31, {}, False),
        (0.2767, {"lr_warmup_steps": 8}, True),
        (0.29, {"lr_warmup_steps": 9}, False),
        (0.29, {"prediction_type": "sample"}, False),
        (0.29, {"total_steps": 10**6}, False),  # it gets there
        (0.29, {"linear": 0.9}, False),
    ],
)
def test_crawling(exponent: float, options: dict[str, Any], is_crawling: bool) -> None:
    """Worse than a linear filter at the end of the run, and falling by less than a power of 0.3."""
    losses = [0.88 * 2 ** (-exponent * n) for n in range(5)]
    told = found(course(losses, **options))
    assert ("loss_trend" in told) == is_crawling
    if is_crawling:
        symptom = told["loss_trend"]
        assert symptom.code == "not_learning" and symptom.evidence.value == pytest.approx(-exponent)
        assert f"{losses[-1] / LINEAR:.1f} times that of a linear" in symptom.evidence.text
        assert f"lowers it by {100 * (1 - 2**-exponent):.0f} %" in symptom.evidence.text


@pytest.mark.parametrize(
    ("epsilon", "clipped_at", "ratio"),
    [(0.01, 9.0, 1.0), (0.0099, 9.0, None), (0.005, 0.5, 1.0), (0.0049, 0.5, None), (0.02, 9.0, 2.0)],
)
def test_swamped_gradients(epsilon: float, clipped_at: float, ratio: float | None) -> None:
    """Adam's epsilon against the median gradient of the later half, clipped, shared out over all weights."""
    metrics = [*logged([1.0] * 3, 1, 50.0), *logged([1.0], 4, 1.0), *logged([1.0] * 3, 5, None)]
    told = found(course((0.06, 0.05), metrics=metrics, adam_epsilon=epsilon, max_grad_norm=clipped_at))
    assert ("adam_epsilon" in told) == (ratio is not None)
    if ratio is not None:
        assert told["adam_epsilon"].code is None and told["adam_epsilon"].evidence.value == pytest.approx(ratio)
        text = f"epsilon is {epsilon:g}, the typical gradient {epsilon / ratio:.1g}: steps are {1 + ratio:.0f} times"
        assert text in told["adam_epsilon"].evidence.text
    assert "adam_epsilon" not in found(course((0.06, 0.05), metrics=logged([1.0] * 4), adam_epsilon=9.0))


@pytest.mark.parametrize(
    ("ema", "decay", "is_copied"),
    [
        ((0.4, 0.2, 0.2), 0.9, True),
        ((0.4, 0.2, 0.21), 0.9, False),
        ((0.4, 0.2, 0.2), 0.5, True),
        ((0.4, 0.2, 0.2), 0.49, False),
        ((0.4, 0.2, 0.2), None, False),
        ((0.4, 0.2 * (1 + 0.9e-5), 0.2), 0.9, True),
        ((0.4, 0.2 * (1 + 1.1e-5), 0.2), 0.9, False),
    ],
)
def test_copied_average(ema: tuple[float, ...], decay: float | None, is_copied: bool) -> None:
    """Raw and averaged weights that are level twice, with a decay that keeps them apart, are copies."""
    metrics = [*logged([1.0], 1, None, 0.0), *logged([1.0], 2, None, decay), *logged([1.0], 3)]
    if decay is None:
        metrics = logged([1.0])
    told = found(course((0.3, 0.2, 0.2), ema, metrics=metrics))
    assert ("copied_average" in told) == is_copied
    if is_copied:
        assert told["copied_average"].code is None
        assert told["copied_average"].evidence.value == pytest.approx(2 / 3)
        assert "at 2 of 3 evaluations" in told["copied_average"].evidence.text


@pytest.mark.parametrize(
    ("ema", "decay", "horizon"),
    [
        (0.5, 0.99, None),
        (0.501, 0.99, " The average covers about 100 steps; the run has 4."),
        (0.6, 1.0, ""),
        (0.6, None, ""),
    ],
)
def test_lagging_average(ema: float, decay: float | None, horizon: str | None) -> None:
    """An average a quarter worse than the raw weights lags; over how many steps it looks back is told."""
    told = found(course((0.5, 0.45, 0.4), (0.7, 0.55, ema), metrics=logged([1.0], ema_decay=decay)))
    assert ("ema_lag" in told) == (horizon is not None)
    if horizon is not None:
        assert told["ema_lag"].code is None and told["ema_lag"].evidence.value == pytest.approx(ema / 0.4)
        text = f"Averaged weights score {ema:.3f}, raw ones 0.400.{horizon}"
        assert told["ema_lag"].evidence.text == text
    assert "ema_lag" not in found(course((0.5, 0.4)))


def test_options_that_a_record_does_not_have_accuse_nobody() -> None:
    """Without the run's options, nothing is said that rests on them; the loss is taken for that of predicted noise."""
    metrics = logged([0.01] * 8, grad_norm=1e-9)
    one = course((0.95, 0.94, 0.95, 0.95), metrics=metrics)
    assert found(one).keys() == {"guessing", "loss_trend", "replayed_noise", "adam_epsilon"}
    one.run.config.clear()
    assert found(one).keys() == {"guessing", "loss_trend"}
