"""What the parts of a training step take on a CPU: forward, backward, clipping, optimizer, EMA, and the rest.

    python benchmarks/step_split.py --recipe avatars-16 --threads 1 2 --instructions native avx2 \
      --results benchmarks/results/step-split.json

Trains a recipe for a few steps in processes of their own, with one or more numbers of threads and instruction sets, in
turns. `avx2` stands for a processor without AVX-512 and bfloat16 units: PyTorch and its libraries are told to do
without.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from commands import int_of_at_least
from origin import origin, write_results

from openddpm.config import TrainConfig
from openddpm.training import loop, timetable
from openddpm.training.setup import prepare

INSTRUCTIONS = {
    "native": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}
PARTS = ("forward", "backward", "clip", "optimizer", "ema")


class Stopwatch:
    """Sums the seconds of the parts of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}

    def timing(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call`, its time noted as that of `part`."""

        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = call(*arguments, **options)
            self.seconds[part].append(time.perf_counter() - start)
            return result

        return timed


def split_of_a_step(config: TrainConfig, warmup: int) -> dict[str, float]:
    """Train as `config` says, and return the median milliseconds of each part over the steps after `warmup`."""
    watch = Stopwatch()
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(timetable, MAX_SHARE_OF_TIME=0.0, MAX_SHARE_FOR_A_TREND=0.0))
        training = prepare(config)
        state, accelerator = training.state, training.accelerator
        assert state.ema is not None
        for part, owner, name in (
            ("forward", loop, "micro_batch_loss"),
            ("backward", accelerator, "backward"),
            ("clip", accelerator, "clip_grad_norm_"),
            ("optimizer", state.optimizer, "step"),
            ("ema", state.ema, "step"),
        ):
            stack.enter_context(patch.object(owner, name, watch.timing(part, getattr(owner, name))))
        steps: list[float] = []
        set_rate = training.learning_rate_at

        def noting_the_time(step: int) -> float:  # asked for once a step, at its start
            steps.append(time.perf_counter())
            return set_rate(step)

        training.learning_rate_at = noting_the_time
        loop.fit(training)
    milliseconds = {part: 1000 * statistics.median(found[warmup:]) for part, found in watch.seconds.items()}
    whole = 1000 * statistics.median(b - a for a, b in zip(steps[warmup:], steps[warmup + 1 :], strict=False))
    return {**milliseconds, "rest": whole - sum(milliseconds.values()), "step": whole}


def measured(recipe: str, threads: int, instructions: str, steps: int) -> dict[str, float]:
    """Return the split of a step, measured in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--recipe",
        recipe,
        "--threads",
        str(threads),
        "--steps",
        str(steps),
        "--child",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **INSTRUCTIONS[instructions]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="avatars-16")
    parser.add_argument("--threads", type=int_of_at_least(1), nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--instructions", nargs="+", choices=list(INSTRUCTIONS), default=list(INSTRUCTIONS))
    parser.add_argument("--steps", type=int_of_at_least(10), default=40)
    parser.add_argument("--rounds", type=int_of_at_least(1), default=3)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        torch.set_num_threads(given.threads[0])
        with tempfile.TemporaryDirectory() as folder:
            config = TrainConfig(
                recipe=given.recipe,
                max_train_steps=given.steps,
                output_dir=f"{folder}/run",
                logging_dir=f"{folder}/logs",
                checkpointing_steps=1_000_000,
                save_images_epochs=1_000_000,
                eval_batch_size=1,
                num_inference_steps=1,
            )
            print(json.dumps(split_of_a_step(config, warmup=given.steps // 4)))
        return
    results: dict[str, Any] = {**origin(), "recipe": given.recipe, "rows": []}
    for threads in given.threads:
        for instructions in given.instructions:
            found = [measured(given.recipe, threads, instructions, given.steps) for _ in range(given.rounds)]
            row = {part: round(statistics.median(one[part] for one in found), 1) for part in found[0]}
            row |= {"optimizer_and_ema_share": round((row["optimizer"] + row["ema"]) / row["step"], 3)}
            results["rows"].append({"threads": threads, "instructions": instructions, **row})
            print(results["rows"][-1], flush=True)
    if given.results is not None:
        write_results(results, given.results)


if __name__ == "__main__":
    main()
