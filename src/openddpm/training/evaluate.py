"""Evaluation and previews of the weights in training, without touching them."""

import time
from pathlib import Path

import numpy as np
import torch

from openddpm.diffusion.sampling import Denoiser, denoiser
from openddpm.evaluation.previews import draw_preview, write_preview
from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, SamplesRow, Weights
from openddpm.training.run import Training
from openddpm.training.stop import StopRequest

PRECISIONS = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Stopped(Exception):
    """A signal came while the weights were evaluated."""


def evaluate(training: Training, stop: StopRequest) -> None:
    """Measure raw and EMA weights on held-out images, write samples of theirs, or both, in the main process.

    A signal breaks it off and leaves it due: as a function of the state it can be made up for at any time.
    """
    recorder, state, timetable = training.recorder, training.state, training.timetable
    if recorder.is_main:
        kinds: dict[Weights, dict[str, torch.Tensor] | None] = {"ema": state.ema_weights(), "raw": state.raw_weights()}
        rows: list[EvaluationRow] = []
        drawn: list[SamplesRow] = []
        written: dict[str, Path] = {}
        try:
            for kind, weights in kinds.items():
                if weights is None:
                    continue
                if timetable.is_evaluation(state.step):
                    denoise = _until_stopped(denoiser(training.frozen_unet, weights), stop)
                    rows.append(training.evaluation.score(denoise, kind, state.step, state.images_seen))
                if timetable.is_preview(state.step):
                    precision = PRECISIONS[training.config.mixed_precision]
                    denoise = _until_stopped(denoiser(training.frozen_unet, weights, precision), stop)
                    samples = draw_preview(
                        denoise,
                        training.process,
                        training.config,
                        training.recorder.run.dataset.image_shape,
                        training.accelerator.device,
                    )
                    drawn.append(_measured(training, samples, kind))
                    if path := _written(training, samples, kind):
                        written[kind] = path
        except _Stopped:
            return
        for row in rows:
            recorder.evaluated(row)
        for samples_row in drawn:
            recorder.sampled(samples_row)
        if written:
            recorder.previewed(Preview(state.step, written.get("ema"), written.get("raw")))
        recorder.grown(training.progress())
    state.evaluation_due = False


def _measured(training: Training, samples: np.ndarray, kind: Weights) -> SamplesRow:
    start, data = time.perf_counter(), training.data_statistics
    return SamplesRow(
        step=training.state.step,
        images_seen=training.state.images_seen,
        weights=kind,
        num_samples=len(samples),
        num_data=data.num_images,
        statistics=data.compare(samples),
        seconds=round(time.perf_counter() - start, 3),
    )


def _written(training: Training, samples: np.ndarray, kind: Weights) -> Path | None:
    """Write the picture of samples by the weights of `kind`; None where the disk has no room: the run goes on."""
    recorder = training.recorder
    path = recorder.folder / "samples" / f"step-{training.state.step:08d}-{kind}.png"
    try:
        write_preview(path, samples)
    except OSError as error:
        recorder.warned(f"no preview of the {kind} weights at step {training.state.step:,}: {error}")
        return None
    return path


def _until_stopped(denoise: Denoiser, stop: StopRequest) -> Denoiser:
    def denoise_or_stop(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if stop.signal is not None:
            raise _Stopped
        return denoise(noisy, timesteps)

    return denoise_or_stop
