"""Denoisers in closed form, as baselines for a trained model. docs/baselines.md derives them.

Everything is in float64: at low noise the posterior multiplies differences of squared distances by about a million.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

MAX_CORRELATED = 4096  # coefficients with a full covariance; measured: an eigendecomposition of more takes many minutes
MIN_CORRELATED, CORRELATED_PER_IMAGE = 768, 8  # a lower limit where images are few; measured: more gain nothing
SHRINKAGES = (0.001, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0)
MAX_SEARCHED = 1024  # coefficients used to choose the shrinkage; measured: as good as all, and much faster
VALIDATION_EVERY = 5  # one image in five validates the shrinkage
VALIDATION_SNR = torch.logspace(-2, 4, 13, dtype=torch.float64)  # assumed: the noise levels where it matters
ROUNDING_VARIANCE = (2 / 255) ** 2 / 12  # variance of the rounding to 8 bits, a lower limit for every coefficient

ImageChunks = Callable[[], Iterable[torch.Tensor]]
"""Each call iterates from the start over chunks (n, C, H, W) of clean images in [-1, 1]."""


@dataclass(frozen=True)
class _Block:
    """Correlated coefficients, in the basis that decorrelates them."""

    indices: torch.Tensor  # (k,) int64, into the D coefficients
    basis: torch.Tensor  # (k, k), eigenvectors in columns
    variances: torch.Tensor  # (k,)


@dataclass(frozen=True)
class LinearDenoiser:
    """The optimal linear denoiser for images with the mean and the covariance of the training images.

    The covariance is written in the coefficients of a discrete cosine transform, where natural images are nearly
    uncorrelated (Ahmed, Natarajan and Rao, 1974). The strongest have a full covariance, shrunk towards its diagonal by
    as much as helps on a fifth of the images (for images that share structure, less than the analytic shrinkage of
    Ledoit and Wolf, 2004, or Schaefer and Strimmer, 2005); the others are taken as uncorrelated.
    """

    mean: torch.Tensor  # (D,)
    blocks: list[_Block]
    shrinkage: float

    @classmethod
    def fit(cls, chunks: ImageChunks, includes_flips: bool) -> "LinearDenoiser":
        """Fit to images, in two passes over them.

        Args:
            includes_flips: also count the mirror image of each. It has the opposite sign at every odd horizontal
                frequency: these have mean 0 and are not correlated with the even ones.
        """
        mean, variances, odd, num_images = _moments(chunks, includes_flips)
        num_strong = min(MAX_CORRELATED, max(MIN_CORRELATED, CORRELATED_PER_IMAGE * num_images))
        order = variances.argsort(descending=True)
        strong, weak = order[:num_strong], order[num_strong:]
        groups = [strong[odd[strong]], strong[~odd[strong]]] if includes_flips else [strong]
        groups = [group for group in groups if len(group)]
        statistics = _covariances(chunks, mean, groups, odd if includes_flips else None)
        shrinkage = _choose_shrinkage(statistics)
        blocks = []
        for group, parts in zip(groups, statistics, strict=True):
            variances_of_group, basis = _decorrelate(_pooled_covariance(parts), shrinkage)
            blocks.append(_Block(group, basis, variances_of_group))
        blocks.append(_Block(weak, mean.new_empty(0, 0), variances[weak]))
        return cls(mean, blocks, shrinkage)

    def squared_errors(
        self, images: torch.Tensor, noise: torch.Tensor, signal: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """Return the squared noise error of each x_t = a x_0 + s e, mean over pixels, (B,) float64.

        The linear estimate of e is s C_t^-1 (x_t - a m) with C_t = a^2 C + s^2 I.

        Args:
            images, noise: x_0 and e, (B, C, H, W).
            signal, sigma: a and s, (B,).
        """
        a, s = signal.double()[:, None], sigma.double()[:, None]
        clean, noise_coefficients = cosine_transform(images) - self.mean, cosine_transform(noise)
        total = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        for block in self.blocks:
            parts = [coefficients[:, block.indices] for coefficients in (clean, noise_coefficients)]
            x, e = (part @ block.basis for part in parts) if len(block.basis) else parts
            estimate = s / (a**2 * block.variances + s**2) * (a * x + s * e)
            total += (estimate - e).square().sum(dim=1)
        return total / clean.shape[1]


def memorizing_squared_errors(
    chunks: ImageChunks,
    images: torch.Tensor,
    noise: torch.Tensor,
    signal: torch.Tensor,
    sigma: torch.Tensor,
    includes_flips: bool,
) -> torch.Tensor:
    """Return the squared noise errors of the memorizing denoiser, mean over pixels, (B,) float64.

    It estimates x_0 by the posterior mean over the training images: weights softmax(-|x_t - a x_i|^2 / (2 s^2)).

    Args:
        chunks: the training images x_i.
        images, noise: x_0 and e, (B, C, H, W).
        signal, sigma: a and s, (B,).
        includes_flips: also count the mirror image of each training image.
    """
    a, s = signal.double()[:, None], sigma.double()[:, None]
    noise = noise.flatten(1).double()
    noisy = a * images.flatten(1).double() + s * noise
    best = torch.full_like(a, -math.inf)  # largest logit so far, (B, 1)
    weight = torch.zeros_like(a)
    weighted = torch.zeros_like(noisy)
    for chunk in _with_mirrored(chunks()) if includes_flips else chunks():
        known = chunk.flatten(1).double()
        logits = (a * (noisy @ known.T) - a**2 * known.square().sum(1) / 2) / s**2
        larger = torch.maximum(best, logits.amax(dim=1, keepdim=True))
        kept, weights = (best - larger).exp(), (logits - larger).exp()
        weighted = kept * weighted + weights @ known
        weight = kept * weight + weights.sum(dim=1, keepdim=True)
        best = larger
    estimate = (noisy - a * weighted / weight) / s
    return (estimate - noise).square().mean(dim=1)


def cosine_transform(images: torch.Tensor) -> torch.Tensor:
    """Return the orthonormal type-II discrete cosine transform over channels, height and width.

    For three channels it separates brightness and two colour differences.

    Args:
        images: (B, C, H, W).

    Returns:
        (B, C * H * W) float64.
    """
    channels, height, width = (_cosine_matrix(size, images.device) for size in images.shape[1:])
    rows = images.double() @ width.T
    columns = height @ rows
    return torch.einsum("dc,bchw->bdhw", channels, columns).flatten(1)


def _cosine_matrix(size: int, device: torch.device) -> torch.Tensor:
    """Return the orthonormal DCT-II matrix, (size, size) float64."""
    index = torch.arange(size, dtype=torch.float64, device=device)
    matrix = torch.cos(math.pi / size * index[:, None] * (index + 0.5)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


@dataclass
class _Part:
    """Sums over some of the images, of the centred coefficients of a block."""

    count: int
    sums: torch.Tensor  # (k,)
    products: torch.Tensor  # (k, k)

    def strongest(self, count: int) -> "_Part":
        """Return the sums of the first `count` coefficients, the strongest."""
        return _Part(self.count, self.sums[:count], self.products[:count, :count])

    def mean(self) -> torch.Tensor:
        return self.sums / self.count

    def covariance(self) -> torch.Tensor:
        return self.products / self.count - torch.outer(self.mean(), self.mean())


def _moments(chunks: ImageChunks, includes_flips: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Return, of each coefficient, mean, variance and whether its horizontal frequency is odd, (D,); and N."""
    first = second = odd = torch.empty(0)
    num_images = 0
    for images in chunks():
        coefficients = cosine_transform(images)
        if not num_images:
            first, second = torch.zeros_like(coefficients[0]), torch.zeros_like(coefficients[0])
            odd = (torch.arange(len(first), device=first.device) % images.shape[-1]) % 2 == 1
        num_images += len(images)
        first += coefficients.sum(0)
        second += coefficients.square().sum(0)
    mean = first / num_images
    if includes_flips:
        mean = torch.where(odd, 0.0, mean)
    return mean, second / num_images - mean.square() + ROUNDING_VARIANCE, odd, num_images


