"""Fixed tuples, what is measured on them, and the baselines beside it."""

import json
from dataclasses import astuple, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import sem

from openddpm.config import TrainConfig
from openddpm.data.store import ImageStore
from openddpm.data.stream import Split, split_heldout, uint8_to_signed_unit
from openddpm.diffusion.baselines import LinearDenoiser, memorizing_squared_errors
from openddpm.diffusion.denoiser import Denoiser
from openddpm.diffusion.process import DiffusionProcess
from openddpm.evaluation import baselines as baselines_module
from openddpm.evaluation.baselines import BaselineMeasurement
from openddpm.evaluation.evaluation import Evaluation
from openddpm.evaluation.fixed_samples import FixedSamples, Levels, fixed_samples
from openddpm.evaluation.previews import draw_preview
from openddpm.record.bands import BANDS
from openddpm.record.data_record import DataRecord
from openddpm.record.schema import EvaluationRow
from openddpm.seeding import Purpose, numpy_generator
from openddpm.training.setup import prepare
from tiny import digests_of, tiny_config, tiny_images

CPU = torch.device("cpu")


def smooth_images(count: int = 200, seed: int = 0) -> np.ndarray:
    """Return blurred noise, (count, 3, 8, 8) uint8: smooth enough for a linear denoiser to do well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 3, 2, 2), dtype=np.uint8)
    return coarse.repeat(4, axis=2).repeat(4, axis=3)


class Case:
    """An evaluation on images, with its baselines measured."""

    def __init__(
        self, cache: Path, images: np.ndarray, num_heldout: int = 40, includes_flips: bool = False, **options: Any
    ) -> None:
        self.process = DiffusionProcess(TrainConfig(**options), CPU)
        digests = digests_of(images)
        self.split: Split = split_heldout(digests, num_heldout, 0)
        samples = fixed_samples(images, digests, self.split, 96, self.process, CPU, seed=0)
        store = ImageStore(images, digests, "sha", DataRecord(num_images=len(images), counts={}, images=[]))
        self.measurement = BaselineMeasurement(samples, store, self.split, self.process, includes_flips, 0, CPU)
        self.baselines, self.record = self.measurement.measure(cache, quiet=True)
        self.evaluation = Evaluation(samples, self.baselines, batch_size=16)


def score(evaluation: Evaluation, denoise: Denoiser) -> EvaluationRow:
    """Return the row of some weights at some step."""
    return evaluation.row(evaluation.squared_errors(denoise), "ema", 1, 16, seconds=1.23456)


def test_levels_weigh_bands_by_their_share_of_timesteps() -> None:
    """Each band has as many tuples, and the weighted mean of any function of the timestep is its mean over all."""
    snr = DiffusionProcess(TrainConfig(), CPU).snr().numpy()
    levels = Levels.spread(snr, 960)
    values = np.sqrt(np.arange(1000.0))
    assert levels.mean(values[levels.timesteps]) == pytest.approx(values.mean(), rel=2e-3)
    for band, (low, high) in BANDS.items():
        inside = (snr >= low) & (snr < high)
        chosen = (snr[levels.timesteps] >= low) & (snr[levels.timesteps] < high)
        assert chosen.sum() == 320
        assert levels.mean(values[levels.timesteps], band) == pytest.approx(values[inside].mean(), rel=5e-3)


def test_levels_do_without_a_band_that_no_timestep_falls_into() -> None:
    """A process of two timesteps has its mean over those two."""
    levels = Levels.spread(np.array([100.0, 0.01], dtype=np.float32), 48)
    assert levels.bands == ["detail"] * 4 + ["layout"] * 4
    assert levels.mean(levels.timesteps.astype(float)) == 0.5
    assert np.isnan(levels.mean(levels.timesteps.astype(float), "shape"))


def test_fixed_timesteps_lie_in_the_middle() -> None:
    """A band's timesteps are cut into equal parts, and each part has the one in its middle."""
    snr = np.repeat([10.0, 0.1, 0.01], 240)  # the first two are the lowest of their bands
    levels = Levels.spread(snr, 24)
    assert levels.timesteps.tolist() == list(range(15, 720, 30))
    assert levels.bands == [band for band in BANDS for _ in range(4)]
    assert levels.groups.tolist() == np.repeat(np.arange(12), 2).tolist()


