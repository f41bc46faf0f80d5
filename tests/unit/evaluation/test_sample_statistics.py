"""Samples measured beside training images: what the numbers are of, and who is accused."""

import random

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from scipy.fft import dctn

from openddpm.analysis.samples import differences
from openddpm.data.stream import signed_unit_to_uint8
from openddpm.evaluation import sample_statistics
from openddpm.evaluation.sample_statistics import DataStatistics, image_statistics, measure_data
from openddpm.record.schema import SamplesRow, SampleStatistic
from openddpm.seeding import Purpose, numpy_generator


def gray(rows: np.ndarray, channels: int = 3) -> np.ndarray:
    """Return one image, (1, channels, H, W) uint8, of values (H, W)."""
    return np.broadcast_to(rows, (1, channels, *rows.shape)).astype(np.uint8)


def one(image: np.ndarray) -> dict[str, float]:
    """Return the statistics of one image."""
    return {name: float(values[0]) for name, values in image_statistics(image, np.arange(1)).items()}


def test_a_plain_image_has_brightness_alone() -> None:
    """A plain gray image has its value as brightness, and nothing else; one channel has no colour."""
    found = one(gray(np.full((16, 16), 51)))
    assert found.pop("brightness") == pytest.approx(0.2)
    assert found == pytest.approx(dict.fromkeys(("contrast", "colour", "medium", "fine"), 0.0), abs=1e-6)
    assert "colour" not in one(gray(np.full((16, 16), 51), channels=1))


def test_colour_and_contrast() -> None:
    """Pure red is as colourful as can be; an image that is half black and half white has the strongest contrast."""
    red = np.zeros((1, 3, 8, 8), np.uint8)
    red[:, 0] = 255
    halves = np.repeat([0, 255], 8)[:, None].repeat(16, axis=1)
    assert one(red)["colour"] == pytest.approx(1.0) and one(red)["contrast"] == pytest.approx(0.0, abs=1e-6)
    assert one(gray(halves))["contrast"] == pytest.approx(0.5) and one(gray(halves))["colour"] == 0


@pytest.mark.parametrize(("wavelength", "name"), [(2.5, "fine"), (3, "fine"), (5, "medium"), (7.5, "medium"), (20, "")])
def test_waves_fall_into_their_octave(wavelength: float, name: str) -> None:
    """A wave of amplitude a shows as a / sqrt(2) in the octave of its wavelength, and hardly in the others."""
    wave = 128 + 100 * np.cos(2 * np.pi * (np.arange(60) + 0.5) / wavelength)[:, None].repeat(60, axis=1)
    found = one(gray(wave.round()))
    expected = {band: 100 / 255 / np.sqrt(2) * (band == name) for band in ("medium", "fine")}
    assert {band: found[band] for band in expected} == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("shape", [(3, 300, 600), (1, 7, 12)])
