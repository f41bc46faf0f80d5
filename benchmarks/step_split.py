"""What the parts of a training step take on a CPU: forward, backward, clipping, optimizer, EMA, and the rest.

    python benchmarks/step_split.py --recipe avatars-16 --results benchmarks/results/step-split.json

Trains a recipe for a few steps in processes of their own, in turns: with one and with more threads, with all
instructions that the processor has and without AVX-512 and bfloat16 (`avx2`: PyTorch and its libraries are told to do
without), and with Muon as it is and as its library has it, in bfloat16.
"""

import argparse
import itertools
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

import pytorch_optimizer
import torch
from commands import int_of_at_least
from origin import origin, write_results

from openddpm.config import TrainConfig
from openddpm.training import loop, muon, timetable
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
        for part, owner, name in (
            ("forward", loop, "micro_batch_loss"),
            ("backward", accelerator, "backward"),
            ("clip", accelerator, "clip_grad_norm_"),
            ("optimizer", state.optimizer, "step"),
            ("ema", state.averages["ema"], "step"),
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


def measured(recipe: str, threads: int, instructions: str, muon_in: str, steps: int) -> dict[str, float]:
    """Return the split of a step, measured in a process of its own."""
    command = [sys.executable, __file__, "--child", "--recipe", recipe, "--threads", str(threads)]
    command += ["--muon_in", muon_in, "--steps", str(steps)]
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
    parser.add_argument("--muon_in", nargs="+", choices=("bfloat16", "float32"), default=["bfloat16", "float32"])
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
            with ExitStack() as stack:
                if given.muon_in == ["bfloat16"]:
                    library = staticmethod(pytorch_optimizer.Muon._orthogonalize)
                    stack.enter_context(patch.object(muon.Muon, "_orthogonalize", library))
                print(json.dumps(split_of_a_step(config, warmup=given.steps // 4)))
        return
    results: dict[str, Any] = {**origin(max(given.threads)), "recipe": given.recipe, "rounds": given.rounds, "rows": []}
    cases = list(itertools.product(given.threads, given.instructions, given.muon_in))
    found: dict[tuple[int, str, str], list[dict[str, float]]] = {case: [] for case in cases}
    for case in cases * given.rounds:
        found[case].append(measured(given.recipe, *case, given.steps))
        threads, instructions, muon_in = case
        print(f"{threads} threads, {instructions}, Muon in {muon_in}: {found[case][-1]['step']:.0f} ms", flush=True)
    for (threads, instructions, muon_in), splits in found.items():
        row = {part: round(statistics.median(split[part] for split in splits), 1) for part in splits[0]}
        share = round((row["optimizer"] + row["ema"]) / row["step"], 3)
        named = {"threads": threads, "instructions": instructions, "muon_in": muon_in}
        results["rows"].append({**named, **row, "optimizer_and_ema_share": share})
    if given.results is not None:
        write_results(results, given.results)


if __name__ == "__main__":
    main()
