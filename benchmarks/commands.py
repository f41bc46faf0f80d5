"""Whole commands, ours and the plain loop's, run and measured from outside."""

import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openddpm.record.reader import read_run_folder
from openddpm.record.schema import MetricsRow

EPOCH_IMAGES = 7400  # of the data set that the copied script's command names: what is extrapolated to
WINDOW_STEPS = 5  # both note the time after so many
PLAIN_LOOP = Path(__file__).with_name("plain_loop.py")
PEAK = "peak bytes of the device: "
OURS_WITH_PEAK = f"""
import atexit, runpy, torch
atexit.register(lambda: print("{PEAK}", torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0))
runpy.run_module("openddpm", run_name="__main__", alter_sys=True)
"""  # `python -m openddpm`, and a line at its end


def int_of_at_least(least: int) -> Callable[[str], int]:
    """Return the type of a command-line argument: a whole number that is not below `least`."""

    def parse(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"found {text}, expected {least} or more")
        return int(text)

    parse.__name__ = "whole number"
    return parse


@dataclass(frozen=True)
class Job:
    """What a command is to train."""

    images: Path
    unet: Path
    resolution: int
    steps: int
    threads: int
    train_batch_size: int = 16
    warmup_steps: int = 10
    save_images_epochs: int = 1
    random_flip: bool = True
    previews: bool = True
    """Whether they are to be measured; ours makes one of a single step if not."""

    def options(self) -> list[str]:
        """Return the options that both commands know."""
        flip = "--random_flip" if self.random_flip else "--no-random_flip"
        values = ("resolution", "train_batch_size", "save_images_epochs")
        return [flip, *(text for name in values for text in (f"--{name}", str(getattr(self, name))))]


@dataclass(frozen=True)
class Ended:
    """A command that has run."""

    seconds: float
    output: str
    resident_bytes: int
    """At its peak."""


def run(command: Sequence[str], threads: int, most_seconds: float = math.inf) -> Ended:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed, or was not done after `most_seconds`, when it is killed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            if time.perf_counter() - start > most_seconds:
                process.kill()
                process.wait()
                raise RuntimeError(f"not done in {most_seconds:.0f} s")
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        output.seek(0), errors.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors.read()[-3000:]}")
        return Ended(seconds, output.read(), ended[2].ru_maxrss * 1024)


