"""The verdict, on courses whose trouble is known; benchmarks/troubled_runs.py has real ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from made_up_run import write_made_up_run
from openddpm.analysis.course import Course
from openddpm.analysis.verdict import judge
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import (
    BandScore,
    BaselinesRecord,
    DatasetRecord,
    EvaluationRow,
    MetricsRow,
    Progress,
    RunRecord,
    Verdict,
    Weights,
)

GAUSSIAN = 0.05
TOTAL_STEPS, BATCH = 4000, 16
STEPS = [25, 50, 100, *range(200, TOTAL_STEPS + 1, 200)]

Curve = Callable[[np.ndarray], np.ndarray]


def power_law(images: np.ndarray) -> np.ndarray:
    """Return a healthy held-out loss: it passes the linear filter's at about 10,000 images."""
    return 0.03 + 20 * images**-0.75


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A run of TOTAL_STEPS, in its first step."""
    folder = write_made_up_run(tmp_path_factory.mktemp("runs") / "run", steps=4, rows=1, previews=1)
    run = read_run_folder(folder).run
    return run.model_copy(update={"status": "running", "total_steps": TOTAL_STEPS})


def judged(
    record: RunRecord,
    raw: Curve = power_law,
    ema: Curve | None = None,
    train: Curve | None = None,
    logged: Curve | None = None,
    until: int = 2000,
    wobble: float = 0.003,
    finished: bool = False,
    status: str = "running",
    ema_decay: float = 0.99,
    **config: Any,
) -> Verdict:
    """Judge a course at step `until`. Curves give losses at numbers of images: held-out ones of both weights, those of
    the training tuples, and the training loss that is logged."""
    random = np.random.default_rng(0)
    evaluations = []
    for step in (step for step in STEPS if step <= until):
        images = np.array([step * BATCH], dtype=float)
        factor = np.exp(wobble * random.normal())
        curves: dict[Weights, Curve] = {"ema": ema or raw, "raw": lambda n: raw(n) * 1.02 if ema is None else raw(n)}
        for weights, curve in curves.items():
            heldout = float(curve(images)[0]) * factor
            training = heldout if train is None else float(train(images)[0]) * factor
            evaluations.append(row(step, weights, heldout, training))
    steps = np.arange(10, until + 1, 10)
    losses = (logged or train or raw)(steps * BATCH * 1.0) * random.lognormal(0, 0.1, len(steps))
    metrics = [
        metrics_row(int(step), float(loss), ema_decay)
        for step, loss in zip(steps, losses, strict=True)
        if np.isfinite(loss)
    ]
    run = record.model_copy(
        update={
            "status": "finished" if finished else status,
            "total_steps": until if finished else TOTAL_STEPS,
            "progress": Progress(step=until, images_seen=until * BATCH, epoch=1.0),
            "config": {**record.config, **config},
        }
    )
    return judge(run, metrics, evaluations, baselines())


def row(step: int, weights: Weights, heldout: float, training: float) -> EvaluationRow:
    """Return an evaluation with these losses, the same in each band; no number stands for NaN."""
    skill, train_skill = 1 - heldout / GAUSSIAN, 1 - training / GAUSSIAN
    band = BandScore(loss=None)
    if np.isfinite(heldout):
        band = BandScore(loss=heldout, linear=GAUSSIAN, memorizing=0.001, skill=skill)
    return EvaluationRow(
        step=step,
        images_seen=step * BATCH,
        weights=weights,
        heldout_loss=heldout if np.isfinite(heldout) else None,
        fixed_train_loss=training if np.isfinite(training) else None,
        skill=skill if np.isfinite(heldout) else None,
        skill_error=0.02,
        train_skill=train_skill if np.isfinite(training) else None,
        bands={"detail": band, "shape": band, "layout": band},
        by_timestep=[heldout if np.isfinite(heldout) else None],
        seconds=0.5,
    )


def metrics_row(step: int, loss: float, ema_decay: float) -> MetricsRow:
    """Return a logged line."""
    return MetricsRow(
        step=step,
        images_seen=step * BATCH,
        epoch=step / 100,
        wall_seconds=step * 0.1,
        train_loss=loss,
        learning_rate=1e-3,
        grad_norm=0.3,
        ema_decay=ema_decay,
        images_per_second=160.0,
    )


def baselines() -> BaselinesRecord:
    """Return baselines of a single group."""
    return BaselinesRecord(
        timesteps=[500.0], snr=[1.0], shares=[1.0], zero=[1.0], linear=[GAUSSIAN], linear_train=[GAUSSIAN],
        memorizing_train=[0.001], memorizing_heldout=[2.0],
        num_fixed_samples=48, num_images_linear=1000, num_images_memorizing=1000,
        shrinkage=0.01, includes_flips=False, seconds=1.0,
    )  # fmt: skip


def names(verdict: Verdict, kind: str = "warning") -> set[str]:
    """Return what evidence of a kind is about."""
    return {evidence.name for evidence in verdict.evidence if evidence.kind == kind}


@pytest.mark.parametrize("until", [200, 600, 1000, 2000, 3800])
def test_a_healthy_run_is_learning_all_along(record: RunRecord, until: int) -> None:
    """Before and after it passes the linear filter, a healthy course is called learning, without a warning."""
    verdict = judged(record, until=until)
    assert (verdict.code, names(verdict)) == ("learning", set()), verdict.sentence
    assert ("works" in verdict.sentence) == (verdict.skill is not None and verdict.skill > 0)


def test_too_early_with_few_evaluations(record: RunRecord) -> None:
    """Three evaluations are no trend, none are nothing; both are said."""
    assert judged(record, until=100).code == "too_early"
    nothing = judge(record, [], [], baselines())
    assert (nothing.code, nothing.step, nothing.skill) == ("too_early", 0, None)


def test_finished(record: RunRecord) -> None:
    """A finished healthy run says what it came to; one that was stopped below the linear filter says that too."""
    done = judged(record, until=4000, finished=True)
    assert done.code == "finished" and "better than a linear filter" in done.sentence
    assert "still getting better" in done.sentence
    flat = judged(record, lambda n: 0.04 + np.exp(-n / 3000), until=4000, finished=True)
    assert flat.code == "finished" and "still getting better" not in flat.sentence
    short = judged(record, until=400, finished=True)
    assert short.code == "finished" and "too early" in short.sentence


def test_plateaued(record: RunRecord) -> None:
    """A course that flattens above the linear filter works but gets no better."""
    assert judged(record, lambda n: 0.04 + np.exp(-n / 3000), until=3800).code == "plateaued"


def test_stuck_below_the_linear_filter_is_not_learning(record: RunRecord) -> None:
    """A course that flattens at twice the linear filter's loss is no success."""
    for finished in (False, True):
        verdict = judged(record, lambda n: 0.1 + np.exp(-n / 3000), until=3800, finished=finished)
        assert verdict.code == "not_learning" and "stopped getting better" in verdict.sentence


