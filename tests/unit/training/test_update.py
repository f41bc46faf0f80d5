"""What a step does to the weights: at once, and as on a GPU, where it is known a step later if it was good.

Fused AdamW takes `found_inf` and `grad_scale` on the CPU, too, so that the path of GPUs is driven here as it is.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import openddpm.training.loop as loop
import openddpm.training.update as update
from openddpm.config import TrainConfig
from openddpm.record.files import read_json_lines
from openddpm.record.reader import read_run_record
from openddpm.training.checkpoint import list_checkpoints
from openddpm.training.loop import fit
from openddpm.training.optimizer import build_optimizer
from openddpm.training.run import Training
from openddpm.training.setup import prepare
from openddpm.training.state import NotFinite
from openddpm.training.stop import StopRequest
from openddpm.training.update import LateUpdate, Update, update_of
from tiny import exact_metrics, newest_tensors, tiny_config, tiny_images

Late = Callable[[], None]


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    """Call it, and runs on the CPU update their weights as on a GPU."""
    torch.set_num_threads(1)
    return lambda: monkeypatch.setattr(update, "LATE_DEVICES", ("cpu",))


def _prepared(config: TrainConfig) -> Training:
    return prepare(config, dataset=tiny_images())


@pytest.mark.parametrize("max_grad_norm", [0.05, 1e9])
def test_late_update_is_the_update_to_rounding(tmp_path: Path, late: Late, max_grad_norm: float) -> None:
    """With a gradient that is clipped at every step, and at none, losses, norms, weights and averages agree."""
    options: dict[str, Any] = {"max_grad_norm": max_grad_norm, "gradient_accumulation_steps": 2, "logging_steps": 2}
    options["max_train_steps"] = 4
    fit(_prepared(tiny_config(tmp_path, "at-once", **options)))
    late()
    training = _prepared(tiny_config(tmp_path, "late", **options))
    fit(training)
    left_behind = {"found_inf", "grad_scale"} & vars(training.state.optimizer.optimizer).keys()
    assert not left_behind  # whoever takes a step of his own, as the doctor's probe does, is not scaled
    at_once_rows, late_rows = exact_metrics(tmp_path / "at-once"), exact_metrics(tmp_path / "late")
    for at_once_row, late_row in zip(at_once_rows, late_rows, strict=True):
        assert late_row == pytest.approx(at_once_row, rel=1e-4)
        assert (at_once_row["grad_norm"] > max_grad_norm) == (max_grad_norm < 1)
    at_once_tensors, late_tensors = newest_tensors(tmp_path / "at-once"), newest_tensors(tmp_path / "late")
    assert at_once_tensors.keys() == late_tensors.keys()
    for name, expected in at_once_tensors.items():
        if "to_k.bias" not in name:  # softmax ignores it: its gradient is rounding noise, which Adam scales up
            np.testing.assert_allclose(late_tensors[name], expected, atol=1e-5, err_msg=name)


class _ReadsInPython(TorchFunctionMode):
    """Notes whatever brings a number of a tensor to Python, which on a GPU waits for it."""

    NAMES = frozenset({"item", "tolist", "numpy", "cpu", "nonzero", "equal", "allclose", "unique"})
    CONVERSIONS = frozenset({"__bool__", "__float__", "__int__", "__index__", "__array__", "__contains__"})

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self._notes = notes

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in self.NAMES | self.CONVERSIONS:
            self._notes.append(name)
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Notes operators that read by themselves, and those that tell where in a step one is."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2")
    MARKS = ("convolution_backward", "_foreach_lerp_", "_fused_adamw_")

    def __init__(self, notes: list[str]) -> None:
        super().__init__()
        self._notes = notes

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        if name in self.READS or (name in self.MARKS and self._notes[-1:] != [name]):
            self._notes.append(name)
        if name == "copy_" and args[0].ndim == 0:
            self._notes.append("the flag leaves")
        return operator(*args, **(kwargs or {}))


def _noted_steps(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return what is noted of each step of a run, the last first to be looked at, and so left out."""
    notes: list[str] = []
    plain, steps = loop.micro_batch_loss, []

    def noting(training: Training, accumulation_index: int) -> torch.Tensor:
        steps.append(notes.copy())
        notes.clear()
        return plain(training, accumulation_index)

    monkeypatch.setattr(loop, "micro_batch_loss", noting)
    training = _prepared(config)
    with _ReadsInPython(notes), _Operators(notes):
        fit(training)
    return steps[1:]


