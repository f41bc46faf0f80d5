"""Whether a run that was disturbed is, to the bit, the one that was not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fault_injection import Site, start, start_ranks
from openddpm.record.reader import read_run_folder, read_run_record
from openddpm.record.writer import list_preview_files
from openddpm.training.checkpoint import InvalidCheckpoint, checkpoint_row, list_checkpoints, verify_checkpoint
from tiny import differing, exact_evaluations, exact_metrics, exact_samples, newest_tensors

_NUM_RESUMES = 4
_TEMPORARY = (".partial-*", ".*.openddpm-tmp", ".probe-*")
_BY_THE_CLOCK = {"train/images_per_second"}
_OF_A_SITTING = ("hparam/",)  # said anew as each ends: the last counts


def resumed(
    site: Site, name: str, whole: Path, fault: Callable[[], object] | None = None, ranks: int = 1, **options: Any
) -> list[str] | None:
    """Go on with a run until it is finished; return how it differs from the one left alone, None if it never is.

    Args:
        fault: that the first resumption meets, in a run of one process.
    """
    command = [*site.command(name, **options), "--resume_from_checkpoint", "latest"]
    for _ in range(_NUM_RESUMES):
        if ranks == 1:
            children = [start(site, command, f"{name}-resumed", fault)]
        else:
            children = start_ranks(site, command, f"{name}-resumed", size=ranks)
        if [child.wait() for child in children] == [0] * ranks:
            return differences(site.folder / name, whole, site.folder / "logs")
        fault = None
    return None


def differences(run: Path, whole: Path, logs: Path) -> list[str]:
    """Return in what two finished runs differ, times and names apart, and what `run` should not have left behind."""
    found = _differing_rows("metrics", exact_metrics(run), exact_metrics(whole))
    found += _differing_rows("evaluations", exact_evaluations(run), exact_evaluations(whole))
    found += _differing_rows("samples", exact_samples(run), exact_samples(whole))
    found += _faults_of_checkpoint_rows(run, whole)
    found += [f"tensor {name}" for name in differing(newest_tensors(run), newest_tensors(whole))]
    found += ["state.json"] * (_newest_state(run) != _newest_state(whole))
    previews, wanted = ({path.name: path for _, _, path in list_preview_files(folder)} for folder in (run, whole))
    found += [f"preview {name} on one side" for name in previews.keys() ^ wanted.keys()]
    shared = previews.keys() & wanted.keys()
    found += [f"preview {name}" for name in shared if previews[name].read_bytes() != wanted[name].read_bytes()]
    found += _differing_scalars(scalars(logs / run.name), scalars(logs / whole.name))
    found += [f"pipeline {name}" for name in _differing_from_pipeline(run)]
    found += ["baselines.json"] * (_baselines(run) != _baselines(whole))
    found += [f"status {status}" for status in [read_run_record(run).status] if status != "finished"]
    return found + [f"left behind: {path}" for path in leftovers(run)]


def published_faults(run: Path, keep: int) -> list[str]:
    """Return the published checkpoints that are not whole, but for old ones, which may be on their way out."""
    if not (run / "run.json").exists():
        return []
    run_id = read_run_record(run).run_id
    faults = []
    for folder in list_checkpoints(run)[-keep:]:
        try:
            verify_checkpoint(folder, run_id)
        except InvalidCheckpoint as error:
            faults.append(f"{folder.name}: {error}")
    return faults


def leftovers(folder: Path) -> list[Path]:
    """Return temporary files and folders below `folder`."""
    return [path for pattern in _TEMPORARY for path in folder.rglob(pattern)]


def scalars(events: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard shows of a run: (step, value) by tag, as it purges what resumptions have overtaken."""
    accumulator = EventAccumulator(str(events), size_guidance={"scalars": 0}, purge_orphaned_data=True)
    accumulator.Reload()
    found = {}
    for tag in accumulator.Tags()["scalars"]:
        entries = [(event.step, event.value) for event in accumulator.Scalars(tag)]
        found[tag] = entries[-1:] if tag.startswith(_OF_A_SITTING) else entries
    return found


def _differing_rows(what: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    steps = [row["step"] for row in ours], [row["step"] for row in theirs]
    if steps[0] != steps[1]:
        return [f"{what}: steps {steps[0]}, not {steps[1]}"]
    return [f"{what}: step {row['step']}" for row, wanted in zip(ours, theirs, strict=True) if row != wanted]


def _faults_of_checkpoint_rows(run: Path, whole: Path) -> list[str]:
    """Return what is wrong in checkpoints.jsonl: each step once, as on disk, with the weights of `whole`."""
    ours, theirs = (read_run_folder(folder).checkpoints for folder in (run, whole))
    steps, wanted = [row.step for row in ours], {row.step: row.exported_sha256 for row in theirs}
    found = [f"checkpoints.jsonl: steps {steps}"] * (steps != sorted(set(steps)))
    found += [f"{path.name} is not noted" for path in list_checkpoints(run) if checkpoint_row(path) not in ours]
    other = [row.step for row in ours if row.exported_sha256 != wanted.get(row.step, row.exported_sha256)]
    return found + [f"checkpoints.jsonl: other weights at step {step}" for step in other]


def _differing_scalars(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> list[str]:
    found = [f"events: {tag} on one side" for tag in ours.keys() ^ theirs.keys()]
    for tag in (ours.keys() & theirs.keys()) - _BY_THE_CLOCK:
        if ours[tag] != theirs[tag]:
            found.append(f"events: {tag} at {[step for step, _ in ours[tag]]}, not {[step for step, _ in theirs[tag]]}")
    return found


def _differing_from_pipeline(run: Path) -> list[str]:
    pipeline = load_file(run / "unet" / "diffusion_pytorch_model.safetensors")
    averaged = {name.removeprefix("ema:"): tensor for name, tensor in newest_tensors(run).items() if name[:4] == "ema:"}
    return differing(pipeline, averaged)


def _baselines(run: Path) -> dict[str, Any]:
    return json.loads((run / "baselines.json").read_text("utf-8")) | {"seconds": None}


def _newest_state(run: Path) -> dict[str, Any]:
    state = json.loads((list_checkpoints(run)[-1] / "state.json").read_text("utf-8"))
    return {key: value for key, value in state.items() if key not in ("wall_seconds", "run_id")}
