"""What `--speed` chooses, and that none of it changes what is computed."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from openddpm.cli.options import parse_train_config
from openddpm.config import resuming_config
from openddpm.data import stream
from openddpm.diffusion.unet import SIZES
from openddpm.errors import UserError
from openddpm.record.reader import read_run_record
from openddpm.training import setup
from openddpm.training.loop import fit
from openddpm.training.performance import (
    MEASURED_LAYERS,
    Speed,
    choose_speed,
    compile_by_first_pass,
    compile_options,
    may_train_in_eval_mode,
    num_layers,
    remarks_on_speed,
    with_fast_precision,
)
from openddpm.training.setup import prepare
from tiny import TINY_UNET, differing, exact_metrics, newest_tensors, tiny_config, tiny_images

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
        assert choose_speed(config, torch.device("cpu"), 272, 166, 10**7, GB) == Speed()
        assert with_fast_precision(config) == config


@pytest.mark.parametrize(
    ("options", "images", "expected"),
    [
        ({}, 30_000, {"compile_mode": None}),  # two minutes of training: compiling takes longer than it saves
        ({"mixed_precision": "bf16"}, 20_000, {"compile_mode": None}),
        ({}, 3_000_000, {"compile_mode": "default"}),
        ({"mixed_precision": "bf16"}, 3_000_000, {"compile_mode": "reduce-overhead"}),
        ({"mixed_precision": "fp16"}, 3_000_000, {"compile_mode": "reduce-overhead"}),
        ({"mixed_precision": "bf16", "train_batch_size": 128}, 3_000_000, {"compile_mode": "default"}),
        ({"train_batch_size": 8}, 3_000_000, {"compile_mode": "reduce-overhead"}),
        ({"train_batch_size": 8, "gradient_accumulation_steps": 2}, 3_000_000, {"compile_mode": "default"}),
        ({"speed": "max", "mixed_precision": "bf16"}, 30, {"compile_mode": "reduce-overhead"}),
        ({"speed": "max", "mixed_precision": "no"}, 30, {"compile_mode": "default"}),
        ({"speed": "exact"}, 3_000_000, {"compile_mode": None, "autotune": False, "deterministic": True}),
    ],
)
def test_a_gpu_is_used_by_what_pays(
    a_gpu: None, tmp_path: Path, options: dict[str, Any], images: int, expected: dict[str, Any]
) -> None:
    """The default UNet is compiled where the run is long or max asks for it, by CUDA graphs where steps are short."""
    config = tiny_config(tmp_path, **{"train_batch_size": 16, **options})
    common = {"images_on_device": True, "tf32": True, "autotune": True, "deterministic": False}
    assert choose_speed(config, GPU, 272, 166, images, GB) == Speed(**{**common, **expected})


def test_a_small_unet_is_compiled_for_more_steps_than_a_large_one(a_gpu: None, tmp_path: Path) -> None:
    """Fewer layers are launched sooner: the demo's run is too short on a GPU, whatever its number of steps gains."""
    config = tiny_config(tmp_path, train_batch_size=32)
    assert choose_speed(config, GPU, 0.44, 71, 1700 * 32, GB).compile_mode is None
    assert choose_speed(config, GPU, 0.44, 71, 17_000 * 32, GB).compile_mode == "reduce-overhead"
    with torch.device("meta"):
        assert num_layers(UNet2DModel(**SIZES["default"])) == MEASURED_LAYERS


