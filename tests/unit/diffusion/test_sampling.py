"""Solvers with a denoiser that makes no error: samples are as bright, and as unlike each other, as the images."""

import copy
import sys
from collections import Counter
from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openddpm.analysis.noise_checks import brightness_error
from openddpm.config import TrainConfig
from openddpm.diffusion.denoiser import denoiser
from openddpm.diffusion.sampling import LARGEST_NOISE, inference_timesteps, sample
from openddpm.errors import UserError
from openddpm.solvers import Solver
from tiny import TINY_UNET

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def _load(name: str):  # type: ignore[no-untyped-def]
    """Import a script of benchmarks/, which is no package."""
    spec = spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_load("origin")
benchmark = _load("brightness")
Way = benchmark.Way

TOLERANCE = 0.02
IMAGES = benchmark.PlainImages(mean=0.49, spread=0.15, side=32)
ENOUGH_STEPS = {"ddim": 50, "ddpm": 50, "dpmsolver++": 10, "unipc": 10}
"""For the spread. Fewer make samples too alike or too unlike (of one step all are the mean): the solver's own error."""


def _check(way) -> None:  # type: ignore[no-untyped-def]
    config = benchmark.config_of(way)
    last_signal = float(DDIMScheduler.from_config(config).alphas_cumprod[-1].sqrt())
    mean, spread = benchmark.brightness(way, IMAGES, config)
    darkest = IMAGES.mean
    if way.schedule == "scaled_linear":  # keeps so much of an image that noise alone is no place to start from
        darkest = IMAGES.as_the_schedule_has_it(last_signal)[0]
    assert darkest - TOLERANCE <= mean <= IMAGES.mean + TOLERANCE, (way, mean)
    if way.num_steps >= ENOUGH_STEPS[way.solver]:
        assert spread == pytest.approx(IMAGES.spread, abs=TOLERANCE), way


def test_brightness_of_few_steps() -> None:
    """In up to 50 of 1000 timesteps every solver, with every schedule, draws the images' brightness; in enough steps
    with its spread. scaled_linear makes them no darker than what it leaves of an image at the last timestep does."""
    for way in benchmark.ways(num_timesteps=(1000,), most_steps=50):
        _check(way)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_brightness_whatever_is_predicted(prediction: str) -> None:
    """A model that predicts the image or the velocity leads to the same brightness."""
    for solver in get_args(Solver):
        for steps in (1, 15, 60):
            _check(Way(solver, "squaredcos_cap_v2", 100, steps, prediction))


@pytest.mark.parametrize("schedule", benchmark.SCHEDULES)
def test_brightness_of_many_steps(schedule: str) -> None:
    """So do as many steps as there are of 100 timesteps, one fewer, and a number that does not divide them."""
    for solver in get_args(Solver):
        for steps in (60, 99, 100):
            _check(Way(solver, schedule, 100, steps))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", benchmark.SCHEDULES)
def test_brightness_of_all_ways(schedule: str) -> None:
    """So does every solver with 100, 200, 500 and 1000 timesteps and any number of steps."""
    for way in benchmark.ways(schedules=(schedule,)):
        _check(way)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_darkening_by_the_schedule_is_reckoned_right(schedule: str) -> None:
    """Samples in as many steps as timesteps are as much too dark as the doctor says by what is left of an image."""
    images = benchmark.PlainImages(side=64)
    way = Way("ddim", schedule, 1000, 1000)
    config = benchmark.config_of(way)
    left = float(DDIMScheduler.from_config(config).alphas_cumprod[-1].sqrt())
    error = brightness_error(left, images.side**2)
    assert images.mean - images.as_the_schedule_has_it(left)[0] == pytest.approx(error)
    assert images.mean - benchmark.brightness(way, images, config)[0] == pytest.approx(error, abs=0.002)


def test_spacing_of_diffusers_fails_these_tests() -> None:
    """The same measurement finds diffusers' default spacing, and betas that are not scaled, to be wrong."""
    found = [
        benchmark.brightness(way, IMAGES, benchmark.config_of(way, scales_betas), "leading")[0]
        for way, scales_betas in (
            (Way("ddim", "linear", 1000, 600), True),
            (Way("ddim", "squaredcos_cap_v2", 1000, 15), True),
            (Way("ddpm", "linear", 1000, 600), True),
            (Way("ddim", "linear", 100, 100), False),
            (Way("dpmsolver++", "linear", 500, 20), False),
        )
    ]
    assert max(found) < IMAGES.mean - 5 * TOLERANCE


