"""An imported record beside a reference: inside, outside, or too little to tell, and never more than a loss tells."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from event_logs import imported
from openddpm.comparison.imported import MIN_ROWS, _student, _window_means, compare_imported
from openddpm.errors import UserError
from openddpm.record.reader import RunFolder
from openddpm.references import open_reference

STEPS = 10  # between two rows of the reference


@pytest.fixture(scope="module")
def reference() -> list[RunFolder]:
    """The runs of digits-8: 80 rows of 320 images each."""
    return open_reference("digits-8").runs


def as_logged(run: RunFolder, factor: float = 1.0) -> dict[int, float]:
    """Return a run's training loss by step, as its own script would log it."""
    return {row.step: factor * row.train_loss for row in run.metrics}


def of_batches(
    run: RunFolder, every: int = 1, noise: float = 0.25, seed: int = 0, factor: float = 1.0
) -> dict[int, float]:
    """Return losses of single batches, one every so many steps, which scatter about those that a run recorded."""
    generator = np.random.default_rng(seed)
    steps = range(every, run.metrics[-1].step + 1, every)
    mean = [run.metrics[(step - 1) // STEPS].train_loss for step in steps]
    scatter = generator.lognormal(-(noise**2) / 2, noise, len(steps))
    return dict(zip(steps, (factor * scatter * mean).tolist(), strict=True))


def test_the_references_own_seed_is_inside(reference: list[RunFolder]) -> None:
    """A seed of the reference itself is inside, with what would have been found and what that does not mean."""
    found = compare_imported(imported(as_logged(reference[0])), reference)
    assert found.verdict == "inside"
    assert "would have been found 4 times in 5. By training loss alone" in found.sentence
    assert found.sentence.endswith(
        "Left out: 7 of 11 windows of images, with fewer than 8 of the candidate's losses, or after a gap in them."
    )
    answer = found.answer()
    assert (answer["first_difference"], answer["explanations"], answer["left_band_at"]) == (None, [], None)
    assert 0 < answer["detectable"]["train_loss"] < 0.1
    mean = np.mean([row.train_loss for row in reference[0].metrics if 17_280 < row.images_seen <= 25_600])
    assert found.curve.values[-1] == pytest.approx(mean)


@pytest.mark.parametrize("factor", [1.5, 0.7])
def test_another_loss_is_outside_from_the_first_window_on(reference: list[RunFolder], factor: float) -> None:
    """Half as much again, or less by a third, is outside in the first window that has losses enough."""
    found = compare_imported(imported(as_logged(reference[0], factor)), reference)
    assert (found.verdict, found.answer()["left_band_at"]) == ("outside", found.curve.images[0])
    assert found.standings[0].side == (1 if factor > 1 else -1)
    assert "by its training loss, and is " in found.sentence
    assert "running means, which lag behind, any of which can be the reason" in found.sentence


@pytest.mark.parametrize("every", [1, 5])
def test_what_is_promised_of_sparse_losses_holds(reference: list[RunFolder], every: int) -> None:
    """Single batches of a seed are outside at most 1 time in 20; with the change that would be found, 4 times in 5."""
    run, num_trials = reference[1], 40
    same = [compare_imported(imported(of_batches(run, every, seed=seed)), reference) for seed in range(num_trials)]
    assert sum(found.verdict == "outside" for found in same) <= num_trials / 20
    change = 1 + float(np.mean([found.standings[0].detectable for found in same]))
    changed = [imported(of_batches(run, every, seed=seed, factor=change)) for seed in range(num_trials)]
    outside = [compare_imported(one, reference).verdict == "outside" for one in changed]
    assert sum(outside) >= 0.8 * num_trials
    assert change < 1.2


def test_the_change_that_would_be_found_is_found(reference: list[RunFolder]) -> None:
    """At the last window alone, too, the change that is said to be found 4 times in 5 is found as often."""
    mean = np.exp(np.mean([[np.log(row.train_loss) for row in run.metrics] for run in reference], axis=0))
    rows = [row.model_copy(update={"train_loss": loss}) for row, loss in zip(reference[0].metrics, mean, strict=True)]
    run, every, seeds = replace(reference[0], metrics=rows), 5, range(60)
    same = [compare_imported(imported(of_batches(run, every, seed=seed)), reference) for seed in seeds]
    change = 1 + float(np.mean([found.standings[0].detectable for found in same]))
    changed = [imported(of_batches(run, every, seed=seed + len(seeds), factor=change)) for seed in seeds]
    found = [compare_imported(one, reference) for one in changed]
    assert 0.7 < np.mean([one.band is not None and one.band.outside(one.curve)[-1] > 0 for one in found]) < 0.95


def test_the_standard_error_is_that_of_the_means() -> None:
    """Over many logs of one falling loss, the means of a window scatter as their standard errors say."""
    images, generator = np.arange(1, 201) * 32.0, np.random.default_rng(0)
    falling = 3 / np.log(images + 3)
    errors = []
    means = []
    for _ in range(300):
        mean, error, _ = _window_means(images, falling * generator.lognormal(0, 0.3, 200), np.array([0, 800, 6400]))
        means.append(mean)
        errors.append(error)
    scatter = np.std(means, axis=0) / np.mean(means, axis=0)
    assert scatter == pytest.approx(np.sqrt(np.mean(np.square(errors), axis=0)), rel=0.12)


def test_rows_weigh_what_they_stand_for() -> None:
    """A row weighs as many images as lie between it and the one before; one at a window's end is in that window."""
    images = np.array([100.0, 200.0, 400.0, 500.0])
    means, _, counts = _window_means(images, np.array([4.0, 2.0, 1.0, 3.0]), np.array([0.0, 400.0, 500.0]))
    assert means.tolist() == [(100 * 4 + 100 * 2 + 200 * 1) / 400, 3.0]
    assert counts.tolist() == [400**2 / (100**2 + 100**2 + 200**2), 1.0]


@pytest.mark.parametrize("freedom", [6, 10, 100])
@pytest.mark.parametrize("num_windows", [1, 12])
def test_students_quantiles_are_those_of_scipy(freedom: int, num_windows: int) -> None:
    """The expansion is within 1 % of the quantiles that are used."""
    probability = 1 - 0.025 / num_windows
    expected = stats.t.ppf(probability, freedom)
    assert _student(stats.norm.ppf(probability), np.array([float(freedom)]))[0] == pytest.approx(expected, rel=0.01)


def test_too_few_losses_are_not_compared(reference: list[RunFolder]) -> None:
    """Where no window has losses enough, that is said instead of a verdict."""
    found = compare_imported(imported(dict.fromkeys(range(100, 801, 100), 0.1)), reference)
    assert (found.verdict, found.standings) == ("not_comparable", [])
    assert f"has {MIN_ROWS} or more losses of the candidate and no gap; it has 8 in all" in found.sentence
    found = compare_imported(imported({1: 0.9, 2: 0.8}), reference)
    assert found.sentence.startswith("The runs cannot be compared: the candidate ends before the reference's runs have")


def test_a_row_after_a_gap_makes_no_window(reference: list[RunFolder]) -> None:
    """Where a log begins late or has a gap, one row does not stand for all that is missing: its window is left out."""
    rows = of_batches(reference[0])
    for missing in (range(580, 582), range(1, 580)):  # the last window begins after step 540
        found = compare_imported(imported({step: rows[step] for step in rows if step not in missing}), reference)
        assert (25_600 in found.curve.images) == (len(missing) == 2)
    stopped = {step: rows[step] for step in rows if step < 200 or step == 500}  # a window is from step 160 to 240
    assert compare_imported(imported(stopped), reference).curve.images[-1] == 160 * 32
    found = compare_imported(imported({step: rows[step] for step in rows if step > 620}), reference)
    assert (found.verdict, found.standings) == ("not_comparable", [])


@pytest.mark.parametrize("factor", [-1.0, 0.0])
def test_a_loss_that_is_not_above_0_is_not_compared(factor: float, reference: list[RunFolder]) -> None:
    """A logarithm of a loss, or a bound that may be negative, is refused by its tag, whatever number of rows it has."""
    with pytest.raises(UserError, match=r"'loss' of 'somebodys' is 0 or less") as caught:
        compare_imported(imported(as_logged(reference[0], factor)), reference)
    assert "--loss_tag" in caught.value.hint


def test_a_short_run_is_compared_as_far_as_it_goes(reference: list[RunFolder]) -> None:
    """Windows end where the candidate does, so that no mean is over more of the reference than of the candidate."""
    short = {step: loss for step, loss in of_batches(reference[2]).items() if step <= 305}
    found = compare_imported(imported(short), reference)
    assert (found.verdict, found.curve.images[-1]) == ("inside", 9600)


def test_a_loss_that_is_not_finite_is_outside(reference: list[RunFolder]) -> None:
    """A log that ends in NaN is outside, however good it was before."""
    losses = {step: loss for step, loss in of_batches(reference[0]).items() if step <= 600}
    found = compare_imported(imported(losses, not_finite_steps=list(range(601, 801))), reference)
    assert (found.verdict, found.standings[0].side) == ("outside", 1)
    assert "is not finite" in found.sentence
    assert found.answer()["left_band_at"] > 19_200


def test_without_images_per_step_nothing_is_compared(reference: list[RunFolder]) -> None:
    """The error says what to give when importing."""
    with pytest.raises(UserError, match="--batch_size"):
        compare_imported(imported(as_logged(reference[0]), None), reference)


def test_two_runs_make_no_band(reference: list[RunFolder]) -> None:
    """The losses are set side by side, and there is no verdict."""
    found = compare_imported(imported(of_batches(reference[2])), reference[:2])
    assert (found.verdict, found.band, found.standings[0].detectable) == ("not_comparable", None, None)
    assert "2 runs cannot show how much seeds differ" in found.sentence


def test_another_prediction_is_said(reference: list[RunFolder]) -> None:
    """A reference that does not predict noise has another loss, which the sentence says."""
    record = reference[0].run
    velocity = record.model_copy(update={"config": {**record.config, "prediction_type": "v_prediction"}})
    others = [replace(run, run=velocity) for run in reference]
    candidate = imported(as_logged(reference[0]))
    assert "v_prediction" in compare_imported(candidate, others).sentence
    assert "v_prediction" not in compare_imported(candidate, reference).sentence


def test_a_record_for_another_folder_is_left_as_it_is(reference: list[RunFolder], tmp_path: Path) -> None:
    """Comparing writes nothing."""
    compare_imported(imported(as_logged(reference[0]), folder=tmp_path), reference)
    assert [*tmp_path.iterdir()] == []
