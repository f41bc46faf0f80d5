"""The band that other seeds lie in."""

import numpy as np
import pytest
from scipy.stats import t as student
from tests.support.made_up_run import write_made_up_run
from tests.support.made_up_seeds import another_seed

from openddpm.comparison import band
from openddpm.comparison.band import make_bands
from openddpm.comparison.curves import Curve, curve_of
from openddpm.record.reader import RunFolder, read_run_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a run without previews."""
    return read_run_folder(write_made_up_run(tmp_path_factory.mktemp("run"), previews=0, evaluations=16))


@pytest.mark.parametrize("num_runs", [3, 5, 20])
def test_at_a_single_point_the_band_is_that_of_student(num_runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one quantity at one point, c is the 97.5 % quantile of Student's t with K - 1 degrees of freedom."""
    monkeypatch.setattr(band, "SIMULATIONS", 40_000)
    logs = np.random.default_rng(1).normal(size=(1, num_runs, 1))
    assert band._critical_value(logs) == pytest.approx(student.ppf(0.975, num_runs - 1), rel=0.05)


def test_more_points_widen_the_band() -> None:
    """c grows with the number of points at which a curve may leave."""
    generator = np.random.default_rng(1)
    one, many = generator.normal(size=(1, 8, 1)), generator.normal(size=(1, 8, 24))
    assert band._critical_value(one) < band._critical_value(many)


def test_new_seeds_lie_inside_as_often_as_the_band_says(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 new seeds, each compared with 6 others in all quantities at once, 90 to 99 never leave the band."""
    monkeypatch.setattr(band, "SIMULATIONS", 1000)
    inside = 0
    for trial in range(100):
        bands = make_bands([another_seed(run, 10 * trial + seed) for seed in range(6)])
        new = another_seed(run, 10 * trial + 9)
        inside += not any(np.nan_to_num(one.outside(curve_of(new, one.quantity))).any() for one in bands)
    assert 90 <= inside <= 99


def test_a_change_that_is_said_to_be_detectable_is_detected(run: RunFolder) -> None:
    """Of 40 seeds whose losses are changed by as much as is said to be found 4 times in 5, at least 3 in 5 leave."""
    reference = [another_seed(run, seed) for seed in range(8)]
    bands = make_bands(reference)
    change = bands[0].detectable(1e9)
    left = 0
    for seed in range(100, 140):
        new = another_seed(run, seed, factor=1 + change, since=40_000)
        left += bool(np.nan_to_num(bands[0].outside(curve_of(new, bands[0].quantity))).any())
    assert left >= 24


def test_both_sides_count(run: RunFolder) -> None:
    """A loss below the band is outside as one above it is, and a point without a value is neither."""
    one = make_bands([another_seed(run, seed) for seed in range(5)])[0]
    images = one.images
    assert list(one.outside(Curve(images[1:], 0.5 * one.mean[1:]))[1:3]) == [-1, -1]
    assert list(one.outside(Curve(images[1:], 2.0 * one.mean[1:]))[1:3]) == [1, 1]
    assert np.isnan(one.outside(Curve(images[1:], one.mean[1:]))[0])


def test_runs_that_agree_to_the_bit_have_a_band(run: RunFolder) -> None:
    """Reference runs without any spread have the least band, a few thousandths wide, not one of width 0."""
    one = make_bands([run, run, run])[0]
    assert np.all(one.high > one.mean) and np.all(one.high < 1.02 * one.mean)


def test_too_few_runs_have_no_band(run: RunFolder) -> None:
    """Two runs do not say how much seeds differ."""
    assert make_bands([run, another_seed(run, 1)]) == []


def test_quantities_that_no_run_has_are_left_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without held-out images and averages there are bands of the training samples alone, of one set of weights."""
    folder = write_made_up_run(tmp_path_factory.mktemp("bare"), previews=0, evaluations=8, use_ema=False, num_heldout=0)
    bare = read_run_folder(folder)
    fields = {one.quantity.field for one in make_bands([another_seed(bare, seed) for seed in range(4)])}
    assert fields == {"fixed_train_loss", "detail_loss", "shape_loss", "layout_loss"}


def test_curves_are_read_between_their_points() -> None:
    """A power law is interpolated exactly, and nothing is made up outside its points."""
    images = np.array([10.0, 100.0, 1000.0])
    curve = Curve(images, images**-0.5)
    assert curve.at(np.array([20.0, 500.0])) == pytest.approx([20**-0.5, 500**-0.5])
    assert np.isnan(curve.at(np.array([5.0, 2000.0]))).all()


def test_a_curve_is_not_read_far_from_its_evaluations() -> None:
    """Half-way between evaluations a factor of three apart nothing is known; near one of them, and at it, it is."""
    curve = Curve(np.array([1000.0, 3000.0, 3100.0]), np.ones(3))
    known = ~np.isnan(curve.near(np.array([900.0, 1000.0, 1015.0, 1700.0, 2960.0, 3050.0, 3100.0, 3200.0])))
    assert list(known) == [False, True, True, False, True, True, True, False]
    assert np.isnan(Curve(np.array([]), np.array([])).near(np.array([5.0]))).all()
