"""Training as the data set grows: images a second, memory, and the time of set-up, for up to a million images.

    python benchmarks/growth.py --output_dir runs/growth --results benchmarks/results/growth.json

The images are random bytes in a memory-mapped file, laid out as openddpm keeps decoded images. Each measurement is a
process of its own, and the sizes take turns. With all sizes it takes 3 GB of disk.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil
import torch
from origin import origin, write_results

from openddpm.config import TrainConfig
from openddpm.data import store
from openddpm.record.data_record import DataRecord
from openddpm.record.schema import MetricsRow
from openddpm.training import setup, timetable
from openddpm.training.loop import fit
from openddpm.training.observer import Observer

SIZES = (1_000, 10_000, 100_000, 1_000_000)
SHAPE = (3, 32, 32)
CHUNK = 10_000  # images written at a time
UNET: dict[str, Any] = {
    "layers_per_block": 1,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8,
}


def main() -> None:
    """Measure, print and write the numbers; or, for one size, print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="file for the numbers (default: in the output folder)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=80, help="of each run, a quarter of them warm-up")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--one", action="store_true", help="measure the first size, here and now")
    given = parser.parse_args()
    if given.one:
        torch.set_num_threads(given.threads)
        print(json.dumps(measure(given.output_dir, given.sizes[0], given.steps)))
        return
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in given.sizes}
    for size in given.sizes:
        write_store(given.output_dir / f"images-{size}", size)
        shutil.rmtree(given.output_dir / f"cache-{size}", ignore_errors=True)  # the first round measures baselines
    for number in range(given.rounds):
        for size in given.sizes:
            command = [sys.executable, __file__, "--one", "--output_dir", str(given.output_dir), "--sizes", str(size)]
            command += ["--steps", str(given.steps), "--threads", str(given.threads)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
            output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            runs[size].append(json.loads(output.splitlines()[-1]))
            print(f"round {number + 1}, {size:,} images: {runs[size][-1]}", flush=True)
    results = {
        **origin(given.threads),
        "rounds": given.rounds,
        "steps": given.steps,
        "rows": rows(runs),
    }
    write_results(results, given.results or given.output_dir / "growth.json")


def rows(runs: dict[int, list[dict[str, float]]]) -> list[dict[str, float]]:
    """Return medians by size, of rate and memory also as multiples of those of the smallest in the same round."""
    medians = {
        size: {name: statistics.median(run[name] for run in measured) for name in measured[0]}
        for size, measured in runs.items()
    }
    firsts = runs[min(runs)]

    def times_the_first(size: int, name: str) -> float:
        return round(
            statistics.median(own[name] / first[name] for own, first in zip(runs[size], firsts, strict=True)), 4
        )

    kept = {"rate_ratio": "images_per_second", "memory_ratio": "private_mib"}
    return [
        {"num_images": size, **row, **{ratio: times_the_first(size, name) for ratio, name in kept.items()}}
        | {f"first_{name}": runs[size][0][name] for name in ("set_up_seconds", "set_up_private_mib")}
        for size, row in medians.items()
    ]


def write_store(folder: Path, count: int) -> None:
    """Write random images as a store of decoded ones, unless they are there."""
    if (folder / "store.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    digest, generator = hashlib.sha256(), np.random.default_rng(count)
    with (folder / "images.uint8").open("wb") as file:
        for start in range(0, count, CHUNK):
            images = generator.integers(0, 256, (min(CHUNK, count - start), *SHAPE), dtype=np.uint8)
            file.write(images.data)
            digest.update(images.data)
    data = DataRecord(num_images=count, counts={}, images=[]).model_dump()
    header = {"shape": [count, *SHAPE], "sha256": digest.hexdigest(), "data": data}
    (folder / "store.json").write_text(json.dumps(header))


def measure(output_dir: Path, count: int, steps: int) -> dict[str, float]:
    """Train on a store in this process; return rate, memory and the time of set-up."""
    images, run = output_dir / f"images-{count}", output_dir / f"run-{count}"
    model = output_dir / "unet.json"
    model.write_text(json.dumps(UNET))
    config = TrainConfig(
        dataset=str(images),
        model=str(model),
        resolution=SHAPE[-1],
        max_train_steps=steps,
        logging_steps=1,
        output_dir=str(run),
        overwrite_output_dir=True,
        cache_dir=str(output_dir / f"cache-{count}"),
        save_images_epochs=1_000_000,
        checkpointing_steps=1_000_000,
        eval_batch_size=1,
        num_inference_steps=1,
    )
    times = _Times()
    with (
        patch.multiple(timetable, MAX_SHARE_OF_TIME=0.0, MAX_SHARE_FOR_A_TREND=0.0),
        patch.object(setup, "open_images", lambda *_, **__: (_Source(), store._read(images))),
        PeakMemory() as peak,
    ):
        start = time.perf_counter()
        training = setup.prepare(config, observers=[times])
        set_up_seconds = time.perf_counter() - start
        set_up_mib, peak.mib = peak.mib, private_mib()
        fit(training)
    warmup = steps // 4
    a_step = statistics.median(np.diff(times.ends[warmup - 1 :]))
    shutil.rmtree(run)
    return {
        "images_per_second": round(config.train_batch_size / a_step, 2),
        "private_mib": round(peak.mib, 1),
        "set_up_private_mib": round(set_up_mib, 1),
        "set_up_seconds": round(set_up_seconds, 2),
    }


class _Source:
    """What a record says of where images came from."""

    name, revision, split, digest = "random bytes", None, None, None


class _Times(Observer):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def logged(self, row: MetricsRow) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())


class PeakMemory:
    """A thread that notes the most private memory of this process while the context lasts."""

    def __init__(self) -> None:
        self.mib = private_mib()
        """The most so far; may be set back."""
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.mib = max(self.mib, private_mib())


def private_mib() -> float:
    """Return the memory of this process alone, without pages of mapped files, which the system may take at any time."""
    status = Path("/proc/self/status")
    if status.exists():
        anonymous = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
        return int(anonymous.split()[1]) / 1024
    return psutil.Process().memory_full_info().uss / 2**20


if __name__ == "__main__":
    main()