def test_standard_error_is_that_of_strata() -> None:
    """It is the one of textbooks, from sample variances with their correction, weighed by the groups' shares."""
    levels = Levels.spread(np.repeat([100.0, 0.01], [30, 70]), 36)
    errors = np.random.default_rng(0).normal(size=len(levels.timesteps))
    groups = [sem(errors[levels.groups == group]) for group in range(8)]
    shares = np.repeat([0.3, 0.7], 4) / 4
    np.testing.assert_allclose(levels.shares, shares)
    assert levels.standard_error(errors) == pytest.approx(float(np.sqrt((shares**2 * np.square(groups)).sum())))


def test_a_model_that_says_what_a_baseline_says_scores_as_it_does(tmp_path: Path) -> None:
    """No noise predicted scores the zero baseline, in each group of timesteps, whatever the model calls its output."""
    images = smooth_images()
    case = Case(tmp_path, images)
    row = score(case.evaluation, lambda noisy, _: torch.zeros_like(noisy))
    np.testing.assert_allclose(row.by_timestep, case.record.zero, rtol=1e-5)
    shares = np.array(case.record.shares)
    assert row.heldout_loss == pytest.approx(shares @ case.record.zero, rel=1e-5)
    zero = case.baselines["train"].zero.reshape(12, -1).mean(axis=1)
    assert row.fixed_train_loss == pytest.approx(shares @ zero, rel=1e-5)
    assert (row.step, row.images_seen, row.weights, row.seconds) == (1, 16, "ema", 1.235)
    assert row.skill == pytest.approx(1 - shares @ case.record.zero / (shares @ case.record.linear), rel=1e-5)
    clean_predicting = Case(tmp_path, images, prediction_type="sample")
    alphas = clean_predicting.process.scheduler.alphas_cumprod

    def no_noise(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return noisy / alphas[timesteps].sqrt()[:, None, None, None]

    converted = score(clean_predicting.evaluation, no_noise)
    assert converted.heldout_loss == pytest.approx(row.heldout_loss, rel=1e-3)


def test_errors_are_what_a_prediction_is_off_the_noise(tmp_path: Path) -> None:
    """Half of the noise, predicted, leaves a quarter of its square, sample by sample."""
    for samples in Case(tmp_path, smooth_images()).evaluation.samples.values():
        ((_, noise, _),) = samples.batches(range(96), 96)
        errors = samples.squared_errors(lambda *_, noise=noise: 0.5 * noise, range(96), 96)
        torch.testing.assert_close(errors, 0.25 * noise.square().mean(dim=(1, 2, 3)))


def test_each_kind_of_tuples_is_measured_by_its_own_baselines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors that are a fixed share of the linear denoiser's, tuple by tuple, are that much skill, for certain."""
    case = Case(tmp_path, smooth_images())
    shares = {"train": 0.5, "heldout": 0.7}
    errors = {
        case.evaluation.samples[kind]: torch.from_numpy(s * case.baselines[kind].linear) for kind, s in shares.items()
    }
    monkeypatch.setattr(FixedSamples, "squared_errors", lambda samples, *_: errors[samples])
    row = score(case.evaluation, lambda noisy, _: noisy)
    assert (row.skill, row.train_skill) == (pytest.approx(0.3), pytest.approx(0.5))
    assert row.skill_error == pytest.approx(0, abs=1e-9)
    for number, band in enumerate(BANDS):
        groups = slice(4 * number, 4 * number + 4)
        linear, memorizing = (np.mean(values[groups]) for values in (case.record.linear, case.record.memorizing_train))
        expected = {"loss": 0.7 * linear, "linear": linear, "memorizing": memorizing, "skill": 0.3}
        assert row.bands[band].model_dump() == pytest.approx(expected)


def test_training_and_heldout_tuples_differ_by_their_images_alone(tmp_path: Path) -> None:
    """Both kinds meet the same noise at the same timesteps, and no image is in both."""
    train, heldout = Case(tmp_path, smooth_images()).evaluation.samples.values()
    for ours, theirs in zip(train.batches(range(96), 16), heldout.batches(range(96), 16), strict=True):
        assert torch.equal(ours[1], theirs[1]) and torch.equal(ours[2], theirs[2])
        assert not torch.equal(ours[0], theirs[0])
    assert not set(train.indices) & set(heldout.indices)


@pytest.mark.parametrize("times", [1, 2])
def test_fixed_samples_are_of_the_images_alone(times: int) -> None:
    """The same images in another order give the same fixed samples, to the bit, be each there twice or not."""
    images = np.concatenate([smooth_images(60)] * times)
    process = DiffusionProcess(TrainConfig(), CPU)

    def batches(images: np.ndarray, seed: int) -> list[torch.Tensor]:
        digests = digests_of(images)
        split = split_heldout(digests, 20, seed)
        kinds = fixed_samples(images, digests, split, 96, process, CPU, seed).values()
        return [torch.cat(parts) for of in kinds for parts in zip(*of.batches(range(96), 16), strict=True)]

    first = batches(images, 0)
    shuffled = batches(images[np.random.default_rng(1).permutation(len(images))], 0)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, shuffled, strict=True))
    other = batches(images, 1)
    assert not any(torch.equal(first[at], other[at]) for at in (0, 1, 3, 4))  # images and noises


