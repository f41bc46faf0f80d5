"""What somebody could change in the record of a run, by mistake or on purpose, each as a function of its folder.

Digests in the record are made to fit what was changed, as a careful forger would do, who also writes the manifest anew
(`tampered`): what then still shows it is that the numbers do not come out of the options.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from openddpm.analysis.verdict import judge
from openddpm.config import recorded_config
from openddpm.record.bands import BANDS
from openddpm.record.files import file_sha256, read_json_lines, write_json
from openddpm.record.manifest import write_manifest
from openddpm.record.public import published_names
from openddpm.record.reader import read_run_folder
from openddpm.training.checkpoint import list_checkpoints, remove_checkpoints
from openddpm.training.optimizer import learning_rate_schedule

METADATA = {"format": "pt"}
EXPORTED = "unet/diffusion_pytorch_model.safetensors"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Tampering:
    """One change of a record."""

    name: str
    what: str
    change: Callable[[Path, Path], None]
    """(folder of the record, folder of another run with the same options and another seed): changes the first."""
    caught_by: str
    """The first rung of the ladder that has to fail, if the budget is enough for all first steps and segments."""
    is_judged: bool = True
    """Whether the verdict is made anew of what was changed."""
    needs_whole: bool = False
    """Whether only training the whole run again can show it."""


def tampered(folder: Path, other: Path, tampering: Tampering) -> None:
    """Change the record in `folder`, judge it and write its manifest anew."""
    tampering.change(folder, other)
    run = read_run_folder(folder)
    if tampering.is_judged and run.verdict is not None:
        verdict = judge(run.run, run.metrics, run.evaluations, run.baselines, run.samples)
        write_json(folder / "verdict.json", verdict.model_dump())
    write_manifest(folder, published_names(folder, run.checkpoints, run.run.config.get("keep_every")))


def write_rows(path: Path, rows: Rows) -> None:
    """Write a JSON Lines file of a record."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _edit_rows(name: str, edit: Callable[[Rows], Rows]) -> Callable[[Path, Path], None]:
    def change(folder: Path, other: Path) -> None:
        rows = edit(read_json_lines(folder / name))
        write_rows(folder / name, rows)

    return change


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text("utf-8"))
    edit(value)
    path.write_text(json.dumps(value), "utf-8")


