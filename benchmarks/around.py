"""What surrounds training, as whole processes: help, reports of long runs, decoding, the start of a run.

    python benchmarks/around.py --output_dir runs/bench/around --images IMAGES.parquet --results around.json

Medians of several runs each. Let nothing else run.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from origin import origin, write_results

from openddpm.record.files import read_json_lines

SUPPORT = Path(__file__).resolve().parents[1] / "tests" / "support"
OPENDDPM = [sys.executable, "-m", "openddpm"]
DECODE = """
import sys, time
from openddpm.config import DataOptions
from openddpm.data.store import open_images
start = time.perf_counter()
options = DataOptions(dataset=sys.argv[1], resolution=int(sys.argv[2]), cache_dir=sys.argv[3], max_refused_share=1)
_, store = open_images(options, quiet=True)
print(len(store.images), time.perf_counter() - start)
"""
MADE_UP_RUN = """
import sys
from pathlib import Path
from made_up_run import write_made_up_run
folder, steps = Path(sys.argv[1]), int(sys.argv[2])
write_made_up_run(folder, steps=steps, rows=steps, evaluations=int(sys.argv[3]), previews=int(sys.argv[4]))
"""
REPORT = """
import sys
from openddpm.cli.main import main
status = main(["report", sys.argv[1]])
sys.exit(status or 3 * ("torch" in sys.modules))
"""


def main() -> None:
    """Measure all, print and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/bench/around"))
    parser.add_argument("--results", type=Path, help="file for the numbers (default: in the output folder)")
    parser.add_argument("--images", type=Path, help="images to decode: a folder, zip or parquet file")
    parser.add_argument("--resolution", type=int, default=64, help="to decode them to")
    parser.add_argument("--report_steps", type=int, default=100_000, help="logged by the run that is reported on")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    given.output_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        **origin(),
        "help_seconds": median(given.rounds, lambda: timed([*OPENDDPM, "--help"])),
        "train_help_seconds": median(given.rounds, lambda: timed([*OPENDDPM, "train", "--help"])),
        "report": report(given.output_dir / "long-run", given.report_steps, given.rounds),
        "decode": "no --images given" if given.images is None else decode(given),
        "start": start(given.output_dir, given.rounds),
    }
    write_results(results, given.results or given.output_dir / "around.json")
    print(json.dumps(results, indent=1))


def timed(command: list[str]) -> float:
    """Return the seconds that a command takes.

    Raises:
        CalledProcessError: it failed.
    """
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return time.perf_counter() - begun


def median(rounds: int, measure: Any) -> float:
    """Return the median of `rounds` measurements."""
    return round(statistics.median(measure() for _ in range(rounds)), 3)


def report(folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Rebuild the report of a made-up run that has logged every step; fails if that imports torch."""
    shutil.rmtree(folder, ignore_errors=True)
    evaluations, previews = 300, 100  # each of both weights kinds
    write = [sys.executable, "-c", MADE_UP_RUN, str(folder), str(steps), str(evaluations), str(previews)]
    subprocess.run(write, check=True, env={**os.environ, "PYTHONPATH": str(SUPPORT)})
    seconds = median(rounds, lambda: timed([sys.executable, "-c", REPORT, str(folder)]))
    sizes = {"logged_steps": steps, "evaluations": evaluations, "previews": previews}
    page_bytes = (folder / "report.html").stat().st_size
    return {**sizes, "seconds": seconds, "page_bytes": page_bytes, "imports_torch": False}


def decode(given: argparse.Namespace) -> dict[str, Any]:
    """Decode a data set into an empty cache."""
    cache, counts = given.output_dir / "cache-to-fill", set()

    def once() -> float:
        shutil.rmtree(cache, ignore_errors=True)
        command = [sys.executable, "-c", DECODE, str(given.images), str(given.resolution), str(cache)]
        count, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        counts.add(int(count))
        return float(seconds)

    return {"seconds": median(given.rounds, once), "images": counts.pop(), "resolution": given.resolution}


def start(folder: Path, rounds: int) -> dict[str, Any]:
    """Start the demo recipe on images that are decoded already: from the command to its first logged step."""
    shared = ["--logging_dir", str(folder / "logs"), "--cache_dir", str(folder / "cache"), "--logging_steps", "1"]
    run = folder / "start"
    train = [*OPENDDPM, "train", "--recipe", "avatars-16", "--output_dir", str(run), "--overwrite_output_dir", *shared]
    begin = [*train, "--max_train_steps", "3"]
    timed(begin)  # decodes, and measures the baselines
    first = median(rounds, lambda: until_step(begin, run, 1))
    going_on = [*OPENDDPM, "resume", str(run), "--accept_changes", "--max_train_steps"]
    steps = iter(range(4, 4 + rounds))
    resumed = median(rounds, lambda: until_step([*going_on, str(step := next(steps))], run, step))
    sampled = median(rounds, lambda: timed([*OPENDDPM, "sample", str(run), "--num_images", "1"]))
    return {"first_step_seconds": first, "first_step_after_resuming_seconds": resumed, "one_sample_seconds": sampled}


def until_step(command: list[str], run: Path, step: int) -> float:
    """Return the seconds from the start of a command to the line of `step` in metrics.jsonl; waits for its end."""
    metrics = run / "metrics.jsonl"
    begun, begun_at = time.perf_counter(), time.time()
    seconds = None
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while seconds is None and process.poll() is None:
        is_new = metrics.exists() and metrics.stat().st_mtime >= begun_at
        if is_new and any(row["step"] >= step for row in read_json_lines(metrics)):
            seconds = time.perf_counter() - begun
        time.sleep(0.01)
    if process.wait() or seconds is None:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}, without step {step}")
    return seconds


if __name__ == "__main__":
    main()
