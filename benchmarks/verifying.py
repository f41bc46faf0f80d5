"""What `openddpm verify` says of honest records of many kinds, and of records that were tampered with.

    python benchmarks/verifying.py --output_dir runs/verifying

Honest: short runs of 28 kinds (killed, moved, other threads, two processes, from the Hub, ...), which must not fail.
Tampering: copies of one run of the recipe digits-8, changed as `tampering.py` does, with digests that fit, verified
within the default budget, which is longer than the run, and within half of its training time. Prints the tables of
docs/verify.md. Runs that are in the folder already are not trained again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
from origin import origin, write_results
from tampering import TAMPERINGS, hide_resumption, tampered

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from hub_stand_in import HubStandIn, client_environment

STEPS = 120
SHORT = ["--recipe", "digits-8", "--max_train_steps", str(STEPS), "--checkpointing_steps", "40"]
KEEP = ["--checkpoints_total_limit", "10", "--no_follow", "--report_to", "none"]
PLAIN = [*SHORT, *KEEP]
OTHER_INSTRUCTIONS = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}


def openddpm(*arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command, on one thread unless told otherwise."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    command = [sys.executable, "-m", "openddpm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)


def from_python(code: str, *arguments: str) -> None:
    """Run a program that trains from Python."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=environment, capture_output=True)


def trained(folder: Path, *options: str, **variables: str) -> Path:
    """Train a run."""
    done = openddpm("train", *PLAIN, *options, "--output_dir", str(folder), **variables)
    assert done.returncode == 0, done.stderr
    return folder


@dataclass(frozen=True)
class Kind:
    """A kind of honest record."""

    what: str
    make: Callable[[Path], object]
    """Trains it in a folder."""
    verify: tuple[str, ...] = ()
    """Options of verify."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment of verify."""


def _killed(folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "openddpm", "train", *PLAIN, "--output_dir", str(folder)]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 7):
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert openddpm("resume", str(folder)).returncode == 0


def _interrupted(folder: Path) -> None:
    code = """
import os, signal, sys, openddpm
class Stop(openddpm.Observer):
    def logged(self, row):
        if row.step == 70: os.kill(os.getpid(), signal.SIGTERM)
openddpm.train(openddpm.TrainConfig(recipe="digits-8", max_train_steps=120, checkpointing_steps=40, follow="none",
    checkpoints_total_limit=10, report_to="none", output_dir=sys.argv[1]), observers=[Stop()])
"""
    from_python(code, str(folder))


