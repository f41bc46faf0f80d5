"""A second average of the weights goes wherever the first one goes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_exact_resume import EndAt

from openddpm.api import resume, train
from openddpm.cli.main import main
from openddpm.errors import UserError
from openddpm.record.reader import read_run_folder
from openddpm.sampling_run.weights import read_weights
from openddpm.training import setup
from openddpm.training.ema import LerpEMA, build_averages
from tiny import differing, exact_evaluations, exact_samples, newest_tensors, tiny_config, write_tiny_folder

SECOND = "ema-0.5"
NAMES = ["ema", SECOND, "raw"]


@pytest.fixture(autouse=True)
def _two_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)

    def two(config: Any, unet: Any) -> Any:
        return {**build_averages(config, unet), SECOND: LerpEMA(unet.parameters(), decay=0.5, foreach=True)}

    monkeypatch.setattr(setup, "build_averages", two)


def test_a_second_average_goes_wherever_the_first_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluations, previews, checkpoints, an exact resumption, pages, TensorBoard and samples carry it by its name."""
    options = {"dataset": str(write_tiny_folder(tmp_path / "images")), "max_train_steps": 6, "save_images_epochs": 1}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(tiny_config(tmp_path, "whole", **options))
    assert train(tiny_config(tmp_path, "cut", **options), observers=[EndAt(3, crash=False)]).status == "interrupted"
    assert resume(cut).status == "finished"

    # To the bit, and unlike the other weights.
    assert differing(newest_tensors(cut), newest_tensors(whole)) == []
    assert exact_evaluations(cut) == exact_evaluations(whole) and exact_samples(cut) == exact_samples(whole)
    run = read_run_folder(cut)
    assert [row.weights for row in run.evaluations if row.step == 6] == NAMES
    assert len({row.heldout_loss for row in run.evaluations if row.step == 6}) == 3
    assert [list(preview.pictures) for preview in run.previews] == [NAMES] * len(run.previews)
    checkpoint = cut / "checkpoints" / "step-00000006"
    files = {path.stem: path for path in checkpoint.glob("*.safetensors")}
    assert files.keys() == {"unet", "ema", SECOND, "optimizer"}

    # The pipeline has the first average; the others are sampled by their names.
    exported, first = load_file(cut / "unet" / "diffusion_pytorch_model.safetensors"), load_file(files["ema"])
    assert all(np.array_equal(exported[name], tensor) for name, tensor in first.items())
    second = read_weights(cut, SECOND)
    assert (second.name, second.step) == (SECOND, 6)
    assert all(np.array_equal(second.tensors[name], tensor) for name, tensor in load_file(files[SECOND]).items())
    with pytest.raises(UserError, match="has no ema-9 weights") as error:
        read_weights(cut, "ema-9")
    assert error.value.hint == f"It has: ema, {SECOND}, raw."
    drawing = ["--num_images", "2", "--num_inference_steps", "2"]
    assert main(["sample", str(cut), "--weights", SECOND, *drawing]) == 0
    assert f"generated/step-00000006-{SECOND}-ddim-2-seed-0" in capsys.readouterr().out.replace("\\", "/")

    # Pages and trackers.
    page = (cut / "report.html").read_text("utf-8")
    assert all(f'data-curve="{curve}_{SECOND}"' in page for curve in ("heldout", "fixed", "noise", "skill"))
    assert f'id="film-{SECOND}"' in page and "EMA-0.5 weights" in page
    assert f"held-out loss, {SECOND} weights" in (cut / "README.md").read_text("utf-8")
    events = EventAccumulator(str(tmp_path / "logs" / "cut")).Reload()
    assert f"evaluation_{SECOND}/skill" in events.Tags()["scalars"]
    assert f"samples/{SECOND}" in events.Tags()["images"]
    Image.open(run.previews[-1].pictures[SECOND]).verify()


def test_a_checkpoint_of_other_averages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that keeps fewer averages than its checkpoint holds says so, and drops none of them in silence."""
    images = str(write_tiny_folder(tmp_path / "images"))
    train(tiny_config(tmp_path, dataset=images), observers=[EndAt(3, crash=False)])
    monkeypatch.setattr(setup, "build_averages", build_averages)
    with pytest.raises(UserError, match=rf"the checkpoint has .*{SECOND}.*; the run keeps ema, unet, optimizer"):
        resume(tmp_path / "run")
