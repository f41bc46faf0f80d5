"""What checkpoints cost: the stall of one save, the steps beside it, and the share of the time at the default interval.

    python benchmarks/checkpoints.py --output_dir runs/checkpoints --results benchmarks/checkpoints.json

Trains the default UNet (231 million parameters; 12 GB of memory, 15 GB of disk) on tiny images, so that steps are
affordable, and then the demo, each with the loop, the checkpointer and the checkpoints of the product. Let nothing
else run.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from origin import origin

from openddpm.config import RunOptions, TrainConfig
from openddpm.record.schema import MetricsRow
from openddpm.training import checkpoint, loop
from openddpm.training.checkpointer import Checkpointer
from openddpm.training.observer import Observer
from openddpm.training.setup import prepare

DEFAULT_INTERVAL = RunOptions().checkpointing_steps

Span = tuple[float, float]
"""Start and end, in seconds of time.perf_counter."""


@dataclass
class Times(Observer):
    """When steps ended, and when training or the thread that saves was busy with a checkpoint."""

    steps: list[float] = field(default_factory=list)
    stalls: list[Span] = field(default_factory=list)
    copies: list[Span] = field(default_factory=list)
    writes: list[Span] = field(default_factory=list)

    def logged(self, row: MetricsRow) -> None:
        """Note the end of a step."""
        self.steps.append(time.perf_counter())


def timed(call: Callable[..., Any], spans: list[Span]) -> Callable[..., Any]:
    """Return `call`, noting when it was at work."""

    def calling(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            spans.append((start, time.perf_counter()))

    return calling


def main() -> None:
    """Train both, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="file for the numbers (default: in the output folder)")
    parser.add_argument("--model", default="default")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=40, help="steps between checkpoints of that model")
    parser.add_argument("--demo_steps", type=int, help="of the demo (default: all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder: Path = arguments.output_dir
    shared = {"logging_dir": str(folder / "logs"), "cache_dir": str(folder / "cache"), "logging_steps": 1}
    model = TrainConfig(
        **shared,
        output_dir=str(folder / "model"),
        model=arguments.model,
        resolution=16,
        train_batch_size=1,
        max_train_steps=arguments.steps,
        checkpointing_steps=arguments.every,
        save_images_epochs=1_000_000,
        num_inference_steps=1,
        eval_batch_size=1,
        overwrite_output_dir=True,
    )
    demo = TrainConfig(recipe="avatars-16", **{**shared, "output_dir": str(folder / "demo")}, overwrite_output_dir=True)
    if arguments.demo_steps:
        demo = demo.model_copy(update={"max_train_steps": arguments.demo_steps})
    images = list(np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8))
    results = {
        **origin(arguments.threads),
        arguments.model: measure(model, images),
        "avatars-16": measure(demo, None),
    }
    (arguments.results or folder / "checkpoints.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def measure(config: TrainConfig, images: Any) -> dict[str, Any]:
    """Train, and return how long steps, stalls, copies and writes took."""
    times = Times()
    training = prepare(config, dataset=images, observers=[times])
    parameters = sum(parameter.numel() for parameter in training.state.unet.parameters())
    with (
        patch.object(Checkpointer, "save", timed(Checkpointer.save, times.stalls)),
        patch.object(Checkpointer, "save_last", timed(Checkpointer.save_last, times.stalls)),
        patch.object(Checkpointer, "_copy", timed(Checkpointer._copy, times.copies)),
        patch.object(Checkpointer, "_write", timed(Checkpointer._write, times.writes)),
    ):
        start = time.perf_counter()
        loop.fit(training)
        seconds = time.perf_counter() - start
    newest = checkpoint.list_checkpoints(Path(config.output_dir))[-1]
    result = {
        "parameters": parameters,
        "checkpoint_bytes": sum(path.stat().st_size for path in newest.iterdir()),
        "steps": config.max_train_steps,
        "checkpointing_steps": config.checkpointing_steps,
        "run_seconds": round(seconds, 1),
        **summary(times, seconds),
    }
    shutil.rmtree(config.output_dir)
    return result


def summary(times: Times, seconds: float) -> dict[str, Any]:
    """Return medians, and the share of the run that was lost to checkpoints.

    Lost are the stalls of training, and what steps beside a background save take longer than others. The last save,
    which nothing is left to be done beside, is given for itself.
    """
    *background, last = times.stalls
    beside, apart = [], []
    for before, end in pairwise(times.steps):
        start = max([before, *(over for _, over in times.stalls if before <= over < end)])
        is_beside = any(start < written and begun < end for begun, written in times.writes)
        (beside if is_beside else apart).append(end - start)
    step = statistics.median(apart)
    stall = statistics.median(end - start for start, end in background) if background else 0.0
    slowdown = (statistics.median(beside) - step) * len(beside) / len(background) if background and beside else 0.0
    lost = sum(end - start for start, end in background) + slowdown * len(background)
    return {
        "step_seconds": round(step, 4),
        "step_seconds_beside_a_save": round(statistics.median(beside), 4) if beside else None,
        "first_copy_seconds": round(times.copies[0][1] - times.copies[0][0], 3),
        "copy_seconds": round(statistics.median(end - start for start, end in times.copies[1:] or times.copies), 3),
        "stall_seconds": round(stall, 3),
        "write_seconds": round(statistics.median(end - start for start, end in times.writes), 3),
        "last_save_seconds": round(last[1] - last[0], 3),
        "lost_seconds_a_save": round(stall + slowdown, 3),
        "lost_share_of_this_run": round(lost / seconds, 5),
        "lost_share_at_default_interval": round((stall + slowdown) / (DEFAULT_INTERVAL * step), 5),
    }


if __name__ == "__main__":
    main()
