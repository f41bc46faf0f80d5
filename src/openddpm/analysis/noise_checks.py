"""Checks of the noise levels of a planned run."""

import math
from collections.abc import Iterator

from openddpm.analysis.finding import Finding
from openddpm.record.schema import RunRecord

FEW_TIMESTEPS = 100  # assumed: DDPM has 1000
LARGE_SIGNAL_LEFT = 0.01  # assumed, between linear and cosine noise (0.007 and less) and scaled_linear (0.027)
PLAIN_BRIGHTNESS, PLAIN_SPREAD = 0.49, 0.15  # assumed, in [-1, 1]: mean and spread of the plain images of the estimate
LARGE_BRIGHTNESS_ERROR = 0.05  # assumed, in [-1, 1]: six of 256 values, which is visible side by side
PIPELINE_STEPS = 50  # the default of diffusers' DDIMPipeline


def check_noise(run: RunRecord) -> Iterator[Finding]:
    """Check the number of timesteps, and how much of an image is left at the last one."""
    if run.config["num_train_timesteps"] < FEW_TIMESTEPS:
        yield Finding(
            "timesteps",
            "warning",
            f"{run.config['num_train_timesteps']} timesteps",
            "Between noise levels this far apart each step has to guess much.",
            "Train with 1000 and sample with fewer: --num_train_timesteps 1000, --num_inference_steps 50.",
        )
    if run.config["num_train_timesteps"] > PIPELINE_STEPS and run.config["num_train_timesteps"] % PIPELINE_STEPS:
        yield Finding(
            "pipeline_steps",
            "warning",
            f"{run.config['num_train_timesteps']:,} timesteps are not a multiple of {PIPELINE_STEPS}",
            f"diffusers' DDIMPipeline takes {PIPELINE_STEPS} steps by default, and is correct only with numbers of "
            "steps that divide the timesteps: otherwise images come out gray or worse.",
            "Use a multiple, such as --num_train_timesteps 1000; or use openddpm sample, where any number works.",
        )
    yield from _signal_left(run)


def brightness_error(signal_left: float, num_pixels: int) -> float:
    """Return how much darker, in [-1, 1], samples of the best denoiser are than the plain images that it learned from.

    The images are N(PLAIN_BRIGHTNESS, PLAIN_SPREAD^2), each of one value. Samples start from noise alone, while the
    noisiest training images still contain some signal; so the probability flow (Song et al., 2021) ends too near gray.
    """
    noise = ((1 - signal_left**2) / num_pixels) ** 0.5  # of the mean over an image's pixels
    return PLAIN_SPREAD * signal_left * PLAIN_BRIGHTNESS / math.hypot(signal_left * PLAIN_SPREAD, noise)


def _signal_left(run: RunRecord) -> Iterator[Finding]:
    left, dataset = run.model.signal_left, run.dataset
    error = brightness_error(left, math.prod(dataset.image_shape[1:]))
    if left > LARGE_SIGNAL_LEFT or error > LARGE_BRIGHTNESS_ERROR:
        yield Finding(
            "signal_left",
            "warning" if left > LARGE_SIGNAL_LEFT else "note",
            f"{left:.1%} of an image is left at the last timestep, where samples start from noise alone",
            "Samples are grayer than the images, the more so the larger they are: plain ones of brightness "
            f"{PLAIN_BRIGHTNESS:+.2f} (black is -1, white +1) come out as {PLAIN_BRIGHTNESS - error:+.2f} at "
            f"{dataset.size}, by a denoiser that makes no other error.",
            "Use --num_train_timesteps 1000."
            if run.config["beta_schedule"] == "squaredcos_cap_v2"
            else "Use --beta_schedule squaredcos_cap_v2, which leaves almost nothing.",
        )
