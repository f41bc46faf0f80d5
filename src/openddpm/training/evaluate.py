"""Evaluation and previews of the weights during training; the weights do not change."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openddpm.diffusion.denoiser import Denoiser, denoiser
from openddpm.evaluation.previews import draw_preview, write_preview
from openddpm.record.kept import step_name
from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, SamplesRow, Weights
from openddpm.training.distributed import StepStatus, all_reduce_status
from openddpm.training.run import Training
from openddpm.training.stop import StopRequest

PRECISIONS = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Stopped(Exception):
    """This or another process received a signal during evaluation."""


def evaluate(training: Training, stop: StopRequest) -> None:
    """Measure all sets of weights on fixed samples, write previews, or both. A collective call.

    Each process measures a share of the fixed samples. The main process makes the previews while the others wait: they
    are few images, and in one batch they are the same for any number of processes. A signal to any process stops the
    evaluation in all and leaves it due: it depends on the state alone, and is repeated when the run is resumed.
    """
    recorder, state, timetable = training.recorder, training.state, training.timetable
    try:
        rows = _evaluated(training, stop) if timetable.is_evaluation(state.step) else []
        previews = _previews(training, stop) if recorder.is_main and timetable.is_preview(state.step) else {}
    except _Stopped:
        return
    for row in rows:
        recorder.evaluated(row)
    pictures: dict[Weights, Path] = {}
    for name, (samples, row_of_samples) in previews.items():
        recorder.sampled(row_of_samples)
        if path := _written(training, samples, name):
            pictures[name] = path
    if pictures:
        recorder.previewed(Preview(state.step, pictures))
    recorder.grown(training.progress())
    state.evaluation_due = False


def _evaluated(training: Training, stop: StopRequest) -> list[EvaluationRow]:
    """Measure all sets of weights, each process on its share of the fixed samples; return a row for each set.

    Raises:
        _Stopped: in all processes, if any received a signal before its share was done.
    """
    accelerator, state, evaluation = training.accelerator, training.state, training.evaluation
    start, weights = time.perf_counter(), state.weights()
    share = accelerator.process_index, accelerator.num_processes
    errors: list[torch.Tensor] = []
    with suppress(_Stopped):
        for tensors in weights.values():
            denoise = _until_stopped(denoiser(training.frozen_unet, tensors), stop)
            errors.append(evaluation.squared_errors(denoise, *share))
    is_incomplete = len(errors) < len(weights)
    if all_reduce_status(accelerator, StepStatus(evaluation_due=is_incomplete)).evaluation_due:
        raise _Stopped
    of_all: Any = accelerator.reduce(torch.stack(errors))  # the sum: an error is 0 in all processes but one
    seconds = (time.perf_counter() - start) / len(weights)
    position = state.step, state.images_seen
    return [evaluation.row(one, name, *position, seconds) for name, one in zip(weights, of_all, strict=True)]


def _previews(training: Training, stop: StopRequest) -> dict[Weights, tuple[np.ndarray, SamplesRow]]:
    """Return samples by all sets of weights, (N, C, H, W) uint8, and their statistics beside the training images'.

    Raises:
        _Stopped: this process received a signal.
    """
    precision, shape = PRECISIONS[training.config.mixed_precision], training.recorder.run.dataset.image_shape
    made: dict[Weights, tuple[np.ndarray, SamplesRow]] = {}
    for name, weights in training.state.weights().items():
        denoise = _until_stopped(denoiser(training.frozen_unet, weights, precision), stop)
        samples = draw_preview(denoise, training.process, training.config, shape, training.accelerator.device)
        made[name] = samples, _measured(training, samples, name)
    return made


def _measured(training: Training, samples: np.ndarray, name: Weights) -> SamplesRow:
    start, data = time.perf_counter(), training.data_statistics
    return SamplesRow(
        step=training.state.step,
        images_seen=training.state.images_seen,
        weights=name,
        num_samples=len(samples),
        num_data=data.num_images,
        statistics=data.compare(samples),
        seconds=round(time.perf_counter() - start, 3),
    )


def _written(training: Training, samples: np.ndarray, name: Weights) -> Path | None:
    """Write the preview of these weights; on an OSError warn and return None."""
    recorder = training.recorder
    path = recorder.folder / "samples" / f"{step_name(training.state.step)}-{name}.png"
    try:
        write_preview(path, samples)
    except OSError as error:
        recorder.warned(f"no preview of the {name} weights at step {training.state.step:,}: {error}")
        return None
    return path


def _until_stopped(denoise: Denoiser, stop: StopRequest) -> Denoiser:
    def denoise_or_stop(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if stop.signal is not None:
            raise _Stopped
        return denoise(noisy, timesteps)

    return denoise_or_stop