def _edited_line(rows: Rows) -> Rows:
    rows[len(rows) // 4]["train_loss"] *= 0.9
    return rows


def _smoothed(rows: Rows) -> Rows:
    losses = [row["train_loss"] for row in rows]
    for index in range(2, len(rows) // 2):
        rows[index]["train_loss"] = float(np.mean(losses[index - 2 : index + 3]))
    return rows


def _scaled_rate(rows: Rows) -> Rows:
    return [{**row, "learning_rate": 1.1 * row["learning_rate"]} for row in rows]


def _replace_exported(folder: Path, source: Path) -> None:
    """Export other weights, with digests that fit, and remove the checkpoint that has the right ones."""
    (folder / EXPORTED).unlink()  # it may be a link to a checkpoint's
    shutil.copyfile(source, folder / EXPORTED)
    rows = read_json_lines(folder / "checkpoints.jsonl")
    rows[-1]["exported_sha256"] = rows[-1]["sha256"]["ema.safetensors"] = file_sha256(folder / EXPORTED)
    write_rows(folder / "checkpoints.jsonl", rows)
    shutil.rmtree(folder / "checkpoints" / f"step-{rows[-1]['step']:08d}")


def note_checkpoint(folder: Path, checkpoint: Path) -> None:
    """Give a checkpoint's manifest and its line of checkpoints.jsonl the digests of its files."""
    sha256 = {path.name: file_sha256(path) for path in sorted(checkpoint.iterdir()) if path.name != "manifest.json"}
    entries = {name: {"bytes": (checkpoint / name).stat().st_size, "sha256": sha256[name]} for name in sha256}
    (checkpoint / "manifest.json").write_text(json.dumps({"files": entries}), "utf-8")
    rows = read_json_lines(folder / "checkpoints.jsonl")
    for row in rows:
        if checkpoint.name == f"step-{row['step']:08d}":
            exported = "ema.safetensors" if "ema.safetensors" in sha256 else "unet.safetensors"
            row |= {"sha256": sha256, "exported_sha256": sha256[exported]}
    write_rows(folder / "checkpoints.jsonl", rows)


def _other_weights(folder: Path, other: Path) -> None:
    _replace_exported(folder, other / EXPORTED)


def _raw_for_ema(folder: Path, other: Path) -> None:
    raw = folder.with_name("raw.safetensors")
    shutil.copyfile(list_checkpoints(folder)[-1] / "unet.safetensors", raw)
    _replace_exported(folder, raw)


def _only_the_exported_digest(folder: Path, other: Path) -> None:
    """Export other weights, with their digest as that of what is exported, but not as that of the checkpoint's file."""
    rows = read_json_lines(folder / "checkpoints.jsonl")
    sha256 = rows[-1]["sha256"]["ema.safetensors"]
    _replace_exported(folder, other / EXPORTED)
    rows = read_json_lines(folder / "checkpoints.jsonl")
    rows[-1]["sha256"]["ema.safetensors"] = sha256
    write_rows(folder / "checkpoints.jsonl", rows)


def _no_digests(folder: Path, other: Path) -> None:
    """Remove the checkpoints, and give them invented digests."""
    rows = read_json_lines(folder / "checkpoints.jsonl")
    for row in rows[:-1]:
        row["sha256"] = dict.fromkeys(row["sha256"], "0" * 64)
        row["exported_sha256"] = "0" * 64
    write_rows(folder / "checkpoints.jsonl", rows)
    remove_checkpoints(folder)


def _state_of_another_step(folder: Path, other: Path) -> None:
    """Have a checkpoint say that it is of the last step, so that nothing is left to train after it."""
    checkpoint = list_checkpoints(folder)[0]
    last = json.loads((list_checkpoints(folder)[-1] / "state.json").read_text("utf-8"))

    def edit(state: dict[str, Any]) -> None:
        state.update({name: last[name] for name in ("step", "images_seen")})

    _edit_json(checkpoint / "state.json", edit)
    note_checkpoint(folder, checkpoint)


def _scores_without_a_group(rows: Rows) -> Rows:
    for row in rows:
        row["by_timestep"][0] = None
        row["skill"] = row["train_skill"] = 0.97
    return rows


def _shifted_bands(folder: Path, other: Path) -> None:
    """Move loss from one band to another, so that the loss and the skill over all timesteps stay as they are."""
    baselines = json.loads((folder / "baselines.json").read_text("utf-8"))
    shares, snr, linear = (np.array(baselines[name]) for name in ("shares", "snr", "linear"))

    def shift(rows: Rows) -> Rows:
        for row in rows:
            losses = np.array(row["by_timestep"])
            losses[0] *= 0.5
            losses[-1] += shares[0] * losses[0] / shares[-1]
            row["by_timestep"] = losses.tolist()
            for name, (low, high) in BANDS.items():
                inside = (snr >= low) & (snr < high)
                if inside.any():
                    loss = np.average(losses[inside], weights=shares[inside])
                    floor = np.average(linear[inside], weights=shares[inside])
                    row["bands"][name] |= {"loss": loss, "skill": 1 - loss / floor}
        return rows

    _edit_rows("evaluations.jsonl", shift)(folder, other)


def _better_verdict(folder: Path, other: Path) -> None:
    _edit_json(folder / "verdict.json", lambda verdict: verdict.update(sentence="It learns splendidly."))


def _better_statistics(rows: Rows) -> Rows:
    for row in rows:
        for statistic in row["statistics"].values():
            statistic["samples"] = statistic["data"]
    return rows


def _fewer_evaluations(folder: Path, other: Path) -> None:
    """Keep the evaluation at the end alone, and have run.json plan no other."""

    def edit(run: dict[str, Any]) -> None:
        run["evaluation"] |= {"evaluation_steps": run["total_steps"], "early_steps": []}
        if run["previews"]:
            run["previews"]["steps"] = []

    _edit_json(folder / "run.json", edit)
    for name in ("evaluations.jsonl", "samples.jsonl"):
        rows = read_json_lines(folder / name)
        write_rows(folder / name, [row for row in rows if row["step"] == rows[-1]["step"]])


def _other_preview(folder: Path, other: Path) -> None:
    last = sorted((folder / "samples").glob("step-*-ema.png"))[-1]
    shutil.copyfile(sorted((other / "samples").glob("step-*-ema.png"))[-1], last)


def _brighter_preview(folder: Path, other: Path) -> None:
    last = sorted((folder / "samples").glob("step-*-ema.png"))[-1]
    pixels = np.asarray(Image.open(last)).astype(int) + 1
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(last)


def _other_evaluations(folder: Path, other: Path) -> None:
    shutil.copyfile(other / "evaluations.jsonl", folder / "evaluations.jsonl")


def _other_seed(folder: Path, other: Path) -> None:
    def edit(run: dict[str, Any]) -> None:
        run["seed"] = run["config"]["seed"] = run["seed"] + 1

    _edit_json(folder / "run.json", edit)


def _zeroed_moments(folder: Path, other: Path) -> None:
    checkpoint = list_checkpoints(folder)[len(list_checkpoints(folder)) // 2]
    path = checkpoint / "optimizer.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}, path, metadata=METADATA)
    note_checkpoint(folder, checkpoint)


def _loose_baselines(folder: Path, other: Path) -> None:
    """Make the linear denoiser 20 % worse, and every skill fit."""

    def loosen(baselines: dict[str, Any]) -> None:
        for name in ("linear", "linear_train"):
            baselines[name] = [1.2 * loss for loss in baselines[name]]

    _edit_json(folder / "baselines.json", loosen)

    def refit(rows: Rows) -> Rows:
        for row in rows:
            for name in ("skill", "train_skill"):
                if row[name] is not None:
                    row[name] = 1 - (1 - row[name]) / 1.2
            for band in row["bands"].values():
                if band["linear"] is not None:
                    band["linear"] *= 1.2
                    band["skill"] = 1 - band["loss"] / band["linear"]
        return rows

    _edit_rows("evaluations.jsonl", refit)(folder, other)


def hide_resumption(folder: Path, learning_rate: float | None = None) -> None:
    """Delete what tells that a run was resumed with another learning rate.

    Args:
        learning_rate: what the record then says of the whole run, its lines included; None leaves all as it is.
    """

    def edit(run: dict[str, Any]) -> None:
        run["resumptions"], run["sessions"] = [], [{**run["sessions"][-1], "first_step": 0}]
        run["config"]["accept_changes"] = False
        if learning_rate is not None:
            run["config"]["learning_rate"] = learning_rate

    _edit_json(folder / "run.json", edit)
    if learning_rate is not None:
        run = read_run_folder(folder).run
        rate_at = learning_rate_schedule(recorded_config(run.config), run.total_steps, [])
        rows = read_json_lines(folder / "metrics.jsonl")
        rows = [{**row, "learning_rate": rate_at(row["step"] - 1)} for row in rows]
        write_rows(folder / "metrics.jsonl", rows)


def _invented_rest(folder: Path, other: Path) -> None:
    """Keep the first quarter, and go on with the lines, weights and pictures of another run; no checkpoint is kept."""
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "checkpoints.jsonl"):
        ours, theirs = read_json_lines(folder / name), read_json_lines(other / name)
        end = max(row["step"] for row in ours) // 4
        rows = [row for row in ours if row["step"] <= end]
        rest = [row for row in theirs if row["step"] > end]
        for row in rest:
            if "wall_seconds" in row:
                row["wall_seconds"] += max((one["wall_seconds"] for one in rows), default=0.0)  # time never goes back
        rows += rest
        write_rows(folder / name, rows)
    remove_checkpoints(folder)
    shutil.rmtree(folder / "samples")
    shutil.copytree(other / "samples", folder / "samples")
    (folder / EXPORTED).unlink()
    shutil.copyfile(other / EXPORTED, folder / EXPORTED)


TAMPERINGS = (
    Tampering("line", "a loss of metrics.jsonl edited", _edit_rows("metrics.jsonl", _edited_line), "first_steps"),
    Tampering(
        "removed",
        "a line of metrics.jsonl removed",
        _edit_rows("metrics.jsonl", lambda rows: rows[: len(rows) // 2] + rows[len(rows) // 2 + 1 :]),
        "files",
    ),
    Tampering("smoothed", "a stretch of losses smoothed", _edit_rows("metrics.jsonl", _smoothed), "first_steps"),
    Tampering("rate", "the learning rates scaled", _edit_rows("metrics.jsonl", _scaled_rate), "files"),
    Tampering("weights", "final weights of another seed", _other_weights, "evaluation"),
    Tampering("raw", "raw weights for the averaged ones", _raw_for_ema, "evaluation"),
    Tampering("preview", "a preview of another run", _other_preview, "previews"),
    Tampering("brighter", "a preview brighter by one level", _brighter_preview, "previews"),
    Tampering("evaluations", "held-out losses of another run", _other_evaluations, "evaluation"),
    Tampering("seed", "another seed", _other_seed, "initial_weights"),
    Tampering("moments", "a checkpoint's optimizer state zeroed", _zeroed_moments, "first_steps"),
    Tampering("baselines", "a weaker baseline, skills made to fit", _loose_baselines, "evaluation"),
    Tampering(
        "digest", "the digest of exported weights, not that of their checkpoint", _only_the_exported_digest, "files"
    ),
    Tampering("digests", "invented digests of checkpoints, which are gone", _no_digests, "first_steps"),
    Tampering("step", "a checkpoint that says it is of the last step", _state_of_another_step, "segments"),
    Tampering(
        "scores",
        "skills invented, a group of timesteps left out",
        _edit_rows("evaluations.jsonl", _scores_without_a_group),
        "files",
    ),
    Tampering("bands", "loss moved from one band to another", _shifted_bands, "evaluation"),
    Tampering("verdict", "a better verdict", _better_verdict, "files", is_judged=False),
    Tampering(
        "statistics",
        "statistics of samples equal to the data's",
        _edit_rows("samples.jsonl", _better_statistics),
        "previews",
    ),
    Tampering("plan", "evaluations removed, and not planned", _fewer_evaluations, "files"),
    Tampering("rest", "honest first steps, the rest invented", _invented_rest, "whole", needs_whole=True),
)
