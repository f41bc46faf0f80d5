"""Set-up, from a config to a run that is ready to be trained: plan, which may refuse, then build."""

import copy
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers import UNet2DModel

from openddpm.analysis.text import number_of
from openddpm.config import TrainConfig
from openddpm.data.near_duplicates import near_duplicates_across, with_near_duplicates
from openddpm.data.store import ImageStore, cache_dir_of
from openddpm.data.stream import BatchStream, Transform
from openddpm.diffusion.objective import Objective
from openddpm.diffusion.process import DiffusionProcess
from openddpm.diffusion.unet import gflops_per_image
from openddpm.errors import UserError
from openddpm.evaluation.baselines import BASELINES, BaselineErrors, BaselineMeasurement
from openddpm.evaluation.evaluation import Evaluation
from openddpm.evaluation.fixed_samples import Kind, fixed_samples
from openddpm.record.lock import RUN_LOCK, locked
from openddpm.record.manifest import manifest_renewed
from openddpm.record.public import WEIGHTS_FILES
from openddpm.record.schema import RAW, BaselinesRecord, RunRecord, SpeedRecord
from openddpm.training.checkpoint import checkpoint_row
from openddpm.training.checkpointer import Checkpointer
from openddpm.training.distributed import build_accelerator, lost_ranks_named, say
from openddpm.training.earlier_run import Earlier
from openddpm.training.ema import build_averages
from openddpm.training.initial_weights import initial_unet
from openddpm.training.milestones import keep_milestone
from openddpm.training.new_record import environment, new_record, resumed_record
from openddpm.training.observer import Observer
from openddpm.training.optimizer import build_optimizer, learning_rate_schedule
from openddpm.training.pace import Pace, images_in, measure_pace
from openddpm.training.performance import (
    Speed,
    choose_speed,
    compile_by_first_pass,
    num_layers,
    undo_compile,
    unrepeatable_named,
    with_fast_precision,
)
from openddpm.training.plan import Plan, UserObjects, make_plan
from openddpm.training.recorder import Recorder
from openddpm.training.run import StepParts, Training
from openddpm.training.run_folder import begin_folder, export_pipeline
from openddpm.training.state import TrainingState, describe_weights
from openddpm.training.timetable import Timetable, make_timetable


def prepare(
    config: TrainConfig,
    dataset: Any = None,
    transform: Transform | None = None,
    unet: UNet2DModel | None = None,
    observers: Sequence[Observer] = (),
    rolled_back_from: int | None = None,
    times_steps: bool = True,
    on_cpu: bool = False,
) -> Training:
    """Build a new run, or the one to resume.

    Args:
        rolled_back_from: the step that was not finite, if the run is resumed because of that; from its checkpoint on
            the learning rate is halved.
        times_steps: whether to estimate the duration of a new run, from a few steps that are undone.
        on_cpu: whether to leave a GPU alone that is there.

    Raises:
        UserError: for whatever in the config, the data or the output folder has to be fixed first.
    """
    config = with_fast_precision(config)
    with lost_ranks_named(), unrepeatable_named(), ExitStack() as resources:
        accelerator = build_accelerator(config, on_cpu)
        if accelerator.is_main_process:
            folder, host = Path(config.output_dir), socket.gethostname()
            resources.enter_context(locked(folder, folder / RUN_LOCK, f"another run is using '{folder}' on {host}"))
        resources.callback(torch.set_num_threads, torch.get_num_threads())
        plan = make_plan(config, accelerator, UserObjects(dataset, transform, unet))
        return _build(plan, accelerator, resources, observers, rolled_back_from, times_steps)


