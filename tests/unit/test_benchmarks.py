"""The faults that benchmarks/ puts into runs."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from openddpm.config import TrainConfig
from openddpm.record.reader import read_run_folder
from tiny import differing, newest_tensors, tiny_config, write_tiny_folder


def _load(name: str) -> ModuleType:
    """Import a script of benchmarks/, which is no package."""
    spec = spec_from_file_location(name, Path(__file__).parents[2] / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


faults = _load("faults")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run without fault in `right`."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("faults")
    faults.train_with(_config(folder, "right"), [])
    return folder


def _config(folder: Path, name: str) -> TrainConfig:
    """Return a config for three epochs, each of one step and a preview."""
    dataset = str(write_tiny_folder(folder / "images", count=12))
    steps = {"train_batch_size": 8, "max_train_steps": 3, "lr_warmup_steps": 1, "save_images_epochs": 1}
    return tiny_config(folder, name, dataset=dataset, **steps)


def _weights(run: Path) -> dict[str, np.ndarray]:
    """Return live and EMA weights of the last step."""
    return {name: tensor for name, tensor in newest_tensors(run).items() if not name.startswith("optimizer:")}


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_in_and_changes_training(folder: Path, fault: Any) -> None:
    """A run with a fault ends, the fault's own checks have seen it, and its weights or their EMA differ."""
    faults.train_with(_config(folder, fault.name), [fault])
    assert read_run_folder(folder / fault.name).run.status == "finished"
    assert differing(_weights(folder / "right"), _weights(folder / fault.name))


def test_all_faults_go_together_and_leave_nothing_behind(folder: Path) -> None:
    """All common faults train in one run, and a run after it is what it is without them."""
    faults.train_with(_config(folder, "all"), faults.COMMON)
    faults.train_with(_config(folder, "after"), [])
    assert differing(_weights(folder / "right"), _weights(folder / "after")) == []
