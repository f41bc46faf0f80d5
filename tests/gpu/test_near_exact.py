"""What a GPU computes otherwise than --speed exact does: near it, and without a fault; runs of seconds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpu_runs import ON_GPU, gpu_config, gpu_run, losses, worst_difference
from openddpm.record.reader import read_run_record
from openddpm.training import setup
from tiny import differing, exact_metrics, newest_tensors, tiny_config

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
needs_a_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run that others are near."""
    return gpu_run(gpu_config(tmp_path_factory.mktemp("near"), "exact", speed="exact"))


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"speed": "auto"}, 2e-2),
        ({"mixed_precision": "bf16"}, 5e-2),
        pytest.param({"mixed_precision": "fp16", "checkpointing_steps": 6}, 0.3, marks=needs_a_gpu),
    ],
    ids=["auto", "bf16", "fp16"],
)
def test_other_arithmetic_is_near_exact(
    exact: Path, tmp_path: Path, record_property: Record, options: dict[str, Any], tolerance: float
) -> None:
    """TF32 and half precisions leave each of twelve losses within a tolerance (assumed) of exact ones."""
    worst = worst_difference(exact, gpu_run(gpu_config(tmp_path, "near", **options)))
    record_property("worst_relative_difference", worst)
    assert worst < tolerance


def test_images_in_memory_give_what_those_on_the_device_give(
    exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the images lie changes no bit."""
    chosen = setup.choose_speed
    monkeypatch.setattr(setup, "choose_speed", lambda *given: replace(chosen(*given), images_on_device=False))
    folder = gpu_run(gpu_config(tmp_path, "in-memory", speed="exact"))
    assert exact_metrics(folder) == exact_metrics(exact)
    assert differing(newest_tensors(folder), newest_tensors(exact)) == []


def test_muon_and_importance_sampling_train(tmp_path: Path, record_property: Record) -> None:
    """Muon on timesteps drawn by importance goes through with finite losses."""
    config = gpu_config(tmp_path, "muon", optimizer="muon", timestep_sampling="importance")
    found = losses(gpu_run(config))
    record_property("losses", [round(loss, 5) for loss in found])
    assert len(found) == 12 and np.isfinite(found).all()


@needs_a_gpu
def test_a_compiled_unet_is_near_exact(exact: Path, tmp_path: Path, record_property: Record) -> None:
    """--speed max compiles without a graph break, and its losses are near exact ones."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    folder = gpu_run(gpu_config(tmp_path, "max", speed="max"))
    breaks = dict(torch._dynamo.utils.counters["graph_break"])
    worst, speed = worst_difference(exact, folder), read_run_record(folder).session.environment.speed
    for name, value in {
        "worst_relative_difference": worst,
        "speed": speed.model_dump(),
        "graph_breaks": breaks,
    }.items():
        record_property(name, value)
    assert speed.compile_mode is not None and not breaks and worst < 5e-2


@needs_a_gpu
def test_compiled_dropout_repeats(tmp_path: Path, record_property: Record) -> None:
    """Masks of dropout are a function of the step, compiled or not: two runs have nearly the same losses."""
    folders = []
    for name in ("one", "two"):
        torch._dynamo.reset()
        folders.append(gpu_run(tiny_config(tmp_path, name, speed="max")))
    worst = worst_difference(*folders)
    record_property("worst_relative_difference", worst)
    assert worst < 2e-2