def test_statistics_are_those_of_scipy(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images that are not square, one or two at a time: of a large one the pixels of every third row and column
    count, and for the waves its middle."""
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
    stride, middle = (3, (slice(22, 278), slice(172, 428))) if shape[1] == 300 else (1, (slice(None), slice(None)))
    sizes, power_of = [], sample_statistics._power
    monkeypatch.setattr(sample_statistics, "_power", lambda chunk: sizes.append(len(chunk)) or power_of(chunk))
    monkeypatch.setattr(sample_statistics, "CHUNK_VALUES", 2 * 3 * 256 * 256 if stride == 3 else 1)
    order = [4, 0, 1, 3, 2]
    found = image_statistics(images, np.array(order))
    assert sizes == ([2, 2, 1] if stride == 3 else [1] * 5)
    for place, index in enumerate(order):
        values = images[index] / 255
        seen = values[:, ::stride, ::stride]
        power = (dctn(values[:, *middle], axes=(1, 2), norm="ortho") ** 2).mean(axis=0)
        row, column = (np.arange(size) / size for size in power.shape)
        frequency = np.hypot(row[:, None], column)
        expected = {"brightness": seen.mean(), "contrast": seen.mean(axis=0).std()}
        if shape[0] == 3:
            expected["colour"] = (seen.max(axis=0) - seen.min(axis=0)).mean()
        for name, low, high in (("medium", 0.25, 0.5), ("fine", 0.5, 2.0)):
            expected[name] = np.sqrt(power[(frequency >= low) & (frequency < high)].sum() / frequency.size)
        assert {name: values[place] for name, values in found.items()} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("num_samples", [3, 100])
def test_samples_are_compared_with_groups_of_training_images(num_samples: int) -> None:
    """The limits are the extremes of 10,000 groups of as many images; groups of 64 stand for larger ones, whose means
    lie closer together. The mean over few training images is uncertain itself, and so all is a little wider."""
    values = np.random.default_rng(0).random(50)
    samples = np.random.default_rng(1).integers(0, 256, (num_samples, 1, 4, 4), dtype=np.uint8)
    size, wider = min(num_samples, 64), np.sqrt(1 + num_samples / 50)
    groups = numpy_generator(5, Purpose.DATA_GROUPS).integers(50, size=(10_000, size))
    deviations = (values[groups].mean(axis=1) - values.mean()) * np.sqrt(size / num_samples) * wider
    expected = SampleStatistic(
        samples=(samples / 255).mean(),
        data=values.mean(),
        error=values.std() / np.sqrt(num_samples) * wider,
        low=values.mean() + deviations.min(),
        high=values.mean() + deviations.max(),
    )
    found = DataStatistics({"brightness": values}, seed=5).compare(samples)["brightness"]
    assert found.model_dump() == pytest.approx(expected.model_dump())


def test_of_many_images_a_random_choice_is_measured() -> None:
    """Of 3000 images 2048 are measured, each once, wherever they lie."""
    images = (np.arange(3000) % 256).astype(np.uint8).reshape(-1, 1, 1, 1)
    measured = measure_data(images, np.arange(1000, 3000), 0).per_image["brightness"]
    assert len(measured) == 2000
    chosen = measure_data(np.repeat(images, 2, axis=3), np.arange(3000), 0).per_image["brightness"] * 255
    assert len(chosen) == 2048 and 125 < chosen.mean() < 131
    np.testing.assert_allclose(measured * 255, images[1000:, 0, 0, 0], atol=1e-4)


def test_large_images_are_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many large images a few are measured, at evenly spaced pixels and in their middle: half an image is seen."""
    monkeypatch.setattr(sample_statistics, "MAX_DATA_VALUES", 2**20)
    half = np.repeat(np.array([0, 255], np.uint8), 512)[:, None]
    images = np.broadcast_to(half, (10**6, 3, 1024, 1024))  # 3 TB, if they were all there
    data = measure_data(images, np.arange(10**6), seed=0)
    assert data.num_images == 2**20 // (3 * 256 * 256)
    assert data.per_image["brightness"].mean() == pytest.approx(0.5)
    assert data.per_image["contrast"].mean() == pytest.approx(0.5)


def test_measuring_touches_no_global_random_numbers() -> None:
    """The choice of training images and of groups is a function of the seed, and training draws what it would have."""
    images = np.random.default_rng(0).integers(0, 256, (3000, 1, 4, 4), dtype=np.uint8)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    found = [measure_data(images, np.arange(3000), seed).compare(images[:4]) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before[1:]
    assert found[0] == found[1] != found[2]


def skewed_images(count: int, seed: int) -> np.ndarray:
    """Return textured images, one in twenty far stronger than the others: (count, 3, 8, 8) uint8."""
    numbers = np.random.default_rng(seed)
    strength = np.where(numbers.random((count, 1, 1, 1)) < 0.05, 60, 5) * numbers.random((count, 1, 1, 1))
    values = 100 + 30 * numbers.normal(size=(count, 3, 1, 1)) + strength * numbers.normal(size=(count, 3, 8, 8))
    return values.clip(0, 255).astype(np.uint8)


def accused(data: DataStatistics, samples: np.ndarray) -> list[str]:
    """Return what the samples are, if they are off: darker, noisier, ..."""
    row = SamplesRow(
        step=1,
        images_seen=1,
        weights="ema",
        num_samples=len(samples),
        num_data=data.num_images,
        statistics=data.compare(samples),
        seconds=0.0,
    )
    return [difference.word for difference in differences(row)]


@pytest.mark.parametrize(("num_groups", "num_samples"), [(150, 2), (150, 16), (20, 100)])
def test_real_images_are_hardly_ever_accused(num_groups: int, num_samples: int) -> None:
    """Of so many groups of images from where the data are from, heavy tails and all, at most one is reported."""
    data = measure_data(skewed_images(1000, seed=0), np.arange(1000), seed=0)
    fresh = skewed_images(num_groups * num_samples, seed=1).reshape(num_groups, num_samples, 3, 8, 8)
    assert sum(bool(accused(data, group)) for group in fresh) <= 1


def test_samples_that_are_off_are_accused() -> None:
    """Darker, noisier, grayer images of the same kind are reported, each by its word."""
    data = measure_data(skewed_images(1000, seed=0), np.arange(1000), seed=0)
    samples = skewed_images(16, seed=1).astype(float)
    noise = np.random.default_rng(2).normal(0, 40, samples.shape)
    assert "darker" in accused(data, (0.5 * samples).astype(np.uint8))
    assert "noisier" in accused(data, (samples + noise).clip(0, 255).astype(np.uint8))
    assert "grayer" in accused(data, samples.mean(axis=1, keepdims=True).repeat(3, axis=1).astype(np.uint8))


MEAN, SPREAD = 0.49, 0.1  # of the brightness of plain images, in -1..1
SHAPE = (16, 1, 8, 8)


def drawn_by_an_exact_denoiser(num_train_timesteps: int) -> np.ndarray:
    """Return samples, (16, 1, 8, 8) uint8, by the exact denoiser of plain images, with unscaled linear betas."""
    scheduler = DDIMScheduler(num_train_timesteps, timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(50)
    images = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    for timestep in scheduler.timesteps:
        signal = scheduler.alphas_cumprod[timestep] ** 0.5
        noise = (1 - signal**2) ** 0.5
        sureness = signal**2 * images[0].numel() / noise**2  # of the pixels' mean, beside 1 / SPREAD^2 beforehand
        seen = images.mean(dim=(1, 2, 3), keepdim=True) / signal
        brightness = (MEAN / SPREAD**2 + sureness * seen) / (1 / SPREAD**2 + sureness)
        images = scheduler.step((images - signal * brightness) / noise, timestep, images).prev_sample
    return signed_unit_to_uint8(images).numpy()


def test_a_schedule_that_leaves_a_signal_is_seen_in_the_samples() -> None:
    """A denoiser that knows all there is to know draws dark images where 100 timesteps leave a signal; by 1,000 it
    draws the data."""
    brightness = np.random.default_rng(0).normal(MEAN, SPREAD, (500, 1, 1, 1))
    plain = ((brightness + 1) * 127.5).round().clip(0, 255).astype(np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    data = measure_data(plain, np.arange(500), seed=0)
    assert accused(data, drawn_by_an_exact_denoiser(100)) == ["darker"]
    assert accused(data, drawn_by_an_exact_denoiser(1000)) == []
