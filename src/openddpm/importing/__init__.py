"""Imports the logs of runs that other scripts trained, as partial records. Imports no torch."""

from openddpm.importing.tensorboard import import_tensorboard

__all__ = ["import_tensorboard"]
