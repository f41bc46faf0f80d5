"""The baselines, against computations that share nothing with ours but the definition."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from sklearn.datasets import load_digits

from openddpm.diffusion import baselines
from openddpm.diffusion.baselines import ImageChunks, LinearDenoiser, cosine_transform, memorizing_squared_errors

Array = NDArray[np.float64]
SIGNAL2 = np.array([0.9999, 0.99, 0.9, 0.5, 0.1, 0.01, 0.0001])  # a^2, from hardly any noise to hardly any image


@pytest.fixture(scope="module")
def digits() -> Array:
    """8x8 digits, (1797, 1, 8, 8) in [-1, 1], rounded to float32 as the store's images are."""
    return (load_digits().images[:, None] / 8 - 1).astype(np.float32).astype(np.float64)


def chunked(images: Array, size: int = 100) -> ImageChunks:
    """Return `images` as a baseline takes them."""

    def start_over() -> Iterator[torch.Tensor]:
        yield from torch.from_numpy(images).float().split(size)

    return start_over


def tuples(images: Array, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images, noise, signal and sigma of `count` tuples over all of SIGNAL2."""
    random = np.random.default_rng(seed)
    chosen = torch.from_numpy(images[random.integers(len(images), size=count)])
    signal2 = torch.from_numpy(np.resize(SIGNAL2, count))
    noise = torch.from_numpy(random.normal(size=chosen.shape))
    return chosen, noise, signal2.sqrt(), (1 - signal2).sqrt()


def linear_errors(
    images: torch.Tensor, noise: torch.Tensor, signal: torch.Tensor, sigma: torch.Tensor, mean: Array, covariance: Array
) -> Array:
    """Return the squared errors of the best linear denoiser, by solving in pixels, one tuple after the other."""
    errors = []
    for x, e, a, s in zip(*(part.numpy() for part in (images, noise, signal, sigma)), strict=True):
        noisy = a * x.ravel() + s * e.ravel()
        noisy_covariance = a**2 * covariance + s**2 * np.eye(len(covariance))
        estimate = mean + a * covariance @ np.linalg.solve(noisy_covariance, noisy - a * mean)
        errors.append(np.mean(((noisy - a * estimate) / s - e.ravel()) ** 2))
    return np.array(errors)


def shrunk_covariance(images: Array, shrinkage: float) -> tuple[Array, Array]:
    """Return mean and shrunk covariance of the pixels, which scipy's cosine transform brings to and fro."""
    flat = images.reshape(len(images), -1)
    size = flat.shape[1]
    transform = dctn(np.eye(size).reshape(size, *images.shape[1:]), axes=(1, 2, 3), norm="ortho").reshape(size, size).T
    covariance = transform @ np.cov(flat.T, bias=True) @ transform.T
    variances = np.diag(np.diag(covariance) + baselines.ROUNDING_VARIANCE)
    shrunk = (1 - shrinkage) * (covariance - np.diag(np.diag(covariance))) + variances
    return flat.mean(axis=0), transform.T @ shrunk @ transform


@pytest.mark.parametrize("includes_flips", [False, True])
def test_gaussian_baseline_is_the_best_linear_denoiser(digits: Array, includes_flips: bool) -> None:
    """On 8x8 digits, with mirrored ones or without, it agrees with solving in pixels in float64, tuple by tuple."""
    train, heldout = digits[:1500], digits[1500:]
    baseline = LinearDenoiser.fit(chunked(train), includes_flips)
    known = np.concatenate([train, train[..., ::-1]]) if includes_flips else train
    expected = linear_errors(*tuples(heldout, 70), *shrunk_covariance(known, baseline.shrinkage))
    np.testing.assert_allclose(baseline.squared_errors(*tuples(heldout, 70)).numpy(), expected, rtol=1e-6)


def test_gaussian_baseline_meets_the_closed_form_on_gaussian_data() -> None:
    """On data drawn from a known Gaussian its mean error is mean_i a^2 l_i / (a^2 l_i + s^2), within 1 %."""
    random = np.random.default_rng(1)
    basis = np.linalg.qr(random.normal(size=(48, 48)))[0]
    variances = np.geomspace(1.0, 1e-3, 48)
    mean = random.normal(size=48)
    data = (mean + random.normal(size=(45_000, 48)) * np.sqrt(variances) @ basis.T).reshape(-1, 3, 4, 4)
    baseline = LinearDenoiser.fit(chunked(data[:40_000], 5000), includes_flips=False)
    images, noise, signal, sigma = tuples(data[40_000:], 5_000 * len(SIGNAL2), seed=2)
    errors = baseline.squared_errors(images, noise, signal, sigma).numpy().reshape(-1, len(SIGNAL2)).mean(axis=0)
    a2 = SIGNAL2[:, None]
    expected = (a2 * variances / (a2 * variances + 1 - a2)).mean(axis=1)
    np.testing.assert_allclose(errors, expected, rtol=0.01)


def test_weak_coefficients_are_denoised_one_by_one(digits: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the strongest coefficients only variances count: the covariance has zeros there."""
    monkeypatch.setattr(baselines, "MAX_CORRELATED", 20)
    train, heldout = digits[:1500], digits[1500:]
    baseline = LinearDenoiser.fit(chunked(train), includes_flips=False)
    coefficients = dctn(train, axes=(1, 2, 3), norm="ortho").reshape(len(train), -1)
    covariance = np.cov(coefficients.T, bias=True)
    weak = np.argsort(-np.diag(covariance))[20:]
    kept = (1 - baseline.shrinkage) * covariance
    kept[weak] = kept[:, weak] = 0
    np.fill_diagonal(kept, np.diag(covariance) + baselines.ROUNDING_VARIANCE)
    images, noise, signal, sigma = tuples(heldout, 70)
    transformed = [torch.from_numpy(dctn(part.numpy(), axes=(1, 2, 3), norm="ortho")) for part in (images, noise)]
    expected = linear_errors(*transformed, signal, sigma, coefficients.mean(axis=0), kept)
    np.testing.assert_allclose(baseline.squared_errors(images, noise, signal, sigma).numpy(), expected, rtol=1e-6)


def denoising_errors(fit: Array, held: Array) -> dict[float, float]:
    """Return, by shrinkage, the squared error over all coefficients, mean over the noise and signal-to-noise ratios.

    With deviation d, prior covariance C and C_t = a^2 C + s^2 I it is a^2 s^2 |C_t^-1 d|^2 + |a^2 C_t^-1 C|^2.
    """
    covariance, deviations = np.cov(fit.T, bias=True), (held - fit.mean(axis=0)).T
    variances = np.diag(np.diag(covariance))
    found = {}
    for shrinkage in (0.001, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0):
        prior = (1 - shrinkage) * (covariance - variances) + variances + np.eye(len(variances)) * (2 / 255) ** 2 / 12
        errors = []
        for snr in 10.0 ** np.arange(-2, 4.1, 0.5):
            signal2, sigma2 = snr / (1 + snr), 1 / (1 + snr)
            inverse = np.linalg.inv(signal2 * prior + sigma2 * np.eye(len(prior)))
            of_images = signal2 * sigma2 * ((inverse @ deviations) ** 2).sum(axis=0).mean()
            errors.append(of_images + ((signal2 * inverse @ prior) ** 2).sum())
        found[shrinkage] = float(np.mean(errors))
    return found


@pytest.mark.parametrize("includes_flips", [False, True])
@pytest.mark.parametrize("kind", ["digits", "five digits", "noise"])
def test_the_shrinkage_is_what_denoises_a_fifth_of_the_images_best(
    digits: Array, kind: str, includes_flips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fifth image is denoised by a fit to the others, with ever more shrinkage while that helps: for noise, which
    has nothing to correlate, up to the last."""
    images = digits[: 5 if kind == "five digits" else 43]
    if kind == "noise":
        images = np.random.default_rng(0).normal(size=(83, 1, 6, 8)) / 2  # an odd frequency is the strongest
        images = images.astype(np.float32).astype(np.float64)
    error, errors = baselines._validation_error, dict.fromkeys(baselines.SHRINKAGES, 0.0)

    def noted(fit: Any, validation: Any, shrinkage: float) -> float:
        found = error(fit, validation, shrinkage)
        errors[shrinkage] += found
        return found

    monkeypatch.setattr(baselines, "_validation_error", noted)
    chosen = LinearDenoiser.fit(chunked(images, 33), includes_flips).shrinkage
    validates = np.arange(len(images)) % 5 == 4
    parts = [dctn(part, axes=(1, 2, 3), norm="ortho") for part in (images[~validates], images[validates])]
    if includes_flips:
        parts = [np.concatenate([part, part * (-1) ** np.arange(8)]) for part in parts]
    expected = denoising_errors(*(part.reshape(len(part), -1) for part in parts))
    assert chosen == min(expected, key=lambda shrinkage: expected[shrinkage])
    tried = [shrinkage for shrinkage in expected if errors[shrinkage]]
    assert tried == list(expected)[: list(expected).index(chosen) + 2]
    assert [errors[shrinkage] for shrinkage in tried] == pytest.approx([expected[one] for one in tried], rel=1e-9)


@pytest.mark.parametrize(("num_images", "num_strong"), [(3, 768), (100, 800), (600, 4096)])
def test_how_many_coefficients_are_correlated(
    num_images: int, num_strong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The strongest eight for each image are, but at least 768, and no more than 4096."""
    images = np.random.default_rng(0).normal(size=(num_images, 1, 80, 64))
    groups: list[torch.Tensor] = []
    part = baselines._Part(0, torch.zeros(1), torch.ones(1, 1))
    monkeypatch.setattr(baselines, "_covariances", lambda _, mean, found, odd: groups.extend(found) or [(part, part)])
    baseline = LinearDenoiser.fit(chunked(images, 200), includes_flips=False)
    strengths = torch.from_numpy(dctn(images, axes=(1, 2, 3), norm="ortho").reshape(num_images, -1).var(axis=0))
    assert len(groups[0]) == num_strong
    assert set(groups[0].tolist()) == set(strengths.argsort(descending=True)[:num_strong].tolist())
    torch.testing.assert_close(
        baseline.blocks[1].variances, strengths[baseline.blocks[1].indices] + (2 / 255) ** 2 / 12, rtol=1e-5, atol=1e-9
    )


def test_narrow_images_have_no_odd_frequencies() -> None:
    """Images of one column are their own mirror images."""
    images = np.random.default_rng(0).normal(size=(50, 1, 8, 1)) / 2
    plain, with_flips = (LinearDenoiser.fit(chunked(images), includes_flips) for includes_flips in (False, True))
    errors = [baseline.squared_errors(*tuples(images, 70)) for baseline in (plain, with_flips)]
    assert errors[0].dtype == torch.float64
    torch.testing.assert_close(*errors)


def test_few_images_are_shrunk(digits: Array) -> None:
    """From fewer images than dimensions the covariance is shrunk more, and held-out images are denoised far better."""
    heldout = tuples(digits[1500:], 700)
    few, many = (LinearDenoiser.fit(chunked(digits[:count]), includes_flips=False) for count in (30, 1500))
    assert few.shrinkage > many.shrinkage
    unshrunk = linear_errors(*heldout, *shrunk_covariance(digits[:30], 0.0))
    assert few.squared_errors(*heldout).mean() < 0.7 * unshrunk.mean()
    assert many.squared_errors(*heldout).mean() < few.squared_errors(*heldout).mean()


@pytest.mark.parametrize("value", [-1.0, 0.3])
def test_constant_images_are_no_trouble(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images without any variance, even a single one, with which no shrinkage can be tried, give finite errors: all of
    the noise is seen at once."""
    monkeypatch.setattr(baselines, "_validation_error", None)
    images = np.full((1, 3, 4, 4), value)
    baseline = LinearDenoiser.fit(chunked(images), includes_flips=True)
    assert baseline.shrinkage == 1.0
    assert baseline.squared_errors(*tuples(images, 70)).max() < 0.06


@pytest.mark.parametrize("includes_flips", [False, True])
def test_memory_baseline_is_the_posterior_mean(digits: Array, includes_flips: bool) -> None:
    """It agrees with a softmax over the distances to all training images, computed one tuple after the other."""
    train = digits[:300]
    images, noise, signal, sigma = tuples(digits[200:400], 70)  # some known, some not
    known = np.concatenate([train, train[..., ::-1]]) if includes_flips else train
    known = known.reshape(len(known), -1)
    expected = []
    for x, e, a, s in zip(*(part.numpy() for part in (images, noise, signal, sigma)), strict=True):
        noisy = a * x.ravel() + s * e.ravel()
        logits = -((noisy - a * known) ** 2).sum(axis=1) / (2 * s**2)
        weights = np.exp(logits - logits.max())
        estimate = weights @ known / weights.sum()
        expected.append(np.mean(((noisy - a * estimate) / s - e.ravel()) ** 2))
    errors = memorizing_squared_errors(chunked(train, 70), images, noise, signal, sigma, includes_flips)
    np.testing.assert_allclose(errors.numpy(), expected, rtol=1e-6, atol=1e-12)


def test_cosine_transform_is_scipys() -> None:
    """The transform over channels, height and width is the orthonormal one of type II."""
    images = np.random.default_rng(3).normal(size=(2, 3, 6, 8))
    expected = dctn(images, axes=(1, 2, 3), norm="ortho").reshape(2, -1)
    np.testing.assert_allclose(cosine_transform(torch.from_numpy(images)).numpy(), expected, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_baselines_on_a_gpu_are_those_of_the_cpu(digits: Array) -> None:
    """Fitted and scored on the GPU, both baselines agree with the CPU."""

    def on_gpu() -> Iterator[torch.Tensor]:
        return (chunk.cuda() for chunk in chunked(digits[:1500])())

    heldout = tuples(digits[1500:], 70)
    moved = tuple(part.cuda() for part in heldout)
    expected = LinearDenoiser.fit(chunked(digits[:1500]), True).squared_errors(*heldout)
    torch.testing.assert_close(LinearDenoiser.fit(on_gpu, True).squared_errors(*moved).cpu(), expected)
    known = memorizing_squared_errors(chunked(digits[:1500]), *heldout, True)
    torch.testing.assert_close(memorizing_squared_errors(on_gpu, *moved, True).cpu(), known)
