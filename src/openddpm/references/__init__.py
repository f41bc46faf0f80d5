"""References: runs of one config with several seeds, to hold other runs against. Imports no torch."""

import datetime
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from openddpm.analysis.text import plain
from openddpm.config import NEUTRAL_OPTIONS, TrainConfig
from openddpm.errors import UserError
from openddpm.record.reader import RunFolder, read_record
from openddpm.record.writer import EVALUATIONS_FILE
from openddpm.references.sources import BUILT_IN, folder_of, is_built_in, open_runs

__all__ = [
    "FILM_FILE",
    "REFERENCE_FILE",
    "Reference",
    "ReferenceRecord",
    "builtin_names",
    "open_reference",
    "open_runs",
]

REFERENCE_FILE = "reference.json"
FILM_FILE = "film.png"
MIN_FINISHED = 3  # a band needs as many runs: with fewer, unfinished ones are taken, too
MAX_DIFFERENCES = 5  # in an error

_MAY_DIFFER = NEUTRAL_OPTIONS | {"seed", "gradient_accumulation_steps"}  # the images per step are compared instead


class ReferenceRecord(BaseModel):
    """reference.json: how and where the runs of a reference were made."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    name: str
    text: str
    """What the runs are, in a sentence."""
    made: datetime.date
    device: str
    """Name of the GPU or CPU."""
    cpu_threads: int
    version: str
    """Version of openddpm."""
    commit: str
    """Commit of openddpm's repository that the runs were trained with, or several, separated by commas."""


@dataclass(frozen=True)
class Reference:
    """Runs that differ in nothing but their seeds."""

    name: str
    runs: list[RunFolder]
    """At least one, in the order of the seeds, which are all different."""
    about: ReferenceRecord | None
    """None without a reference.json beside the runs."""
    folder: Path | None = None
    """Absolute path of the folder that was named; None for a built-in reference, the Hub, and several sources."""
    film: Path | None = None
    """A strip of previews of the first seed; None without one."""
    notes: list[str] = field(default_factory=list)
    """What a user should know of the choice of runs, a sentence each."""


def builtin_names() -> list[str]:
    """Return the names of the references that come with openddpm."""
    return sorted(path.parent.name for path in BUILT_IN.glob(f"*/{REFERENCE_FILE}"))


def open_run(source: str, whole: bool = False) -> RunFolder:
    """Read the only run of a run source.

    Args:
        source, whole: as for `open_runs`.

    Raises:
        UserError: as `open_runs`, or it has several runs.
    """
    runs = open_runs(source, whole)
    if len(runs) > 1:
        names = ", ".join(run.folder.name for run in runs)
        raise UserError(f"'{source}' has several runs: {names}", "Give one of them.")
    return runs[0]


def open_reference(*sources: str) -> Reference:
    """Read the runs of one or more run sources as one reference.

    Args:
        sources: each as for `open_runs`.

    Raises:
        UserError: as `open_runs`; the runs differ in more than their seeds; or reference.json is damaged.
    """
    if not sources:
        names = ", ".join(builtin_names())
        raise UserError("no reference is given", f"Name a built-in one ({names}), run folders, or runs on the Hub.")
    runs, notes = [run for source in sources for run in open_runs(source)], list[str]()
    source = " ".join(sources)
    shared = _shared(runs[0])
    for run in runs[1:]:
        if differences := _differences(shared, _shared(run)):
            raise _not_one(source, runs[0], run, differences)
    folder = folder_of(source) if len(sources) == 1 else None
    if is_built_in(source) and Path(source).is_dir():
        notes.append(f"'{source}' is the built-in reference; the folder of that name here is ./{source}")
    chosen = []
    for seed, same in itertools.groupby(sorted(runs, key=_seed_and_progress), key=lambda run: run.run.seed):
        first, *others = same
        chosen.append(first)
        if others:
            listed = ", ".join(f"{run.folder.name} (at {run.run.progress.images_seen:,})" for run in others)
            kept = f"{first.folder.name} is taken, at {first.run.progress.images_seen:,} images"
            notes.append(f"of {len(others) + 1} runs with seed {seed}, {kept}; left out: {listed}")
    for is_kept, reason in ((_is_finished, "they have not finished"), (_is_evaluated, "evaluations.jsonl has no end")):
        those = [run for run in chosen if is_kept(run)]
        if MIN_FINISHED <= len(those) < len(chosen):
            left_out = ", ".join(run.folder.name for run in chosen if run not in those)
            notes.append(f"left out, since {reason}: {left_out}")
            chosen = those
    for run in chosen:
        if _is_finished(run) and not run.evaluations:
            found = f"'{run.folder / EVALUATIONS_FILE}' has no line, though the run is finished"
            raise UserError(found, "Restore the file, or leave out that run.")
    for run in chosen:
        if any(one.changes or one.rolled_back_from is not None for one in run.run.resumptions):
            notes.append(f"{run.folder.name} was changed or rolled back on the way: its run.json has what and when")
    own = folder if folder and folder.exists() and not is_built_in(source) else None
    return Reference(
        name=own.resolve().name if own else source,
        runs=chosen,
        about=read_record(folder / REFERENCE_FILE, ReferenceRecord) if folder else None,
        folder=own and own.absolute(),
        film=folder / FILM_FILE if folder and (folder / FILM_FILE).is_file() else None,
        notes=notes,
    )


def _is_finished(run: RunFolder) -> bool:
    return run.run.status == "finished"


def _is_evaluated(run: RunFolder) -> bool:
    """Tell whether a finished run has the evaluation of its last step, as each has."""
    return not _is_finished(run) or any(row.step == run.run.progress.step for row in run.evaluations)


def _seed_and_progress(run: RunFolder) -> tuple[int, int]:
    return run.run.seed, -run.run.progress.images_seen


def _shared(run: RunFolder) -> dict[str, Any]:
    """Return what runs of one reference share, by name; an option that a record does not have is the default."""
    record = run.run
    options = {**TrainConfig().model_dump(mode="json"), **record.config}
    unet = {name: value for name, value in record.model.config.items() if not name.startswith("_")}
    return {
        **{name: value for name, value in options.items() if name not in _MAY_DIFFER},
        "images per step": record.global_batch_size,
        "steps": record.total_steps,
        "sha256 of the images": record.dataset.sha256[:12],
        "held-out images": record.dataset.num_heldout,
        "fixed samples": record.evaluation.num_fixed_samples,
        "objects given from Python": record.user_supplied,
        "sha256 of the weights it started from": record.model.init_from and record.model.init_from.sha256[:12],
        **{f"{name} of the UNet": value for name, value in unet.items()},
    }


def _differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    names = dict.fromkeys([*ours, *theirs])
    return [
        f"{name}: {plain(ours.get(name))} and {plain(theirs.get(name))}"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


def _not_one(source: str, first: RunFolder, other: RunFolder, differences: Sequence[str]) -> UserError:
    found = f"the runs in '{source}' are not one reference: {first.folder.name} and {other.folder.name} differ in"
    lines = [f"  {line}" for line in differences[:MAX_DIFFERENCES]]
    if len(differences) > MAX_DIFFERENCES:
        lines.append(f"  and {len(differences) - MAX_DIFFERENCES} more")
    hint = "Give one of them, or a folder with runs that differ in nothing but their seeds."
    return UserError("\n".join([found, *lines]), hint)