def _covariances(
    chunks: ImageChunks, mean: torch.Tensor, groups: list[torch.Tensor], odd: torch.Tensor | None
) -> list[tuple[_Part, _Part]]:
    """Return, for each group of coefficients, sums over the images to fit to and over those to validate with.

    Args:
        odd: which coefficients have the opposite sign in a mirror image, and so mean 0; None without flips.
    """
    parts = [tuple(_Part(0, mean.new_zeros(len(g)), mean.new_zeros(len(g), len(g))) for _ in "fc") for g in groups]
    seen = 0
    for images in chunks():
        centred = cosine_transform(images) - mean
        validates = (torch.arange(seen, seen + len(images), device=mean.device) + 1) % VALIDATION_EVERY == 0
        seen += len(images)
        for group, pair in zip(groups, parts, strict=True):
            for part, chosen in zip(pair, (~validates, validates), strict=True):
                values = centred[chosen][:, group]
                part.count += len(values)
                if odd is None or not odd[group[0]]:
                    part.sums += values.sum(0)
                part.products += values.T @ values
    return parts  # type: ignore[return-value]


def _pooled_covariance(parts: tuple[_Part, _Part]) -> torch.Tensor:
    fit, validation = parts
    both = _Part(fit.count + validation.count, fit.sums + validation.sums, fit.products + validation.products)
    return both.covariance()


