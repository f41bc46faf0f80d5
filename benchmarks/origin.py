"""Where numbers were measured, and with what; and how they are written."""

import json
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from openddpm import __version__
from openddpm.training.new_record import processor_name

PACKAGES = ("torch", "diffusers", "accelerate", "safetensors", "numpy", "pillow")
MADE_HERE = (
    "benchmarks/results",
    "benchmarks/*.json",
    "docs",
    "src/openddpm/references/builtin",
    "src/openddpm/comparison/rounding.json",
)  # which change as benchmarks run


def origin(threads: int | None = None) -> dict[str, Any]:
    """Return the commit, the device and the versions that numbers depend on.

    Args:
        threads: of the CPU, that the measured programs were given (default: what torch takes).
    """
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{path}" for path in MADE_HERE))
    return {
        "commit": (_git("describe", "--always") or "unknown") + ("-dirty" if changed else ""),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name(),
        "threads": threads or torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {"openddpm": __version__, **{name: version(name) for name in PACKAGES}},
    }


def write_results(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {path}")


def _git(*arguments: str) -> str:
    """Return what git says of this repository, or nothing where there is none."""
    if shutil.which("git") is None:
        return ""
    command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