def test_images_stay_in_memory_where_the_gpu_has_no_room(a_gpu: None, tmp_path: Path) -> None:
    """Images that would take much of the GPU's free memory are not put there."""
    assert choose_speed(tiny_config(tmp_path), GPU, 1, 1, 1, 6 * GB - 1).images_on_device
    assert not choose_speed(tiny_config(tmp_path), GPU, 1, 1, 1, 6 * GB + 1).images_on_device


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "bf16"), ((7, 0), "fp16")])
def test_max_takes_the_half_precision_that_the_gpu_has(
    a_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    """max trains in bf16 from compute capability 8.0 on, else in fp16; what was asked for by name stays."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert with_fast_precision(tiny_config(tmp_path, speed="max")).mixed_precision == precision
    assert with_fast_precision(tiny_config(tmp_path, speed="max", mixed_precision="fp16")).mixed_precision == "fp16"
    assert with_fast_precision(tiny_config(tmp_path)).mixed_precision == "no"


def test_full_precision_that_is_asked_for_beside_max_is_kept_and_told(
    a_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--mixed_precision no beside --speed max stays, from Python, the command line and a record that is resumed."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    asked = tiny_config(tmp_path, speed="max", mixed_precision="no")
    spoken = parse_train_config(["--dataset", "d", "--speed", "max", "--mixed_precision", "no"])
    resumed = resuming_config(asked.model_dump(), str(tmp_path))
    for config in (asked, spoken, resumed):
        assert with_fast_precision(config).mixed_precision == "no"
        assert "--mixed_precision no" in remarks_on_speed(config, GPU)[0]
    for config in (parse_train_config(["--dataset", "d", "--speed", "max"]), tiny_config(tmp_path, speed="max")):
        assert with_fast_precision(config).mixed_precision == "bf16"
        going_on = resuming_config(with_fast_precision(config).model_dump(), str(tmp_path))
        assert with_fast_precision(going_on).mixed_precision == "bf16"
        assert not remarks_on_speed(going_on, GPU)


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
    monkeypatch.setattr(UNet2DModel, "compile", lambda self, options: compile_in_place(self, backend=backend))
    monkeypatch.setattr(Speed, "apply", lambda self, unet: self.compile(unet))


def test_a_compiled_run_is_the_plain_run_and_leaves_nothing_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with a compiled UNet, up to rounding, has losses and weights of one without, under the same names.

    When it is over, compiled code is freed, and a caller's own UNet is what it was.
    """
    torch.set_num_threads(1)
    resets: list[None] = []
    reset = torch.compiler.reset
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(reset()))
    structure = {**TINY_UNET, "dropout": 0.0}  # whose mask is drawn in the order of memory, which channels_last changes
    unet = UNet2DModel(**structure, sample_size=8)
    kinds = [type(module) for module in unet.modules()]
    fit(prepare(tiny_config(tmp_path, "plain"), tiny_images(), unet=copy.deepcopy(unet)))
    with monkeypatch.context() as patched:
        _compiling_by("eager", patched)
        training = prepare(tiny_config(tmp_path, "compiled"), tiny_images(), unet=unet)
        assert unet._compiled_call_impl is not None and [type(module) for module in unet.modules()] != kinds
        assert not resets
        fit(training)
    assert unet._compiled_call_impl is None and [type(module) for module in unet.modules()] == kinds
    assert len(resets) == 1 and unet.training and all(weight.is_contiguous() for weight in unet.parameters())
    record = read_run_record(tmp_path / "compiled")
    assert record.session.environment.speed.compile_mode == "default"
    plain, compiled = newest_tensors(tmp_path / "plain"), newest_tensors(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    losses = [[row["train_loss"] for row in exact_metrics(tmp_path / name)] for name in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    configs = [(tmp_path / name / "unet" / "config.json").read_text() for name in ("plain", "compiled")]
    assert configs[0] == configs[1]


def test_a_compiler_that_fails_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where compiling fails, it is said, and all is as if nothing had been tried, averages' layout in memory too."""

    def failing(*arguments: Any) -> None:
        raise RuntimeError("no compiler here")

    _compiling_by(failing, monkeypatch)
    training = prepare(tiny_config(tmp_path), tiny_images())
    try:
        assert "no compiler here" in capsys.readouterr().err
        assert training.recorder.run.session.environment.speed.compile_mode is None
        weights = training.state.weights()
        assert list(weights) == ["ema", "raw"]
        assert all(tensor.is_contiguous() for tensors in weights.values() for tensor in tensors.values())
        assert training.state.unet.training and training.state.unet._compiled_call_impl is None
        assert not any("ChannelsLast" in type(module).__name__ for module in training.state.unet.modules())
    finally:
        training.close()


def test_neither_a_compiler_nor_a_memory_that_fails_ends_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a compiler, and room for the images on the device, both are said, and the run is the plain one."""

    def failing(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    torch.set_num_threads(1)
    fit(prepare(tiny_config(tmp_path, "plain"), tiny_images()))
    _compiling_by(failing, monkeypatch)
    monkeypatch.setattr(setup, "choose_speed", lambda *arguments: Speed(True, compile_mode="default"))
    monkeypatch.setattr(stream, "_moved", failing)
    fit(prepare(tiny_config(tmp_path, "failed"), tiny_images()))
    told = " ".join(capsys.readouterr().err.split())
    assert "do not fit into GPU memory" in told and "cannot be compiled" in told
    speed = read_run_record(tmp_path / "failed").session.environment.speed
    assert speed.images_on_device is False and speed.compile_mode is None
    assert exact_metrics(tmp_path / "failed") == exact_metrics(tmp_path / "plain")
    assert differing(newest_tensors(tmp_path / "failed"), newest_tensors(tmp_path / "plain")) == []


def test_what_compiling_turns_off_is_an_option_beside_the_modes() -> None:
    """The mode's own options stay, and the loop reindexing of torch 2.13 is off where torch has it."""
    known = "loop_reindexing_after_fusion" in torch._inductor.list_options()
    for mode in ("default", "reduce-overhead"):
        options = compile_options(mode)
        assert options.pop("loop_reindexing_after_fusion", None) is (False if known else None)
        assert options == torch._inductor.list_mode_options(mode)
    assert torch._inductor.list_mode_options("reduce-overhead") == {"triton.cudagraphs": True}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_torch_takes_these_options() -> None:
    """torch.compile accepts the options, and hands to its compiler those of the mode, and ours."""
    compiled = torch.compile(torch.nn.Linear(2, 2), options=compile_options("reduce-overhead"))
    config = compiled.get_compiler_config()
    assert config["triton.cudagraphs"] is True and config.get("loop_reindexing_after_fusion", False) is False


class _OnGpu:
    """Stands for a UNet on a GPU that is not compiled."""

    device = GPU


@pytest.fixture
def _torchs_switches() -> Iterator[None]:
    """Put torch's switches, which hold for the whole process, back."""
    backends, sdp = torch.backends.cudnn, torch.backends.cuda
    tf32 = (sdp.matmul.allow_tf32, backends.allow_tf32, backends.benchmark, backends.deterministic)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    sdp.matmul.allow_tf32, backends.allow_tf32, backends.benchmark, backends.deterministic = tf32
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(False)
    for enable in (sdp.enable_flash_sdp, sdp.enable_mem_efficient_sdp, sdp.enable_cudnn_sdp):
        enable(True)


def test_exact_repeats_in_tf32_and_fills_no_memory(
    a_gpu: None, _torchs_switches: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exact takes TF32, kernels that repeat, and attention without atomic additions; memory is not filled with NaN."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    choose_speed(tiny_config(tmp_path, speed="exact"), GPU, 272, 166, 10**6, GB).apply(_OnGpu())
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    assert cuda.matmul.allow_tf32 and cudnn.allow_tf32 and cudnn.deterministic and not cudnn.benchmark
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert cuda.math_sdp_enabled()
    assert not (cuda.flash_sdp_enabled() or cuda.mem_efficient_sdp_enabled() or cuda.cudnn_sdp_enabled())
    choose_speed(tiny_config(tmp_path), GPU, 272, 166, 1, GB).apply(_OnGpu())
    assert cudnn.benchmark and not torch.are_deterministic_algorithms_enabled() and cuda.flash_sdp_enabled()


def test_an_operation_that_does_not_repeat_is_named(tmp_path: Path, _torchs_switches: None) -> None:
    """Where only operations that repeat are allowed, one that does not ends the run with its name, and the switch is as
    before afterwards."""
    torch.use_deterministic_algorithms(True)

    def transform(images: torch.Tensor) -> torch.Tensor:
        return images.put_(torch.tensor([0]), images.new_tensor([1]))

    with pytest.raises(UserError) as raised:
        fit(prepare(tiny_config(tmp_path), tiny_images(), transform))
    assert raised.value.found.startswith("--speed exact: put_ has no implementation")
    assert torch.get_deterministic_debug_mode() == 2


def _trained(folder: Path, name: str, **options: Any) -> Path:
    """Train a UNet without dropout, with attention, on images of 16x16."""
    images = [image.repeat(2, axis=0).repeat(2, axis=1) for image in tiny_images()]
    fit(prepare(tiny_config(folder, name, model="unet-16", resolution=16, **options), images))
    return folder / name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_exact_runs_on_a_gpu_repeat(tmp_path: Path, _torchs_switches: None) -> None:
    """Two runs by --speed exact, in TF32, end with the same bits."""
    one, other = (_trained(tmp_path, name, speed="exact") for name in ("one", "other"))
    speed = read_run_record(one).session.environment.speed
    assert speed.tf32 and speed.deterministic
    assert exact_metrics(one) == exact_metrics(other)
    assert differing(newest_tensors(one), newest_tensors(other)) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, which would pass for failures of it
@pytest.mark.parametrize(("accumulation", "mode"), [(1, "reduce-overhead"), (2, "default")])
def test_a_run_that_is_compiled_on_a_gpu_is_the_plain_run(
    tmp_path: Path, _torchs_switches: None, accumulation: int, mode: str
) -> None:
    """Compiled in either mode, in channels_last throughout, losses are those of the UNet as it is, up to TF32."""
    options = {"mixed_precision": "no", "gradient_accumulation_steps": accumulation}
    plain = _trained(tmp_path, "plain", **options)
    compiled = _trained(tmp_path, "compiled", speed="max", **options)
    assert read_run_record(plain).session.environment.speed.compile_mode is None
    assert read_run_record(compiled).session.environment.speed.compile_mode == mode
    losses = [[row["train_loss"] for row in exact_metrics(run)] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_nothing_is_compiled_unasked() -> None:
    """Without a mode no pass is made."""
    speed = Speed(tf32=True)
    assert compile_by_first_pass(speed, UNet2DModel(**TINY_UNET, sample_size=8), 4) == (speed, 0.0)
