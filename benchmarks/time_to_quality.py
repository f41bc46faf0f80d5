"""Held-out loss against time: the plain loop, with and without the bugs of the copied script, and our recipe.

    python benchmarks/time_to_quality.py --output_dir runs/time-to-quality --seeds 0 1 2

All train the same UNet on the same images, as many of them in total, and are scored on the same held-out tuples, in
time that is not counted. A result that is in its folder already is not computed again.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import plain_loop
import torch
from commands import int_of_at_least, run_all
from diffusers import UNet2DModel
from image_folders import write_arrays
from origin import origin, write_results
from time_to_quality_figure import draw_figure

from openddpm import api
from openddpm.config import TrainConfig
from openddpm.diffusion.denoiser import denoiser
from openddpm.record.schema import EvaluationRow, RunRecord
from openddpm.training import setup
from openddpm.training.observer import Observer
from openddpm.training.timetable import Timetable, make_timetable

RUNS = {
    "copied": ("plain loop with the bugs of the copied script", tuple(plain_loop.BUGS)),
    "plain": ("plain loop without them", ()),
    "ours": ("our recipe", None),
}
NUM_FIXED_SAMPLES = 288
NUM_REGULAR, NUM_EARLY = 40, 12  # evaluations of ours, the early ones ever closer to the start

Point = dict[str, float]
"""`images`, `seconds` of training, and the held-out losses `ema` and `raw`."""


def main() -> None:
    """Train what is missing, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="file for the numbers (default: in the output folder)")
    parser.add_argument("--figure", type=Path, help="file for the picture (default: in the output folder)")
    parser.add_argument("--recipe", default="avatars-16")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--total_images", type=int, help="to train on, repeats counted (default: the recipe's)")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--jobs", type=int_of_at_least(1), default=1, help="runs at a time, each on cores of its own")
    parser.add_argument("--run", choices=list(RUNS), help="train this one for the first seed, here and now")
    given = parser.parse_args()
    if given.run is not None:
        torch.set_num_threads(given.threads)
        train_one(given.run, _config(given, given.run, given.seeds[0]), given.output_dir)
        return
    wanted = {(name, seed): _config(given, name, seed) for seed in given.seeds for name in RUNS}
    missing = [key for key, config in wanted.items() if not _is_there(*key, config, given.output_dir)]
    commands = {f"{RUNS[name][0]}, seed {seed}": _command(given, name, seed) for name, seed in missing}
    run_all(commands, given.jobs, given.threads)
    runs = [json.loads(result_path(given.output_dir, name, seed).read_text()) for name, seed in wanted]
    results = {**origin(given.threads), "jobs": given.jobs, "recipe": given.recipe, **compare(runs), "runs": runs}
    write_results(results, given.results or given.output_dir / "time-to-quality.json")
    draw_figure(runs, {name: what for name, (what, _) in RUNS.items()}, given.figure or given.output_dir / "figure.png")
    print(json.dumps(results["medians"], indent=1))


def _config(given: argparse.Namespace, name: str, seed: int) -> TrainConfig:
    folder = given.output_dir / f"{name}-{seed}"
    config = TrainConfig(
        recipe=given.recipe,
        seed=seed,
        output_dir=str(folder / "run"),
        overwrite_output_dir=True,
        logging_dir=str(folder / "logs"),
        cache_dir=str(given.output_dir / "cache"),
    )
    if given.total_images is None:
        return config
    steps = given.total_images // config.global_batch_size(num_processes=1)
    return config.model_copy(update={"max_train_steps": steps})


def _command(given: argparse.Namespace, name: str, seed: int) -> list[str]:
    """Return the command that trains one run here and now."""
    command = [sys.executable, __file__, "--run", name, "--seeds", str(seed), "--recipe", given.recipe]
    command += ["--output_dir", str(given.output_dir), "--threads", str(given.threads)]
    return [*command, *(["--total_images", str(given.total_images)] if given.total_images else [])]


def _is_there(name: str, seed: int, config: TrainConfig, output_dir: Path) -> bool:
    path = result_path(output_dir, name, seed)
    return path.exists() and json.loads(path.read_text())["options"] == _options(config)


def _options(config: TrainConfig) -> dict[str, Any]:
    """Return what a result depends on."""
    return config.model_dump(exclude={"output_dir", "logging_dir", "cache_dir", "overwrite_output_dir"})


def result_path(output_dir: Path, name: str, seed: int) -> Path:
    """Return where the result of a run lies."""
    return output_dir / f"{name}-{seed}.json"


def train_one(name: str, config: TrainConfig, output_dir: Path) -> None:
    """Train one run, and write its result."""
    with patch.object(setup, "make_timetable", often_at_first):
        points = train_ours(config) if name == "ours" else train_plain(name, config)
    total_images = _total_images(config)
    result = {"name": name, "seed": config.seed, "total_images": total_images, "points": points}
    path = result_path(output_dir, name, config.seed)
    path.write_text(json.dumps({**result, "options": _options(config)}, indent=1) + "\n")


def often_at_first(config: TrainConfig, total_steps: int, num_train: int, num_processes: int) -> Timetable:
    """Return the timetable of a run with more evaluations, most of them early."""
    every = max(1, total_steps // NUM_REGULAR)
    early = sorted({round(every ** (number / NUM_EARLY)) for number in range(NUM_EARLY)})
    planned = make_timetable(config, total_steps, num_train, num_processes)
    return replace(planned, evaluation_steps=every, early_steps=tuple(early), num_fixed_samples=NUM_FIXED_SAMPLES)


class Points(Observer):
    """Notes losses and the time of training: all that a run takes from its first step on but for its evaluations."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._rows: list[EvaluationRow] = []
        self._start, self._evaluated = 0.0, 0.0

    def started(self, run: RunRecord, folder: Path) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def evaluated(self, row: EvaluationRow) -> None:
        """Keep a row until everything of its step is done."""
        self._rows.append(row)
        self._evaluated += row.seconds or 0.0

    def record_grown(self) -> None:
        """Note the step that was evaluated, if one was."""
        if self._rows:
            seconds = time.perf_counter() - self._start - self._evaluated
            losses = {row.weights: row.heldout_loss or math.nan for row in self._rows}
            self.points.append({"images": self._rows[0].images, "seconds": round(seconds, 3), **losses})
            self._rows = []


def train_ours(config: TrainConfig) -> list[Point]:
    """Train as the command does."""
    noted = Points()
    api.train(config, observers=[noted])
    return noted.points


def train_plain(name: str, config: TrainConfig) -> list[Point]:
    """Train with the plain loop, with its own learning rate and average, on the images that our recipe trains on."""
    training = setup.prepare(config)
    training.close()
    files = write_arrays(training.images[training.split.train], Path(config.output_dir).parent / "images")
    options = plain_loop.Options(
        images=plain_loop.image_files(files),
        unet={key: value for key, value in training.frozen_unet.config.items() if not key.startswith("_")},
        resolution=config.resolution,
        max_train_steps=_total_images(config) // plain_loop.Options.train_batch_size,
        random_flip=config.random_flip,
        seed=config.seed,
        switched=frozenset(RUNS[name][1] or ()),
    )
    points: list[Point] = []

    def evaluate(unet: UNet2DModel, ema: list[torch.Tensor], outcome: plain_loop.Outcome) -> None:
        raw = dict(unet.named_parameters())
        kinds = {"ema": dict(zip(raw, ema, strict=True)), "raw": raw}
        losses = {}
        for kind, weights in kinds.items():
            denoise = denoiser(training.frozen_unet, {**dict(unet.named_buffers()), **weights})
            errors = training.evaluation.squared_errors(denoise)
            row = training.evaluation.row(errors, kind, len(outcome.losses), outcome.num_images, seconds=0.0)
            losses[kind] = row.heldout_loss or math.nan
        points.append({"images": outcome.num_images, "seconds": round(outcome.seconds, 3), **losses})

    plain_loop.train(options, evaluate)
    return points


def _total_images(config: TrainConfig) -> int:
    assert config.max_train_steps is not None
    return config.max_train_steps * config.global_batch_size(num_processes=1)


def compare(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return, by seed, where each plain loop ends and how much sooner ours is there; and medians over the seeds."""
    by_key = {(run["name"], run["seed"]): run["points"] for run in runs}
    rows = []
    for (name, seed), points in by_key.items():
        if name != "ours":
            rows.append({"against": name, "seed": seed, **against(points, by_key["ours", seed])})
    medians = {
        name: {key: _median(chosen, key) for key in chosen[0] if key not in ("against", "seed")}
        for name in RUNS
        if (chosen := [row for row in rows if row["against"] == name])
    }
    return {"seeds": rows, "medians": medians}


def _median(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    """Return the median, with a loss that was never reached (None) as the slowest; None if half of them were not."""
    numbers = [row[key] for row in rows if row[key] is not None]
    never = [0.0 if key.startswith("ratio") else math.inf] * (len(rows) - len(numbers))
    return statistics.median([*numbers, *never]) if len(numbers) > len(never) else None


def against(plain: Sequence[Point], ours: Sequence[Point]) -> dict[str, Any]:
    """Return how much sooner ours has the loss at which a plain loop ends: by EMA weights, and by the better ones."""
    last = plain[-1]
    row: dict[str, Any] = {"plain_seconds": last["seconds"], "our_loss": ours[-1]["ema"]}
    for suffix, kinds in {"": ("ema",), "_of_the_better": ("ema", "raw")}.items():
        target = min(last[kind] for kind in kinds)
        seconds = seconds_to(target, ours, kinds)
        row |= {f"loss{suffix}": target, f"our_seconds{suffix}": seconds and round(seconds, 3)}
        row[f"ratio{suffix}"] = seconds and round(last["seconds"] / seconds, 2)
    return row


def seconds_to(target: float, points: Sequence[Point], kinds: Sequence[str] = ("ema",)) -> float | None:
    """Return when a loss was first reached, interpolated between evaluations in its logarithm; None if it never was."""
    rows = [(point["seconds"], min(point[kind] for kind in kinds)) for point in points]
    for number, (seconds, loss) in enumerate(rows):
        if loss <= target:
            if number == 0:
                return seconds
            before, higher = rows[number - 1]
            return before + (seconds - before) * float(np.log(higher / target) / np.log(higher / loss))
    return None


if __name__ == "__main__":
    main()
