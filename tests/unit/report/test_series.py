from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_up_run import BATCH_SIZE, SECONDS_A_STEP, write_made_up_run
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import QuantityBand, ReferenceBandRecord
from openddpm.report.series import (
    MAX_POINTS,
    evaluation_columns,
    images_at_steps,
    metrics_columns,
    noise_columns,
    reference_columns,
    smooth,
    thin,
    to_json,
)


def test_thinning_takes_means_between_the_first_and_the_last() -> None:
    """Ten points thinned to six keep both ends, and in between stand the means of pairs."""
    columns = thin({"y": np.array([7.0, 1, 3, 5, 7, 9, 11, 13, 15, 100])}, 6)
    assert columns["y"].tolist() == [7, 2, 6, 10, 14, 100]


def test_thinning_leaves_missing_values_out_of_means() -> None:
    """A missing value takes no part in the mean of its bucket, and a bucket without values stays missing."""
    nan = np.nan
    columns = thin({"y": np.array([1.0, nan, 3, nan, nan, 9])}, 4)
    assert to_json(columns)["y"] == [1, 3, None, 9]


@given(length=st.integers(1, 500), max_points=st.integers(3, 60))
def test_thinning_keeps_ends_order_and_limit(length: int, max_points: int) -> None:
    """However long a curve, the result ends where it ended, runs the same way and has at most the points asked for."""
    x = np.arange(length, dtype=np.float64)
    thinned = thin({"x": x}, max_points)["x"]
    assert len(thinned) == min(length, max_points)
    assert (thinned[0], thinned[-1]) == (0, length - 1)
    assert (np.diff(thinned) > 0).all()


def test_smoothing_keeps_a_constant_and_halves_noise() -> None:
    """Smoothing leaves a constant as it is, skips missing values, and takes most of the noise away."""
    assert smooth(np.array([2.0, 2.0, np.nan, 2.0]), 5)[[0, 1, 3]] == pytest.approx([2, 2, 2])
    noise = np.random.default_rng(0).normal(size=2000)
    assert smooth(noise, 20)[500:].std() < 0.3 * noise[500:].std()


def test_long_metrics_are_thinned_together(tmp_path: Path) -> None:
    """Of 5,000 rows every column has the same 2,000 points, from the first row to the last."""
    run = read_run_folder(write_made_up_run(tmp_path, steps=5000, rows=5000, previews=0))
    columns = metrics_columns(run)
    assert {len(column) for column in columns.values()} == {MAX_POINTS}
    assert (columns["step"][0], columns["step"][-1]) == (1, 5000)
    assert columns["train_loss"][-1] == pytest.approx(run.metrics[-1].train_loss)


def test_evaluations_get_the_time_of_their_images(tmp_path: Path) -> None:
    """Evaluations, which record no time, take the hours at which their images were reached, by weights kind."""
    run = read_run_folder(write_made_up_run(tmp_path, steps=400, rows=4, previews=8))
    columns = evaluation_columns(run, "raw")
    assert columns["step"] == [50, 100, 150, 200, 250, 300, 350, 400]
    assert columns["hours"] == pytest.approx([step * SECONDS_A_STEP / 3600 for step in columns["step"] if step])
    raw = [row.heldout_loss for row in run.evaluations if row.weights == "raw"]
    assert columns["heldout_loss"] == pytest.approx(raw)


def test_images_of_a_step_between_logged_ones(tmp_path: Path) -> None:
    """A preview's images are read off between the logged steps, also before the first and with none logged."""
    logged = read_run_folder(write_made_up_run(tmp_path / "logged", steps=400, rows=4, previews=0))
    unlogged = read_run_folder(write_made_up_run(tmp_path / "unlogged", steps=400, rows=0, previews=0))
    for run in (logged, unlogged):
        assert images_at_steps(run, [0, 10, 250, 400]) == [0, 10 * BATCH_SIZE, 250 * BATCH_SIZE, 400 * BATCH_SIZE]


def test_losses_by_noise_run_from_noise_to_image(tmp_path: Path) -> None:
    """The model's last losses and the baselines' stand over a rising signal-to-noise ratio, group by group."""
    run = read_run_folder(write_made_up_run(tmp_path, previews=3))
    columns = noise_columns(run)
    assert run.baselines
    assert columns["snr"] == pytest.approx(sorted(run.baselines.snr))
    assert columns["linear"] == pytest.approx(run.baselines.linear[::-1])
    assert columns["ema"] == pytest.approx(run.evaluations[-2].by_timestep[::-1])
    assert columns["raw"] == pytest.approx(run.evaluations[-1].by_timestep[::-1])


def test_what_was_not_measured_by_the_baselines_is_left_out(tmp_path: Path) -> None:
    """Without baselines there is no curve over noise; evaluations and baselines without a matching list get none."""
    unruled = read_run_folder(write_made_up_run(tmp_path / "unruled", previews=1, baselines=False))
    assert noise_columns(unruled) == {}
    run = read_run_folder(write_made_up_run(tmp_path / "run", previews=1, num_heldout=0))
    last = run.evaluations[-1].model_copy(update={"by_timestep": []})
    columns = noise_columns(replace(run, evaluations=[*run.evaluations, last]))
    assert columns.keys() == {"snr", "zero", "linear", "memorizing_train", "ema"}


def test_skill_is_of_training_images_where_none_are_held_out(tmp_path: Path) -> None:
    """Skills come from held-out images, and from training images in a run that holds none out."""
    run = read_run_folder(write_made_up_run(tmp_path / "run", previews=2))
    columns = evaluation_columns(run, "raw")
    last = run.evaluations[-1]
    assert columns["skill"][-1] == pytest.approx(last.skill)
    assert columns["layout"][-1] == pytest.approx(last.bands["layout"].skill)
    without = read_run_folder(write_made_up_run(tmp_path / "without", previews=2, num_heldout=0))
    assert evaluation_columns(without, "raw")["skill"][-1] == pytest.approx(without.evaluations[-1].train_skill)


def test_a_references_band_has_no_hours_that_are_yet_to_come(tmp_path: Path) -> None:
    """The band of a run in training goes on over images and steps, but over hours only as far as the run has."""
    run = read_run_folder(write_made_up_run(tmp_path, steps=100, rows=10, previews=0))
    images, ones = [BATCH_SIZE * step for step in (50, 100, 200)], [1.0, 1.0, 1.0]
    band = QuantityBand(field="heldout_loss", images_seen=images, mean=ones, low=ones, high=ones)
    followed = replace(run, reference_band=ReferenceBandRecord(reference="it", seeds=[0], bands=[band]))
    columns = reference_columns(followed)
    assert columns["step"] == [50.0, 100.0, 200.0]
    assert columns["hours"] == [pytest.approx(step * SECONDS_A_STEP / 3600) for step in (50, 100)] + [None]
    assert reference_columns(run) == {}
