"""Images a second on the CPU: the whole command of ours against the plain loop, alternating.

    python benchmarks/throughput.py --output_dir runs/throughput --results benchmarks/results/throughput-cpu.json

Both train the same UNet on the same images with the same batch and number of threads, and make their own previews.
Says besides what a step of ours is spent on. Let nothing else run.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import EPOCH_IMAGES, WINDOW_STEPS, Job, int_of_at_least, run_ours, run_plain
from image_folders import write_avatars, write_photos
from origin import origin, write_results
from step_profile import profile_in_a_process

UNET: dict[str, Any] = {
    "layers_per_block": 2,
    "block_out_channels": [32, 32, 64, 64],
    "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
}
TINY_UNET = {**UNET, "block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "layers_per_block": 1}
WARMUP_STEPS = 5
MIN_STEPS = WARMUP_STEPS + WINDOW_STEPS  # for one window
RATES = ("command_images_per_second", "images_per_second", "steps_images_per_second", "epoch_images_per_second")


@dataclass(frozen=True)
class Case:
    """Something to train on."""

    what: str
    resolution: int
    num_images: int
    steps: int
    write: Callable[[Path, int], Path]
    previews: bool = True
    rounds: int = 2


CASES = {
    "16x16": Case("avatars as PNG files of 16x16", 16, 2400, 50, write_avatars, rounds=3),
    "64x64": Case("the same files, at 64x64", 64, 2400, 20, write_avatars, previews=False),
    "photos": Case("JPEG files of 4000x3000, at 64x64", 64, 48, 20, write_photos, previews=False),
}


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="file for the numbers; a dry run writes to --output_dir")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int_of_at_least(1), help="of both commands (default: by case)")
    parser.add_argument("--steps", type=int_of_at_least(MIN_STEPS), help="of each run (default: by case)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dry_run", action="store_true", help="a tiny UNet for a few steps, to see that it runs")
    given = parser.parse_args()
    cases, profiled = {}, set()
    for name in given.cases:
        images, job = prepare_case(CASES[name], given.output_dir / name, given.threads, given.steps, given.dry_run)
        print(f"{name}: {images} images, {job.steps} steps", flush=True)
        rounds = given.rounds or CASES[name].rounds
        cases[name] = {"what": CASES[name].what, "num_images": images, **compare(job, given.output_dir, rounds)}
        if job.resolution not in profiled:
            profiled.add(job.resolution)
            cases[name]["step"] = profile_in_a_process(job, given.output_dir / "profile", given.dry_run)
    results = {**origin(given.threads), "dry_run": given.dry_run, "cases": cases}
    own = given.output_dir / "throughput-cpu.json"
    write_results(results, own if given.dry_run else given.results or own)


def prepare_case(
    case: Case, folder: Path, threads: int, steps: int | None = None, dry_run: bool = False
) -> tuple[int, Job]:
    """Write the images and the UNet's config of a case; return the number of images and what to train."""
    num_images = min(case.num_images, 24) if dry_run else case.num_images
    images = case.write(folder / f"images-{num_images}", num_images)
    unet = folder / "unet.json"
    unet.write_text(json.dumps(TINY_UNET if dry_run else UNET))
    warmup = 1 if dry_run else WARMUP_STEPS
    length = 10 if dry_run else steps or case.steps
    job = Job(
        *(images, unet, case.resolution, length, threads),
        warmup_steps=warmup,
        save_images_epochs=round(EPOCH_IMAGES / num_images),  # so far apart in a long run; one at the end
        previews=case.previews,
    )
    return num_images, job


def compare(job: Job, folder: Path, rounds: int) -> dict[str, Any]:
    """Run both commands in turn, another first in each round; return all runs, medians, and ratios within a round."""
    commands = {"plain": lambda: run_plain(job), "ours": lambda: run_ours(job, folder / "ours")}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in sorted(commands, reverse=number % 2 == 0):
            runs[name].append(commands[name]())
        told = {name: rows[-1]["steps_images_per_second"] for name, rows in runs.items()}
        print(f"  round {number + 1}: images/s of the steps, plain {told['plain']}, ours {told['ours']}", flush=True)
    medians = {name: median_row(rows) for name, rows in runs.items()}
    return {
        "resolution": job.resolution,
        "train_batch_size": job.train_batch_size,
        "steps": job.steps,
        "save_images_epochs": job.save_images_epochs,
        "rounds": rounds,
        **medians,
        "ratio": ratios(runs["ours"], runs["plain"]),
        "runs": runs,
    }


def median_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the median of each number, and what is no number as it is in the first row."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        name: round(statistics.median(values), 3) if all(isinstance(v, int | float) for v in values) else values[0]
        for name, values in columns.items()
    }


def ratios(ours: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return how many times as many images a second ours trains, by each way to count them, in rounds of both."""
    found = {}
    for name in RATES:
        by_round = sorted(own[name] / other[name] for own, other in zip(ours, plain, strict=True))
        spread = {"median": statistics.median(by_round), "least": by_round[0], "most": by_round[-1]}
        found[name] = {key: round(value, 3) for key, value in spread.items()}
    return found


if __name__ == "__main__":
    main()
