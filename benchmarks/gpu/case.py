"""Cases of training by ours, one after the other in this process; each number is written as soon as it is there.

    python benchmarks/gpu/case.py max-16 --inputs FOLDER --work FOLDER --results FOLDER --until SECONDS

A case is `openddpm.train` itself with an observer: the UNet is compiled once for all of its numbers. It is planned as
long as 400 epochs of 7,400 images, since `--speed auto` and the times of evaluations depend on the planned length, and
ended after some 70 steps, in which there are an evaluation, a preview and a checkpoint. The file of a case grows in
this order: start and compilation, rate and memory, shares of the time, the table of kernels.
"""

import argparse
import contextlib
import gc
import shutil
import statistics
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from commands import EPOCH_IMAGES, WINDOW_STEPS, count_images
from kernels import Profile, ceilings
from origin import origin
from shares import seconds_by_kind

from openddpm import TrainConfig, train
from openddpm.record.files import write_json
from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, MetricsRow, RunRecord
from openddpm.training.observer import Observer

NUM_EPOCHS = 400
NEVER = 1_000_000  # epochs or steps


@dataclass(frozen=True)
class Case:
    """One way to train."""

    row: str
    """Its name in the results."""
    speed: str
    batch_size: int
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "max-16": Case("ours, --speed max", "max", 16),
    "auto-16": Case("ours, --speed auto", "auto", 16),
    "exact-16": Case("ours, --speed exact", "exact", 16),
    "max-128": Case("ours, --speed max, batch 128", "max", 128),
    "auto-128": Case("ours, --speed auto, batch 128", "auto", 128),
    "exact-128": Case("ours, --speed exact, batch 128", "exact", 128),
    "muon-16": Case("ours, --speed max --optimizer muon", "max", 16, {"optimizer": "muon", "learning_rate": 1e-3}),
}


@dataclass(frozen=True)
class Plan:
    """Steps of a case, each the last line of a window or near it."""

    warm: int = 10
    look: int = 42
    """About where the first preview is due, and the first evaluation with it."""
    save: int = 55
    end: int = 65
    """Or as soon as the checkpoint is whole, if that is later."""


TRIED = Plan(warm=5, look=12, save=20, end=25)  # of a dry run


class Done(Exception):
    """All numbers of a case are there."""


class Results:
    """The file of a case, written whole each time."""

    def __init__(self, path: Path, row: str, batch_size: int) -> None:
        self._path = path
        self.values: dict[str, Any] = {"row": row, "batch_size": batch_size}

    def put(self, **values: Any) -> None:
        """Add numbers."""
        self.values |= values
        write_json(self._path, self.values)


class Watch(Observer):
    """Notes what a run tells, profiles a few steps at the end, and ends it."""

    def __init__(self, results: Results, plan: Plan, until: float, table: Path) -> None:
        self._results, self._plan, self._until, self._table = results, plan, until, table
        self._begun = time.perf_counter()
        self._folder = Path()
        self._profile: Profile | None = None
        self._saving_rows: list[float] = []
        self._checkpoint_seconds: float | None = None
        self.rows: list[MetricsRow] = []
        self.scored: dict[int, float] = {}
        self.previews: list[int] = []

    def started(self, run: RunRecord, folder: Path) -> None:
        """Note how long it took to begin, and what was chosen."""
        self._folder = folder
        self._results.put(
            start_seconds=round(time.perf_counter() - self._begun, 1),
            speed=run.session.environment.speed.model_dump(),
            precision=run.config["mixed_precision"],
            gflops_per_image=run.model.gflops_per_image,
        )

    def logged(self, row: MetricsRow) -> None:
        """Go on to the next part of the plan, if this line is where it begins."""
        if self._profile is not None:
            self._results.put(profile=self._profile.stop(self._table, WINDOW_STEPS))
            raise Done
        self.rows.append(row)
        plan = self._plan
        if row.step <= plan.save:
            self._put_rate()
            return
        self._note_checkpoint(row)
        is_late = time.monotonic() > self._until
        if row.step >= plan.end and (self._checkpoint_seconds is not None or is_late):
            self._put_shares()
            if is_late:
                raise Done
            self._profile = Profile()

    def evaluated(self, row: EvaluationRow) -> None:
        """Sum up the seconds of evaluations by their step."""
        self.scored[row.step] = self.scored.get(row.step, 0.0) + (row.seconds or 0.0)

    def previewed(self, preview: Preview) -> None:
        """Note where there was a preview."""
        self.previews.append(preview.step)

    def _put_rate(self) -> None:
        rates = [row.images_per_second for row in self.rows if row.step > self._plan.warm]
        if not rates:
            return
        rate = statistics.median(rates)
        self._results.put(
            windows=len(rates),
            steps_images_per_second=rate,
            least_images_per_second=min(rates),
            most_images_per_second=max(rates),
            losses=[round(row.train_loss, 5) for row in self.rows],
            **compiler_counters(),
        )
        if torch.cuda.is_available():
            used, held = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            self._results.put(device_mib=round(used / 2**20), device_reserved_mib=round(held / 2**20))

    def _note_checkpoint(self, row: MetricsRow) -> None:
        """Note when the checkpoint became whole, and the rate until then."""
        if self._checkpoint_seconds is not None:
            return
        self._saving_rows.append(row.images_per_second)
        if any((self._folder / "checkpoints").glob("step-*")):
            begun = next(earlier.wall_seconds for earlier in self.rows if earlier.step >= self._plan.save)
            self._checkpoint_seconds = round(row.wall_seconds - begun, 2)
            self._results.put(
                checkpoint_seconds=self._checkpoint_seconds,
                images_per_second_while_saving=round(statistics.median(self._saving_rows), 2),
            )

    def _put_shares(self) -> None:
        """Tell what a preview, an evaluation and a save cost."""
        spent = seconds_by_kind(self.rows, self.scored, self.previews, [self._plan.save])
        a_preview = spent.previews / len(self.previews) if self.previews else None
        self._results.put(
            preview_seconds=a_preview and round(a_preview, 3),
            evaluation_seconds=round(spent.evaluations / len(self.scored), 3) if self.scored else None,
            save_stall_seconds=round(spent.saves, 3),
        )