def test_a_step_waits_for_nothing(tmp_path: Path, late: Late, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a step reads is how the one before went, once its own gradient is under way and before its update."""
    late()
    steps = _noted_steps(tiny_config(tmp_path, logging_steps=100, max_train_steps=6), monkeypatch)
    first, *others = steps
    assert first == ["convolution_backward", "the flag leaves", "_fused_adamw_"]
    is_read = ["item", "_local_scalar_dense"]
    expected = ["convolution_backward", *is_read, "_foreach_lerp_", "the flag leaves", "_fused_adamw_"]
    assert others == [expected] * 4


def test_the_count_of_reads_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the update that reads at once, the same count finds the read, before any weight is touched."""
    steps = _noted_steps(tiny_config(tmp_path, logging_steps=100, max_train_steps=4), monkeypatch)
    assert steps == [["convolution_backward", "tolist", "_fused_adamw_", "_foreach_lerp_"]] * 3


BAD_STEP = 7
FOLLOWS = {
    "nothing, for a while": {},
    "a line": {"logging_steps": BAD_STEP},
    "a checkpoint": {"checkpointing_steps": BAD_STEP},
    "an evaluation and a preview": {"save_images_epochs": 1, "train_batch_size": 20, "heldout_images": 4},
    "the end": {"max_train_steps": BAD_STEP},
    "a signal": {},
    "no average": {"use_ema": False},
}


@contextmanager
def _watched(monkeypatch: pytest.MonkeyPatch, follows: str) -> Iterator[dict[str, Any]]:
    """Make the gradient of a step NaN; keep what the state was as that step was to touch it, and as it was told."""
    plain, not_finite = loop.micro_batch_loss, update.not_finite
    kept: dict[str, Any] = {}

    def loss(training: Training, accumulation_index: int) -> torch.Tensor:
        value = plain(training, accumulation_index)
        if training.state.step != BAD_STEP - 1:
            return value
        if follows == "a signal":
            signal.raise_signal(signal.SIGTERM)
        step = training.state.optimizer.step

        def kept_before() -> None:
            kept["before"] = _state_of(training)
            training.state.optimizer.step = step
            step()

        training.state.optimizer.step = kept_before
        next(training.state.unet.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        kept["timesteps"], kept["images"] = training.timesteps_of(0).tolist(), training.image_indices_of(0).tolist()
        return value

    def kept_after(training: Training, *arguments: Any, **options: Any) -> NotFinite:
        kept["after"] = _state_of(training)
        return not_finite(training, *arguments, **options)

    monkeypatch.setattr(loop, "micro_batch_loss", loss)
    monkeypatch.setattr(update, "not_finite", kept_after)
    yield kept


def _state_of(training: Training) -> dict[str, Any]:
    tensors = training.state.tensors()
    found = {f"{stem}:{name}": tensor.detach().clone() for stem in tensors for name, tensor in tensors[stem].items()}
    return found | {"images": training.state.images_seen, "step": training.state.step}


@pytest.mark.parametrize("follows", FOLLOWS)
def test_a_bad_step_reaches_nothing(tmp_path: Path, late: Late, monkeypatch: pytest.MonkeyPatch, follows: str) -> None:
    """Whatever comes next, weights, moments, averages, counts and all files are those before the step that is named."""
    late()
    options = {"logging_steps": 100, "checkpointing_steps": 2, "max_train_steps": 30, **FOLLOWS[follows]}
    with _watched(monkeypatch, follows) as kept, pytest.raises(NotFinite) as raised:
        fit(_prepared(tiny_config(tmp_path, **options)))
    before, after = kept["before"], kept["after"]
    assert (after["images"], after["step"]) == (before["images"], before["step"])
    assert before["step"] == BAD_STEP - 1 and before.keys() == after.keys()
    for name, tensor in before.items():
        assert not isinstance(tensor, torch.Tensor) or torch.equal(after[name], tensor), name
    error = raised.value
    assert (error.step, error.what, error.may_go_back) == (BAD_STEP, "gradient", follows != "a signal")
    where = f"timesteps {str(kept['timesteps'])[1:-1]} of images {str(kept['images'])[1:-1]}"
    if len(kept["images"]) <= 16:
        assert error.found == f"the gradient is not finite at step {BAD_STEP}, in {where}"
    run = tmp_path / "run"
    record = read_run_record(run)
    assert (record.status, record.failure, record.failure_text) == ("failed", "gradient_not_finite", error.found)
    for rows in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        assert all(row["step"] < BAD_STEP for row in read_json_lines(run / rows))
    checkpoints = list_checkpoints(run)
    assert len(checkpoints) == (0 if follows == "a checkpoint" else 3)
    assert all(path.name < f"step-{BAD_STEP:08d}" for path in checkpoints)
    assert not checkpoints or all(np.isfinite(tensor).all() for tensor in newest_tensors(run).values())


def test_what_is_updated_late(tmp_path: Path, late: Late, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused AdamW of one process without a scaler, on a GPU; not Muon, nor a CPU, nor what else decides by itself."""

    config = tiny_config(tmp_path, mixed_precision="bf16")
    training = _prepared(config)
    training.close()
    state = training.state

    def kind() -> type[Update]:
        return type(update_of(training, StopRequest()))

    assert kind() is Update
    late()
    assert kind() is LateUpdate
    state.scaler = torch.amp.GradScaler("cpu")
    assert kind() is Update
    state.scaler = None
    state.optimizer.param_groups[0]["fused"] = False
    assert kind() is Update
    state.optimizer.param_groups[0]["fused"] = True
    adamw = state.optimizer
    muon = build_optimizer(state.unet, config.model_copy(update={"optimizer": "muon"}))
    state.optimizer = training.accelerator.prepare(muon)
    assert kind() is Update
    state.optimizer = adamw
    assert kind() is LateUpdate
    monkeypatch.setattr(type(training.accelerator), "num_processes", 2)
    assert kind() is Update


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_gpu_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """CUDA itself, asked to refuse whatever waits for the device, has nothing to refuse between two logged lines."""
    plain = loop.micro_batch_loss

    def strict(training: Training, accumulation_index: int) -> torch.Tensor:
        is_between = 3 <= training.state.step < training.config.max_train_steps - 2  # type: ignore[operator]
        torch.cuda.set_sync_debug_mode("error" if is_between else "default")
        return plain(training, accumulation_index)

    monkeypatch.setattr(loop, "micro_batch_loss", strict)
    config = tiny_config(tmp_path, logging_steps=100, mixed_precision=precision)
    training = _prepared(config)
    assert isinstance(update_of(training, StopRequest()), LateUpdate)
    try:
        assert fit(training).status == "finished"
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_bad_step_on_a_gpu_reaches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the CPU, by the kernels of the GPU."""
    options = {"logging_steps": 100, "checkpointing_steps": 2, "max_train_steps": 30}
    with _watched(monkeypatch, "nothing, for a while") as kept, pytest.raises(NotFinite, match=f"step {BAD_STEP},"):
        fit(_prepared(tiny_config(tmp_path, **options)))
    for name, value in kept["before"].items():
        after = kept["after"][name]
        assert torch.equal(after, value) if isinstance(value, torch.Tensor) else after == value, name
