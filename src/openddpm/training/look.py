"""Looks at the weights in the making: evaluates them, and makes previews, without touching them."""

from pathlib import Path

import torch

from openddpm.diffusion.sampling import Denoiser, denoiser
from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, Weights
from openddpm.training.previews import write_preview
from openddpm.training.run import Training
from openddpm.training.stop import StopRequest

PRECISIONS = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class _Stopped(Exception):
    """A signal came while the weights were looked at."""


def look(training: Training, stop: StopRequest) -> None:
    """Measure raw and EMA weights on held-out images, write samples of theirs, or both, in the main process.

    A signal breaks it off and leaves it due: as a function of the state it can be made up for at any time.
    """
    recorder, state, timetable = training.recorder, training.state, training.timetable
    if recorder.is_main:
        kinds: dict[Weights, dict[str, torch.Tensor] | None] = {"ema": state.ema_weights(), "raw": state.raw_weights()}
        rows: list[EvaluationRow] = []
        written: dict[str, Path] = {}
        try:
            for kind, weights in kinds.items():
                if weights is None:
                    continue
                if timetable.is_evaluation(state.step):
                    denoise = _until_stopped(denoiser(training.frozen_unet, weights), stop)
                    rows.append(training.evaluation.score(denoise, kind, state.step, state.images))
                if timetable.is_preview(state.step):
                    precision = PRECISIONS[training.config.mixed_precision]
                    denoise = _until_stopped(denoiser(training.frozen_unet, weights, precision), stop)
                    if path := _preview(training, denoise, kind):
                        written[kind] = path
        except _Stopped:
            return
        for row in rows:
            recorder.evaluated(row)
        if written:
            recorder.previewed(Preview(state.step, written.get("ema"), written.get("raw")))
        recorder.grown(training.progress())
    state.look_due = False


def _preview(training: Training, denoise: Denoiser, kind: Weights) -> Path | None:
    """Write samples by the weights of `kind`; None where the disk has no room, and the run goes on without them."""
    recorder, channels = training.recorder, training.state.unet.config["in_channels"]
    path = recorder.folder / "samples" / f"step-{training.state.step:08d}-{kind}.png"
    try:
        write_preview(path, denoise, training.process, training.config, channels, training.accelerator.device)
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
