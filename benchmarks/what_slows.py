"""What common bugs of training scripts cost, each alone and together: the same images, seed and model.

    python benchmarks/what_slows.py --output_dir runs/what-slows

A run that is in its folder already is not trained again. Writes the numbers as JSON, draws the figures of
docs/what-slows-ddpm-training.md, and prints its table.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from bugs import COMMON, COPIED_SCRIPT, OTHER_DRAWS, Bug, train_with
from digits import write_digits
from what_slows_figures import draw_figures

from openddpm.config import TrainConfig
from openddpm.observers.display import Display
from openddpm.observers.report import ReportObserver
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.training import timetable

OPTIONS: dict[str, Any] = {
    "resolution": 8,
    "model": "unet-16",
    "random_flip": False,
    "num_epochs": 14,
    "learning_rate": 5e-4,
    "lr_warmup_steps": 100,
    "num_inference_steps": 20,
    "save_images_epochs": 1,  # when the copied script's bugs happen
    "checkpointing_steps": 1_000_000,  # at the end only
}

TIMETABLE: dict[str, Any] = {
    "MAX_SHARE_OF_TIME": 0.3,
    "FIXED_SAMPLE_COUNTS": (288,),
}  # bugs are told apart by more than a run affords

RUNS: dict[str, tuple[str, Sequence[Bug]]] = {
    "none": ("none", []),
    **{bug.name: (bug.what, [bug]) for bug in (OTHER_DRAWS, *COMMON)},
    "copied-script": ("the first three: the copied script", COPIED_SCRIPT),
    "all": ("all seven", COMMON),
}


def main() -> None:
    """Train what is missing; write results and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, help="folder for the figures (default: the output folder)")
    parser.add_argument(
        "--results", type=Path, help="file for the numbers (default: results.json in the output folder)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    output_dir: Path = arguments.output_dir
    config = TrainConfig(
        dataset=str(write_digits(output_dir / "data" / "digits-8")), logging_dir=str(output_dir / "logs"), **OPTIONS
    )
    for name, (_, bugs) in RUNS.items():
        _train(config, bugs, output_dir / name)
    folders = {name: read_run_folder(output_dir / name) for name in RUNS}
    rows = [_row(what, folders[name]) for name, (what, _) in RUNS.items()]
    results = {**_origin(folders["none"]), "runs": rows}
    (arguments.results or output_dir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(_markdown(rows))
    draw_figures({what: folders[name] for name, (what, _) in RUNS.items()}, rows, arguments.pictures or output_dir)


def _train(config: TrainConfig, bugs: Sequence[Bug], folder: Path) -> None:
    if (folder / "run.json").exists() and read_run_folder(folder).run.status == "finished":
        return
    own = {"output_dir": str(folder), "overwrite_output_dir": True}
    with patch.multiple(timetable, **TIMETABLE):
        train_with(config.model_copy(update=own), bugs, [Display(), ReportObserver()])


def _row(what: str, found: RunFolder) -> dict[str, Any]:
    """Return a run in numbers: the training loss as the script prints it, over the last epoch, and what it hides."""
    last_epoch = [row.train_loss for row in found.metrics if row.epoch > found.metrics[-1].epoch - 1]
    ema, raw = ([row for row in found.evaluations if row.weights == weights][-1] for weights in ("ema", "raw"))
    return {
        "bug": what,
        "printed_loss": sum(last_epoch) / len(last_epoch),
        "heldout_loss_ema": ema.heldout_loss,
        "heldout_loss_raw": raw.heldout_loss,
        "skill_ema": ema.skill,
        "skill_raw": raw.skill,
        "skill_error": ema.skill_error,
        "images_to_skill_0": _images_to_skill_0(found),
        "bands_ema": {band: score.model_dump() for band, score in ema.bands.items()},
        "images": ema.images_seen,
        "wall_seconds": found.metrics[-1].wall_seconds,
    }


def _images_to_skill_0(found: RunFolder) -> int | None:
    """Return when the EMA weights first were as good as a linear denoiser, interpolated; None if they never were."""
    rows = [(row.images_seen, row.skill) for row in found.evaluations if row.weights == "ema" and row.skill is not None]
    for (images, skill), (next_images, next_skill) in pairwise(rows):
        if skill < 0 <= next_skill:
            return round(images + (next_images - images) * skill / (skill - next_skill))
    return None


def _origin(found: RunFolder) -> dict[str, Any]:
    """Return what the results depend on."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    run = found.run
    return {
        "commit": commit.stdout.strip(),
        "environment": run.session.environment.model_dump(exclude={"platform"}),
        "seed": run.seed,
        "dataset": run.dataset.model_dump(),
        "num_parameters": run.model.num_parameters,
        "options": OPTIONS,
    }


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| bug | training loss, as printed | held-out loss, EMA | skill, EMA | skill, raw | images to skill 0 |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = [f"{row[key]:.3f}" for key in ("printed_loss", "heldout_loss_ema")]
        skills = [f"{row[key]:+.2f}" for key in ("skill_ema", "skill_raw")]
        images = row["images_to_skill_0"]
        lines.append("| " + " | ".join([row["bug"], *numbers, *skills, f"{images:,}" if images else "never"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