def test_pipeline_draws_the_brightness() -> None:
    """The exported scheduler, stepped through as DDIMPipeline does, draws it in numbers of steps that divide T."""
    for schedule in ("linear", "squaredcos_cap_v2"):
        for steps in (1, 2, 10, 20, 50, 100):
            way = Way("ddim", schedule, 1000, steps)
            config = benchmark.config_of(way)
            mean, _ = benchmark.brightness(way, IMAGES, config, config["timestep_spacing"])
            assert mean == pytest.approx(IMAGES.mean, abs=TOLERANCE), way


@pytest.mark.parametrize("schedule", benchmark.SCHEDULES)
@pytest.mark.parametrize("total", [21, 100, 1000, 3000])
def test_steps_lead_from_noise_to_the_image(schedule: str, total: int) -> None:
    """Any number of steps begins at T - 1 and ends at 0, each below the last; a single one is T - 1."""
    config = benchmark.config_of(Way("ddim", schedule, total, 1))
    signal2 = DDIMScheduler.from_config(config).alphas_cumprod
    for solver in get_args(Solver):
        for steps in sorted({1, 2, 3, 7, 15, total // 2, 6 * total // 10, total - 1, total}):
            timesteps = inference_timesteps(signal2, steps, solver)
            assert len(timesteps) == steps and timesteps[0] == total - 1 and (np.diff(timesteps) < 0).all()
            assert timesteps[-1] == (0 if steps > 1 else total - 1)


@pytest.mark.parametrize("solver", ["dpmsolver++", "unipc"])
def test_few_steps_are_spaced_by_karras(solver: Solver) -> None:
    """Between the first and the last they are, but for rounding, the timesteps that diffusers finds with
    use_karras_sigmas; the others take even steps."""
    config = benchmark.config_of(Way(solver, "linear", 1000, 10))
    signal2 = DDIMScheduler.from_config(config).alphas_cumprod
    theirs = DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True)
    for steps in (5, 10, 20):
        theirs.set_timesteps(steps)
        expected = theirs.timesteps.numpy()
        np.testing.assert_allclose(inference_timesteps(signal2, steps, solver)[1:-1], expected[1:-1], atol=1)
        even = inference_timesteps(signal2, steps, "ddim")
        assert np.ptp(np.diff(even)) <= 1 and np.abs(even - expected).max() > 50


def test_few_steps_spend_none_above_the_largest_noise() -> None:
    """Cosine noise goes far beyond what decides an image: the first step alone is there."""
    config = benchmark.config_of(Way("unipc", "squaredcos_cap_v2", 1000, 10))
    signal2 = DDIMScheduler.from_config(config).alphas_cumprod
    levels = ((1 - signal2) / signal2).sqrt()
    for steps in (5, 20):
        chosen = levels[inference_timesteps(signal2, steps, "unipc").copy()]
        assert chosen[0] > 1000 and chosen[1] < LARGEST_NOISE


@pytest.mark.parametrize("solver", get_args(Solver))
def test_the_model_is_asked_where_the_images_are(solver: Solver) -> None:
    """The model meets the timesteps in their order, and images with as much noise as each says."""
    config = benchmark.config_of(Way(solver, "linear", 1000, 20))
    signal2 = DDIMScheduler.from_config(config).alphas_cumprod
    met: list[tuple[int, float]] = []

    def denoise(noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        met.append((int(timestep), float(noisy.std())))
        return noisy / (1 - signal2[timestep]).sqrt()  # all of it is noise: of an image that is black in the middle

    noise = torch.randn((1, 1, 64, 64), generator=torch.Generator().manual_seed(0))
    sample(denoise, noise, config, 20, solver, [torch.Generator().manual_seed(1)])
    assert [timestep for timestep, _ in met] == inference_timesteps(signal2, 20, solver).tolist()
    for timestep, std in met:
        assert std == pytest.approx(float((1 - signal2[timestep]).sqrt()), rel=0.05)


def test_betas_grow_as_timesteps_are_fewer() -> None:
    """1000 timesteps have the betas of Ho et al. to the bit; however many there are, as little is left at the last."""
    default, ours = DDIMScheduler(), benchmark.config_of(Way("ddim", "linear", 1000, 1))
    assert torch.equal(DDIMScheduler.from_config(ours).alphas_cumprod, default.alphas_cumprod)
    for schedule, most in {"linear": 0.0066, "scaled_linear": 0.069}.items():
        for total in (21, 50, 100, 500, 1000, 4000, 100_000):
            config = benchmark.config_of(Way("ddim", schedule, total, 1))
            assert 0 < DDIMScheduler.from_config(config).alphas_cumprod[-1].sqrt() < most


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_too_few_timesteps_are_refused(schedule: str) -> None:
    """Where a beta would reach 1, the message gives the number, and what to take; cosine noise has no such limit."""
    options = {"dataset": "images", "num_inference_steps": 1}
    with pytest.raises(UserError, match=r"num_train_timesteps: found 20; .* = 1, .* 21 or more"):
        TrainConfig(num_train_timesteps=20, beta_schedule=schedule, **options)
    TrainConfig(num_train_timesteps=21, beta_schedule=schedule, **options)
    TrainConfig(num_train_timesteps=2, beta_schedule="squaredcos_cap_v2", **options)


@pytest.mark.parametrize("solver", get_args(Solver))
def test_an_image_depends_on_its_own_noise_alone(solver: Solver) -> None:
    """It is the same whatever is drawn beside it, and whatever spacing the config has for pipelines."""
    config = benchmark.config_of(Way(solver, "linear", 100, 10))
    noise = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))

    def drawn(numbers: list[int], **options: str) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        return sample(lambda noisy, _: 0.5 * noisy.cos(), noise[numbers], {**config, **options}, 10, solver, generators)

    torch.testing.assert_close(drawn([1], timestep_spacing="leading"), drawn([0, 1])[1:])