def test_runs_of_other_seeds_are_measured_on_the_same(tmp_path: Path) -> None:
    """Held-out images, fixed samples, what samples are compared with and the noise of previews are not the seed's."""

    def measured_by(**options: int) -> list[np.ndarray]:
        training = prepare(tiny_config(tmp_path, str(options), **options), dataset=tiny_images())
        training.close()
        evaluation, process, config = training.evaluation, training.process, training.config
        count = training.timetable.num_fixed_samples
        kinds = evaluation.samples.values()
        fixed = [torch.cat(parts) for of in kinds for parts in zip(*of.batches(range(count), 16), strict=True)]
        preview = draw_preview(lambda noisy, _: 0.5 * noisy, process, config, (3, 8, 8), CPU)
        statistics = training.data_statistics.compare(preview)["contrast"]
        return [
            training.split.heldout,
            *map(np.asarray, fixed),
            preview,
            np.array([statistics.data, statistics.low, statistics.high]),
        ]

    first, other_seed, other = measured_by(seed=0), measured_by(seed=1), measured_by(evaluation_seed=1)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(first, other_seed, strict=True))
    same = [np.array_equal(ours, theirs) for ours, theirs in zip(first, other, strict=True)]
    assert [at for at, is_same in enumerate(same) if is_same] == [3, 6]  # the timesteps alone


def test_skill_error_covers_what_another_choice_of_tuples_would_give(tmp_path: Path) -> None:
    """Over twenty seeds, a fixed denoiser's skill scatters as its standard error says, within a factor of two."""
    images = smooth_images(600)
    digests = digests_of(images)
    split = split_heldout(digests, 300, 0)
    process = DiffusionProcess(TrainConfig(), CPU)
    store = ImageStore(images, digests, "sha", DataRecord(num_images=600, counts={}, images=[]))
    skills, errors = [], []
    for seed in range(20):
        samples = fixed_samples(images, digests, split, 48, process, CPU, seed)
        measurement = BaselineMeasurement(samples, store, split, process, False, seed, CPU)
        evaluation = Evaluation(samples, measurement.measure(tmp_path, quiet=True)[0], batch_size=48)
        row = score(evaluation, lambda noisy, _: 0.9 * noisy)
        assert row.skill is not None and row.skill_error is not None
        skills.append(row.skill)
        errors.append(row.skill_error)
    assert 0.5 < np.std(skills, ddof=1) / np.mean(errors) < 2