def _build(
    plan: Plan,
    accelerator: Accelerator,
    resources: ExitStack,
    observers: Sequence[Observer],
    rolled_back_from: int | None,
    times_steps: bool,
) -> Training:
    """Build a run from its plan.

    Args:
        resources: what has to be released if something fails, else at the end of the run.
    """
    earlier, store, split, device = plan.earlier, plan.store, plan.split, accelerator.device

    # The UNet, its training steps, and how many of them.
    unet = initial_unet(plan.config, plan.structure, plan.objects.unet, plan.pretrained, store.image_shape)
    frozen_unet = copy.deepcopy(unet).to("meta").eval()
    gflops = gflops_per_image(frozen_unet)
    parts, speed = _step_parts(plan, accelerator, unet, gflops, resources)
    state, process = parts.state, parts.objective.process
    config, timetable, pace = _timed(parts, plan, times_steps)

    # Its record.
    near = None
    if accelerator.is_main_process:
        near = near_duplicates_across(store, split.train, split.heldout, cache_dir_of(config), quiet=False)
        store = with_near_duplicates(store, near)
    how = environment(device, speed, None if pace is None else pace.record(timetable))
    if earlier is not None:
        initial = earlier.record.model.initial_weights
    else:
        initial = describe_weights(state.weights()[RAW])
    run = new_record(
        *(plan, config, accelerator, frozen_unet, gflops, process.signal_left(), timetable, near, how, initial)
    )
    if earlier is not None:
        _restore(earlier, state, accelerator)
        run = resumed_record(earlier, run, state.step, state.images_seen, rolled_back_from)

    # What measures it.
    samples = fixed_samples(
        *(store.images, store.digests, split, timetable.num_fixed_samples, process, device, config.evaluation_seed)
    )
    measurement = BaselineMeasurement(
        samples, store, split, process, config.random_flip, config.evaluation_seed, device
    )
    baselines, baselines_record = _baselines(measurement, accelerator, cache_dir_of(config))

    # What writes it.
    folder, writer = Path(config.output_dir), None
    was_finished = earlier is not None and earlier.record.status == "finished"
    if baselines_record is not None:  # in the main process
        is_over = was_finished and state.step == timetable.total_steps
        writer = begin_folder(folder, earlier, run, state, store, split, baselines_record, is_over)
    recorder = Recorder(run, folder, observers, writer, plan.reference)

    def published(checkpoint: Path) -> None:
        recorder.note_checkpoint(checkpoint_row(checkpoint))
        export_pipeline(folder, checkpoint, frozen_unet, process.scheduler)
        keep_milestone(folder, checkpoint, timetable.milestone_steps)

    if writer is not None and earlier is not None and earlier.checkpoint is not None:
        with manifest_renewed(folder, WEIGHTS_FILES):
            published(earlier.checkpoint.folder)  # the run may have died before it did so itself
    checkpointer = Checkpointer(
        *(recorder, accelerator, config.checkpoints_total_limit, config.keep_every, config.rank_timeout, published)
    )
    resources.callback(checkpointer.close)
    return Training(
        config=config,
        accelerator=accelerator,
        model=parts.model,
        frozen_unet=frozen_unet,
        state=state,
        process=process,
        objective=parts.objective,
        images=store.images,
        split=split,
        stream=parts.stream,
        evaluation=Evaluation(samples, baselines, config.train_batch_size),
        timetable=timetable,
        learning_rate_at=learning_rate_schedule(config, timetable.total_steps, run.resumptions),
        recorder=recorder,
        checkpointer=checkpointer,
        was_finished=was_finished,
        resources=resources.pop_all(),
    )


def _step_parts(
    plan: Plan, accelerator: Accelerator, unet: UNet2DModel, gflops: float, resources: ExitStack
) -> tuple[StepParts, SpeedRecord]:
    """Return the parts of a training step, with the state at step 0, and how they are computed.

    Args:
        gflops: per image, forward and backward.
    """
    config, images, device = plan.config, plan.store.images, accelerator.device
    resources.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
    resources.callback(undo_compile, unet)
    num_images = _images_to_train(plan, accelerator.num_processes)
    speed = choose_speed(config, device, gflops, num_layers(unet), num_images, images.nbytes)
    stream = BatchStream(
        *(images, plan.split.train, device, config.seed, config.random_flip, plan.objects.transform),
        on_device=speed.images_on_device,
        num_processes=accelerator.num_processes,
    )
    resources.callback(stream.close)
    if speed.images_on_device and not stream.on_device:
        say(["the images do not fit into GPU memory: they stay in main memory and are copied batch by batch"])
        speed = replace(speed, images_on_device=False)
    model, state, speed, compile_seconds = _initial_state(config, accelerator, unet, speed)
    objective = Objective(DiffusionProcess(config, device), config.timestep_sampling, config.seed, device)
    return StepParts(config, accelerator, model, state, stream, objective), speed.record(compile_seconds)


def _baselines(
    measurement: BaselineMeasurement, accelerator: Accelerator, cache_dir: Path
) -> tuple[dict[Kind, BaselineErrors], BaselinesRecord | None]:
    """Return the errors of the baselines, in every process, and their record, in the main process alone.

    The main process measures them; the others wait for it.
    """
    if accelerator.num_processes == 1:
        return measurement.measure(cache_dir, quiet=False)
    samples, record = measurement.samples, None
    measured = torch.zeros(len(samples), len(BASELINES), len(samples["train"].indices), dtype=torch.float64)
    if accelerator.is_main_process:
        baselines, record = measurement.measure(cache_dir, quiet=False)
        measured = torch.from_numpy(np.array([astuple(errors) for errors in baselines.values()]))
    measured = broadcast(measured.to(accelerator.device)).cpu()
    return {kind: BaselineErrors(*errors.numpy()) for kind, errors in zip(samples, measured, strict=True)}, record