def test_crawling_is_not_learning(record: RunRecord) -> None:
    """A loss that falls, but would take a hundred such runs to reach the linear filter, is told as too slow."""
    verdict = judged(record, lambda n: 0.9 - 0.02 * np.log2(n / 400), until=2000)
    assert verdict.code == "not_learning" and names(verdict) == {"loss_trend"}
    warming_up = judged(record, lambda n: 0.9 - 0.02 * np.log2(n / 400), until=2000, lr_warmup_steps=2000)
    assert warming_up.code == "learning" and "run ends before it beats one" in warming_up.sentence


def test_memorizing(record: RunRecord) -> None:
    """Training images known ever better and held-out ones ever worse is memorization."""
    verdict = judged(record, lambda n: 0.035 + n * 4e-7, train=lambda n: 0.03 * np.exp(-n / 30_000), until=3000)
    assert verdict.code == "memorizing" and "train_heldout_gap" in names(verdict)


def test_a_gap_while_both_get_better_is_a_warning_only(record: RunRecord) -> None:
    """As long as held-out skill rises, the gap is told and the verdict stays."""
    verdict = judged(record, train=lambda n: power_law(n) * 0.5, until=2000)
    assert verdict.code == "learning" and names(verdict) == {"train_heldout_gap"}


def test_an_uncertain_gap_acquits_nobody(record: RunRecord) -> None:
    """That nothing is memorized is said of a small gap with a small error, not of one that may be large."""
    assert "train_heldout_gap" in names(judged(record), "good")
    assert "train_heldout_gap" not in names(judged(record, train=lambda n: power_law(n) + 0.008), "good")


