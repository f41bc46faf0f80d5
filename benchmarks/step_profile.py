"""What a step of ours is spent on, on the CPU: kinds of operations, waiting for data, and the share of the peak.

    python benchmarks/step_profile.py --images FOLDER --unet CONFIG.json --resolution 16 --output_dir runs/profile

Trains with the loop of the product, in three stretches of steps: timed; with the batches timed; under a profiler.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from commands import Job, run

from openddpm.config import TrainConfig
from openddpm.data.stream import BatchStream
from openddpm.record.schema import MetricsRow
from openddpm.training import timetable
from openddpm.training.loop import fit
from openddpm.training.observer import Observer
from openddpm.training.setup import prepare

KINDS = {
    "convolution": ("conv",),
    "attention": ("scaled_dot_product", "flash_attention", "bmm", "softmax"),
    "matrix products": ("addmm", "::mm", "linear", "gemm"),
    "normalization": ("norm",),
    "optimizer and EMA": ("_foreach", "fused_adam", "addcdiv", "addcmul", "lerp", "optimizer"),
}
"""By parts of an operation's name, the first that fits; the rest is elementwise work, copies and Python."""
INSIDE = ("convolution", "attention", "matrix products")  # what no loop can save


class Stretches(Observer):
    """Times and profiles stretches of steps; the loop announces each."""

    def __init__(self, warmup: int, length: int) -> None:
        self.ends = [warmup + length * number for number in range(4)]
        self.seconds: list[float] = []
        self.data_seconds = 0.0
        self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
        self._stretch, self._start = -1, 0.0

    def logged(self, row: MetricsRow) -> None:
        """Go to the next stretch, if a step ends this one."""
        if row.step not in self.ends:
            return
        self.seconds.append(time.perf_counter() - self._start)
        self._stretch += 1
        if self._stretch == 2:
            self.profiler.start()
        elif self._stretch == 3:
            self.profiler.stop()
        self._start = time.perf_counter()

    def timing(self, micro_batch: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Return `micro_batch`, noting the time it takes in the second stretch."""

        def timed(*arguments: Any) -> torch.Tensor:
            if self._stretch != 1:
                return micro_batch(*arguments)
            start = time.perf_counter()
            images = micro_batch(*arguments)
            self.data_seconds += time.perf_counter() - start
            return images

        return timed


def profile(config: TrainConfig, warmup: int, length: int, peak_size: int) -> dict[str, Any]:
    """Train for a few steps, and return what they were spent on."""
    stretches = Stretches(warmup, length)
    config = config.model_copy(update={"max_train_steps": warmup + 3 * length, "logging_steps": 1})
    timed = stretches.timing(BatchStream.micro_batch)
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(timetable, MAX_SHARE_OF_TIME=0.0, MAX_SHARE_FOR_A_TREND=0.0))
        stack.enter_context(patch.object(BatchStream, "micro_batch", timed))
        training = prepare(config, observers=[stretches])
        gflops = training.recorder.run.model.gflops_per_image or 0.0
        fit(training)
    step_seconds = stretches.seconds[1] / length
    kinds = by_kind(stretches.profiler.key_averages())
    peak = matmul_tflops(peak_size)
    reached = gflops * training.global_batch_size / step_seconds / 1000
    return {
        "step_seconds": round(step_seconds, 5),
        "images_per_second": round(training.global_batch_size / step_seconds, 2),
        "shares": kinds,
        "outside_share": round(1 - sum(kinds.get(kind, 0.0) for kind in INSIDE), 4),
        "data_share": round(stretches.data_seconds / length / step_seconds, 5),
        "tflops": round(reached, 4),
        "matmul_tflops": round(peak, 4),
        "share_of_matmul_peak": round(reached / peak, 4),
    }


def by_kind(averages: Any) -> dict[str, float]:
    """Return the share of each kind of operation in the time of all."""
    totals: dict[str, float] = {}
    for entry in averages:
        spent = entry.self_cpu_time_total
        name = entry.key.lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")
        totals[kind] = totals.get(kind, 0.0) + spent
    whole = sum(totals.values()) or 1.0
    return {kind: round(spent / whole, 4) for kind, spent in sorted(totals.items(), key=lambda item: -item[1])}


def matmul_tflops(size: int, rounds: int = 5) -> float:
    """Return the best rate of the product of two square float32 matrices."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(rounds + 2):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


def profile_in_a_process(job: Job, folder: Path, dry_run: bool = False, options: str = "{}") -> dict[str, Any]:
    """Profile the steps of a job in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, __file__, "--images", str(job.images), "--unet", str(job.unet), "--options", options]
    command += ["--resolution", str(job.resolution), "--train_batch_size", str(job.train_batch_size)]
    command += ["--output_dir", str(folder), "--threads", str(job.threads), *(["--dry_run"] if dry_run else [])]
    return dict(json.loads(run(command, job.threads).output.splitlines()[-1]))


def main() -> None:
    """Profile as the command line asks, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--unet", required=True)
    parser.add_argument("--resolution", type=int, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--train_batch_size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=5, help="of each stretch")
    parser.add_argument("--options", type=json.loads, default={}, help="more options of TrainConfig, as JSON")
    parser.add_argument("--dry_run", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = TrainConfig(
        dataset=given.images,
        model=given.unet,
        resolution=given.resolution,
        train_batch_size=given.train_batch_size,
        output_dir=str(given.output_dir / "run"),
        cache_dir=str(given.output_dir / "cache"),
        overwrite_output_dir=True,
        save_images_epochs=1_000_000,
        checkpointing_steps=1_000_000,
        eval_batch_size=1,
        num_inference_steps=1,
        **given.options,
    )
    warmup, steps = (1, 1) if given.dry_run else (3, given.steps)
    size = 256 if given.dry_run else 2048
    print(json.dumps(profile(config, warmup, steps, size)))


if __name__ == "__main__":
    main()
