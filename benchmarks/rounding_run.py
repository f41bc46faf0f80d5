"""A run, or an evaluation of its weights, in a process of its own: benchmarks/rounding.py compares what they give.

python benchmarks/rounding_run.py '{"do": "train", "folder": "runs/a", "options": {"recipe": "digits-8"}, ...}'
"""

import io
import json
import sys
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparing import SAME_SEED
from safetensors.torch import load_file, save_file

from openddpm.config import TrainConfig, recorded_config, resuming_config
from openddpm.diffusion.denoiser import denoiser
from openddpm.evaluation.previews import draw_preview
from openddpm.record.files import link_or_copy, write_json
from openddpm.record.reader import read_run_folder
from openddpm.training.checkpoint import checkpoint_step, weights_files
from openddpm.training.loop import fit
from openddpm.training.run import Training
from openddpm.training.setup import prepare
from openddpm.training.state import weights_stem
from openddpm.training.timetable import Timetable
from openddpm.verification.materials import open_recorded_images, prepare_measuring

QUIET: dict[str, Any] = {
    **{"follow": "none", "report_to": "none", "logging_steps": 1},
    **{"checkpointing_steps": 1_000_000, "checkpoints_total_limit": 1_000},
}
SOLVERS = {"dpmsolver++ in 15 steps": ("dpmsolver++", 15), "ddim in 50 steps": ("ddim", 50)}


def main() -> None:
    """Do what the only argument says, as JSON."""
    job = json.loads(sys.argv[1])
    with redirect_stderr(io.StringIO()):
        if job.pop("do") == "train":
            train(**job)
        else:
            measure(**job)


def train(
    folder: str, options: dict[str, Any], last: int, wanted: list[int], checkpoint: str | None, fault: str | None
) -> None:
    """Train up to a step, logging each, and evaluate and save the weights of some.

    Args:
        wanted: steps whose weights to evaluate and to save.
        checkpoint: what to start from, in the folder of a run; None for the seed.
        fault: name of a fault in the middle of the whole run, of benchmarks/comparing.py.
    """
    if checkpoint is None:
        config = TrainConfig(**options, **QUIET, output_dir=folder)
    else:
        config = _resuming(Path(checkpoint), Path(folder), options)
    training = prepare(config, times_steps=False)
    with ExitStack() as stack:
        for bug in SAME_SEED[fault].bugs if fault else ():
            stack.enter_context(bug.inject_into(training))
        if checkpoint is None:
            _keep_initial(training, Path(folder))
        _measure_at(training, wanted, last)
        fit(training)


def measure(run: str, checkpoints: list[str], into: str, options: dict[str, Any]) -> None:
    """Evaluate weights and draw previews with them, and measure the baselines.

    Args:
        options: that replace those of the run.
    """
    record, target = read_run_folder(Path(run)), Path(into)
    target.mkdir(parents=True)
    changed = record.run.model_copy(update={"config": {**record.run.config, **options}})
    measuring = prepare_measuring(changed, open_recorded_images(changed, None, is_fetched=False), torch.device("cpu"))
    rows, pictures = {}, {}
    for checkpoint in map(Path, checkpoints):
        step = checkpoint_step(checkpoint)
        for name, file in weights_files(path.name for path in checkpoint.iterdir()).items():
            denoise = denoiser(measuring.frozen_unet, load_file(checkpoint / file))
            row = measuring.evaluation.row(measuring.evaluation.squared_errors(denoise), name, step, 0, 0.0)
            rows[f"{step} {name}"] = row.model_dump()
            for solver, (short, steps) in SOLVERS.items():
                config = recorded_config(changed.config, preview_solver=short, num_inference_steps=steps)
                shape = record.run.dataset.image_shape
                picture = draw_preview(denoise, measuring.process, config, shape, measuring.device)
                pictures[f"{step} {name} {solver}"] = picture
    np.savez(target / "previews.npz", **pictures)
    write_json(target / "measured.json", {"rows": rows, "baselines": measuring.baselines.model_dump()})


def _keep_initial(training: Training, folder: Path) -> None:
    """Keep the weights that a run begins with."""
    (folder / "initial").mkdir()
    for name, weights in training.state.weights().items():
        content = {key: tensor.detach().clone() for key, tensor in weights.items()}
        save_file(content, folder / "initial" / f"{weights_stem(name)}.safetensors")


def _resuming(checkpoint: Path, folder: Path, options: dict[str, Any]) -> TrainConfig:
    """Write a run folder that holds a checkpoint alone, and return the config that goes on from it."""
    record = read_run_folder(checkpoint.parents[1])
    folder.mkdir()
    run = record.run.model_copy(update={"status": "interrupted"})
    write_json(folder / "run.json", run.model_dump())
    copy = folder / "checkpoints" / checkpoint.name
    copy.mkdir(parents=True)
    for path in checkpoint.iterdir():
        link_or_copy(path, copy / path.name)
    return resuming_config(record.run.config, str(folder), accept_changes=True, **options)


@dataclass(frozen=True)
class _Measured(Timetable):
    """A timetable that evaluates and saves at some steps, and draws no previews."""

    wanted: frozenset[int] = frozenset()

    def is_evaluation(self, step: int) -> bool:
        """Tell whether the weights are evaluated after `step` steps."""
        return step in self.wanted

    def is_preview(self, step: int) -> bool:
        """Tell that there are no previews."""
        return False

    def is_checkpoint(self, step: int) -> bool:
        """Tell whether there is a checkpoint after `step` steps."""
        return step in self.wanted


def _measure_at(training: Training, wanted: list[int], last: int) -> None:
    """Let a run end at a step, and measure at others; its learning rate stays that of the whole run."""
    values = {field.name: getattr(training.timetable, field.name) for field in fields(Timetable)}
    training.timetable = _Measured(**{**values, "total_steps": last}, wanted=frozenset(wanted))
    checkpointer = training.checkpointer

    def wait_for_the_last(step: int) -> bool:
        checkpointer.collect(wait=True)
        return True

    checkpointer.may_save = wait_for_the_last  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
