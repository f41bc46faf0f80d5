"""Images a second on a GPU: the default UNet at 64x64, measure by measure, ours by each --speed, and larger batches.

    python benchmarks/throughput_gpu.py --output_dir runs/throughput-gpu --results_dir benchmarks/results

Rows are measured in the order of what they tell, as far as --minutes lets them; the results are written after each,
and rows of an earlier call are kept: --parts may be measured one by one.
Runs of ours that are marked so are planned as long as 400 epochs of 7,400 images and ended early, since `--speed auto`
chooses by the planned length.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands import EPOCH_IMAGES, Job, int_of_at_least, run_ours, run_plain
from image_folders import write_photos
from origin import origin, write_results
from plain_loop import MEASURES
from step_profile import profile_in_a_process
from throughput import TINY_UNET, median_row, ratios

from openddpm.diffusion.unet import SIZES

NUM_EPOCHS = 400
NUM_IMAGES, IMAGE_SIZE = 740, (475, 475)
SAVE_IMAGES_EPOCHS = 10  # of a tenth as many images as are extrapolated to
LADDER = [name for name in MEASURES if name not in ("workers", "half-previews")]
BATCH_SIZES = (128, 63, 64, 256)
PARTS = ("main", "ladder", "batches")
ROW_MINUTES, COMPILE_MINUTES = 0.5, 2.0  # assumed: what a row takes, and its compilation besides


@dataclass(frozen=True)
class Row:
    """One run."""

    name: str
    batch_size: int
    switched: tuple[str, ...] | None = None
    """Of the plain loop; None for a run of ours."""
    options: tuple[str, ...] = ()
    is_planned_long: bool = False

    @property
    def compiles(self) -> bool:
        """Tell whether the UNet is compiled, or may be."""
        return self.is_planned_long or "max" in self.options or "compile" in (self.switched or ())


def planned_rows(parts: Sequence[str], rounds: int) -> list[Row]:
    """Return what to measure, the most telling first."""
    ours, plain = Row("ours, --speed auto", 16, is_planned_long=True), Row("plain loop", 16, ())
    rows = {
        "main": [
            *[row for _ in range(rounds) for row in (plain, ours)],
            Row("ours, --speed max", 16, options=("--speed", "max")),
            Row("plain loop: workers and bf16", 16, ("workers", "bf16")),
            Row("ours, --speed exact", 16, options=("--speed", "exact")),
        ],
        "ladder": [Row(f"plain loop: + {LADDER[n]}", 16, tuple(LADDER[: n + 1])) for n in range(len(LADDER))],
        "batches": [Row(f"ours, --speed max, batch {n}", n, options=("--speed", "max")) for n in BATCH_SIZES],
    }
    return [row for part in parts for row in rows[part]]


def main() -> None:
    """Measure, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--results_dir", type=Path, help="folder of throughput-gpu.json; a dry run writes to --output_dir"
    )
    parser.add_argument("--rounds", type=int_of_at_least(1), default=3, help="of the plain loop and ours at batch 16")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=40, help="after warm-up")
    parser.add_argument("--minutes", type=float, default=9.0, help="that all may take")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dry_run", action="store_true", help="a tiny UNet for a few steps, with or without a GPU")
    given = parser.parse_args()
    begun = time.monotonic()
    folder = given.output_dir if given.dry_run or given.results_dir is None else given.results_dir
    path = folder / "throughput-gpu.json"
    job = prepare_job(given.output_dir, given.threads, given.steps, given.dry_run)
    results: dict[str, Any] = {**origin(given.threads), "dry_run": given.dry_run, "rounds": given.rounds}
    results |= kept(path, results)
    if "step" not in results:
        results["step"] = attempt(lambda: profile_in_a_process(job, given.output_dir / "profile", given.dry_run))
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in planned_rows(given.parts, given.rounds):
        needed = ROW_MINUTES + COMPILE_MINUTES * (row.compiles and row.name not in runs)
        if (time.monotonic() - begun) / 60 + needed > given.minutes and not given.dry_run:
            results["rows"].setdefault(row.name, {"batch_size": row.batch_size, "error": "not reached in the time"})
            continue
        if given.dry_run and "compile" in (row.switched or ()):
            continue  # minutes, without a GPU
        told = attempt(lambda row=row: measure(row, job, given.output_dir / "ours"))
        runs.setdefault(row.name, []).append({"batch_size": row.batch_size, **told})
        whole = [one for one in runs[row.name] if "error" not in one]
        results["rows"][row.name] = extrapolated(median_row(whole), results["step"]) if whole else runs[row.name][0]
        rounds = zip(runs.get("plain loop", []), runs.get("ours, --speed auto", []), strict=False)
        if whole_rounds := [pair for pair in rounds if "error" not in {**pair[0], **pair[1]}]:
            plain, ours = zip(*whole_rounds, strict=True)
            results["ratio"] = ratios(ours, plain)
        print(f"{row.name}: {told.get('steps_images_per_second', told.get('error'))} images/s")
        write_results(results, path)


def kept(path: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured by an earlier call with the same versions on the same device."""
    earlier = json.loads(path.read_text("utf-8")) if path.exists() else {}
    is_same = all(earlier.get(name) == value for name, value in origin.items() if name != "rounds")
    rows = {name: row for name, row in earlier.get("rows", {}).items() if "error" not in row}
    others = {name: earlier[name] for name in ("step", "ratio") if "error" not in earlier.get(name, {"error": ""})}
    return {**others, "rows": rows} if is_same else {"rows": {}}


def prepare_job(folder: Path, threads: int, steps: int, dry_run: bool) -> Job:
    """Write the images and the UNet's config; return what to train."""
    count, size = (24, (64, 64)) if dry_run else (NUM_IMAGES, IMAGE_SIZE)
    images = write_photos(folder / f"images-{count}", count, size)
    unet = folder / "unet.json"
    unet.write_text(json.dumps(TINY_UNET if dry_run else SIZES["default"]))
    warmup, resolution = (1, 16) if dry_run else (20, 64)
    length = warmup + (6 if dry_run else steps)  # the time is noted every five
    return Job(images, unet, resolution, length, threads, warmup_steps=warmup, save_images_epochs=SAVE_IMAGES_EPOCHS)


def measure(row: Row, job: Job, folder: Path) -> dict[str, Any]:
    """Return the rates of a row."""
    job = replace(job, train_batch_size=row.batch_size)
    if row.switched is not None:
        return run_plain(job, row.switched)
    if not row.is_planned_long:
        return run_ours(job, folder, row.options)
    long = replace(job, steps=NUM_EPOCHS * EPOCH_IMAGES // row.batch_size, save_images_epochs=1)  # previews, too
    return run_ours(long, folder, row.options, enough_steps=job.steps)


def extrapolated(row: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    """Add the share of the matmul peak, and the hours of 400 epochs with a preview each where previews were timed."""
    rate, previews = row["steps_images_per_second"], NUM_EPOCHS * (row["preview_seconds"] or 0.0)
    added = {"hours": round((NUM_EPOCHS * EPOCH_IMAGES / rate + previews) / 3600, 3)}
    if "tflops" in step:
        gflops = step["tflops"] * 1000 / step["images_per_second"]
        added["share_of_matmul_peak"] = round(rate * gflops / 1000 / step["matmul_tflops"], 4)
    return {**row, **added}


def attempt(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `call` returns, or the last line of its error: the other rows are measured all the same."""
    try:
        return call()
    except Exception as error:
        return {"error": str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__}


if __name__ == "__main__":
    main()