def config_of(name: str, given: argparse.Namespace) -> TrainConfig:
    """Return what a case trains, in a folder of its own."""
    case, plan = CASES[name], TRIED if given.dry_run else Plan()
    images = given.inputs / "images"
    batch_size = 4 if given.dry_run else case.batch_size
    images_per_epoch = 0.9 * count_images(images)  # one in ten is held out
    values: dict[str, Any] = {
        "dataset": str(images),
        "model": str(given.inputs / "unet.json"),
        "resolution": 16 if given.dry_run else 64,
        "train_batch_size": batch_size,
        "speed": case.speed,
        "max_train_steps": NUM_EPOCHS * EPOCH_IMAGES // batch_size,
        "save_images_epochs": max(1, round(plan.look * batch_size / images_per_epoch)),
        "checkpointing_steps": plan.save,
        "logging_steps": WINDOW_STEPS,
        "output_dir": str(given.work / name / "run"),
        "logging_dir": str(given.work / name / "logs"),
        "cache_dir": str(given.work / "cache"),
        "overwrite_output_dir": True,
        **case.options,
    }
    if given.dry_run:
        values["num_inference_steps"] = 3
    return TrainConfig(**values)


def measure(name: str, given: argparse.Namespace) -> None:
    """Train a case as far as its plan goes; its file tells how far that was."""
    config = config_of(name, given)
    results = Results(given.results / f"{name}.json", CASES[name].row, config.train_batch_size)
    table = given.results / f"profile-{name}.txt"
    watch = Watch(results, TRIED if given.dry_run else Plan(), given.until, table)
    torch._dynamo.utils.counters.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    results.put(origin=origin())
    try:
        with contextlib.suppress(Done):
            train(config, observers=[watch])
        results.put(done=True)
    except BaseException as error:
        traceback.print_exc()
        results.put(error=f"{type(error).__name__}: {error}"[:2000])
        if not isinstance(error, Exception):
            raise
    finally:
        shutil.rmtree(Path(config.output_dir) / "checkpoints", ignore_errors=True)  # gigabytes
        gc.collect()
        torch._dynamo.reset()
        gc.collect()


def compiler_counters() -> dict[str, Any]:
    """Return what the compiler has counted: graphs, graph breaks and recompilations."""
    counted = torch._dynamo.utils.counters
    names = ("graph_break", "unimplemented", "recompiles", "stats", "inductor", "aot_autograd")
    return {"compiler": {name: dict(counted[name]) for name in names if counted.get(name)}}


def main() -> None:
    """Measure cases one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=list(CASES))
    parser.add_argument("--inputs", type=Path, required=True, help="folder that inputs.py has written")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs")
    parser.add_argument("--results", type=Path, required=True, help="folder for a file of each case")
    parser.add_argument("--until", type=float, required=True, help="seconds from now after which a case ends early")
    parser.add_argument("--ceilings", action="store_true", help="what the device gives, first")
    parser.add_argument("--dry_run", action="store_true", help="a tiny UNet, on whatever device there is")
    given = parser.parse_args()
    given.until += time.monotonic()
    if not (torch.cuda.is_available() or given.dry_run):
        raise SystemExit("no CUDA device is seen by torch; --dry_run tries the script without one")
    if given.ceilings:
        write_json(given.results / "ceilings.json", {"origin": origin(), **ceilings(), "done": True})
    for name in given.cases:
        measure(name, given)


if __name__ == "__main__":
    main()
