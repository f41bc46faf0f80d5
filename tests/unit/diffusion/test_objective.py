"""The objective: what is drawn for a micro-batch, and the loss of each of its images."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from apple_stand_in import apple_gpu
from openddpm.config import ModelOptions, TimestepSampling
from openddpm.diffusion.objective import Objective, sample_timesteps
from openddpm.diffusion.process import DiffusionProcess
from openddpm.seeding import standard_normal, torch_generator, uniform
from openddpm.training.loop import fit, micro_batch_loss
from openddpm.training.run import Training
from openddpm.training.setup import prepare
from openddpm.training.state import NotFinite
from tiny import exact_metrics, tiny_config, tiny_images

CPU = torch.device("cpu")
STEP, MICRO_INDEX, SEED = 5, 3, 11


def _objective(sampling: TimestepSampling = "uniform", num_timesteps: int = 1000, **options: object) -> Objective:
    process = DiffusionProcess(ModelOptions(num_train_timesteps=num_timesteps, **options), CPU)
    return Objective(process, sampling, SEED, CPU)


def _model(noisy: torch.Tensor, timesteps: torch.Tensor) -> Any:
    """Predict something of what it is given, and drop half of it, as dropout does."""
    kept = torch.rand(noisy.shape) < 0.5
    return SimpleNamespace(sample=torch.where(kept, 0.5 * noisy + timesteps.view(-1, 1, 1, 1) / 1000, 0.0))


def _images(count: int = 6) -> torch.Tensor:
    return torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("sampling", get_args(TimestepSampling))
def test_losses_are_those_written_by_hand(prediction: str, sampling: TimestepSampling) -> None:
    """Each loss is that of the formulas, in float64 here, which share nothing but the keyed draws."""
    images = _images()
    losses = _objective(sampling, prediction_type=prediction).losses(_model, images, STEP, MICRO_INDEX)
    assert losses.shape == (6,) and losses.dtype == torch.float32

    noise = standard_normal((6, 3, 4, 4), CPU, SEED, "noise", STEP, MICRO_INDEX).double().numpy()
    draws = uniform((6,), CPU, SEED, "timesteps", STEP, MICRO_INDEX).double().numpy()
    if sampling != "uniform":
        draws = (np.arange(6) + draws) / 6
    timesteps = np.floor(1000 * (draws**2 if sampling == "importance" else draws)).astype(int)
    likelihoods = np.sqrt((timesteps + 1) / 1000) - np.sqrt(timesteps / 1000)
    weights = 1 / (1000 * likelihoods) if sampling == "importance" else np.ones(6)
    kept = torch.rand((6, 3, 4, 4), generator=torch_generator(CPU, SEED, "dropout", STEP, MICRO_INDEX)).numpy() < 0.5
    alphas_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[timesteps][:, None, None, None]
    a, s, clean = np.sqrt(alphas_bar), np.sqrt(1 - alphas_bar), images.double().numpy()
    predicted = np.where(kept, 0.5 * (a * clean + s * noise) + timesteps[:, None, None, None] / 1000, 0.0)
    target = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean}[prediction]
    expected = weights * ((predicted - target) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(losses.numpy(), expected, rtol=2e-5)


def test_a_micro_batch_does_not_know_of_others() -> None:
    """Whatever was computed or drawn before, the losses of a micro-batch are the same to the bit."""
    objective, images, places = _objective(), _images(), [(0, 0), (0, 1), (0, 11), (1, 0), (1, 1), (11, 1)]
    forwards = {place: objective.losses(_model, images, *place) for place in places}
    torch.manual_seed(7)
    backwards = {place: objective.losses(_model, images, *place) for place in reversed(places)}
    assert all(torch.equal(forwards[place], backwards[place]) for place in places)
    assert len({losses[0].item() for losses in forwards.values()}) == len(places)


def test_losses_do_not_depend_on_how_micro_batches_are_spread(tmp_path: Path) -> None:
    """One process with four accumulation steps, two with two and four with one have the same four losses."""
    training = prepare(tiny_config(tmp_path, random_flip=True), dataset=tiny_images(), times_steps=False)
    training.close()
    losses: dict[int, dict[int, float]] = {}
    for world in (1, 2, 4):
        losses[world] = {}
        for rank in range(world):
            accelerator = SimpleNamespace(num_processes=world, process_index=rank)
            parts = replace(training, accelerator=accelerator)
            for accumulation_index in range(4 // world):
                loss = micro_batch_loss(parts, accumulation_index).item()
                losses[world][accumulation_index * world + rank] = loss
    assert losses[1] == losses[2] == losses[4] and len(set(losses[1].values())) == 4


@dataclass(frozen=True)
class _Own(Objective):
    """A caller's: all timesteps are the seventh, all errors count as much as it says."""

    weight: float

    def timesteps(self, count: int, step: int, micro_index: int) -> torch.Tensor:
        """Return sevens, (B,) int64."""
        return torch.full((count,), 7)

    def weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return equal weights, (B,) float32."""
        assert timesteps.tolist() == [7] * len(timesteps)
        return torch.full((len(timesteps),), self.weight)


def _trained_by_own(folder: Path, name: str, weight: float) -> Training:
    """Return a run of one step, ready to be trained by an objective of the caller's."""
    training = prepare(tiny_config(folder, name, max_train_steps=1), dataset=tiny_images(), times_steps=False)
    plain = training.objective
    training.objective = _Own(plain.process, plain.sampling, plain.seed, plain.device, weight)
    return training