def _processes(folder: Path, *numbers: int) -> None:
    """Train 60 steps with each number of processes, and 60 more with the next."""
    for index, number in enumerate(numbers):
        last = STEPS * (index + 1) // len(numbers)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        options = ["--max_train_steps", str(STEPS), "--train_batch_size", "16", "--gradient_accumulation_steps"]
        options += [str(2 // number), "--output_dir", str(folder), "--resume_from_checkpoint", "latest"]
        code = f"""
import os, signal, sys, openddpm
from openddpm.cli.options import parse_train_config
class Stop(openddpm.Observer):
    def logged(self, row):
        if row.step == {last} < {STEPS}: os.kill(os.getpid(), signal.SIGTERM)
openddpm.train(parse_train_config(sys.argv[1:]), observers=[Stop()])
"""
        script = folder.parent / f"{folder.name}-{index}.py"
        script.write_text(code)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(number), str(script)]
        done = subprocess.run([*launcher, *PLAIN, *options], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def _changed(folder: Path, *changes: str) -> None:
    trained(folder)
    done = openddpm("resume", str(folder), "--accept_changes", *changes)
    assert done.returncode == 0, done.stderr


_FAULTY = """
import sys, torch, openddpm
from openddpm.training import loop, checkpointer
what, folder = sys.argv[1:]
loss, write, done = loop.micro_batch_loss, checkpointer.write_checkpoint, []
def faulty_loss(training, index):
    value = loss(training, index)
    if training.state.step == 60 and not done:
        done.append(1)
        return value * float("nan")
    return value
def full_disk(*arguments):
    if arguments[3]["step"] == 80 and not done:
        done.append(1)
        raise OSError(28, "No space left on device")
    return write(*arguments)
if what == "nan": loop.micro_batch_loss = faulty_loss
if what == "full": checkpointer.write_checkpoint = full_disk
transform = (lambda images: images.flip(3)) if what == "transform" else None
openddpm.train(openddpm.TrainConfig(recipe="digits-8", max_train_steps=120, checkpointing_steps=40, follow="none",
    checkpoints_total_limit=10, report_to="none", output_dir=folder, max_rollbacks=1), transform=transform)
"""


def _as_the_fault(what: str) -> Callable[[Path], object]:
    return lambda folder: from_python(_FAULTY, what, str(folder))


def _with(*options: str) -> Callable[[Path], object]:
    return lambda folder: trained(folder, *options)


def _moved(folder: Path) -> None:
    trained(folder.with_name("before-the-move")).rename(folder)


def _fine_tuned(folder: Path) -> None:
    base = trained(folder.with_name("base"))
    trained(folder, "--init_from", str(base), "--no_zero_init_residuals")


def _in_minutes(folder: Path) -> None:
    done = openddpm("train", "--recipe", "digits-8", "--max_minutes", "0.1", *KEEP, "--output_dir", str(folder))
    assert done.returncode == 0, done.stderr


HONEST = {
    "plain": Kind("as it was trained", _with()),
    "moved": Kind("in another folder", _moved),
    "verified on two threads": Kind("verified on two threads", _with(), variables={"OMP_NUM_THREADS": "2"}),
    "trained on two threads": Kind("trained on two threads", lambda folder: trained(folder, OMP_NUM_THREADS="2")),
    "instructions": Kind("verified without AVX", _with(), variables=OTHER_INSTRUCTIONS),
    "killed": Kind("killed and resumed", _killed),
    "interrupted": Kind("stopped by a signal, not resumed", _interrupted),
    "two": Kind("two processes", lambda folder: _processes(folder, 2)),
    "one-two-one": Kind("one process, then two, then one", lambda folder: _processes(folder, 1, 2, 1)),
    "changed": Kind(
        "options changed on the way, and accepted",
        lambda folder: _changed(folder, "--learning_rate", "4e-3", "--max_train_steps", "160"),
    ),
    "longer": Kind("made longer", lambda folder: _changed(folder, "--max_train_steps", "160")),
    "nan": Kind("rolled back after a NaN", _as_the_fault("nan")),
    "full": Kind("disk full in between", _as_the_fault("full")),
    "transform": Kind("own transform", _as_the_fault("transform")),
    "colour": Kind("colour images (avatars-16)", _with("--recipe", "avatars-16", "--max_train_steps", "40")),
    "v": Kind("v-prediction", _with("--prediction_type", "v_prediction")),
    "adamw": Kind("AdamW", _with("--optimizer", "adamw", "--learning_rate", "1e-3")),
    "no-ema": Kind("without an average", _with("--no_use_ema")),
    "no-heldout": Kind("without held-out images", _with("--heldout_images", "0")),
    "accumulation": Kind(
        "gradients accumulated", _with("--gradient_accumulation_steps", "2", "--train_batch_size", "16")
    ),
    "bf16": Kind("bfloat16", _with("--mixed_precision", "bf16", "--max_train_steps", "40")),
    "milestones": Kind("milestones and kept checkpoints", _with("--milestones", "3", "--keep_every", "40")),
    "init": Kind("started from another run's weights", _fine_tuned),
    "minutes": Kind("planned in minutes", _in_minutes),
    "previews": Kind(
        "previews each epoch, a line every 7 steps", _with("--save_images_epochs", "1", "--logging_steps", "7")
    ),
    "flips": Kind("flips", _with("--random_flip")),
    "follows": Kind("follows a reference", _with("--follow", "digits-8")),
}


def main() -> None:
    """Train what is missing, verify, write the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--results", type=Path, help="file for the numbers (default: results.json in the output folder)"
    )
    parser.add_argument("--only", nargs="*", choices=["honest", "hub", "tampering", "bisection"])
    arguments = parser.parse_args()
    folder, only = arguments.output_dir, arguments.only or ["honest", "hub", "tampering", "bisection"]
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = origin(threads=1)
    if "honest" in only:
        results["honest"] = [_honest(name, kind, folder / name.replace(" ", "-")) for name, kind in HONEST.items()]
    if "hub" in only:
        results["hub"] = _hub(folder)
    if "tampering" in only:
        results["tampering"] = _tampering(folder)
    if "bisection" in only:
        results["bisection"] = _bisection(folder)
    write_results(results, arguments.results or folder / "results.json")


def _verified(source: str, *options: str, **variables: str) -> dict[str, Any]:
    start = time.perf_counter()
    done = openddpm("verify", source, "--json", *options, **variables)
    if not done.stdout:
        raise AssertionError(done.stderr)
    found = json.loads(done.stdout)
    return {
        "exit_status": done.returncode,
        "rungs": {rung["name"]: rung["status"] for rung in found["rungs"]},
        "texts": {rung["name"]: rung["text"] for rung in found["rungs"]},
        "first_divergent_step": found["first_divergent_step"],
        "seconds": round(time.perf_counter() - start, 1),
    }


def _honest(name: str, kind: Kind, run: Path) -> dict[str, Any]:
    if not (run / "run.json").exists():
        kind.make(run)
    row = {"name": name, "what": kind.what, **_verified(str(run), "--budget", "1", *kind.verify, **kind.variables)}
    statuses = ", ".join(f"{rung}: {status}" for rung, status in row["rungs"].items())
    print(f"| {kind.what} | {row['exit_status']} | {statuses} | {row['seconds']} |", flush=True)
    return row


def _hub(folder: Path) -> list[dict[str, Any]]:
    """Verify a run on images from the Hub, and one that lies on the Hub, with the bytes that were fetched."""
    from openddpm.data import sources

    images = (Path(sources.__file__).parent / "builtin" / "digits-8.parquet").read_bytes()
    rows = []
    with HubStandIn() as hub:
        variables = client_environment(hub.endpoint, str(folder / "hf")) | {"HF_HUB_OFFLINE": "0"}
        hub.add_dataset("someone/digits", {"data/train-00000-of-00001.parquet": images})
        run = folder / "hub-images"
        if not run.exists():
            trained(run, "--dataset", "someone/digits", **variables)
        rows.append({"what": "images from the Hub", **_verified(str(run), "--budget", "1", **variables)})
        pushed = folder / "milestones"
        done = openddpm("push", str(pushed), "--hub_model_id", "someone/run", "--checkpoints", "kept", **variables)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(folder / "hf", ignore_errors=True)
        rows.append(
            {
                "what": "a run on the Hub, with kept checkpoints",
                **_verified("someone/run", "--budget", "1", **variables),
            }
        )
        rows[-1]["bytes"] = _bytes_by_kind(folder / "hf")
    for row in rows:
        print(
            f"| {row['what']} | {row['exit_status']} | {row['rungs']} | {row.get('bytes', '')} | {row['seconds']} |",
            flush=True,
        )
    return rows


def _bytes_by_kind(cache: Path) -> dict[str, int]:
    """Return how many bytes of a run were fetched: rungs 1 to 4 compute with the record alone."""
    kinds = {"record": 0, "pictures": 0, "pages": 0, "weights": 0, "checkpoints": 0}
    endings = {".png": "pictures", ".html": "pages", ".md": "pages", ".safetensors": "weights"}
    for snapshot in cache.rglob("models--*/snapshots/*"):
        for path in snapshot.rglob("*"):
            if path.is_file():
                is_checkpoint = "checkpoints" in path.relative_to(snapshot).parts
                kind = "checkpoints" if is_checkpoint else endings.get(path.suffix, "record")
                kinds[kind] += path.stat().st_size
    return kinds


def _tampering(folder: Path) -> list[dict[str, Any]]:
    """Verify copies of a run that were tampered with, and honest ones on other images."""
    train = ["--recipe", "digits-8", "--checkpointing_steps", "200", *KEEP]
    runs = {name: folder / f"tampering-{name}" for name in ("run", "other", "resumed")}
    for name, options in (("run", ["--seed", "0"]), ("other", ["--seed", "1"])):
        if not (runs[name] / "run.json").exists():
            done = openddpm("train", *train, *options, "--output_dir", str(runs[name]))
            assert done.returncode == 0, done.stderr
    if not (runs["resumed"] / "run.json").exists():
        from_python(_STOPPED_HALFWAY, str(runs["resumed"]), *train)
        done = openddpm("resume", str(runs["resumed"]), "--accept_changes", "--learning_rate", "6e-3")
        assert done.returncode == 0, done.stderr
    copy = folder / "tampered"
    seconds = json.loads((runs["run"] / "metrics.jsonl").read_text().splitlines()[-1])["wall_seconds"]
    rows = []

    def verified(what: str, *options: str) -> None:
        row: dict[str, Any] = {"what": what, "training_seconds": seconds}
        for name, budget in (("default", ()), ("half", ("--budget", f"{seconds / 120:.3f}"))):
            row[name] = _verified(str(copy), *budget, *options)
            row[name]["failed"] = [rung for rung, status in row[name]["rungs"].items() if status == "failed"]
        rows.append(row)
        caught = [", ".join(row[name]["failed"]) or "nothing" for name in ("default", "half")]
        print(f"| {what} | {caught[0]} | {caught[1]} | {row['default']['first_divergent_step'] or ''} |", flush=True)

    for tampering in TAMPERINGS:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(runs["run"], copy)
        tampered(copy, runs["other"], tampering)
        verified(tampering.what)
    for what, learning_rate in (("", None), (", all learning rates made to fit", 8e-3)):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(runs["resumed"], copy)
        hide_resumption(copy, learning_rate)
        (copy / "manifest.json").unlink()
        verified(f"resumed with another learning rate, the resumption deleted{what}")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(runs["run"], copy)
    for what, order in (("1 % of the images replaced", _one_percent_replaced), ("images in another order", _reversed)):
        verified(what, "--dataset", str(_other_images(folder / f"{order.__name__}.parquet", order)))
    return rows


_STOPPED_HALFWAY = """
import os, signal, sys, openddpm
from openddpm.cli.options import parse_train_config
class Stop(openddpm.Observer):
    def logged(self, row):
        if row.step == 400: os.kill(os.getpid(), signal.SIGTERM)
openddpm.train(parse_train_config([*sys.argv[2:], "--output_dir", sys.argv[1]]), observers=[Stop()])
"""


def _one_percent_replaced(number: int) -> list[int]:
    return [(index + 1) % number if index % 100 == 0 else index for index in range(number)]


def _reversed(number: int) -> list[int]:
    return [*range(number)][::-1]


def _other_images(path: Path, order: Callable[[int], list[int]]) -> Path:
    """Write the images of digits-8, each in the place of another, to a Parquet file."""
    from openddpm.data import sources

    table = parquet.read_table(Path(sources.__file__).parent / "builtin" / "digits-8.parquet")
    parquet.write_table(table.take(order(len(table))), path)
    return path


_WITH_A_BUG = """
import random, sys
from pathlib import Path
from bugs import Bug, train_with
from contextlib import contextmanager
from openddpm.config import TrainConfig
folder, at = sys.argv[1], int(sys.argv[2])
@contextmanager
def planted(training):
    images_of, start = training.stream.image_indices, (at - 1) * training.global_batch_size
    training.stream.image_indices = lambda begin, count: images_of(begin + 100_000 * (begin == start), count)
    yield
config = TrainConfig(recipe="digits-8", max_train_steps=2000, train_batch_size=16, keep_every=250, follow="none",
    checkpoints_total_limit=1, report_to="none", output_dir=folder, logging_steps=int(sys.argv[3]))
train_with(config, [Bug("wrong-batch", "one wrong batch", planted)] if at else [])
"""


def _bisection(folder: Path) -> list[dict[str, Any]]:
    """Find one wrong batch at a random step of 2,000."""
    rows = []
    for every in (1, 10):
        step = int.from_bytes(os.urandom(4)) % 1_999 + 1
        runs = [folder / f"right-{every}", folder / f"wrong-{every}"]
        for run, at in zip(runs, (0, step), strict=True):
            if at or not (run / "run.json").exists():
                shutil.rmtree(run, ignore_errors=True)
                code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + _WITH_A_BUG
                from_python(code, str(run), str(at), str(every))
        done = openddpm("verify", str(runs[1]), "--against", str(runs[0]), "--json")
        rows.append({"planted_at": step, "logging_steps": every, **json.loads(done.stdout)})
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