@pytest.mark.parametrize("num_parts", [2, 3, 5, 200])
def test_parts_make_up_the_whole(num_parts: int, tmp_path: Path) -> None:
    """Each sample is measured in exactly one part, no part has two more than another, and the numbers are the same."""
    evaluation, measured = Case(tmp_path, smooth_images()).evaluation, []

    def denoise(noisy: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        measured.append(len(noisy))
        return 0.9 * noisy

    whole, sizes, total = evaluation.squared_errors(denoise), [], torch.zeros(2, 96)
    for part in range(num_parts):
        measured.clear()
        errors = evaluation.squared_errors(denoise, part, num_parts)
        assert not (total * errors).any()
        total += errors
        sizes.append(sum(measured))
    torch.testing.assert_close(total, whole, rtol=1e-6, atol=0)
    assert sum(sizes) == 2 * 96 and max(sizes) - min(sizes) <= 1


def test_weights_that_give_no_number_leave_nulls(tmp_path: Path) -> None:
    """NaN and infinity become null, in a row that JSON can hold."""
    evaluation = Case(tmp_path, smooth_images()).evaluation
    for value in (float("nan"), float("inf")):
        row = score(evaluation, lambda noisy, _, value=value: torch.full_like(noisy, value))
        assert row.heldout_loss is None and row.skill is None and set(row.by_timestep) == {None}
        json.dumps(row.model_dump(), allow_nan=False)


@pytest.mark.parametrize(("asked", "sizes"), [(40, [40, 40, 16] * 2), (1000, [64, 32] * 2)])
def test_batches_are_as_large_as_asked_up_to_64(asked: int, sizes: list[int], tmp_path: Path) -> None:
    """The 96 samples of each kind are measured in batches of the evaluation's size, but never of more than 64."""
    measured: list[int] = []
    evaluation = replace(Case(tmp_path, smooth_images()).evaluation, batch_size=asked)
    evaluation.squared_errors(lambda noisy, _: measured.append(len(noisy)) or noisy)  # type: ignore[func-returns-value]
    assert measured == sizes


def test_without_heldout_images_training_images_are_measured(tmp_path: Path) -> None:
    """Bands, baselines and training skill are of the training tuples, and there is no held-out skill."""
    case = Case(tmp_path, smooth_images(), num_heldout=0)
    row = score(case.evaluation, lambda noisy, _: torch.zeros_like(noisy))
    assert row.heldout_loss is None and row.skill is None and row.train_skill is not None
    assert row.bands["shape"].skill is not None
    assert case.record.memorizing_heldout == [] and case.record.linear == case.record.linear_train


def test_baselines_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run reads them from the cache; another split, schedule or flips, or a damaged file, have them fitted."""
    fits = []
    fit = baselines_module.LinearDenoiser.fit
    monkeypatch.setattr(baselines_module.LinearDenoiser, "fit", lambda *args: fits.append(1) or fit(*args))
    first = Case(tmp_path, smooth_images()).record
    assert Case(tmp_path, smooth_images()).record == first and len(fits) == 1
    Case(tmp_path, smooth_images(), num_heldout=30)
    Case(tmp_path, smooth_images(), beta_schedule="squaredcos_cap_v2")
    Case(tmp_path, smooth_images(), includes_flips=True)
    assert len(fits) == 4
    for cached in (tmp_path / "baselines").iterdir():
        cached.write_text('{"torn": ')  # or whole, but of something else:
    whole = '{"errors": {}, "num_images_linear": 1, "num_images_memorizing": 1, "shrinkage": 0, "seconds": 1}'
    next((tmp_path / "baselines").iterdir()).write_text(whole)
    again = Case(tmp_path, smooth_images()).record
    assert again.model_dump(exclude={"seconds"}) == first.model_dump(exclude={"seconds"}) and len(fits) == 5


def test_the_cache_knows_all_that_errors_depend_on(tmp_path: Path) -> None:
    """Images, split, schedule, flips, seed, number of samples and kind of device each have a cache of their own."""
    images = smooth_images()
    case, other = Case(tmp_path, images), Case(tmp_path, images, num_heldout=30, beta_schedule="scaled_linear")
    first = case.measurement
    fewer = fixed_samples(images, digests_of(images), case.split, 48, case.process, CPU, seed=0)
    others = [
        first,
        replace(first, includes_flips=True),
        replace(first, store=replace(first.store, sha256="other")),
        replace(first, seed=1),
        replace(first, device=torch.device("meta")),
        replace(first, samples=fewer),
        replace(first, process=other.process),
        replace(first, split=Split(other.split.train, first.split.heldout)),
        replace(first, split=Split(first.split.train, other.split.heldout)),
    ]
    assert len({one._digest() for one in others}) == len(others)


@pytest.mark.parametrize(("num_train", "num_linear"), [(880, 880), (960, 864)])
def test_no_baseline_is_fitted_to_the_images_it_is_measured_on(num_train: int, num_linear: int, tmp_path: Path) -> None:
    """The 96 training images of fixed samples are left out of the linear denoiser's, if no more than a tenth are."""
    record = Case(tmp_path, smooth_images(num_train + 40)).record
    assert (record.num_images_linear, record.num_images_memorizing) == (num_linear, num_train)


class Bars:
    """Notes how far progress bars get, and how they were to be shown, in place of showing them."""

    ends: ClassVar[dict[str, list[int]]] = {}
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, *columns: Any, **options: Any) -> None:
        Bars.ends, Bars.options = {}, options

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *error: object) -> None:
        return

    def add_task(self, name: str, total: int) -> str:
        self.ends[name] = [0, total]
        return name

    def advance(self, name: str, count: int) -> None:
        self.ends[name][0] += count


