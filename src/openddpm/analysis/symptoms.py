"""Symptoms of a run that is not working: each check looks for one problem, and names it with its numbers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openddpm.analysis.course import Course, fit_trend
from openddpm.analysis.text import number_of, signed, significant
from openddpm.predictions import PREDICTIONS, Prediction
from openddpm.record.schema import RAW, Evidence, VerdictCode

HIGHER = 1.2  # times its lowest loss, in a run that has not learned much yet
BLOWN_UP = 1.5  # training loss; predicting zero scores at most 1, whatever the target
RISEN = 3.0  # times its lowest loss
GUESSING = (0.9, BLOWN_UP)  # about the loss of predicting no noise
STILL = 1e-5  # relative change of a loss, below which the weights cannot have changed
UNDER_WAY = 0.6  # of the way from predicting zero to a linear filter, in log loss; measured: healthy runs pass it soon
SLOW_EXPONENT = 0.3  # measured: until then the loss of healthy runs falls faster than n^-0.3
REPLAYED = 0.6  # of the loss with fresh noise; measured: 0.9 to 1.2 in healthy runs
GAP = 0.1  # difference of skill between training and held-out images
FALLEN = 0.03  # fall of skill below its best
JUMP = 0.35  # rise of the logarithm of the raw loss from one evaluation to the next; measured: 0.2 in healthy runs
LAG = 1.25  # times the loss of the raw weights
COPIES = 2  # evaluations at which raw and averaged weights are the same
SWAMPED = 1.0  # Adam's epsilon divided by the typical gradient


@dataclass(frozen=True)
class Symptom:
    """A problem of a run. One without a code does not decide the verdict, but is added to it."""

    code: VerdictCode | None
    sentence: str
    evidence: Evidence


def find_symptoms(course: Course) -> list[Symptom]:
    """Return the problems of a run that has been evaluated often enough, the most severe first."""
    fatal = _lost(course) or _frozen(course)
    if fatal is not None:  # the other checks mean nothing then
        return [fatal]
    return [symptom for check in CHECKS if (symptom := check(course)) is not None]


def _lost(course: Course) -> Symptom | None:
    if course.run.failure is None and np.isfinite(course.better_loss[-1:]).all():
        return None
    sentence = "Training has diverged: go back to an earlier checkpoint, or start again, with a lower learning rate."
    return Symptom("diverged", sentence, _warning("loss", "The loss is no longer a number.", None))


def _diverged(course: Course) -> Symptom | None:
    for weights in reversed(course.weights):
        loss = course.loss(weights)
        now, least = loss[-1], np.nanmin(loss)
        if now > RISEN * least:
            text = f"The loss of the {weights} weights was {significant(least)} at its best and is {significant(now)}."
        elif _zero_scores_one(course) and not _is_under_way(course) and now > HIGHER * least:
            text = f"The loss of the {weights} weights was {significant(least)} and is {significant(now)}; predicting "
            text += "no noise at all scores 1."
        else:
            continue
        sentence = "Training has diverged: start again, or from a checkpoint before that, with a lower learning rate."
        return Symptom("diverged", sentence, _warning("loss", text, float(now)))
    return None


def _frozen(course: Course) -> Symptom | None:
    for weights in reversed(course.weights):
        loss = course.loss(weights)
        if len(loss) >= 3 and np.ptp(loss) <= STILL * abs(loss[0]):
            text = f"The {weights} weights score {significant(loss[-1])} at each of {len(loss)} evaluations."
            sentence = "The weights do not change: is the model frozen, or does the optimizer not have its parameters?"
            return Symptom("not_learning", sentence, _warning("frozen_weights", text, float(np.ptp(loss))))
    return None


def _blown_up(course: Course) -> Symptom | None:
    """Find a training loss that was once far above that of predicting zero, and has hardly recovered."""
    peak = _training_peak(course)
    if peak <= BLOWN_UP or _is_under_way(course):
        return None
    text = f"The training loss reached {significant(peak)}, and the held-out loss is "
    text += f"{significant(course.better_loss[-1])}: predicting no noise at all scores 1."
    sentence = "Training diverged early and has not recovered: start again with a lower learning rate."
    return Symptom("diverged", sentence, _warning("loss", text, peak))


def _guessing(course: Course) -> Symptom | None:
    loss, trend = course.better_loss, course.loss_trend
    if not _zero_scores_one(course):
        return None
    if not GUESSING[0] <= loss[-1] <= GUESSING[1] or trend is None or trend.per_doubling < -2 * trend.error - STILL:
        return None
    after = f"After {number_of(int(course.images[-1]), 'image')}"
    text = f"{after} the loss is {significant(loss[-1])}; predicting no noise scores 1."
    sentence = "It has learned nothing: is the target the noise that was added to the model's input?"
    return Symptom("not_learning", sentence, _warning("guessing", text, float(loss[-1])))


def _replayed_noise(course: Course) -> Symptom | None:
    """Find a training loss far below that of the same weights on training images with fresh noise."""
    raw = course.fixed_train_loss(RAW)
    is_comparable = (
        course.run.config.get("prediction_type") == "epsilon" and "transform" not in course.run.user_supplied
    )
    if not is_comparable or len(course.steps) < 4 or not np.isfinite(raw[-1]):
        return None
    since = course.steps[-3]  # two intervals: one alone may hold too few images
    logged = [row.train_loss for row in course.metrics if row.step > since]
    if not logged:
        return None
    ratio = float(np.mean(logged) / raw[-1])
    if ratio > REPLAYED:
        return None
    text = f"The training loss is {significant(float(np.mean(logged)))}, but training images with fresh noise score "
    text += f"{significant(float(raw[-1]))}."
    sentence = "It memorizes its noise, not the images: the random numbers of training repeat."
    return Symptom("memorizing", sentence, _warning("replayed_noise", text, ratio))


def _memorized(course: Course) -> Symptom | None:
    if course.train_heldout_gap is None:
        return None
    gap, error = course.train_heldout_gap
    if gap < GAP + 2 * error:
        return None
    heldout = float(course.better_skill[-1])
    text = f"Skill is {signed(heldout + gap)} on training images, {signed(heldout)} on held-out ones."
    evidence = _warning("train_heldout_gap", text, gap, error)
    if course.trend is not None and course.trend.is_rising:
        return Symptom(None, "It also begins to memorize its training images: more images would help.", evidence)
    sentence = "It memorizes its training images instead of learning what they have in common: it needs more images."
    return Symptom("memorizing", sentence, evidence)


def _worsening(course: Course) -> Symptom | None:
    """Find held-out skill that falls while the training loss falls, too."""
    trend, skill = course.trend, course.better_skill
    if trend is None or not trend.is_falling or skill[-1] > np.nanmax(skill) - FALLEN:
        return None
    logged = [(row.images_seen, row.train_loss) for row in course.metrics]
    training = fit_trend(*np.array(logged).T) if logged else None
    if training is None or not training.is_falling:
        return None
    best = int(np.nanargmax(skill))
    text = f"Held-out skill was {signed(skill[best])} after {course.images[best]:,.0f} images and is "
    text += f"{signed(skill[-1])}, while the training loss still falls."
    sentence = "It gets better on its training images and worse on images it has never seen: it memorizes."
    return Symptom("memorizing", sentence, _warning("worsening", text, trend.per_doubling, trend.error))


def _jumping(course: Course) -> Symptom | None:
    loss = course.loss(RAW)
    recent = np.log(loss[len(loss) // 3 :])
    if len(recent) < 6 or not np.isfinite(recent).all():
        return None
    rises = np.diff(recent)
    num_jumps, largest = int((rises > JUMP).sum()), float(rises.max())
    if num_jumps < 2 and largest < 3 * JUMP:
        return None
    times = "once" if num_jumps == 1 else f"{num_jumps} times"
    text = f"From one evaluation to the next the raw loss rose by more than {100 * np.expm1(JUMP):.0f} % {times}, "
    text += f"at most to {np.exp(largest):.1f} times what it was."
    sentence = "Training is unstable: the learning rate is too high."
    return Symptom("unstable", sentence, _warning("loss_jumps", text, largest))


def _crawling(course: Course) -> Symptom | None:
    """Find a loss above that of a linear filter that falls too slowly to get there by the end of the run."""
    trend, expected = course.loss_trend, course.skill_at_end
    if trend is None or expected is None or not _zero_scores_one(course):
        return None
    if course.steps[-1] < 2 * course.run.config.get("lr_warmup_steps", 0):  # it is meant to be slow until then
        return None
    if _is_under_way(course) or -trend.per_doubling > SLOW_EXPONENT or expected > 0:
        return None
    times = 1 - course.better_skill[-1]
    text = f"The loss is {times:.1f} times that of a linear filter, and doubling the images lowers it by "
    text += f"{100 * (1 - 2**trend.per_doubling):.0f} %."
    sentence = "It learns far too slowly to get anywhere in this run: is the learning rate too low?"
    return Symptom("not_learning", sentence, _warning("loss_trend", text, trend.per_doubling, trend.error))


def _swamped_gradients(course: Course) -> Symptom | None:
    """Find an Adam epsilon above the gradients: Adam divides by sqrt(v) + epsilon, so it becomes slow plain descent."""
    norms = [row.grad_norm for row in course.metrics[len(course.metrics) // 2 :] if row.grad_norm is not None]
    if not norms:
        return None
    epsilon, clipped_at = course.run.config.get("adam_epsilon", 0.0), course.run.config.get("max_grad_norm", np.inf)
    typical = min(float(np.median(norms)), clipped_at) / np.sqrt(course.run.model.num_parameters)
    if epsilon < SWAMPED * typical:
        return None
    text = f"Adam's epsilon is {epsilon:g}, the typical gradient {typical:.1g}: steps are {1 + epsilon / typical:.0f} "
    text += "times too short."
    sentence = "Adam's epsilon is larger than the gradients and slows training: --adam_epsilon 1e-8 is usual."
    return Symptom(None, sentence, _warning("adam_epsilon", text, epsilon / typical))


def _copied_average(course: Course) -> Symptom | None:
    if course.averaged is None:
        return None
    ema, raw = course.loss(course.averaged), course.loss(RAW)
    same, decay = np.abs(ema - raw) <= STILL * raw, _last_ema_decay(course)
    if same.sum() < COPIES or decay is None or decay < 0.5:
        return None
    text = f"Raw and averaged weights score the same at {same.sum()} of {len(same)} evaluations."
    sentence = "The averaged weights are copied over those in training, which sets training back each time."
    return Symptom(None, sentence, _warning("copied_average", text, float(same.mean())))


def _lagging_average(course: Course) -> Symptom | None:
    if course.averaged is None:
        return None
    ema, raw = course.loss(course.averaged), course.loss(RAW)
    if not ema[-1] > LAG * raw[-1]:
        return None
    decay = _last_ema_decay(course)
    text = f"Averaged weights score {significant(ema[-1])}, raw ones {significant(raw[-1])}."
    if decay is not None and decay < 1:
        text += f" The average covers about {1 / (1 - decay):,.0f} steps; the run has {course.steps[-1]:,}."
    sentence = "The averaged weights lag behind, as the EMA's horizon is long for the run so far: "
    sentence += "look at the raw ones."
    return Symptom(None, sentence, _warning("ema_lag", text, float(ema[-1] / raw[-1])))


def _last_ema_decay(course: Course) -> float | None:
    return next((row.ema_decay for row in reversed(course.metrics) if row.ema_decay is not None), None)


def _zero_scores_one(course: Course) -> bool:
    """Whether a loss of 1 means nothing learned; not if small errors of the prediction are large ones of the noise."""
    prediction = _prediction(course)
    return prediction is None or not prediction.amplifies_errors


def _prediction(course: Course) -> Prediction | None:
    """Return what the model predicts; None if the record does not say."""
    return PREDICTIONS.get(str(course.run.config.get("prediction_type")))


def _training_peak(course: Course) -> float:
    """Return the largest mean of ten logged training losses after the first five; 0 while there are fewer."""
    losses = np.array([row.train_loss for row in course.metrics[5:]])
    return float(np.convolve(losses, np.full(10, 0.1), "valid").max()) if len(losses) >= 10 else 0.0


def _is_under_way(course: Course) -> bool:
    loss = course.better_loss[-1]
    linear = loss / (1 - course.better_skill[-1])
    return bool(np.log(loss) < UNDER_WAY * np.log(linear))


def _warning(name: str, text: str, value: float | None, error: float | None = None) -> Evidence:
    return Evidence(name=name, kind="warning", text=text, value=value, error=error)


CHECKS: tuple[Callable[[Course], Symptom | None], ...] = (
    _diverged,
    _blown_up,
    _guessing,
    _replayed_noise,
    _memorized,
    _worsening,
    _jumping,
    _crawling,
    _copied_average,
    _lagging_average,
    _swamped_gradients,
)
