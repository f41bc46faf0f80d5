"""Where numbers were measured, and with what."""

import os
import subprocess
from importlib.metadata import version
from typing import Any

import torch

from openddpm import __version__
from openddpm.training.describe import processor_name

PACKAGES = ("torch", "diffusers", "accelerate", "safetensors", "numpy", "pillow")


def origin(threads: int | None = None) -> dict[str, Any]:
    """Return the commit, the device and the versions that numbers depend on.

    Args:
        threads: of the CPU, that the measured programs were given (default: what torch takes).
    """
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "commit": commit.stdout.strip() or "unknown",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name(),
        "threads": threads or torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {"openddpm": __version__, **{name: version(name) for name in PACKAGES}},
    }
