"""Train a denoising diffusion model from scratch, with the whole run in the open."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openddpm.api import resume, train
    from openddpm.config import TrainConfig
    from openddpm.errors import UserError
    from openddpm.training.loop import TrainResult
    from openddpm.training.observer import Observer

__version__ = "0.1.0"
__all__ = ["Observer", "TrainConfig", "TrainResult", "UserError", "resume", "train"]

_HOMES = {
    "Observer": "openddpm.training.observer",
    "TrainConfig": "openddpm.config",
    "TrainResult": "openddpm.training.loop",
    "UserError": "openddpm.errors",
    "resume": "openddpm.api",
    "train": "openddpm.api",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `openddpm --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'openddpm' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
