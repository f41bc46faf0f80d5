"""What of a run is published: which files, and the record without the paths of the machine that it ran on."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openddpm.record.data_record import DataRecord
from openddpm.record.kept import kept_steps, list_milestones, milestone_name, step_name
from openddpm.record.reader import RunFolder
from openddpm.record.schema import CheckpointRow, RunRecord
from openddpm.record.verification import VerificationRecord
from openddpm.record.writer import DATA_FILE, RUN_FILE, VERIFICATION_FILE, VERIFICATION_PAGE

WEIGHTS_FILE = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS_FILES = ("model_index.json", "unet/config.json", WEIGHTS_FILE, "scheduler/scheduler_config.json")
RECORD_FILES = (
    *("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "checkpoints.jsonl", "baselines.json", "verdict.json"),
    *("reference_band.json", "curves.png", "samples/step-*.png", "samples/training-data.png"),
)
"""Files that are published as they are. run.json, data.json, report.html, README.md and VERIFICATION_FILES are made
anew."""
PAGES = ("report.html", "README.md", "curves.png")
"""Files that are made of the record, and made anew at any time."""
VERIFICATION_FILES = (VERIFICATION_FILE, VERIFICATION_PAGE)
"""Files that `openddpm verify` makes, at any time."""

_ABSOLUTE = r"(?:/|~|\\\\|[A-Za-z]:[\\/])"
_PATH = re.compile(rf"{_ABSOLUTE}.*", re.DOTALL)
_QUOTED = re.compile(rf"""(?P<quote>['"])(?P<path>{_ABSOLUTE}.*?)(?P=quote)""", re.DOTALL)


def published_names(folder: Path, rows: Iterable[CheckpointRow], keep_every: int | None) -> list[str]:
    """Return the files in a run folder that may be published, as paths in it; a push chooses among weights of steps.

    Args:
        rows: of checkpoints.jsonl: weights of other steps belong to no checkpoint of the run.
        keep_every: the option of that name.
    """
    rows = list(rows)
    names = files_matching(folder, (*WEIGHTS_FILES, RUN_FILE, DATA_FILE, "report.html", "README.md", *RECORD_FILES))
    names += map(milestone_name, published_milestones(folder, rows))
    there = {*files_matching(folder, ["checkpoints/*/*"])}  # names in a damaged row may be anything
    kept = published_checkpoints(folder, rows, keep_every).values()
    return names + [name for files in kept for name in files if name in there]


def files_matching(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Return the files in a folder that match the patterns, in their order, as paths in it."""
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    return [path.relative_to(folder).as_posix() for path in paths]


def published_milestones(folder: Path, rows: Iterable[CheckpointRow]) -> list[int]:
    """Return the steps whose weights are kept and are those of a checkpoint of the run, in order."""
    steps = {row.step for row in rows}
    return [step for step in list_milestones(folder) if step in steps]


def published_checkpoints(folder: Path, rows: Iterable[CheckpointRow], keep_every: int | None) -> dict[int, list[str]]:
    """Return the files that each checkpoint that is kept for good should have, by step, as paths in the run folder."""
    files = {row.step: [*row.sha256, "manifest.json"] for row in rows}
    there = [step for step in files if (folder / "checkpoints" / step_name(step)).is_dir()]
    return {
        step: [f"checkpoints/{step_name(step)}/{name}" for name in files[step]]
        for step in sorted(kept_steps(there, keep_every))
    }


def published(run: RunFolder) -> RunFolder:
    """Return a run as it is published: each absolute path is reduced to its last part."""
    return replace(run, run=_published_run(run.run), data=run.data and _published_data(run.data))


def published_verification(found: VerificationRecord, sha256: Mapping[str, str]) -> VerificationRecord:
    """Return what was checked of a run as it is published: without paths, and without the files that are changed.

    Args:
        sha256: of files as they are published; a file that is not among them is published as it is.
    """
    rungs = [
        rung.model_copy(
            update={"text": _with_last_parts(rung.text), "details": [_with_last_parts(line) for line in rung.details]}
        )
        for rung in found.rungs
    ]
    files = {name: digest for name, digest in found.files.items() if sha256.get(name, digest) == digest}
    return found.model_copy(update={"source": last_part(found.source), "rungs": rungs, "files": files})


def last_part(text: str) -> str:
    """Return the last part of an absolute path of any system, or one in a home folder; other text as it is."""
    if not _PATH.fullmatch(text):
        return text
    parts = [part for part in re.split(r"[\\/]+", text) if part]
    return parts[-1] if parts else text


def without_paths(value: Any) -> Any:
    """Return a value of JSON with the absolute paths in it reduced to their last parts."""
    if isinstance(value, dict):
        return {key: without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_paths(entry) for entry in value]
    return last_part(value) if isinstance(value, str) else value


def _published_run(run: RunRecord) -> RunRecord:
    init = run.model.init_from
    return run.model_copy(
        update={
            "config": without_paths(run.config),
            "dataset": run.dataset.model_copy(update={"source": last_part(run.dataset.source)}),
            "model": run.model.model_copy(
                update={"init_from": init and init.model_copy(update={"source": last_part(init.source)})}
            ),
            "resumptions": [
                entry.model_copy(
                    update={
                        "changes": [_with_last_parts(line) for line in entry.changes],
                        "skipped_checkpoints": [_with_last_parts(line) for line in entry.skipped_checkpoints],
                    }
                )
                for entry in run.resumptions
            ],
            "failure_text": run.failure_text and _with_last_parts(run.failure_text),
        }
    )


def _published_data(data: DataRecord) -> DataRecord:
    """Return the record of the data: tables may name their images by the paths that these had."""
    return data.model_copy(
        update={
            "images": [image.model_copy(update={"path": last_part(image.path)}) for image in data.images],
            "most_cut": [image.model_copy(update={"path": last_part(image.path)}) for image in data.most_cut],
            "left_out": [
                entry.model_copy(update={"examples": [last_part(name) for name in entry.examples]})
                for entry in data.left_out
            ],
            "near_duplicates": [
                pair.model_copy(update={"heldout": last_part(pair.heldout), "train": last_part(pair.train)})
                for pair in data.near_duplicates
            ],
        }
    )


def _with_last_parts(text: str) -> str:
    """Return a message with the quoted paths in it reduced."""
    return _QUOTED.sub(lambda match: match["quote"] + last_part(match["path"]) + match["quote"], text)