def test_measuring_says_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so in one line, unless it is to be quiet; on a terminal bars show how far it is, until it is done."""
    measurement = Case(tmp_path, smooth_images()).measurement
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("COLUMNS", "40")
    said = "measuring baselines on 160 images; cached for runs on the same images\n"
    monkeypatch.setattr(baselines_module, "time", SimpleNamespace(perf_counter=iter((5.0, 7.04) * 4).__next__))
    assert measurement.measure(tmp_path / "shown", quiet=False)[1].seconds == 2.0
    assert capsys.readouterr() == ("", said)
    monkeypatch.setattr(baselines_module, "Progress", Bars)
    monkeypatch.setattr(baselines_module, "MAX_SAMPLES_AT_A_TIME", 70)
    for is_terminal, quiet, is_shown in ((False, False, False), (True, True, False), (True, False, True)):
        monkeypatch.setattr(baselines_module.Console, "is_terminal", is_terminal)
        measurement.measure(tmp_path / f"bars-{is_terminal}-{quiet}", quiet)
        assert Bars.options["disable"] is not is_shown
        assert Bars.options["transient"] and Bars.options["console"].stderr
    assert Bars.ends == {
        "fitting a linear denoiser": [2 * 160, 2 * 160],
        "comparing with training images": [3 * 160, 3 * 160],
    }


def test_baselines_meet_the_samples_at_their_noise_levels(tmp_path: Path) -> None:
    """Each kind's errors are those of the denoisers, fitted to the training images, on these images, noise and
    timesteps."""
    images = smooth_images()
    case = Case(tmp_path, images)

    def chunks() -> list[torch.Tensor]:
        return [uint8_to_signed_unit(torch.from_numpy(images[case.split.train]))]

    linear = LinearDenoiser.fit(chunks, includes_flips=False)
    for kind, samples in case.evaluation.samples.items():
        ((clean, noise, timesteps),) = samples.batches(range(96), 96)
        snr = case.process.snr()[timesteps].double()
        signal, sigma = (snr / (1 + snr)).sqrt(), (1 / (1 + snr)).sqrt()
        found = case.baselines[kind]
        np.testing.assert_allclose(found.zero, noise.double().square().mean(dim=(1, 2, 3)))
        np.testing.assert_allclose(found.linear, linear.squared_errors(clean, noise, signal, sigma), rtol=1e-6)
        known = memorizing_squared_errors(chunks, clean, noise, signal, sigma, False)
        np.testing.assert_allclose(found.memorizing, known, rtol=1e-6, atol=1e-12)


def test_images_of_any_size_are_measured_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images too large for a chunk are read one by one, and a sample of each kind at a time; float64 is the CPU's where
    the device has none."""
    measurement = Case(tmp_path, smooth_images()).measurement
    monkeypatch.setattr(baselines_module, "CHUNK_VALUES", 1)
    chunks = measurement._chunks(np.arange(3), Bars(), Bars().add_task("", 3))  # type: ignore[arg-type]
    assert [len(chunk) for chunk in chunks()] == [1, 1, 1] and measurement._samples_at_a_time == 1
    devices = {name: replace(measurement, device=torch.device(name))._fp64_device.type for name in ("cuda", "mps")}
    assert devices == {"cuda": "cuda", "mps": "cpu"}