class _Waits(TorchDispatchMode):
    """Counts what a GPU would be waited for: copies between it and the CPU, and solved equations whose success is asked
    for. The meta device stands for the GPU: it has no numbers, so that reading one of them is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = operation(*arguments, **(options or {}))
        before, after = (
            {tensor.device.type for tensor in tree_leaves(values) if isinstance(tensor, torch.Tensor)}
            for values in ((arguments, options), result)
        )
        if operation is torch.ops.aten._to_copy.default and before != after:
            self.found["copied"] += 1
        if operation is torch.ops.aten._linalg_check_errors.default and "meta" in before:
            self.found["solved"] += 1
        return result


@pytest.mark.parametrize("solver", get_args(Solver))
def test_no_step_waits_for_the_device(solver: Solver) -> None:
    """Whatever the number of steps, only the timesteps (and unipc's table) are copied, before the first one; unipc
    alone solves equations on the device, one set for each step but the first and the last."""
    config = benchmark.config_of(Way(solver, "linear", 1000, 20))
    tables = 2 if solver == "unipc" else 1
    for steps in (2, 20):
        with _Waits() as waits:
            images = sample(
                lambda noisy, timestep: noisy, torch.empty((2, 3, 8, 8), device="meta"), config, steps, solver
            )
        assert images.device.type == "meta"
        assert waits.found == Counter(copied=tables, solved=steps - 2 if solver == "unipc" else 0)


def test_the_waits_are_found() -> None:
    """A solver that is given the device's timesteps, as pipelines do, is an error here: it reads its tables by them."""
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(10, device="meta")
    images = torch.empty((2, 3, 8, 8), device="meta")
    with pytest.raises(RuntimeError, match="meta"), _Waits():
        scheduler.step(images, scheduler.timesteps[0], images)


def test_the_denoiser_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction by weights on the device is made there, from timesteps there, without a look at any number."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())  # which knows no such device
    unet = UNet2DModel(sample_size=8, in_channels=3, out_channels=3, **TINY_UNET).eval().to("meta")
    weights = {name: torch.empty_like(tensor) for name, tensor in copy.deepcopy(unet).state_dict().items()}
    noisy = torch.empty((2, 3, 8, 8), device="meta")
    with _Waits() as waits:
        for shape in ((), (2,)):
            timesteps = torch.empty(shape, dtype=torch.long, device="meta")
            assert denoiser(unet, weights)(noisy, timesteps).shape == noisy.shape
    assert waits.found == Counter()
