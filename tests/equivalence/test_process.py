"""Noise schedules, targets and conversions against diffusers' own schedulers and against float64 arithmetic."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDPMScheduler, UNet2DModel

from openddpm.config import ModelOptions, beta_range
from openddpm.diffusion.denoiser import denoiser
from openddpm.diffusion.process import DiffusionProcess
from openddpm.diffusion.sampling import _CLIPPING, _clip, inference_timesteps, sample
from openddpm.record.bands import BANDS
from openddpm.solvers import SOLVERS, Solver
from tiny import TINY_UNET

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]


def _batch(count: int = 1000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((count, 3, 4, 4), generator=generator) * 2 - 1
    return images, torch.randn(images.shape, generator=generator), torch.arange(count)


def _process(**options: object) -> DiffusionProcess:
    return DiffusionProcess(ModelOptions(**options), torch.device("cpu"))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noising_and_targets_are_those_of_diffusers(schedule: str, prediction: str) -> None:
    """At every timestep, x_t and the target differ from DDPMScheduler's by at most 1e-6."""
    images, noise, timesteps = _batch()
    ours = _process(beta_schedule=schedule, prediction_type=prediction)
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_schedule=schedule, prediction_type=prediction)
    expected = {
        "epsilon": noise,
        "sample": images,
        "v_prediction": theirs.get_velocity(images, noise, timesteps),
    }[prediction]
    noisy = ours.add_noise(images, noise, timesteps)
    assert (noisy - theirs.add_noise(images, noise, timesteps)).abs().max() <= 1e-6
    assert (ours.target(images, noise, timesteps) - expected).abs().max() <= 1e-6


def test_linear_schedule_is_the_papers() -> None:
    """x_t is sqrt(abar_t) x_0 + sqrt(1 - abar_t) e, betas linear from 1e-4 to 0.02, computed here in float64."""
    images, noise, timesteps = _batch()
    alphas_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[:, None, None, None]
    expected = np.sqrt(alphas_bar) * images.double().numpy() + np.sqrt(1 - alphas_bar) * noise.double().numpy()
    assert np.abs(_process().add_noise(images, noise, timesteps).numpy() - expected).max() <= 5e-6


@pytest.mark.parametrize("total", [100, 1000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_signal_and_noise_are_those_of_the_betas(schedule: str, total: int) -> None:
    """The ratio of signal to noise, and what is left of an image at the end, in float64 from the schedule's betas."""
    process = _process(beta_schedule=schedule, num_train_timesteps=total)
    first, last = beta_range(total)
    betas = DDPMScheduler(total, beta_start=first, beta_end=last, beta_schedule=schedule).betas.double().numpy()
    signal2 = np.cumprod(1 - betas)
    np.testing.assert_allclose(process.snr().numpy(), signal2 / (1 - signal2), rtol=1e-3)
    assert process.signal_left() == pytest.approx(np.sqrt(signal2[-1]), rel=1e-3)
    assert process.num_timesteps == total


def test_the_schedule_lies_on_the_device() -> None:
    """What noising reads at each step is where the images are."""
    process = DiffusionProcess(ModelOptions(), torch.device("meta"))
    assert process.scheduler.alphas_cumprod.device.type == process.snr().device.type == "meta"


def test_bands_meet_without_a_gap() -> None:
    """Detail from 10 on, shape from 0.1, layout below: the record's numbers are of these."""
    assert {"detail": (10, float("inf")), "shape": (0.1, 10), "layout": (0, 0.1)} == BANDS


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_perfect_prediction_converts_to_the_noise(prediction: str) -> None:
    """Whatever is predicted, a perfect prediction turns into the very noise that was added."""
    images, noise, timesteps = _batch()
    process = _process(prediction_type=prediction)
    noisy = process.add_noise(images, noise, timesteps)
    implied = process.to_noise(process.target(images, noise, timesteps), noisy, timesteps)
    # From x_0 the noise at the first timesteps is a small difference of large numbers, divided by s_0 = 0.01.
    assert (implied - noise).abs().max() <= (2e-4 if prediction == "sample" else 1e-5)


def test_noising_half_precision_images_adds_noise_at_every_timestep() -> None:
    """Images in bfloat16 are noised in float32: at timesteps 0 to 9 the noise has the variance 1 - abar_t."""
    process = _process()
    images = torch.zeros((10, 3, 64, 64), dtype=torch.bfloat16)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = process.add_noise(images, noise.bfloat16(), torch.arange(10))
    assert noisy.dtype == torch.float32
    found = noisy.var(dim=(1, 2, 3))
    assert torch.allclose(found, 1 - process.scheduler.alphas_cumprod[:10], rtol=0.05)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 24])