def test_the_record_has_the_baselines_by_noise_level(tmp_path: Path) -> None:
    """Each number is the mean over the samples of a group; of the signal-to-noise ratio, of its logarithm."""
    case = Case(tmp_path, smooth_images(), includes_flips=True)
    levels, record = case.evaluation.samples["train"].levels, case.record
    train, heldout = case.baselines["train"], case.baselines["heldout"]
    snr = case.process.snr().numpy().astype(float)[levels.timesteps]
    expected = {
        "timesteps": levels.timesteps,
        "zero": heldout.zero,
        "linear": heldout.linear,
        "linear_train": train.linear,
        "memorizing_train": train.memorizing,
        "memorizing_heldout": heldout.memorizing,
    }
    means = {
        name: [float(values[levels.groups == group].mean()) for group in range(12)] for name, values in expected.items()
    }
    means["snr"] = [float(np.exp(np.log(snr[levels.groups == group]).mean())) for group in range(12)]
    means["shares"] = levels.shares.tolist()
    assert {name: getattr(record, name) for name in means} == {
        name: pytest.approx(values, rel=1e-6) for name, values in means.items()
    }
    assert record.num_fixed_samples == 96 and record.includes_flips


def test_baselines_never_see_heldout_images(tmp_path: Path) -> None:
    """At little noise the memorizing denoiser is right on training images and badly wrong on held-out ones."""
    record = Case(tmp_path, np.random.default_rng(0).integers(0, 256, (200, 3, 8, 8), dtype=np.uint8)).record
    assert record.memorizing_train[0] < 1e-6 and record.memorizing_heldout[0] > 10


def test_large_sets_are_known_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limits a part of the images stands for all; those of the training tuples are always known."""
    monkeypatch.setattr(baselines_module, "MAX_LINEAR_IMAGES", 50)
    monkeypatch.setattr(baselines_module, "MAX_MEMORIZING_VALUES", 10 * 3 * 8 * 8)
    case = Case(tmp_path, smooth_images())
    record, order = case.record, numpy_generator(0, Purpose.BASELINES).permutation(case.split.train)
    known = {*order[:10], *case.evaluation.samples["train"].indices}
    assert (record.num_images_linear, record.num_images_memorizing) == (50, len(known))
    assert record.memorizing_train[0] < 1e-6


@pytest.mark.parametrize("num_heldout", [40, 0])
def test_tuples_may_take_turns(num_heldout: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored in several turns, the last one smaller, each kind's tuples have the errors that they have all at once."""
    whole = Case(tmp_path / "whole", smooth_images(), num_heldout).baselines
    monkeypatch.setattr(baselines_module, "MAX_SAMPLES_AT_A_TIME", 70)
    in_turns = Case(tmp_path / "turns", smooth_images(), num_heldout).baselines
    assert list(whole) == list(in_turns) == ["train", "heldout"][: 1 + (num_heldout > 0)]
    for ours, theirs in zip(in_turns.values(), whole.values(), strict=True):
        for found, expected in zip(astuple(ours), astuple(theirs), strict=True):
            assert len(found) == 96
            np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_extreme_noise_levels_have_baselines(tmp_path: Path) -> None:
    """A long cosine schedule, whose ends are beyond float32, gives finite baselines."""
    case = Case(tmp_path, smooth_images(), num_train_timesteps=100_000, beta_schedule="squaredcos_cap_v2")
    json.dumps(case.record.model_dump(), allow_nan=False)
    beyond: Any = SimpleNamespace(snr=lambda: torch.tensor([float("inf"), 1.0, 0.0]))
    assert replace(case.measurement, process=beyond)._snr.tolist() == [1e12, 1.0, 1e-12]