def test_the_loop_trains_by_an_objective_of_the_callers(tmp_path: Path) -> None:
    """Its losses are what the loop logs, and its timesteps what a message names."""
    training = _trained_by_own(tmp_path, "sound", 2.0)
    unweighted = micro_batch_loss(replace(training, objective=replace(training.objective, weight=1.0)), 0)
    fit(training)
    assert exact_metrics(tmp_path / "sound")[0]["train_loss"] == 2 * unweighted.item() > 0
    with pytest.raises(NotFinite, match="loss is nan at step 1, in timesteps 7, 7, 7, 7 of images"):
        fit(_trained_by_own(tmp_path, "not-finite", float("nan")))


@pytest.mark.parametrize("sampling", ["uniform", "stratified"])
def test_timesteps_are_uniform(sampling: TimestepSampling) -> None:
    """Every timestep is equally likely; stratified draws put one image in each equal part of them."""
    draws = torch.rand((2000, 50), generator=torch.Generator().manual_seed(0))
    timesteps = torch.stack([sample_timesteps(row, 1000, sampling) for row in draws])
    counts = torch.bincount(timesteps.flatten(), minlength=1000)
    assert counts.shape == (1000,) and (counts - 100).abs().max() < 60
    strata = (timesteps.sort(dim=1).values // 20 == torch.arange(50)).all()
    assert bool(strata) == (sampling == "stratified")
    assert torch.equal(_objective(sampling).weights(timesteps[0]), torch.ones(50))


@pytest.mark.parametrize("num_timesteps", [2, 10, 1000])
def test_importance_keeps_the_mean_over_all_timesteps(num_timesteps: int) -> None:
    """Weighted, each timestep counts the same though the first comes most often; a mean of any errors is kept."""
    draws = torch.rand((4000, 50), generator=torch.Generator().manual_seed(0))
    timesteps = torch.cat([sample_timesteps(row, num_timesteps, "importance") for row in draws])
    weights = _objective("importance", num_timesteps).weights(timesteps)
    counts = torch.bincount(timesteps, minlength=num_timesteps).double()
    mass = torch.zeros(num_timesteps, dtype=torch.double).index_add(0, timesteps, weights.double())
    assert counts[0] == counts.max() and counts.min() > 0
    torch.testing.assert_close(mass / mass.sum() * num_timesteps, torch.ones_like(mass), atol=0.5, rtol=0)
    assert weights.mean().item() == pytest.approx(1, abs=0.005)
    errors = 1 / (1.0 + timesteps)  # as in a run, large where noise is little
    expected = (1 / (1.0 + torch.arange(num_timesteps))).mean()
    torch.testing.assert_close((weights * errors).mean(), expected, rtol=0.005, atol=0)


def test_importance_weights_are_those_of_float64_on_a_device_without_it() -> None:
    """The weights have the bits of their formula in float64, also where the draws lie on a device without float64."""
    edges = torch.arange(1001, dtype=torch.float64) / 1000
    likelihoods = (edges**0.5).diff()
    draws = torch.rand(64, generator=torch.Generator().manual_seed(0))
    objective = _objective("importance")
    timesteps = sample_timesteps(draws, 1000, "importance")
    weights = objective.weights(timesteps)
    assert torch.equal(weights, (1 / (1000 * likelihoods[timesteps])).float())
    with apple_gpu():
        timesteps_there = sample_timesteps(draws.to("mps"), 1000, "importance")
        weights_there = objective.weights(timesteps_there)
        assert all(found.device.type == "mps" for found in (timesteps_there, weights_there))
        assert _objective("uniform").weights(timesteps_there).device.type == "mps"
        assert torch.equal(timesteps_there.cpu(), timesteps) and torch.equal(weights_there.cpu(), weights)


def test_timesteps_at_the_edges_stay_inside() -> None:
    """The smallest and the largest possible draws give the first and the last timestep."""
    draws = torch.tensor([0.0, np.nextafter(np.float32(1), np.float32(0))])
    for sampling in get_args(TimestepSampling):
        timesteps = sample_timesteps(draws, 1000, sampling)
        assert timesteps.tolist() == [0, 999] and _objective(sampling).weights(timesteps).isfinite().all()
