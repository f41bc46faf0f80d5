"""Ten troubled runs and three healthy ones, trained for real, and what the verdict says of each.

    python benchmarks/troubled_runs.py --output_dir runs/verdicts --user_dataset MORE.parquet
    python benchmarks/troubled_runs.py --output_dir runs/verdicts --judge

A run that is in its folder already is not trained again; `--judge` only reads records.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bugs
import torch
from bugs import Bug, train_with
from digits import write_digits

from openddpm.analysis.verdict import judge
from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.observers.display import Display
from openddpm.observers.report import ReportObserver
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import Verdict

SMALL_UNET_32 = {
    "block_out_channels": [16, 32, 64, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 32,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"],
}

AVATARS: dict[str, Any] = {"recipe": "avatars-16", "max_train_steps": 1500, "eval_batch_size": 16}
DIGITS: dict[str, Any] = {
    "dataset": "digits-8",
    "resolution": 8,
    "model": "unet-16",
    "random_flip": False,
    "max_train_steps": 1500,
    "learning_rate": 2e-3,
    "lr_warmup_steps": 100,
    "ema_max_decay": 0.999,
    "num_inference_steps": 20,
    "save_images_epochs": 1,
}
OWN: dict[str, Any] = {
    "dataset": "own",
    "resolution": 32,
    "model": "small-unet-32",
    "max_train_steps": 1500,
    "learning_rate": 2e-3,
    "lr_warmup_steps": 100,
    "ema_max_decay": 0.999,
    "num_inference_steps": 20,
    "save_images_epochs": 1,
}


@dataclass(frozen=True)
class Run:
    """A run to train and to judge."""

    name: str
    trouble: str
    """What ails it; empty for a healthy run."""
    options: dict[str, Any]
    bugs: Sequence[Bug] = field(default=())


RUNS = (
    Run("healthy-avatars", "", AVATARS),
    Run("healthy-digits", "", DIGITS),
    Run("healthy-own", "", OWN),
    Run("rate-times-100", "learning rate x 100", {**DIGITS, "learning_rate": DIGITS["learning_rate"] * 100}),
    Run("rate-over-1000", "learning rate / 1000", {**DIGITS, "learning_rate": DIGITS["learning_rate"] / 1000}),
    Run("adam-epsilon", "Adam epsilon 1e-3", DIGITS, [bugs.ADAM_EPSILON]),
    Run("random-reset", "noise replayed every epoch", DIGITS, [bugs.RANDOM_RESET]),
    Run("ema-copied-back", "EMA copied back every epoch", DIGITS, [bugs.EMA_COPIED]),
    Run(
        "64-images",
        "64 images for long",
        {**DIGITS, "dataset": "digits-8-first-64", "max_train_steps": 3000, "save_images_epochs": 40},
    ),
    Run("targets-swapped", "noise targets swapped", {**DIGITS, "max_train_steps": 800}, [bugs.SWAPPED]),
    Run("half-noising", "noising in bfloat16", DIGITS, [bugs.HALF_NOISING]),
    Run("ema-no-warm-up", "EMA 0.9999 without warm-up", {**DIGITS, "max_train_steps": 300}, [bugs.EMA_AT_ONCE]),
    Run("frozen", "weights that never change", {**DIGITS, "max_train_steps": 800}, [bugs.FROZEN]),
)


def main() -> None:
    """Train what is missing and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--only", help="name of the one run to train", choices=[run.name for run in RUNS])
    parser.add_argument("--user_dataset", help="--dataset of the run healthy-own; without it that run is left out")
    parser.add_argument("--judge", action="store_true", help="train nothing, only read the records")
    arguments = parser.parse_args()
    if not arguments.judge:
        torch.set_num_threads(1)
        for run in RUNS:
            if arguments.only in (None, run.name) and (run.options is not OWN or arguments.user_dataset):
                _train(run, arguments.output_dir, arguments.user_dataset)
    _print_verdicts(arguments.output_dir)


def _train(run: Run, output_dir: Path, user_dataset: str | None) -> None:
    folder = output_dir / run.name
    if (folder / "run.json").exists() and read_run_folder(folder).run.status in ("finished", "failed"):
        return
    options = {
        **run.options,
        "output_dir": str(folder),
        "overwrite_output_dir": True,
        "logging_dir": str(output_dir / "logs"),
        "checkpointing_steps": 1_000_000,  # at the end only
    }
    _lay_out(options, output_dir, user_dataset)
    try:
        train_with(TrainConfig(**options), run.bugs, [Display(), ReportObserver()])
    except UserError as error:  # what a loss that is no longer a number ends with
        print(error)


def _lay_out(options: dict[str, Any], output_dir: Path, user_dataset: str | None) -> None:
    """Write the files that the names of a data set and a model stand for, and put their paths in place."""
    if options.get("dataset") == "own":
        options["dataset"] = user_dataset
    elif str(options.get("dataset")).startswith("digits-8"):
        count = 64 if options["dataset"] == "digits-8-first-64" else None
        options["dataset"] = str(write_digits(output_dir / "data" / options["dataset"], count))
    if options.get("model") == "small-unet-32":
        path = output_dir / "data" / "small-unet-32.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(SMALL_UNET_32))
        options["model"] = str(path)


def _print_verdicts(output_dir: Path) -> None:
    for run in RUNS:
        if (output_dir / run.name / "run.json").exists():
            verdict = _verdict(output_dir / run.name)
            print(f"{run.name:16} {run.trouble or 'nothing':26} {verdict.code:12} {verdict.sentence}")


def _verdict(folder: Path) -> Verdict:
    found = read_run_folder(folder)
    return judge(found.run, found.metrics, found.evaluations, found.baselines, found.samples)


if __name__ == "__main__":
    main()
