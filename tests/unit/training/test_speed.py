"""What `--speed` chooses, and that none of it changes what is computed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from openddpm.record.reader import read_run_record
from openddpm.training import setup
from openddpm.training.loop import fit
from openddpm.training.setup import prepare
from openddpm.training.speed import (
    Speed,
    choose_speed,
    compiled_by_a_first_pass,
    may_train_in_eval_mode,
    with_fast_precision,
)
from tiny import TINY_UNET, exact_metrics, newest_tensors, tiny_config, tiny_images

GPU = torch.device("cuda")
GB = 2**30


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch say that there is a GPU with 60 GB free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GB, 80 * GB))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_a_cpu_has_one_speed(tmp_path: Path) -> None:
    """On a CPU nothing is switched on, whatever is asked for, so that resuming stays exact to the bit."""
    for speed in ("auto", "exact", "max"):
        config = tiny_config(tmp_path, speed=speed)
        assert choose_speed(config, torch.device("cpu"), 270, 10**7, GB) == Speed()
        assert with_fast_precision(config) == config


@pytest.mark.parametrize(
    ("options", "images", "expected"),
    [
        ({}, 30_000, {"compile_mode": None}),  # minutes of training: compiling would take longer than it saves
        ({}, 3_000_000, {"compile_mode": "default"}),
        ({"train_batch_size": 4}, 3_000_000, {"compile_mode": "reduce-overhead"}),
        ({"train_batch_size": 4, "gradient_accumulation_steps": 2}, 3_000_000, {"compile_mode": "default"}),
        ({"speed": "max"}, 30_000, {"compile_mode": "default"}),
        (
            {"speed": "exact"},
            3_000_000,
            {"compile_mode": None, "tf32": False, "autotune": False, "deterministic": True},
        ),
    ],
)
def test_a_gpu_is_used_by_what_pays(
    a_gpu: None, tmp_path: Path, options: dict[str, Any], images: int, expected: dict[str, Any]
) -> None:
    """A UNet is compiled where the run is long or max asks for it, by CUDA graphs where steps are short."""
    config = tiny_config(tmp_path, **{"train_batch_size": 16, **options})
    common = {"images_on_device": True, "tf32": True, "autotune": True, "deterministic": False}
    assert choose_speed(config, GPU, 270, images, GB) == Speed(**{**common, **expected})


def test_images_stay_in_memory_where_the_gpu_has_no_room(a_gpu: None, tmp_path: Path) -> None:
    """Images that would take much of the GPU's free memory are not put there."""
    assert choose_speed(tiny_config(tmp_path), GPU, 1, 1, 6 * GB - 1).images_on_device
    assert not choose_speed(tiny_config(tmp_path), GPU, 1, 1, 6 * GB + 1).images_on_device


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "bf16"), ((7, 0), "fp16")])
def test_max_takes_the_half_precision_that_the_gpu_has(
    a_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    """max trains in bf16 from compute capability 8.0 on, else in fp16; what was asked for by name stays."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert with_fast_precision(tiny_config(tmp_path, speed="max")).mixed_precision == precision
    assert with_fast_precision(tiny_config(tmp_path, speed="max", mixed_precision="fp16")).mixed_precision == "fp16"
    assert with_fast_precision(tiny_config(tmp_path)).mixed_precision == "no"


def test_dropout_and_checkpointing_need_training_mode() -> None:
    """A UNet with dropout or gradient checkpointing is never put into evaluation mode to train it."""
    plain = {**TINY_UNET, "sample_size": 8, "dropout": 0.0}
    assert may_train_in_eval_mode(UNet2DModel(**plain))
    assert not may_train_in_eval_mode(UNet2DModel(**{**plain, "dropout": 0.1}))
    checkpointing = UNet2DModel(**plain)
    checkpointing.enable_gradient_checkpointing()
    assert not may_train_in_eval_mode(checkpointing)


def _compiling_by(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run compile its UNet by `backend`, as it would on a GPU."""
    monkeypatch.setattr(setup, "choose_speed", lambda *arguments: Speed(compile_mode="default"))
    compile_in_place = UNet2DModel.compile
    monkeypatch.setattr(UNet2DModel, "compile", lambda self, mode: compile_in_place(self, backend=backend))
    monkeypatch.setattr(Speed, "apply", lambda self, unet: self.compile(unet))


def test_a_compiled_run_is_the_plain_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with a compiled UNet, up to rounding, has losses and weights of one without, under the same names."""
    torch.set_num_threads(1)
    model = tmp_path / "without-dropout.json"  # whose mask is drawn in the order of memory, which channels_last changes
    model.write_text(json.dumps({**TINY_UNET, "dropout": 0.0}))
    fit(prepare(tiny_config(tmp_path, "plain", model=str(model)), own_dataset=tiny_images()))
    with monkeypatch.context() as patched:
        _compiling_by("eager", patched)
        fit(prepare(tiny_config(tmp_path, "compiled", model=str(model)), own_dataset=tiny_images()))
    record = read_run_record(tmp_path / "compiled")
    assert record.environment["speed"]["compile_mode"] == "default"
    plain, compiled = newest_tensors(tmp_path / "plain"), newest_tensors(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    losses = [[row["train_loss"] for row in exact_metrics(tmp_path / name)] for name in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_compiler_that_fails_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where compiling fails, it is said, and the run is the one without, to the bit."""

    def failing(*arguments: Any) -> None:
        raise RuntimeError("no compiler here")

    torch.set_num_threads(1)
    fit(prepare(tiny_config(tmp_path, "plain"), own_dataset=tiny_images()))
    with monkeypatch.context() as patched:
        _compiling_by(failing, patched)
        fit(prepare(tiny_config(tmp_path, "failed"), own_dataset=tiny_images()))
    assert "no compiler here" in capsys.readouterr().err
    assert read_run_record(tmp_path / "failed").environment["speed"]["compile_mode"] is None
    assert exact_metrics(tmp_path / "failed") == exact_metrics(tmp_path / "plain")


def test_nothing_is_compiled_unasked() -> None:
    """Without a mode no pass is made."""
    speed = Speed(tf32=True)
    assert compiled_by_a_first_pass(speed, UNet2DModel(**TINY_UNET, sample_size=8), 4) == (speed, 0.0)
