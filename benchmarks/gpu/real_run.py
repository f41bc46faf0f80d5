"""A run of minutes on a GPU, by the product's own commands, whose record is kept without its weights."""

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provenance import REPOSITORY
from shares import seconds_by_kind

from openddpm.record.reader import RunFolder, read_run_folder

if TYPE_CHECKING:
    from check import Check

AROUND_SECONDS = 95  # assumed: start 25, compilation from the cache 30, samples 25, packing
USUAL_RATE = 1048.0  # images/s of --speed max in batches of 128 at 64x64, measured on an H200
MAX_FILE_BYTES = 8 * 2**20
LEFT_OUT = ("checkpoints", "unet")
RECIPE = (  # previews and evaluations come when a user's do
    *("--speed", "max", "--learning_rate", "3e-4", "--adam_beta1", "0.9", "--lr_warmup_steps", "100"),
    *("--ema_max_decay", "0.998", "--zero_init_residuals", "--timestep_sampling", "importance"),
    *("--preview_solver", "dpmsolver++", "--num_inference_steps", "20", "--image_mode", "rgb"),
)


def run_of_minutes(check: "Check", most: float) -> str:
    """Train, draw samples, pack the record and write run.json; return "done", or what became of it."""
    begun_left, folder = check.left(), check.work / "run"
    data = Path(os.path.relpath(check.given.data or check.inputs / "images", REPOSITORY))  # it stands in the record
    size = run_size(check, most)
    command = ["-m", "openddpm", "train", "--dataset", str(data), *RECIPE, "--overwrite_output_dir"]
    command += ["--output_dir", os.path.relpath(folder, REPOSITORY)]
    command += ["--logging_dir", os.path.relpath(check.work / "logs", REPOSITORY)]
    command += ["--resolution", str(size["resolution"]), "--train_batch_size", str(size["batch_size"])]
    command += ["--max_train_steps", str(size["steps"]), "--checkpointing_steps", str(max(1, size["steps"] // 3))]
    command += ["--model", os.path.relpath(check.inputs / "unet.json", REPOSITORY)]
    cache = str(check.work / "inductor" / "max-128")  # of the same UNet, batch and precision
    status = check.spawn("run", command, most - 35, TORCHINDUCTOR_CACHE_DIR=cache)
    if not (folder / "run.json").exists():
        return status
    sampling = ["-m", "openddpm", "sample", str(folder), "--num_images", "4" if check.given.dry_run else "64"]
    sampling += ["--solver", "dpmsolver++", "--num_inference_steps", "20"]
    spent = begun_left - check.left()
    sampled = check.spawn("run", sampling, max(5.0, most - spent - 5))
    pack_record(folder, check.out / "run.tar.gz")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # gigabytes
    told = summary(read_run_folder(folder), max(1, size["steps"] // 3))
    (check.logs / "run.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return status if status != "done" else sampled


def run_size(check: "Check", most: float) -> dict[str, int]:
    """Return resolution, batch size and number of steps, so that the run ends within its time."""
    if check.given.dry_run:
        return {"resolution": 16, "batch_size": 4, "steps": 40}
    row = check.results()["rows"].get("ours, --speed max, batch 128", {})
    seconds = min(check.given.run_seconds, most - AROUND_SECONDS)
    steps = seconds * row.get("steps_images_per_second", USUAL_RATE) / 128
    return {"resolution": 64, "batch_size": 128, "steps": max(30, round(steps, -1))}


def summary(found: RunFolder, checkpointing_steps: int) -> dict[str, Any]:
    """Return what the run came to: its length, rate, the shares of its time, and the verdict."""
    evaluated: dict[int, float] = {}
    for row in found.evaluations:
        evaluated[row.step] = evaluated.get(row.step, 0.0) + (row.seconds or 0.0)
    last = found.metrics[-1]
    saves = range(checkpointing_steps, last.step + 1, checkpointing_steps)
    spent = seconds_by_kind(found.metrics, evaluated, [preview.step for preview in found.previews], saves)
    return {
        "dataset": Path(found.run.dataset.source).name,
        "status": found.run.status,
        "batch_size": found.run.config["train_batch_size"],
        "steps": last.step,
        "images": last.images_seen,
        "wall_seconds": last.wall_seconds,
        "images_per_second": round(last.images_seen / last.wall_seconds, 2),
        "steps_images_per_second": round(last.images_seen / spent.steps, 2) if spent.steps else None,
        "shares": spent.shares(),
        "previews": len(found.previews),
        "speed": found.run.session.environment.speed.model_dump(),
        "verdict": found.verdict and found.verdict.sentence,
        "skill": found.verdict and found.verdict.skill,
    }


def pack_record(folder: Path, archive: Path) -> None:
    """Pack a run folder without weights and without files that are too large to be looked at."""
    beside = archive.with_name(f".{archive.name}")
    with tarfile.open(beside, "w:gz") as packed:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and inside.parts[0] not in LEFT_OUT and path.stat().st_size <= MAX_FILE_BYTES:
                packed.add(path, f"run/{inside}")
    beside.replace(archive)
