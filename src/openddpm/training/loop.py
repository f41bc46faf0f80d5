"""The training loop, top to bottom.

The position of a run is one integer, `state.images`; order, noise, timesteps, flips and the learning rate are
functions of it and of the seed. A global batch is a contiguous block of positions, cut into micro-batches that are
numbered over accumulation steps and processes alike, so the same images meet the same noise however they are spread.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from openddpm.diffusion.process import sample_timesteps
from openddpm.diffusion.sampling import denoiser
from openddpm.record.reader import Preview
from openddpm.record.schema import MetricsRow, Status, Weights
from openddpm.seeding import seed_global_generators, standard_normal, uniform
from openddpm.training.checkpoint import write_checkpoint
from openddpm.training.clock import Clock
from openddpm.training.export import export_pipeline
from openddpm.training.previews import write_preview
from openddpm.training.setup import Training
from openddpm.training.state import LossNotFinite
from openddpm.training.stop import StopRequest


@dataclass(frozen=True)
class TrainResult:
    """How a call to `train` ended."""

    folder: Path
    status: Status
    signal: int | None = None
    """The signal that interrupted the run."""


def fit(training: Training) -> TrainResult:
    """Train until the last step or a signal, and leave a whole record. A finished run is left as it is.

    Raises:
        UserError: the loss is no longer a number.
    """
    recorder = training.recorder
    status: Status = "failed"
    stop = StopRequest()
    try:
        if training.was_finished and training.state.step == training.total_steps:
            return TrainResult(recorder.folder, "finished")
        recorder.started()
        with stop:
            status = _fit(training, stop)
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except LossNotFinite:
        recorder.diverged()
        raise
    finally:
        if recorder.has_started:
            recorder.ended(status)
        training.claim.release()
    return TrainResult(recorder.folder, status, stop.signal)


def _fit(training: Training, stop: StopRequest) -> Status:
    config, state, accelerator = training.config, training.state, training.accelerator
    clock = Clock(state.wall_seconds)

    while state.step < training.total_steps:
        # Set the learning rate.
        learning_rate = training.learning_rate_at(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate

        # Accumulate the gradient of one global batch.
        for accumulation_index in range(config.gradient_accumulation_steps):
            is_last = accumulation_index == config.gradient_accumulation_steps - 1
            with nullcontext() if is_last else accelerator.no_sync(training.model):
                loss = micro_batch_loss(training, accumulation_index) / config.gradient_accumulation_steps
                accelerator.backward(loss)
            state.loss_sum += loss.detach()

        # Clip the unscaled gradient and update the weights.
        grad_norm = accelerator.clip_grad_norm_(state.unet.parameters(), config.max_grad_norm)
        state.optimizer.step()
        state.optimizer.zero_grad()

        # Update the average of the weights.
        if state.ema is not None:
            state.ema.step(state.unet.parameters())

        # Move on.
        state.images += training.global_batch_size
        state.step += 1
        state.steps_since_log += 1
        clock.images_since_log += training.global_batch_size
        is_last_step = state.step == training.total_steps

        # Log.
        logs = state.step % config.logging_steps == 0 or is_last_step
        if logs:
            _log(training, clock, learning_rate, grad_norm)

        # Heed a signal; several processes agree on the step, which costs a wait, so they ask when they log.
        asks = logs or accelerator.num_processes == 1
        stopping = asks and stop.agreed(accelerator)

        # Evaluate and preview.
        evaluates, previews = training.timetable.is_evaluation(state.step), training.timetable.is_preview(state.step)
        if evaluates or previews:
            with clock.paused():
                _look(training, evaluates, previews)

        # Save.
        if state.step % config.checkpointing_steps == 0 or is_last_step or stopping:
            state.wall_seconds = clock.wall_seconds()
            with clock.paused():
                _save(training)
        if stopping and not is_last_step:
            return "interrupted"
    return "finished"


def micro_batch_loss(training: Training, accumulation_index: int) -> torch.Tensor:
    """Return the loss of this process's next micro-batch, () float32."""
    config, state, process, device = training.config, training.state, training.process, training.accelerator.device
    size, seed, step = config.train_batch_size, config.seed, state.step
    micro_index = accumulation_index * training.accelerator.num_processes + training.accelerator.process_index
    images = training.stream.micro_batch(state.images + micro_index * size, size, step, micro_index)
    noise = standard_normal(tuple(images.shape), device, seed, "noise", step, micro_index)
    draws = uniform((size,), device, seed, "timesteps", step, micro_index)
    timesteps = sample_timesteps(draws, process.num_timesteps, config.timestep_sampling == "stratified")
    seed_global_generators(seed, "dropout", step, micro_index)
    prediction = training.model(process.add_noise(images, noise, timesteps), timesteps).sample
    return F.mse_loss(prediction.float(), process.target(images, noise, timesteps))


def _log(training: Training, clock: Clock, learning_rate: float, grad_norm: torch.Tensor) -> None:
    """Add a line to metrics.jsonl: the one place that waits for the device."""
    state, accelerator = training.state, training.accelerator
    mean_loss = accelerator.reduce(state.loss_sum, reduction="mean") / state.steps_since_log  # type: ignore[operator]
    train_loss, norm = float(mean_loss), float(grad_norm)
    state.check_finite(train_loss)
    training.recorder.logged(
        MetricsRow(
            **training.progress().model_dump(),
            wall_seconds=round(clock.wall_seconds(), 3),
            train_loss=train_loss,
            learning_rate=learning_rate,
            grad_norm=norm if norm < float("inf") else None,
            ema_decay=state.ema.cur_decay_value if state.ema else None,
            images_per_second=round(clock.images_per_second(), 2),
        )
    )
    state.loss_sum.zero_()
    state.steps_since_log = 0


def _look(training: Training, evaluates: bool, previews: bool) -> None:
    """Measure raw and EMA weights on held-out images, write samples of theirs, or both, in the main process."""
    recorder, state, config = training.recorder, training.state, training.config
    if recorder.is_main:
        kinds: dict[Weights, dict[str, torch.Tensor] | None] = {"ema": state.ema_weights(), "raw": state.raw_weights()}
        written: dict[str, Path] = {}
        for kind, weights in kinds.items():
            if weights is None:
                continue
            denoise = denoiser(training.frozen_unet, weights)
            if evaluates:
                recorder.evaluated(training.evaluation.score(denoise, kind, state.step, state.images))
            if previews:
                path = recorder.folder / "samples" / f"step-{state.step:08d}-{kind}.png"
                channels = state.unet.config["in_channels"]
                write_preview(path, denoise, training.process, config, channels, training.accelerator.device)
                written[kind] = path
        if previews:
            recorder.previewed(Preview(state.step, written.get("ema"), written.get("raw")))
        recorder.grown(training.progress())
    training.accelerator.wait_for_everyone()


def _save(training: Training) -> None:
    """Publish a checkpoint, and the pipeline made from it, in the main process."""
    recorder, state, config = training.recorder, training.state, training.config
    scalars = state.scalars(training.accelerator)
    state.check_finite(sum(scalars["loss_sums"]))
    if recorder.is_main:
        recorder.sync_rows()
        keep, run_id = config.checkpoints_total_limit, recorder.run.run_id
        checkpoint = write_checkpoint(recorder.folder, run_id, state.tensors(), scalars, keep)
        export_pipeline(recorder.folder, checkpoint, state.unet, training.process.scheduler)
        recorder.checkpointed(training.progress())
    training.accelerator.wait_for_everyone()
