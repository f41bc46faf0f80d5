"""Which reference a run goes on to follow."""

from pathlib import Path

import pytest
import torch
from test_exact_resume import EndAt

from openddpm.api import resume, train
from openddpm.config import TrainConfig
from openddpm.record.reader import read_run_folder
from tiny import tiny_config, write_tiny_folder


def followed(run: Path) -> str:
    """Return the reference in run.json, and the name in verdict.json."""
    record = read_run_folder(run)
    assert record.verdict is not None and record.verdict.following is not None
    return f"{record.run.config['follow']} as {record.verdict.following.reference}"


def test_a_run_goes_on_to_follow_its_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is found again from elsewhere, beside another of its name; and not replaced by that of the recipe."""
    torch.set_num_threads(1)
    options = {"dataset": str(write_tiny_folder(tmp_path / "images")), "recipe": "digits-8"}
    config = tiny_config(tmp_path, **options)
    for place, seed in ((tmp_path, 1), (tmp_path / "elsewhere", 2)):
        train(config.model_copy(update={"output_dir": str(place / "ref"), "follow": "none", "seed": seed}))
    monkeypatch.chdir(tmp_path)
    train(config.model_copy(update={"follow": "ref"}), observers=[EndAt(5, crash=False)])
    reference = f"{tmp_path / 'ref'} as ref"
    assert followed(tmp_path / "run") == reference

    monkeypatch.chdir(tmp_path / "elsewhere")
    again = TrainConfig(**{**config.model_dump(exclude={"follow"}), "resume_from_checkpoint": "latest"})
    assert again.follow == "digits-8"  # the recipe's
    train(again, observers=[EndAt(8, crash=False)])
    assert followed(tmp_path / "run") == reference
    resume(tmp_path / "run", follow="ref")
    assert followed(tmp_path / "run") == f"{tmp_path / 'elsewhere' / 'ref'} as ref"
