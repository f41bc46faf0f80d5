"""Brightness of samples of a denoiser that makes no error: solvers, schedules, timesteps and steps.

    python benchmarks/brightness.py --results benchmarks/results/brightness.json

The images are plain: each has one value everywhere, normally distributed over images. What the best denoiser predicts
of them is known, and so are the samples that it should lead to: whatever is off is the solver's or the schedule's.
"before" is diffusers' own spacing of timesteps, with betas from 1e-4 to 0.02 whatever the number of timesteps.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import diffusers
import torch
from diffusers import DDIMScheduler
from origin import origin, write_results

from openddpm.config import ModelOptions
from openddpm.diffusion.denoiser import Denoiser
from openddpm.diffusion.process import DiffusionProcess
from openddpm.diffusion.sampling import _clip, sample
from openddpm.predictions import PREDICTIONS
from openddpm.solvers import SOLVERS, Solver

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
NUM_TIMESTEPS = (100, 200, 500, 1000)
PIPELINE_STEPS = (1, 2, 4, 10, 15, 20, 30, 50, 61, 100, 150, 500, 600, 999, 1000)
NUM_NOISED = 4000  # of ddpm, whose samples are random: the standard error of their mean is 0.0024
NUM_QUANTILES = 64  # of the noise for the others, whose samples it fixes


@dataclass(frozen=True)
class PlainImages:
    """Square images of one value each, which is N(mean, spread^2) over images."""

    mean: float = 0.49
    spread: float = 0.15
    side: int = 64

    def denoiser(self, signal2: torch.Tensor, prediction_type: str, unit: float, noise_std: float) -> Denoiser:
        """Return the posterior mean as a prediction, for the mean over the pixels of an image in place of the image.

        Of that mean the noise has 1 / side the standard deviation. All may be in another `unit` of brightness.

        Args:
            signal2: a_t^2, (T,).
        """
        mean, variance = unit * self.mean, (unit * self.spread) ** 2

        def predict(noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            a2 = signal2[timestep].double()
            a, s, noisy = a2.sqrt(), (1 - a2).sqrt(), noisy.double()
            clean = mean + a * variance / (a2 * variance + (s * noise_std) ** 2) * (noisy - a * mean)
            noise = (noisy - a * clean) / s
            return PREDICTIONS[prediction_type].target(clean, noise, a, s).float()

        return predict

    def as_the_schedule_has_it(self, last_signal: float) -> tuple[float, float]:
        """Return mean and spread of brightness if each step were exact, from noise in place of images with noise.

        The probability flow (Song et al., 2021) takes a normal distribution to a normal one, value by value.
        """
        noise_std = math.sqrt(1 - last_signal**2) / self.side
        scale = self.spread / math.hypot(last_signal * self.spread, noise_std)
        return self.mean - scale * last_signal * self.mean, scale / self.side


@dataclass(frozen=True)
class Way:
    """A way to draw samples."""

    solver: Solver
    schedule: str
    num_timesteps: int
    num_steps: int
    prediction_type: str = "epsilon"


def config_of(way: Way, scales_betas: bool = True) -> Any:
    """Return the config of the scheduler that a run of `way` trains with."""
    options = ModelOptions(
        num_train_timesteps=way.num_timesteps, beta_schedule=way.schedule, prediction_type=way.prediction_type
    )
    config = dict(DiffusionProcess(options, torch.device("cpu")).scheduler.config)
    return config if scales_betas else {**config, "beta_start": 1e-4, "beta_end": 0.02}


def brightness(way: Way, images: PlainImages, config: Any, spacing: str | None = None) -> tuple[float, float]:
    """Return mean and spread of the brightness of samples.

    Args:
        config: of the training scheduler.
        spacing: one of diffusers' in place of ours.
    """
    is_random = way.solver == "ddpm"  # it adds noise of its own, of standard deviation 1
    unit, noise_std = (images.side, 1.0) if is_random else (1.0, 1 / images.side)
    config = {key: value for key, value in config.items() if key != "_use_default_values"}  # which would not be kept
    config["clip_sample_range"] = unit
    signal2 = DDIMScheduler.from_config(config).alphas_cumprod
    denoise = images.denoiser(signal2, way.prediction_type, unit, noise_std)
    count = NUM_NOISED if is_random else NUM_QUANTILES
    noise = noise_std * torch.special.ndtri((torch.arange(count) + 0.5) / count).view(1, 1, 1, count)
    generators = [torch.Generator().manual_seed(0)]
    if spacing is None:
        samples = sample(denoise, noise, config, way.num_steps, way.solver, generators)
    else:
        samples = sample_as_diffusers(denoise, noise, config, way, generators[0], spacing)
    values = samples.double().flatten() / unit
    return float(values.mean()), float(values.std(correction=0))


def sample_as_diffusers(
    denoise: Denoiser, images: torch.Tensor, config: Any, way: Way, generator: torch.Generator, spacing: str
) -> torch.Tensor:
    """Return samples at timesteps as diffusers spaces them, by `spacing` or, for two solvers, by Karras et al."""
    traits = SOLVERS[way.solver]
    few_steps = {"thresholding": True, "use_karras_sigmas": True} if traits.takes_few_steps else {}
    scheduler = getattr(diffusers, traits.scheduler).from_config(config, timestep_spacing=spacing, **few_steps)
    scheduler.set_timesteps(way.num_steps)
    if few_steps:
        scheduler.set_begin_index(0)
        scheduler._threshold_sample = _clip
    options = {"generator": generator} if way.solver == "ddpm" else {}
    for timestep in scheduler.timesteps:
        images = scheduler.step(denoise(images, timestep), timestep, images, **options).prev_sample
    return images


def ways(
    schedules: tuple[str, ...] = SCHEDULES, num_timesteps: tuple[int, ...] = NUM_TIMESTEPS, most_steps: int = 10**6
) -> Iterator[Way]:
    """Yield every solver with every number of steps, of at most `most_steps`."""
    for schedule in schedules:
        for total in num_timesteps:
            for steps in sorted({1, 2, 10, 15, 20, 50, 6 * total // 10, total - 1, total}):
                if steps <= most_steps:
                    yield from (Way(solver, schedule, total, steps) for solver in get_args(Solver))


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("brightness.json"))
    given = parser.parse_args()
    images = PlainImages()
    rows = [_row(way, images) for way in ways()]
    pipeline = [
        {**asdict(way), **{spacing: brightness(way, images, config_of(way), spacing) for spacing in spacings}}
        for spacings in [("leading", "trailing", "linspace")]
        for schedule in SCHEDULES
        for steps in PIPELINE_STEPS
        for way in [Way("ddim", schedule, 1000, steps)]
    ]
    write_results({**origin(), "images": asdict(images), "rows": rows, "pipeline": pipeline}, given.results)
    print("\n".join(table(rows, images)))
    print("\n".join(pipeline_table(pipeline)))


def _row(way: Way, images: PlainImages) -> dict[str, Any]:
    """Return a way to draw with its brightness, (mean, spread), before, after, and as its schedule has it."""
    config = config_of(way)
    last_signal = float(DDIMScheduler.from_config(config).alphas_cumprod[-1].sqrt())
    before = brightness(way, images, config_of(way, scales_betas=False), "leading")
    after = brightness(way, images, config)
    return {**asdict(way), "before": before, "after": after, "schedule_has": images.as_the_schedule_has_it(last_signal)}


def table(rows: list[dict[str, Any]], images: PlainImages) -> list[str]:
    """Return the lines of a Markdown table: the largest error of the mean over numbers of steps, before and after."""
    solvers = get_args(Solver)
    lines = ["| schedule | timesteps | left by the schedule | " + " | ".join(solvers) + " |", "|" + "---|" * 7]
    for schedule in SCHEDULES:
        for total in NUM_TIMESTEPS:
            mine = [row for row in rows if (row["schedule"], row["num_timesteps"]) == (schedule, total)]
            cells = []
            for solver in solvers:
                worst = [
                    max(abs(row[when][0] - images.mean) for row in mine if row["solver"] == solver)
                    for when in ("before", "after")
                ]
                cells.append(f"{worst[0]:.2f}, {worst[1]:.3f}")
            left = abs(mine[0]["schedule_has"][0] - images.mean)
            lines.append(f"| {schedule} | {total} | {left:.3f} | " + " | ".join(cells) + " |")
    return lines


def pipeline_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table: mean brightness by DDIMPipeline, spaced leading, trailing, linspace."""
    lines = ["| steps | " + " | ".join(SCHEDULES) + " |", "|" + "---|" * 4]
    for steps in PIPELINE_STEPS:
        mine = {row["schedule"]: row for row in rows if row["num_steps"] == steps}
        cells = [
            ", ".join(f"{mine[schedule][spacing][0]:.2f}" for spacing in ("leading", "trailing", "linspace"))
            for schedule in SCHEDULES
        ]
        lines.append(f"| {steps} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