def _initial_state(
    config: TrainConfig, accelerator: Accelerator, unet: UNet2DModel, speed: Speed
) -> tuple[Any, TrainingState, Speed, float]:
    """Return the state of a run at step 0.

    Returns:
        the UNet prepared for training; the state; the speed, without compilation if that failed; the seconds that
        compiling took.
    """
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.to(accelerator.device).train().zero_grad(set_to_none=True)  # a user-supplied one may have been trained before
    speed.apply(unet)
    model, optimizer = accelerator.prepare(unet, build_optimizer(unet, config))
    # Before averages and moments exist, which have the memory layout of the weights: a failed compilation changes it.
    speed, compile_seconds = compile_by_first_pass(speed, unet, config.train_batch_size)
    state = TrainingState(
        unet=unet,
        averages=build_averages(config, unet),
        optimizer=optimizer,
        scaler=accelerator.scaler,
        images_seen=0,
        step=0,
        wall_seconds=0.0,
        loss_sum=torch.zeros((), device=accelerator.device),
        steps_since_log=0,
    )
    return model, state, speed, compile_seconds


def _timed(parts: StepParts, plan: Plan, times_steps: bool) -> tuple[TrainConfig, Timetable, Pace | None]:
    """Return the config with the length of the run, its timetable, and its pace if it was measured."""
    config, num_processes, pace = parts.config, parts.accelerator.num_processes, None
    earlier, num_train = plan.earlier, len(plan.split.train)
    if earlier is None and (times_steps or config.max_minutes is not None):
        pace = measure_pace(parts)
        config = pace.with_steps(config, num_train, num_processes)
    total_steps = _total_steps(config, num_train, num_processes, earlier)
    timetable = make_timetable(config, total_steps, num_train, num_processes)
    if plan.reference is not None:
        timetable = _evaluated_like(plan.reference.runs[0].run, plan.store, timetable)
    if pace is not None and parts.accelerator.is_main_process:
        say(pace.remarks(timetable, parts.config.max_minutes))
    return config, timetable if earlier is None else timetable.keeping(earlier.record), pace


def _evaluated_like(reference: RunRecord, store: ImageStore, timetable: Timetable) -> Timetable:
    """Return the timetable with the number of fixed samples of a reference on the same images, or else as it is."""
    if store.sha256 != reference.dataset.sha256:
        return timetable
    return replace(timetable, num_fixed_samples=reference.evaluation.num_fixed_samples)


def _images_to_train(plan: Plan, num_processes: int) -> int:
    """Return about how many images a process will train on."""
    config = plan.config
    if config.max_minutes is not None:
        return images_in(60 * config.max_minutes, config)
    steps = _total_steps(config, len(plan.split.train), num_processes, plan.earlier)
    return steps * config.global_batch_size(num_processes=1)


def _total_steps(config: TrainConfig, num_train: int, num_processes: int, earlier: Earlier | None) -> int:
    steps, images_seen = earlier.position if earlier else (0, 0)
    total = config.max_train_steps
    if total is None:  # rounded up to whole epochs
        total = steps + -(-(config.num_epochs * num_train - images_seen) // config.global_batch_size(num_processes))
    if total < steps:
        length = number_of(total, "step") if config.max_train_steps else number_of(config.num_epochs, "epoch")
        found = f"the run has done {number_of(steps, 'step')}, more than {length}"
        raise UserError(found, "Give more, or resume from an earlier checkpoint.")
    return total


def _restore(earlier: Earlier, state: TrainingState, accelerator: Accelerator) -> None:
    """Load the checkpoint, the same in every process."""
    if earlier.checkpoint is not None:
        tensors, scalars = earlier.checkpoint.tensors, earlier.checkpoint.scalars
        try:
            state.restore(tensors, scalars, accelerator.process_index, accelerator.num_processes)
        except (RuntimeError, KeyError, ValueError) as error:  # torch raises these for other names or shapes
            found = f"the UNet differs from that of the run: {str(error).splitlines()[0]}"
            raise UserError(found, "Give the same UNet as before.") from error
        if earlier.record.status == "finished" and state.step == earlier.record.total_steps:
            state.evaluation_due = False  # the session that finished the run evaluated this state, but saved it no more
