"""Sampling from a run folder: the weights, the folder of images, and continuing after an interruption."""

from openddpm.sampling_run.run import sample_run, starting_noise
from openddpm.sampling_run.weights import open_run

__all__ = ["open_run", "sample_run", "starting_noise"]
