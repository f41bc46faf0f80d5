"""What rounding does to a run: the same seed on other threads and older instructions, beside other seeds and faults.

    python benchmarks/rounding.py --output_dir runs/rounding --results src/openddpm/comparison/rounding.json

Each run is a process of its own that logs every step; what is in the folder already is not trained again. Differences
are relative to the larger absolute value, and counted in steps since the last row that is equal to the bit. Writes what
openddpm/comparison/rounding.py makes limits of, and prints the tables of docs/follow.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from origin import origin
from safetensors.torch import load_file

from openddpm.comparison.rounding import NEGLIGIBLE, SEED, STATES, WINDOW, Quantity, largest, limit_from
from openddpm.record.kept import step_name
from openddpm.record.reader import RunFolder, read_run_folder

RUN = Path(__file__).with_name("rounding_run.py")
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 400, 800, 1600)

Setting = dict[str, str]
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
OLDEST = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
SETTINGS: dict[str, tuple[str, Setting]] = {
    "again": ("nothing", {}),
    "2 threads": ("threads", {"OMP_NUM_THREADS": "2"}),
    "AVX2": ("instructions", AVX2),
    "SSE4.1": ("instructions", OLDEST),
}
"""Settings by name: what is other than in the first run, and the environment that makes it so."""

OTHER_NOISE = "another evaluation seed"


@dataclass(frozen=True)
class Study:
    """Runs of one config."""

    options: dict[str, Any]
    last: int
    """The step up to which they are trained."""
    settings: Sequence[str] = tuple(SETTINGS)
    seeds: Sequence[int] = (1,)
    starts: Sequence[int] = ()
    """Steps from whose checkpoints other settings and another seed go on."""
    stretch: int = 200
    """Steps that they go on for."""
    faults_at: int | None = None
    """Step after which faults of benchmarks/comparing.py begin."""
    measured: Sequence[int] = ()
    """Steps whose weights are evaluated under all settings."""

    @property
    def wanted(self) -> list[int]:
        """Steps of a run whose weights are evaluated and kept."""
        after = [start + step for start in self.starts for step in (0, *STEPS) if step <= self.stretch]
        return sorted(step for step in {*STEPS, *after, *self.measured, self.last} if step <= self.last)


DIGITS = {"recipe": "digits-8"}
STUDIES = {
    "digits-8": Study(
        DIGITS, 800, seeds=(1, 2), starts=(100, 300, 400, 700), faults_at=400, measured=(50, 400, 790, 800)
    ),
    "digits-8 with AdamW": Study({**DIGITS, "optimizer": "adamw", "learning_rate": 4e-3}, 400, starts=(30, 100)),
    "digits-8 at a constant rate": Study(
        {**DIGITS, "lr_scheduler": "constant_with_warmup", "max_train_steps": 1600}, 1600, ("AVX2",)
    ),
    "avatars-16": Study({"recipe": "avatars-16"}, 200, starts=(100,), stretch=100, measured=(190, 200)),
}


@dataclass(frozen=True)
class Job:
    """A run to be made."""

    study: str
    name: str
    apart: str
    """What is other than in the first run."""
    environment: Setting = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    start: int = 0
    fault: str | None = None

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.study}-{self.name}-{self.start}".replace(" ", "-")


def jobs_of(name: str, study: Study) -> list[Job]:
    """Return the runs of a study other than the first."""
    jobs = [Job(name, setting, *SETTINGS[setting]) for setting in study.settings]
    jobs += [Job(name, f"seed {seed}", "seed", options={"seed": seed}) for seed in study.seeds]
    for start in study.starts:
        found = [(setting, *SETTINGS[setting]) for setting in study.settings if setting != "again"]
        jobs += [Job(name, setting, apart, environment, start=start) for setting, apart, environment in found]
        jobs.append(Job(name, "seed 1", "seed", options={"seed": 1}, start=start))
    if study.faults_at is not None:
        jobs += [Job(name, fault, "fault", start=study.faults_at, fault=fault) for fault in ("wrong-batch", "rate-off")]
    return jobs


def main() -> None:
    """Train what is missing, compare, write the results and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="file for the numbers (default: in the output folder)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "--shortened", type=int, default=1, help="divide the lengths of runs by this, to try the script"
    )
    arguments = parser.parse_args()
    folder = arguments.output_dir
    studies = {name: shorter(study, arguments.shortened) for name, study in STUDIES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {**origin(threads=1), "instructions": torch.backends.cpu.get_cpu_capability()}
    results |= {"settings": SETTINGS, "pairs": [], "forward": []}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        firsts = [Job(name, "first", "") for name in studies]
        done = [pool.submit(trained, job, studies[job.study], folder) for job in firsts]
        [one.result() for one in done]
        jobs = [job for name, study in studies.items() for job in jobs_of(name, study)]
        done = [pool.submit(trained, job, studies[job.study], folder) for job in jobs]
        [one.result() for one in done]
        measured = [
            pool.submit(measured_again, name, setting, study, folder)
            for name, study in studies.items()
            for setting in ("", *SETTINGS, OTHER_NOISE)
            if study.measured
        ]
        [one.result() for one in measured]
    for name, study in studies.items():
        first = folder / Job(name, "first", "").folder
        for job in jobs_of(name, study):
            results["pairs"].append(compared(job, first, folder / job.folder))
        results["forward"] += measured_apart(name, study, folder)
    path = arguments.results or folder / "rounding.json"
    path.write_text(compact(results), encoding="utf-8")
    print_tables(results)


def shorter(study: Study, by: int) -> Study:
    """Return a study with shorter runs."""
    values = {name: tuple(step // by for step in getattr(study, name)) for name in ("starts", "measured")}
    fault = None if study.faults_at is None else study.faults_at // by
    return Study(
        study.options,
        study.last // by,
        study.settings,
        study.seeds,
        stretch=study.stretch // by,
        faults_at=fault,
        **values,
    )


def trained(job: Job, study: Study, folder: Path) -> None:
    """Make a run, unless it is there."""
    target = folder / job.folder
    if (target / "run.json").exists() and json.loads((target / "run.json").read_text())["status"] == "finished":
        return
    shutil.rmtree(target, ignore_errors=True)
    last = study.last if job.start == 0 else min(study.last, job.start + study.stretch)
    checkpoint = folder / Job(job.study, "first", "").folder / "checkpoints" / step_name(job.start)
    _process(
        {
            "do": "train",
            "folder": str(target),
            "options": {**(study.options if job.start == 0 else {}), **job.options},
            "last": last,
            "wanted": study.wanted
            if job.name == "first"
            else [job.start + step for step in STEPS if job.start + step <= last],
            "checkpoint": None if job.start == 0 else str(checkpoint),
            "fault": job.fault,
        },
        job.environment,
    )


def measured_again(name: str, setting: str, study: Study, folder: Path) -> None:
    """Evaluate weights of the first run of a study under a setting, unless that is done."""
    first, target = folder / Job(name, "first", "").folder, _measured(name, setting, folder)
    if (target / "measured.json").exists():
        return
    shutil.rmtree(target, ignore_errors=True)
    checkpoints = [str(first / "checkpoints" / step_name(step)) for step in study.measured]
    environment = SETTINGS[setting][1] if setting in SETTINGS else {}
    options = {"evaluation_seed": 1} if setting == OTHER_NOISE else {}
    cache = {"OPENDDPM_CACHE": str(folder / f"cache-{setting or 'first'}-{name}".replace(" ", "-"))}
    job = {"do": "measure", "run": str(first), "checkpoints": checkpoints, "into": str(target), "options": options}
    _process(job, {**environment, **cache})


def _process(job: dict[str, Any], environment: Setting) -> None:
    base = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, str(RUN), json.dumps(job)], env={**base, **environment}, check=True)
    print("done:", job.get("folder") or job["into"], file=sys.stderr, flush=True)


def _measured(name: str, setting: str, folder: Path) -> Path:
    return folder / f"measured-{name}-{setting or 'first'}".replace(" ", "-")


def compared(job: Job, first: Path, other: Path) -> dict[str, Any]:
    """Return how a run differs from the first, by the number of steps since they were equal."""
    one, two = read_run_folder(first), read_run_folder(other)
    rows = {row.step: row for row in one.metrics}
    pairs = [(rows[row.step], row) for row in two.metrics if row.step in rows and row.step > job.start]
    same = next((a.step - 1 for a, b in pairs if (a.train_loss, a.grad_norm) != (b.train_loss, b.grad_norm)), None)
    start = job.start if same is None else same
    losses = np.array([(a.train_loss, b.train_loss) for a, b in pairs if a.step > start])
    norms = np.array([(a.grad_norm, b.grad_norm) for a, b in pairs if a.step > start])
    windows = losses[: len(losses) // WINDOW * WINDOW].reshape(-1, WINDOW, 2).mean(1)
    steps = [step for step in STEPS if step <= len(losses)]
    found: dict[str, Any] = {
        "run": job.study,
        "apart": job.apart,
        "what": job.name,
        "start": job.start,
        "first_difference": None if same is None else same + 1,
        "has_same_initial_weights": one.run.model.initial_weights.sha256 == two.run.model.initial_weights.sha256,
        "steps": steps,
        "train_loss": _largest_within(_relative(losses), steps),
        "mean_of_10_train_losses": _largest_within(_relative(windows), [step // WINDOW for step in steps]),
        "grad_norm": _largest_within(_relative(norms), steps),
    }
    return {**found, **_evaluations_apart(one, two, job.start), **_states_apart(job, one, two)}


def _evaluations_apart(one: RunFolder, two: RunFolder, start: int) -> dict[str, Any]:
    """Return how losses on fixed samples differ, by the number of steps since the start."""
    rows = {(row.step, row.weights): row for row in one.evaluations}
    found: dict[str, Any] = {"evaluated": sorted({row.step - start for row in two.evaluations if row.step > start})}
    for weights in ("raw", "ema"):
        pairs = [
            (rows[row.step, weights], row) for row in two.evaluations if row.weights == weights and row.step > start
        ]
        for name in ("heldout_loss", "fixed_train_loss"):
            values = np.array([(getattr(a, name), getattr(b, name)) for a, b in pairs])
            found[f"{name} {weights}"] = _shown(_relative(values))
    return found


def _states_apart(job: Job, one: RunFolder, two: RunFolder) -> dict[str, Any]:
    """Return distances of states: of weights divided by how far they moved, of moments by their length."""
    begin = _state(one.folder / ("checkpoints/" + step_name(job.start) if job.start else "initial"))
    found: dict[str, Any] = {"saved": []}
    for step in (job.start + step for step in STEPS):
        paths = [run.folder / "checkpoints" / step_name(step) for run in (one, two)]
        if all(path.is_dir() for path in paths):
            found["saved"].append(step - job.start)
            here, there = (_state(path) for path in paths)
            for kind, content in there.items():
                is_moment = kind not in ("unet", "ema")
                size = _length(content[name] - (0 if is_moment else begin[kind][name]) for name in content)
                apart = _length(here[kind][name] - content[name] for name in content)
                name = f"{kind} {'of_length' if is_moment else 'of_move'}"
                found.setdefault(name, []).append(_digits(apart / size) if size else None)
    return found


def _state(checkpoint: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return the tensors of a checkpoint in double precision, by kind: weights, averages, each moment."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            kind = name.rpartition("/")[2] if path.stem == "optimizer" else path.stem
            if kind != "step":
                found.setdefault(kind, {})[name] = tensor.double()
    return found


def _length(tensors: Iterable[torch.Tensor]) -> float:
    return float(sum(float(tensor.square().sum()) for tensor in tensors) ** 0.5)


def measured_apart(name: str, study: Study, folder: Path) -> list[dict[str, Any]]:
    """Return how evaluations, baselines and previews of the same weights differ between settings."""
    if not study.measured:
        return []
    base = _measured(name, "", folder)
    found = [_forward(base, _measured(name, other, folder), name, other) for other in (*SETTINGS, OTHER_NOISE)]
    last, before = study.measured[-1], study.measured[-2]
    return [*found, _forward(base, base, name, f"{last - before} steps earlier", {str(before): str(last)})]


def _forward(one: Path, two: Path, name: str, what: str, steps: dict[str, str] | None = None) -> dict[str, Any]:
    """Return how two measurements differ.

    Args:
        steps: of the one and of the other that are compared (default: all, each with itself).
    """
    a, b = (json.loads((path / "measured.json").read_text()) for path in (one, two))
    pictures, others = (dict(np.load(path / "previews.npz")) for path in (one, two))
    losses: list[tuple[float, float]] = []
    groups: list[tuple[float, float]] = []
    for key, row in a["rows"].items():
        step, weights = key.split(" ", 1)
        if steps is None or step in steps:
            other = b["rows"][key if steps is None else f"{steps[step]} {weights}"]
            losses += [(row[field], other[field]) for field in ("heldout_loss", "fixed_train_loss", "skill_error")]
            groups += list(zip(row["by_timestep"], other["by_timestep"], strict=True))
    numbers = [
        pair
        for field, values in a["baselines"].items()
        if field != "seconds"
        for pair in _flat(values, b["baselines"][field])
    ]
    drawn: dict[str, dict[str, float]] = {}
    for key, picture in pictures.items():
        step, weights, solver = key.split(" ", 2)
        if steps is None or step in steps:
            there = others[key if steps is None else f"{steps[step]} {weights} {solver}"]
            off = there.astype(int) - picture
            entry = drawn.setdefault(solver, {"share": 0.0, "largest": 0, "mean": 0.0})
            entry["share"] = max(entry["share"], _digits(float((off != 0).mean())))
            entry["largest"] = max(entry["largest"], int(np.abs(off).max()))
            entry["mean"] = max(entry["mean"], abs(_digits(float(off.mean()))), key=abs)
    return {
        "run": name,
        "apart": SETTINGS[what][0] if what in SETTINGS else "other",
        "what": what,
        "losses": _largest(losses),
        "losses_of_groups": _largest(groups),
        "baselines": _largest(numbers),
        "previews": drawn,
    }


def _largest(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the largest relative difference of losses that are not 0 but for rounding."""
    return _digits(
        float(_relative(np.array([pair for pair in pairs if abs(pair[0] - pair[1]) > NEGLIGIBLE])).max(initial=0))
    )


def _flat(one: Any, two: Any) -> list[tuple[float, float]]:
    return list(zip(one, two, strict=True)) if isinstance(one, list) else [(one, two)]


def _relative(pairs: np.ndarray) -> np.ndarray:
    """Return the relative differences of pairs (N, 2), (N,)."""
    if not len(pairs):
        return np.zeros(0)
    larger = np.abs(pairs).max(1)
    return np.abs(pairs[:, 0] - pairs[:, 1]) / np.where(larger > 0, larger, 1)


def _largest_within(values: np.ndarray, steps: Sequence[int]) -> list[float | None]:
    return [_digits(float(values[:step].max())) if 0 < step <= len(values) else None for step in steps]


def _shown(values: np.ndarray) -> list[float]:
    return [_digits(float(value)) for value in values]


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def compact(results: dict[str, Any]) -> str:
    """Return results as JSON, a line for each comparison."""
    lists = {name: results[name] for name in ("pairs", "forward")}
    head = json.dumps({name: value for name, value in results.items() if name not in lists}, indent=1)
    parts = []
    for name, entries in lists.items():
        lines = ",\n".join("  " + json.dumps(entry, separators=(",", ":")) for entry in entries)
        parts.append(f' "{name}": [\n{lines}\n ]')
    return head.rstrip().removesuffix("}").rstrip() + ",\n" + ",\n".join(parts) + "\n}\n"


def print_tables(results: dict[str, Any]) -> None:
    """Print the table of docs/follow.md, and what measuring the same weights again gave."""
    pairs, rows = results["pairs"], {"threads": ("threads",), "instructions": ("instructions",), "another seed": SEED}
    for quantity in get_args(Quantity):
        print(f"\n| {quantity}, after steps | " + " | ".join(map(str, STEPS)) + " |\n|" + "---|" * (1 + len(STEPS)))
        for name, aparts in rows.items():
            choose = min if aparts == SEED else max
            found = [largest(pairs, aparts, quantity, step if quantity in STATES else 0, step) for step in STEPS]
            print(f"| {name} | " + " | ".join(f"{choose(values):.1e}" if values else "" for values in found) + " |")
        print("| allowed | " + " | ".join(f"{limit_from(pairs, quantity, step):.1e}" for step in STEPS) + " |")
    for entry in results["forward"]:
        print(entry)


if __name__ == "__main__":
    main()