def test_replayed_noise(record: RunRecord) -> None:
    """A logged loss far below that of the same images with fresh noise means that training repeats its noise."""
    verdict = judged(record, logged=lambda n: power_law(n) * 0.4)
    assert verdict.code == "memorizing" and "replayed_noise" in names(verdict)
    assert judged(record, logged=lambda n: power_law(n) * 0.4, prediction_type="v_prediction").code == "learning"


@pytest.mark.parametrize("end", [1.5, float("nan"), float("inf")])
def test_diverged(record: RunRecord, end: float) -> None:
    """A loss above that of silence, or none at all, after a good start is a run that blew up."""
    verdict = judged(record, lambda n: np.where(n < 20_000, power_law(n), end), until=2000)
    assert verdict.code == "diverged" and names(verdict) >= {"loss"}


def test_unstable(record: RunRecord) -> None:
    """Raw weights that jump between evaluations while their average is fine call for a lower learning rate."""
    verdict = judged(record, lambda n: power_law(n) * np.exp(0.5 * np.sin(n)), ema=power_law, until=3800)
    assert verdict.code == "unstable" and "loss_jumps" in names(verdict)


def test_a_steep_fall_is_no_jump(record: RunRecord) -> None:
    """A loss that falls tenfold from one evaluation to the next, as after a long warm-up, is not called unstable."""
    assert judged(record, lambda n: 0.03 + 0.97 / (1 + np.exp((n - 6000) / 500)), until=1500).code == "learning"


def test_a_barely_trained_run_is_not_called_diverged(record: RunRecord) -> None:
    """Untrained weights score above 1: a loss that falls from there, slowly, is not one that blew up."""
    assert judged(record, lambda n: 1.13 - 1e-6 * n, until=2000).code == "not_learning"
    assert judged(record, lambda n: 1.13 - 1e-5 * n, until=50, finished=True).code == "finished"


def test_predicted_images_may_score_above_one(record: RunRecord) -> None:
    """With --prediction_type sample the noise error starts far above 1 in healthy runs."""
    verdict = judged(record, lambda n: 0.03 + 300 * n**-0.5, prediction_type="sample", logged=power_law)
    assert verdict.code == "learning"


def test_worse_on_both_is_no_success(record: RunRecord) -> None:
    """Skill that falls together with that on training images is neither learning nor memorization."""
    verdict = judged(record, lambda n: 0.03 + n * 3e-7, until=3000, logged=lambda n: 0.03 + n * 3e-7)
    assert verdict.code == "plateaued" and "worse" in verdict.sentence


def test_falling_skill_while_training_gains_is_memorizing(record: RunRecord) -> None:
    """Held-out skill below its best while the training loss falls is memorization, also without training tuples
    that show it."""
    verdict = judged(record, lambda n: 0.03 + n * 3e-7, until=3000, logged=power_law)
    assert verdict.code == "memorizing" and "worsening" in names(verdict)


def test_an_error_that_ended_the_run_is_told_first(record: RunRecord) -> None:
    """A failed run says so, gets no forecast, and is diverged if its loss was no longer a number."""
    failed = judged(record.model_copy(update={"status": "failed"}), until=2600, status="failed")
    assert failed.sentence.startswith("The run was ended by an error after step 2,600.") and failed.forecast is None
    not_finite = record.model_copy(update={"failure": "loss_not_finite"})
    assert judged(not_finite, until=100, status="failed").code == "diverged"
    assert judge(not_finite, [], [], baselines()).code == "diverged"


def test_a_transform_is_not_taken_for_replayed_noise(record: RunRecord) -> None:
    """Images that a caller's transform made easier explain a low training loss."""
    own = record.model_copy(update={"user_supplied": ["transform"]})
    assert judged(own, logged=lambda n: power_law(n) * 0.4).code == "learning"


def test_frozen_and_guessing_are_told_apart(record: RunRecord) -> None:
    """Weights that never change, and weights that have learned to say nothing, are both not learning, for reasons."""
    frozen = judged(record, lambda n: 0.7 + 0 * n, wobble=0.0)
    guessing = judged(record, lambda n: 1.0 + 0.02 * np.sin(n))
    assert (frozen.code, guessing.code) == ("not_learning", "not_learning")
    assert "frozen_weights" in names(frozen) and "guessing" in names(guessing)