def run_all(commands: Mapping[str, Sequence[str]], jobs: int, threads: int) -> None:
    """Run commands by their names, `jobs` at a time, each on cores of its own where several run at once.

    Raises:
        SystemExit: one failed.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    waiting, running = list(commands.items()), dict[int, subprocess.Popen[bytes]]()
    while waiting or running:
        for place in range(jobs):
            if place in running and running[place].poll() is not None and running.pop(place).returncode:
                raise SystemExit("a run failed; see above")
            if place not in running and waiting:
                name, command = waiting.pop(0)
                print(f"{name}; {len(waiting)} more to come", flush=True)
                running[place] = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
                own = cores[place * threads : (place + 1) * threads] if jobs > 1 else []
                if own:
                    os.sched_setaffinity(running[place].pid, own)
        time.sleep(0.2)


def run_plain(job: Job, switched: Sequence[str] = (), most_seconds: float = math.inf) -> dict[str, Any]:
    """Train with the plain loop, and return its rates."""
    command = [sys.executable, str(PLAIN_LOOP), "--images", str(job.images), "--unet", str(job.unet), *job.options()]
    command += ["--max_train_steps", str(job.steps), "--threads", str(job.threads)]
    command += ["--window_steps", str(WINDOW_STEPS)]
    command += [] if job.previews else ["--no-previews"]
    ended = run([*command, *(["--switch", *switched] if switched else [])], job.threads, most_seconds=most_seconds)
    told = json.loads(ended.output.splitlines()[-1])
    previews = -(-told["num_images"] // (job.save_images_epochs * count_images(job.images)))
    a_preview = told["preview_seconds"] / previews if job.previews else None
    rows = [(row["images"], row["seconds"], row["seconds"] - row["preview_seconds"]) for row in told["windows"]]
    return {
        "command_seconds": round(ended.seconds, 2),
        "command_images_per_second": round(told["num_images"] / ended.seconds, 2),
        **rates(rows, job, a_preview),
        "resident_mib": round(ended.resident_bytes / 2**20),
        "device_mib": round(told.get("peak_memory_bytes", 0) / 2**20),
    }


def run_ours(job: Job, folder: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """Train with openddpm in `folder`, from nothing, and return its rates."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-c", OURS_WITH_PEAK, "train", "--dataset", str(job.images), "--model", str(job.unet)]
    command += ["--max_train_steps", str(job.steps), "--output_dir", str(folder / "run")]
    command += ["--logging_steps", str(WINDOW_STEPS)]
    command += ["--logging_dir", str(folder / "logs"), "--cache_dir", str(folder / "cache")]
    command += [] if job.previews else ["--num_inference_steps", "1"]
    ended = run([*command, *job.options(), *options], job.threads)
    found = read_run_folder(folder / "run")
    alone = steps_seconds(found.metrics)
    rows = [(row.images_seen, row.wall_seconds, own) for row, own in zip(found.metrics, alone, strict=True)]
    return {
        "command_seconds": round(ended.seconds, 2),
        "command_images_per_second": round(found.metrics[-1].images_seen / ended.seconds, 2),
        **rates(rows, job, preview_seconds(folder / "run") if job.previews else None),
        "resident_mib": round(ended.resident_bytes / 2**20),
        "device_mib": round(int(ended.output.rpartition(PEAK)[2].split()[0]) / 2**20),
        "gflops_per_image": found.run.model.gflops_per_image,
        "speed": found.run.session.environment.speed.model_dump(),
    }


def rates(rows: Sequence[tuple[int, float, float]], job: Job, a_preview: float | None) -> dict[str, Any]:
    """Return the rates after warm-up; that of the steps alone is the median over `rows`, so that a disturbance is none.

    Args:
        rows: images, seconds, and seconds of the steps alone, all since the start, one row every few steps.
        a_preview: seconds that one takes; None if they are not measured.
    """
    after = [row for row in rows if row[0] >= job.warmup_steps * job.train_batch_size]
    windows = [(last[0] - first[0]) / (last[2] - first[2]) for first, last in itertools.pairwise(after)]
    if not windows:
        raise ValueError(f"too few steps after a warm-up of {job.warmup_steps}")
    steps_rate = statistics.median(windows)
    return {
        "windows": len(windows),
        "images_per_second": round((after[-1][0] - after[0][0]) / (after[-1][1] - after[0][1]), 2),
        "steps_images_per_second": round(steps_rate, 2),
        "preview_seconds": a_preview and round(a_preview, 3),
        "epoch_images_per_second": round(EPOCH_IMAGES / (EPOCH_IMAGES / steps_rate + (a_preview or 0.0)), 2),
    }


def preview_seconds(run_folder: Path) -> float | None:
    """Return the time that the last preview of a finished run took, all its files, without the evaluation beside it."""
    found = read_run_folder(run_folder)
    if not found.previews:
        return None
    last = found.previews[-1]
    evaluated = sum(row.seconds or 0.0 for row in found.evaluations if row.step == last.step)
    begun = (run_folder / "metrics.jsonl").stat().st_mtime  # its last line is written just before
    return max(path.stat().st_mtime for path in last.pictures.values()) - begun - evaluated


def steps_seconds(metrics: Sequence[MetricsRow]) -> list[float]:
    """Return the time of the steps alone up to each line of metrics.jsonl."""
    images = [0, *(row.images_seen for row in metrics)]
    own = [(row.images_seen - before) / row.images_per_second for row, before in zip(metrics, images, strict=False)]
    return list(itertools.accumulate(own))


def count_images(folder: Path) -> int:
    """Return the number of files in a folder."""
    return sum(path.is_file() for path in folder.iterdir())