def test_sampling_is_the_pipelines(prediction: str, steps: int) -> None:
    """DDIM sampling with weights lent to a UNet without any is DDIMPipeline's, to 1e-6, where both stop at the same
    timesteps: one, or all."""
    torch.manual_seed(0)
    unet = UNet2DModel(sample_size=8, in_channels=3, out_channels=3, **TINY_UNET).eval()
    process = _process(prediction_type=prediction, num_train_timesteps=24)
    generator = torch.Generator().manual_seed(3)
    pipeline = DDIMPipeline(unet=unet, scheduler=process.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(batch_size=2, generator=generator, num_inference_steps=steps, output_type="pt").images
    noise = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(3))
    weights = {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}
    hollow = UNet2DModel.from_config(unet.config).to("meta").eval()
    images = sample(denoiser(hollow, weights), noise, process.scheduler.config, steps)
    assert ((images / 2 + 0.5).clamp(0, 1) - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_steps_are_the_papers(prediction: str) -> None:
    """Between timesteps however far apart, DDIM steps as Song et al. (2021, equation 12) have it, in float64 here."""
    process = _process(prediction_type=prediction)
    config, alphas_bar = process.scheduler.config, process.scheduler.alphas_cumprod
    noise = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    expected, timesteps = noise.double(), inference_timesteps(alphas_bar, 7, "ddim").tolist()
    for timestep, earlier in zip(timesteps, [*timesteps[1:], None], strict=True):
        signal2 = alphas_bar[timestep].double()
        earlier2 = torch.tensor(1.0).double() if earlier is None else alphas_bar[earlier].double()
        signal, sigma, predicted = signal2.sqrt(), (1 - signal2).sqrt(), 0.5 * expected.cos()
        implied = {
            "epsilon": predicted,
            "sample": (expected - signal * predicted) / sigma,
            "v_prediction": signal * predicted + sigma * expected,
        }[prediction]
        clean = ((expected - sigma * implied) / signal).clamp(-1, 1)
        expected = earlier2.sqrt() * clean + (1 - earlier2).sqrt() * implied
    images = sample(lambda noisy, _: 0.5 * noisy.cos(), noise, config, 7)
    assert (images - expected).abs().max() <= 2e-5


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpmsolver++", "unipc"])
def test_no_solver_blows_up(solver: Solver) -> None:
    """With a model so wrong that its clean images lie far outside [-1, 1], every solver's samples stay inside."""
    noise = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(number) for number in range(2)]
    images = sample(lambda noisy, _: 0.5 * noisy, noise, _process().scheduler.config, 10, solver, generators)
    assert images.abs().max() <= 1.01


@pytest.mark.parametrize("solver", ["dpmsolver++", "unipc"])
def test_clipping_is_diffusers_thresholding(solver: Solver) -> None:
    """Estimates of x_0 inside [-1, 1] and far outside come out as diffusers' dynamic thresholding leaves them."""
    scheduler = getattr(diffusers, SOLVERS[solver].scheduler).from_config(_process().scheduler.config, **_CLIPPING)
    for scale in (0.1, 1.0, 30.0):
        images = scale * torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
        assert torch.equal(scheduler._threshold_sample(images), _clip(images))
