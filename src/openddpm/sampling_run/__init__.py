"""Images from a run folder: which weights make them, the folder they lie in, and how an interrupted call goes on."""

from openddpm.sampling_run.run import sample_run, starting_noise
from openddpm.sampling_run.weights import open_run

__all__ = ["open_run", "sample_run", "starting_noise"]
