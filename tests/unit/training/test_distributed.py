"""Accelerate is asked for a device and processes; what is computed is decided by the config alone."""

from pathlib import Path

import pytest
from accelerate.utils import DynamoBackend

from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.training.distributed import build_accelerator
from openddpm.training.setup import prepare
from tiny import tiny_config, tiny_images


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_DYNAMO_BACKEND", "inductor"),
        ("ACCELERATE_DYNAMO_BACKEND", "nonsense"),
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
    ],
)
def test_what_the_launcher_asks_for_besides(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compilation, precision and accumulation from the environment are not taken, and that is said."""
    monkeypatch.setenv(name, value)
    accelerator = build_accelerator(TrainConfig())
    assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
    assert accelerator.mixed_precision == "no"
    assert accelerator.gradient_accumulation_steps == 1
    assert f"{name}={value} is ignored" in capsys.readouterr().err


def test_what_the_launcher_sets_anyway_is_not_remarked_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The values that `accelerate launch` sets by itself, and those that the config has too, are no remark."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    build_accelerator(TrainConfig(gradient_accumulation_steps=2))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "value"), [("ACCELERATE_DYNAMO_USE_FULLGRAPH", "maybe"), ("ACCELERATE_USE_DEEPSPEED", "true")]
)
def test_settings_that_accelerate_cannot_read(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that stops Accelerate is one message, which names the variables that are set."""
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="accelerate cannot be set up") as refusal:
        build_accelerator(TrainConfig())
    assert name in refusal.value.hint


def test_a_notebook_without_ipywidgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook a run begins without a word about ipywidgets: rich warns at each progress bar, which fails here."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    training = prepare(tiny_config(tmp_path), dataset=tiny_images())
    training.close()
