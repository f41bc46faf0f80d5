"""What must be the same to the bit under --speed exact, on a GPU above all; runs of seconds."""

from pathlib import Path

import pytest

from gpu_runs import gpu_config, gpu_run
from tiny import differing, exact_metrics, newest_tensors

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
EXACT = {"speed": "exact"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 12 steps that nothing has interrupted."""
    return gpu_run(gpu_config(tmp_path_factory.mktemp("exact"), "whole", **EXACT))


def _assert_same(one: Path, other: Path) -> None:
    assert exact_metrics(one) == exact_metrics(other)
    assert differing(newest_tensors(one), newest_tensors(other)) == []


def test_exact_repeats(whole: Path, tmp_path: Path) -> None:
    """The same command twice gives the same weights, averages, optimizer states and losses, to the bit."""
    _assert_same(whole, gpu_run(gpu_config(tmp_path, "again", **EXACT)))


def test_exact_resumes(whole: Path, tmp_path: Path) -> None:
    """A run that has died after step 6 and is resumed ends with the bits of one that was left alone."""
    config = gpu_config(tmp_path, "halved", checkpointing_steps=6, **EXACT)
    folder = gpu_run(config)
    later = folder / "checkpoints" / "step-00000012"
    later.rename(later.with_name(".gone"))
    resumed = gpu_run(config.model_copy(update={"resume_from_checkpoint": "latest"}))
    assert (folder / "checkpoints" / "step-00000012").is_dir()
    _assert_same(whole, resumed)
