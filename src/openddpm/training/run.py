"""A run that is ready to be trained: all that the loop uses."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import UNet2DModel

from openddpm.config import TrainConfig
from openddpm.data.stream import BatchStream, Split
from openddpm.diffusion.objective import Objective
from openddpm.diffusion.process import DiffusionProcess
from openddpm.evaluation.evaluation import Evaluation
from openddpm.evaluation.sample_statistics import DataStatistics, measure_data
from openddpm.record.schema import Progress
from openddpm.training.checkpointer import Checkpointer
from openddpm.training.recorder import Recorder
from openddpm.training.state import TrainingState
from openddpm.training.timetable import Timetable


@dataclass
class StepParts:
    """All that a training step depends on."""

    config: TrainConfig
    accelerator: Accelerator
    model: Any
    """The UNet as Accelerate prepared it for the forward pass of training."""
    state: TrainingState
    stream: BatchStream
    objective: Objective
    """May be replaced before training; the record does not mention that."""

    def timesteps_of(self, micro_index: int) -> torch.Tensor:
        """Return the timesteps (B,) int64 of a micro-batch of the present step, in whichever process."""
        return self.objective.timesteps(self.config.train_batch_size, self.state.step, micro_index)

    def image_indices_of(self, micro_index: int) -> torch.Tensor:
        """Return the indices (B,) int64, in the store, of the images of that micro-batch."""
        size = self.config.train_batch_size
        return torch.from_numpy(self.stream.image_indices(self.state.images_seen + micro_index * size, size))


@dataclass
class Training(StepParts):
    """A run that is ready to be trained."""

    frozen_unet: UNet2DModel
    """The UNet's structure in evaluation mode, on the meta device: evaluation and previews supply the weights."""
    process: DiffusionProcess
    images: np.ndarray
    """All images of the store, (N, C, H, W) uint8."""
    split: Split
    evaluation: Evaluation
    timetable: Timetable
    learning_rate_at: Callable[[int], float]
    recorder: Recorder
    checkpointer: Checkpointer
    was_finished: bool
    resources: ExitStack
    """What `close` releases."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.timetable.total_steps

    @property
    def global_batch_size(self) -> int:
        """Images per step, over all processes and accumulation steps."""
        return self.timetable.global_batch_size

    @cached_property
    def data_statistics(self) -> DataStatistics:
        """Statistics of training images to compare samples with; measured at the first preview."""
        return measure_data(self.images, self.split.train, self.config.evaluation_seed)

    def close(self) -> None:
        """Release the run folder, threads and the memory of copies and compiled code."""
        self.resources.close()

    def progress(self) -> Progress:
        """Return the position of the run."""
        images = self.state.images_seen
        return Progress(step=self.state.step, images_seen=images, epoch=images / self.stream.order.num_images)
