"""How often `openddpm compare` finds a run outside of the reference digits-8: of fresh seeds, and of planted changes.

    python benchmarks/comparing.py --output_dir runs/comparing

Coverage: fresh seeds should be inside 19 times in 20. Power: each planted change, with three seeds. Last, runs with a
seed of the reference and a bug from the middle on. A run that is in its folder already is not trained again. Writes the
numbers as JSON and prints the tables of docs/follow.md.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from bugs import EMA_COPIED, RANDOM_RESET, SCHEDULE, Bug, train_with
from origin import origin

from openddpm.comparison.compare import compare
from openddpm.config import TrainConfig
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.references import open_reference
from openddpm.training.run import Training

REFERENCE = "digits-8"
FRESH_SEEDS, CHANGED_SEEDS = range(100, 120), range(200, 203)
BUG_AT = 0.5  # of the run


@dataclass(frozen=True)
class Change:
    """Something planted into runs with fresh seeds."""

    what: str
    options: dict[str, Any] = field(default_factory=dict)
    bugs: Sequence[Bug] = ()


@contextmanager
def _half_the_data(training: Training) -> Iterator[None]:
    """Draw training images from the first half alone; the held-out images stay."""
    images_of = training.stream.image_indices
    half = training.split.train[: len(training.split.train) // 2]
    training.stream.image_indices = lambda start, count: half[images_of(start, count) % len(half)]  # type: ignore[method-assign]
    yield


HALF_DATA = Bug("half-data", "half of the training images", _half_the_data)


@contextmanager
def _learning_rate_off(training: Training) -> Iterator[None]:
    """Apply a learning rate that is 1 % too high from the middle on; the log shows the right one."""
    step, middle = training.state.optimizer.step, int(BUG_AT * training.total_steps)

    def stepped(*arguments: Any, **options: Any) -> Any:
        groups = training.state.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        if training.state.step >= middle:
            for group in groups:
                group["lr"] *= 1.01
        done = step(*arguments, **options)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        return done

    training.state.optimizer.step = stepped
    yield


@contextmanager
def _one_wrong_batch(training: Training) -> Iterator[None]:
    """Train on the images of another step, once, in the middle."""
    images_of, middle = training.stream.image_indices, int(BUG_AT * training.total_steps) * training.global_batch_size
    far = 1_000 * training.global_batch_size
    training.stream.image_indices = lambda start, count: images_of(start + far * (start == middle), count)  # type: ignore[method-assign]
    yield


PLANTED = {
    "rate-x3": Change("learning rate x 3", {"learning_rate": 2.4e-2}),
    "rate-third": Change("learning rate / 3", {"learning_rate": 8e-3 / 3}),
    "no-ema": Change("EMA off", {"use_ema": False}),
    "epsilon": Change("Adam epsilon 1e-3, of what Muon leaves to AdamW", {"adam_epsilon": 1e-3}),
    "ema-copied": Change("EMA copied into the live model at every preview", bugs=[EMA_COPIED]),
    "random-reset": Change("random numbers reset every epoch", bugs=[RANDOM_RESET]),
    "schedule": Change("schedule that forgets accumulation", bugs=[SCHEDULE]),
    "flips": Change("flips", {"random_flip": True}),
    "batch-x4": Change("batch x 4, as many images", {"train_batch_size": 128, "max_train_steps": 200}),
    "half-data": Change("half of the training images", bugs=[HALF_DATA]),
    "bf16": Change("bfloat16", {"mixed_precision": "bf16"}),
    "wider": Change("another UNet (unet-16)", {"model": "unet-16"}),
    "adamw": Change("AdamW for Muon, learning rate 4e-3", {"optimizer": "adamw", "learning_rate": 4e-3}),
}
SAME_SEED = {
    "same-seed": Change("nothing"),
    "wrong-batch": Change("one wrong batch", bugs=[Bug("wrong-batch", "one wrong batch", _one_wrong_batch)]),
    "rate-off": Change(
        "learning rate 1 % too high from there on, the log being right",
        bugs=[Bug("rate-off", "learning rate off by 1 %", _learning_rate_off)],
    ),
}


def main() -> None:
    """Train what is missing, compare, write the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--results", type=Path, help="file for the numbers (default: results.json in the output folder)"
    )
    parser.add_argument("--only", nargs="*", help="names of changes to train and compare (default: all, and coverage)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, only = arguments.output_dir, arguments.only
    rows = []
    plans = [("fresh", Change("nothing"), FRESH_SEEDS)]
    plans += [(name, change, CHANGED_SEEDS) for name, change in PLANTED.items()]
    plans += [(name, change, range(1)) for name, change in SAME_SEED.items()]
    for name, change, seeds in plans:
        if only is None or name in only:
            runs = [_trained(change, folder / f"{name}-{seed}", seed) for seed in seeds]
            rows.append(_row(name, change, runs))
            print(_line(rows[-1]), flush=True)
    results = arguments.results or folder / "results.json"
    results.write_text(json.dumps({**origin(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _trained(change: Change, folder: Path, seed: int) -> RunFolder:
    if not (folder / "run.json").exists() or read_run_folder(folder).run.status != "finished":
        options = {"recipe": REFERENCE, "seed": seed, "output_dir": str(folder), "overwrite_output_dir": True}
        options |= {"report_to": "none", "checkpointing_steps": 1_000_000, "follow": "none", **change.options}
        train_with(TrainConfig(**options), change.bugs)
    return read_run_folder(folder)


def _row(name: str, change: Change, runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Return how runs with a change compare with the reference."""
    reference, start = open_reference(REFERENCE).runs, time.perf_counter()
    answers = [compare(run, reference).answer() for run in runs]
    seconds = (time.perf_counter() - start) / len(runs)
    return {
        "name": name,
        "what": change.what,
        "runs": len(runs),
        "verdicts": [answer["verdict"] for answer in answers],
        "left_band_at": [answer["left_band_at"] for answer in answers],
        "first_difference": [answer["first_difference"] for answer in answers],
        "first_explanation": [
            answer["explanations"][0]["name"] if answer["explanations"] else None for answer in answers
        ],
        "sentence": answers[0]["sentence"],
        "detectable": answers[0]["detectable"],
        "seconds_a_comparison": round(seconds, 3),
    }


def _line(row: dict[str, Any]) -> str:
    """Return a row of the table of docs/follow.md."""
    outside = sum(verdict not in ("inside", "same_bits", "same_run") for verdict in row["verdicts"])
    left = sorted(images for images in row["left_band_at"] if images is not None)
    where = f"{left[0]:,} to {left[-1]:,}" if left else ""
    first = ", ".join(sorted({str(name) for name in row["first_explanation"]}))
    return f"| {row['what']} | {outside} of {row['runs']} | {where} | {first} |"


if __name__ == "__main__":
    main()