def test_dead_after_blowing_up_early_is_diverged(record: RunRecord) -> None:
    """Weights that say nothing after a loss far above that of silence died of their learning rate."""
    dead = judged(record, lambda n: 0.9 - 0.01 * np.log(n), logged=lambda n: np.where(n < 4000, 3.0, 0.9))
    assert dead.code == "diverged" and "diverged early" in dead.sentence


def test_average_that_lags(record: RunRecord) -> None:
    """Averaged weights far worse than raw ones point at the horizon of the EMA; the run itself is judged by the raw."""
    verdict = judged(record, ema=lambda n: power_law(n) + 0.3, ema_decay=0.9999)
    assert verdict.code == "learning" and verdict.weights == "raw" and names(verdict) == {"ema_lag"}


def test_average_copied_into_the_model(record: RunRecord) -> None:
    """Averaged and raw weights that are the same at several evaluations point at a copy."""
    verdict = judged(record, ema=power_law, wobble=0.01)
    assert "copied_average" in names(verdict)


def test_swamped_gradients(record: RunRecord) -> None:
    """An epsilon of Adam above the typical gradient is named, with by how much it shortens the steps."""
    verdict = judged(record, adam_epsilon=1e-3)
    assert "adam_epsilon" in names(verdict) and "epsilon" in verdict.sentence
    assert "adam_epsilon" not in names(judged(record, adam_epsilon=1e-6))


def test_bands_are_told_by_name(record: RunRecord) -> None:
    """A band worse than the linear filter says what the samples will look like."""
    early, late = judged(record, until=400), judged(record, until=3800)
    early_text, late_text = (next(e.text for e in v.evidence if e.name == "bands") for v in (early, late))
    assert "expect" in early_text and "speckle" in early_text
    assert "expect" not in late_text


def test_without_heldout_images_it_says_so(record: RunRecord) -> None:
    """Skill on training images stands in, and the sentence tells."""
    dataset: DatasetRecord = record.dataset.model_copy(update={"num_heldout": 0})
    verdict = judged(record.model_copy(update={"dataset": dataset}), until=2000)
    assert verdict.code == "learning" and "none is held out" in verdict.sentence


def test_without_baselines_it_says_so(record: RunRecord) -> None:
    """A record from before there were baselines is not judged."""
    verdict = judge(record, [], [row(1, "ema", 0.1, 0.1)], None)
    assert verdict.code == "too_early" and "no baselines" in verdict.sentence


def test_the_best_of_all_weights_is_judged(record: RunRecord) -> None:
    """Of three sets of weights the best counts; with equal skills, the average that comes first by its name."""
    losses = {"raw": 0.3, "ema-0.9": 0.1, "ema": 0.2}
    evaluations = [row(step, name, loss / step, loss / step) for step in (1, 2) for name, loss in losses.items()]
    course = Course(record, [], evaluations, baselines())
    np.testing.assert_allclose(course.better_loss, [0.1, 0.05])
    np.testing.assert_allclose(course.better_skill, [1 - 0.1 / GAUSSIAN, 1 - 0.05 / GAUSSIAN])
    assert course.last is not None and course.last.weights == "ema-0.9" and course.averaged == "ema"
    equal = [row(2, name, 0.1, 0.1) for name in losses]
    last = Course(record, [], equal, baselines()).last
    assert last is not None and last.weights == "ema"
    assert judge(record, [], evaluations, baselines()).weights == "ema-0.9"


def test_forecast_holds_what_comes(record: RunRecord) -> None:
    """On a power law the range contains where a doubling begins to gain less than 0.02; a flat course has none."""
    verdict = judged(record, until=2600)
    assert verdict.forecast is not None
    flat_at = (20 / GAUSSIAN * (1 - 2**-0.75) / 0.02) ** (1 / 0.75)
    assert verdict.forecast.images_low <= flat_at <= verdict.forecast.images_high
    assert 0 < verdict.forecast.hours_low <= verdict.forecast.hours_high
    assert judged(record, lambda n: 0.04 + np.exp(-n / 3000), until=3800).forecast is None


def test_forecast_is_silent_where_the_curve_does_not_support_it(record: RunRecord) -> None:
    """Few evaluations, or much scatter, give no forecast."""
    assert judged(record, until=600).forecast is None
    assert judged(record, wobble=0.15, until=2600).forecast is None