def _choose_shrinkage(statistics: list[tuple[_Part, _Part]]) -> float:
    """Return the shrinkage whose fit denoises the validation images best."""
    if not statistics[0][1].count:
        return SHRINKAGES[-1]
    strongest = [tuple(part.strongest(MAX_SEARCHED) for part in pair) for pair in statistics]
    best, least = SHRINKAGES[-1], math.inf
    for shrinkage in SHRINKAGES:
        error = sum(_validation_error(fit, validation, shrinkage) for fit, validation in strongest)
        if error >= least:  # the error falls, then rises
            break
        best, least = shrinkage, error
    return best


def _validation_error(fit: _Part, validation: _Part, shrinkage: float) -> float:
    """Return the expected squared noise error, summed over coefficients, mean over VALIDATION_SNR.

    With prior variance l, squared deviation d, expectation over the noise: (a^4 l^2 + s^2 a^2 d) / (a^2 l + s^2)^2.
    """
    variances, basis = _decorrelate(fit.covariance(), shrinkage)
    offset = validation.mean() - fit.mean()
    covariance = validation.covariance() + torch.outer(offset, offset)
    deviations = ((covariance @ basis) * basis).sum(0)
    signal2 = (VALIDATION_SNR / (1 + VALIDATION_SNR)).to(variances.device)[:, None]
    sigma2 = 1 - signal2
    errors = (signal2**2 * variances**2 + sigma2 * signal2 * deviations) / (signal2 * variances + sigma2) ** 2
    return float(errors.sum(1).mean())


def _decorrelate(covariance: torch.Tensor, shrinkage: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return eigenvalues (k,) and eigenvectors (k, k), in columns, of a covariance shrunk towards its diagonal."""
    shrunk = (1 - shrinkage) * covariance
    shrunk.diagonal().copy_(covariance.diagonal() + ROUNDING_VARIANCE)
    eigenvalues, basis = torch.linalg.eigh(shrunk)
    return eigenvalues.clamp(min=ROUNDING_VARIANCE), basis


def _with_mirrored(chunks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    for chunk in chunks:
        yield chunk
        yield chunk.flip(-1)
