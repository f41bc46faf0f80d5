"""The training loop, top to bottom.

The position of a run is one integer, `state.images_seen`; order, noise, timesteps, flips and the learning rate are
functions of it and of the seed. A global batch is a contiguous block of positions, split into micro-batches that are
numbered over accumulation steps and processes, so the same images get the same noise however they are spread.
"""

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from openddpm.record.schema import MetricsRow, Status
from openddpm.training.clock import Clock
from openddpm.training.distributed import StepStatus, all_reduce_status, lost_ranks_named
from openddpm.training.evaluate import evaluate
from openddpm.training.performance import unrepeatable_named
from openddpm.training.run import StepParts, Training
from openddpm.training.state import NotFinite
from openddpm.training.stop import StopRequest
from openddpm.training.update import update_of


@dataclass(frozen=True)
class TrainResult:
    """How a call to `train` ended."""

    folder: Path
    status: Status
    signal: int | None = None
    """The signal that interrupted the run."""


def fit(training: Training) -> TrainResult:
    """Train until the last step or a signal, and complete the record. A finished run is not changed.

    Raises:
        UserError: the loss or gradient is not finite, another process is lost, the last state cannot be saved, or an
            operation does not repeat to the bit under --speed exact.
    """
    recorder = training.recorder
    outcome: Status = "failed"
    stop = StopRequest()
    try:
        if training.was_finished and training.state.step == training.total_steps:
            return TrainResult(recorder.folder, "finished")
        with stop:
            try:
                recorder.started()
                with lost_ranks_named(), unrepeatable_named():
                    outcome = _fit(training, stop)
            except KeyboardInterrupt:
                outcome = "interrupted"
                raise
            except NotFinite as error:
                recorder.failed(error)
                raise
            finally:
                with ExitStack() as last:
                    last.callback(lambda: recorder.ended(outcome))
                    training.checkpointer.collect(wait=True)
    finally:
        training.close()
    return TrainResult(recorder.folder, outcome, stop.signal if outcome == "interrupted" else None)


def _fit(training: Training, stop: StopRequest) -> Status:
    config, state, accelerator = training.config, training.state, training.accelerator
    clock, update = Clock(state.wall_seconds), update_of(training, stop)
    saved_step, wants_save, stopping = state.step, False, False

    while True:
        # A single process stops at once on a signal; several do so at the same step.
        stopping = stopping or (accelerator.num_processes == 1 and stop.signal is not None)

        # Evaluate the weights and make previews.
        if state.evaluation_due and not stopping:
            update.settle()
            with clock.paused():
                evaluate(training, stop)
                status = all_reduce_status(
                    accelerator, StepStatus(signal=stop.signal, evaluation_due=state.evaluation_due)
                )
            state.evaluation_due, stopping = status.evaluation_due, status.signal is not None
            stop.signal = stop.signal or status.signal  # one that comes later is handled at the next step

        # Save in the background, once the previous save is done; wait for the last save of a session.
        is_over = state.step >= training.total_steps
        ends = is_over or stopping
        wants_save |= training.timetable.is_checkpoint(state.step) or ends
        wants_save &= state.step != saved_step
        if wants_save and (ends or training.checkpointer.may_save(state.step)):
            update.settle()
            with clock.paused():
                state.wall_seconds = clock.wall_seconds()
                if ends:
                    training.checkpointer.save_last(state, training.progress(), stop)
                else:
                    training.checkpointer.save(state, training.progress())
            saved_step, wants_save = state.step, False
        if stopping and (state.evaluation_due or not is_over):
            return "interrupted"
        if is_over:
            return "finished"

        # Set the learning rate.
        learning_rate = training.learning_rate_at(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate

        # Accumulate the gradient of one global batch.
        losses = []
        for accumulation_index in range(config.gradient_accumulation_steps):
            is_last = accumulation_index == config.gradient_accumulation_steps - 1
            with nullcontext() if is_last else accelerator.no_sync(training.model):
                loss = micro_batch_loss(training, accumulation_index) / config.gradient_accumulation_steps
                accelerator.backward(loss)
            losses.append(loss.detach())

        # Clip the gradient, update weights and averages if all is finite in all processes, and exchange their status.
        status, grad_norm = update.step(losses)
        wants_save, stopping = wants_save or status.wants_save, status.signal is not None
        stop.signal = stop.signal or status.signal

        # Advance the position.
        for loss in losses:
            state.loss_sum += loss
        state.images_seen += training.global_batch_size
        state.step += 1
        state.steps_since_log += 1
        state.evaluation_due = training.timetable.is_evaluation(state.step) or training.timetable.is_preview(state.step)
        clock.images_since_log += training.global_batch_size

        # Log.
        if state.step % config.logging_steps == 0 or state.step >= training.total_steps:
            update.settle()
            _log(training, clock, learning_rate, grad_norm)
        training.checkpointer.collect(wait=False)


def micro_batch_loss(training: StepParts, accumulation_index: int) -> torch.Tensor:
    """Return the loss of this process's next micro-batch, () float32."""
    state, accelerator, size = training.state, training.accelerator, training.config.train_batch_size
    micro_index = accumulation_index * accelerator.num_processes + accelerator.process_index
    images = training.stream.micro_batch(state.images_seen + micro_index * size, size, state.step, micro_index)
    return training.objective.losses(training.model, images, state.step, micro_index).mean()


def _log(training: Training, clock: Clock, learning_rate: float, grad_norm: torch.Tensor) -> None:
    """Add a line to metrics.jsonl."""
    state, accelerator = training.state, training.accelerator
    mean_loss = accelerator.reduce(state.loss_sum, reduction="mean") / state.steps_since_log  # type: ignore[operator]
    norm = float(grad_norm)
    training.recorder.logged(
        MetricsRow(
            **training.progress().model_dump(),
            wall_seconds=round(clock.wall_seconds(), 3),
            train_loss=float(mean_loss),
            learning_rate=learning_rate,
            grad_norm=norm if norm < float("inf") else None,
            ema_decay=next((average.cur_decay_value for average in state.averages.values()), None),
            images_per_second=round(clock.images_per_second(), 2),
        )
    )
    state.loss_sum.zero_()
    state.steps_since_log = 0
