"""The results of a check as one JSON object, from the files that its parts have left; and as a table for people."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import EPOCH_IMAGES
from parts import PARTS

NUM_EPOCHS = 400  # that hours are told of
CASES = ("max-16", "auto-16", "exact-16", "max-128", "auto-128", "exact-128", "muon-16")
PLAIN = "plain loop"
COMPARED = ("ours, --speed max", "ours, --speed auto", "ours, --speed exact")  # with the plain loop, at its batch size


@dataclass(frozen=True)
class Device:
    """What is measured, and on what."""

    name: str
    sources: str
    commit: str
    dry_run: bool

    def key(self) -> list[Any]:
        """Return what must be the same for results to stand side by side."""
        return [self.name, self.sources, self.dry_run]


def merged(folder: Path, device: Device, states: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return all results: where they are from, ceilings, rates, tests, the run, and what became of each part."""
    ceilings = _read(folder / "ceilings.json")
    rows: dict[str, Any] = {}
    origin: dict[str, Any] = ceilings.get("origin", {})
    for part in PARTS:
        for name in ("exact-16", "exact-128") if part.name == "exact" else (part.name,):
            row = _read(folder / f"{name}.json")
            origin = origin or row.get("origin", {})
            if "row" in row:
                kept = {key: value for key, value in row.items() if key not in ("row", "origin", "done")}
                rows[row["row"]] = extrapolated(kept, ceilings)
    peaks = {name: value for name, value in ceilings.items() if name not in ("origin", "done")}
    tests = {**_read(folder / "tests.json").get("tests", {}), **_read(folder / "near.json").get("tests", {})}
    return {
        **origin,
        "device": origin.get("device", device.name),
        "commit": device.commit,
        "dry_run": device.dry_run,
        "ceilings": peaks,
        "ratios": ratios(rows),
        "rows": rows,
        "tests": tests,
        "run": _read(folder / "run.json"),
        "parts": {part.name: dict(states[part.name]) for part in PARTS if part.name in states},
    }


def extrapolated(row: dict[str, Any], ceilings: Mapping[str, Any]) -> dict[str, Any]:
    """Add the rate of epochs with a preview each, the hours of 400 of them, and the share of the bfloat16 peak."""
    if "steps_images_per_second" not in row:
        return row
    rate, preview = row["steps_images_per_second"], row.get("preview_seconds") or 0.0
    epoch_seconds = EPOCH_IMAGES / rate + preview
    added = {"epoch_images_per_second": round(EPOCH_IMAGES / epoch_seconds, 2)}
    added["hours"] = round(NUM_EPOCHS * epoch_seconds / 3600, 3)
    if row.get("gflops_per_image") and ceilings.get("matmul_bf16_tflops"):
        reached = rate * row["gflops_per_image"] / 1000
        added["share_of_matmul_peak"] = round(reached / ceilings["matmul_bf16_tflops"], 4)
    return {**row, **added}


def ratios(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return how many times the plain loop's images a second ours trains: in steps alone, and with previews."""
    names = {"steps": "steps_images_per_second", "epochs": "epoch_images_per_second"}
    plain = rows.get(PLAIN, {})
    return {
        ours: {name: round(rows[ours][key] / plain[key], 3) for name, key in names.items()}
        for ours in COMPARED
        if all(key in plain and key in rows.get(ours, {}) for key in names.values())
    }


def table(results: Mapping[str, Any]) -> str:
    """Return the rows as text."""
    lines = [f"{results['device']}, commit {results['commit']}, ceilings {results['ceilings']}"]
    for name, row in results["rows"].items():
        shown = {key: row[key] for key in SHOWN if row.get(key) is not None}
        lines.append(f"{name:42} " + ", ".join(f"{SHOWN[key]} {value}" for key, value in shown.items()))
    for name, ratio in results["ratios"].items():
        lines.append(f"{name}: {ratio['steps']} x the plain loop, with previews {ratio['epochs']} x")
    failed = [name for name, test in results["tests"].items() if test["outcome"] == "failed"]
    lines.append(f"tests: {len(results['tests'])}, failed: {', '.join(failed) or 'none'}")
    if results["run"]:
        lines.append(f"run: {json.dumps(results['run'])}")
    states = {name: state["status"] for name, state in results["parts"].items()}
    missing = [f"{name} ({status[:120]})" for name, status in states.items() if status != "done"]
    lines.append(f"not whole: {'; '.join(missing) or 'nothing'}")
    return "\n".join(lines)


SHOWN = {
    "steps_images_per_second": "images/s",
    "epoch_images_per_second": "with previews",
    "share_of_matmul_peak": "of peak",
    "device_mib": "MiB",
    "preview_seconds": "preview s",
    "evaluation_seconds": "evaluation s",
    "save_stall_seconds": "save holds up s",
    "error": "error",
}


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}
