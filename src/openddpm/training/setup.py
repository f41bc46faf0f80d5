"""From a config to everything the loop works with, in two steps: plan, which may refuse, then build."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import UNet2DModel

from openddpm.analysis.text import number_of
from openddpm.config import TrainConfig
from openddpm.data.near_duplicates import near_duplicates_across, with_near_duplicates
from openddpm.data.store import cache_dir_of
from openddpm.data.stream import BatchStream, Transform
from openddpm.diffusion.process import DiffusionProcess
from openddpm.diffusion.unet import gflops_per_image
from openddpm.errors import UserError
from openddpm.evaluation.baselines import BaselineMeasurement
from openddpm.evaluation.heldout import HeldoutEvaluation
from openddpm.training.checkpointer import Saver
from openddpm.training.distributed import build_accelerator, lost_ranks_named, say
from openddpm.training.earlier_run import Earlier
from openddpm.training.ema import LerpEMA
from openddpm.training.initial_weights import initial_unet
from openddpm.training.new_record import new_record, resumed_record
from openddpm.training.observer import Observer
from openddpm.training.optimizer import build_optimizer, learning_rate_schedule
from openddpm.training.pace import Pace, images_in, measure_pace
from openddpm.training.performance import (
    Speed,
    choose_speed,
    compiled_by_a_first_pass,
    num_layers,
    run_as_it_is,
    with_fast_precision,
)
from openddpm.training.plan import Plan, UserObjects, make_plan
from openddpm.training.recorder import Recorder
from openddpm.training.run import StepParts, Training
from openddpm.training.run_folder import FolderLock, begin_folder, export_pipeline
from openddpm.training.state import TrainingState
from openddpm.training.timetable import Timetable, make_timetable


def prepare(
    config: TrainConfig,
    dataset: Any = None,
    transform: Transform | None = None,
    unet: UNet2DModel | None = None,
    observers: Sequence[Observer] = (),
    rolled_back_from: int | None = None,
    times_steps: bool = True,
) -> Training:
    """Build a run, or find the one to go on with.

    Args:
        rolled_back_from: the step whose numbers were not finite, where the run goes on because of that; from its
            checkpoint on the learning rate is half of what it was.
        times_steps: whether a run that begins is told how long it will take, for which some steps are taken and undone.

    Raises:
        UserError: for whatever in the config, the data or the output folder has to be fixed first.
    """
    config = with_fast_precision(config)
    with lost_ranks_named():
        accelerator = build_accelerator(config)
        lock, threads = FolderLock(Path(config.output_dir), accelerator.is_main_process), torch.get_num_threads()
        with ExitStack() as given_back:
            given_back.callback(lock.release)
            given_back.callback(torch.set_num_threads, threads)
            plan = make_plan(config, accelerator, UserObjects(dataset, transform, unet))
            training = _build(plan, accelerator, lock, given_back, observers, rolled_back_from, times_steps)
            given_back.pop_all()  # by `Training.close` from here on
        training.threads_before = threads
        return training


def _build(
    plan: Plan,
    accelerator: Accelerator,
    lock: FolderLock,
    given_back: ExitStack,
    observers: Sequence[Observer],
    rolled_back_from: int | None,
    times_steps: bool,
) -> Training:
    """Build what a plan needs.

    Args:
        given_back: takes what has to be given back where something fails.
    """
    config, earlier, store, split, device = plan.config, plan.earlier, plan.store, plan.split, accelerator.device

    # The UNet, and how it is computed.
    unet = initial_unet(config, plan.structure, plan.objects.unet, plan.pretrained, plan.channels)
    given_back.callback(run_as_it_is, unet)
    frozen_unet = copy.deepcopy(unet).to("meta").eval()
    gflops = gflops_per_image(frozen_unet)
    num_images = _images_to_train(plan, accelerator.num_processes)
    speed = choose_speed(config, device, gflops, num_layers(frozen_unet), num_images, store.images.nbytes)
    stream = BatchStream(
        *(store.images, split.train, device, config.seed, config.random_flip, plan.objects.transform),
        on_device=speed.images_on_device,
        num_processes=accelerator.num_processes,
    )
    given_back.callback(stream.close)
    if speed.images_on_device and not stream.on_device:
        say(["the GPU has no room for the images, which stay in memory and are brought batch by batch"])
        speed = replace(speed, images_on_device=False)
    model, state, speed, compile_seconds = _initial_state(config, accelerator, unet, speed)
    process = DiffusionProcess(config, device)
    parts = StepParts(config, accelerator, model, state, process, stream)

    # The length of the run, and what is done when.
    config, timetable, pace = _timed(parts, len(split.train), earlier, times_steps)

    # Its record.
    near = None
    if accelerator.is_main_process:
        near = near_duplicates_across(store, split.train, split.heldout, cache_dir_of(config), quiet=False)
        store = with_near_duplicates(store, near)
    run = new_record(plan, config, accelerator, frozen_unet, gflops, process.signal_left(), timetable, near)
    run.environment["speed"] = {**asdict(speed), "compile_seconds": round(compile_seconds, 1)}
    if pace is not None:
        run.environment["pace"] = pace.record(timetable)
    if earlier is not None:
        _restore(earlier, state, accelerator)
        run = resumed_record(earlier, run, state.step, state.images_seen, rolled_back_from)

    # What measures it, and what saves it.
    evaluation = HeldoutEvaluation(
        store.images, split, process, device, config.seed, config.train_batch_size, timetable.num_fixed_samples
    )
    folder, writer = Path(config.output_dir), None

    def export(checkpoint: Path) -> None:
        export_pipeline(folder, checkpoint, frozen_unet, process.scheduler)

    if accelerator.is_main_process:
        measurement = BaselineMeasurement(evaluation, store, split, process, config.random_flip, config.seed, device)
        baselines = measurement.measure(cache_dir_of(config), quiet=False)
        writer = begin_folder(folder, earlier, run, state, store, split, baselines)
        if earlier is not None and earlier.checkpoint is not None:  # the run may have died before it did so itself
            export(earlier.checkpoint.folder)
    recorder = Recorder(run, folder, observers, writer)
    return Training(
        config=config,
        accelerator=accelerator,
        model=model,
        frozen_unet=frozen_unet,
        state=state,
        process=process,
        images=store.images,
        split=split,
        stream=stream,
        evaluation=evaluation,
        timetable=timetable,
        learning_rate_at=learning_rate_schedule(config, timetable.total_steps, run.resumptions),
        recorder=recorder,
        saver=Saver(folder, run.run_id, config.checkpoints_total_limit, recorder.sync_rows, export),
        lock=lock,
        was_finished=earlier is not None and earlier.record.status == "finished",
    )


def _initial_state(
    config: TrainConfig, accelerator: Accelerator, unet: UNet2DModel, speed: Speed
) -> tuple[Any, TrainingState, Speed, float]:
    """Return the UNet prepared for training, and the state of a run at step 0 around it.

    Returns:
        besides, the speed that came of the one asked for, and the seconds that compiling took.
    """
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.to(accelerator.device).train().zero_grad(set_to_none=True)  # a caller's may have been trained before
    speed.apply(unet)
    model, optimizer = accelerator.prepare(unet, build_optimizer(unet, config))
    # Before there are averages and moments, which lie in memory as the weights do: a compiler that fails changes that.
    speed, compile_seconds = compiled_by_a_first_pass(speed, unet, config.train_batch_size)
    ema = None
    if config.use_ema:
        ema = LerpEMA(
            unet.parameters(),
            decay=config.ema_max_decay,
            use_ema_warmup=True,
            inv_gamma=config.ema_inv_gamma,
            power=config.ema_power,
            foreach=True,
        )
    state = TrainingState(
        unet=unet,
        ema=ema,
        optimizer=optimizer,
        scaler=accelerator.scaler,
        images_seen=0,
        step=0,
        wall_seconds=0.0,
        loss_sum=torch.zeros((), device=accelerator.device),
        steps_since_log=0,
    )
    return model, state, speed, compile_seconds


def _timed(
    parts: StepParts, num_train: int, earlier: Earlier | None, times_steps: bool
) -> tuple[TrainConfig, Timetable, Pace | None]:
    """Return the config with the length of the run, its timetable, and the time of a step if it was measured."""
    config, num_processes, pace = parts.config, parts.accelerator.num_processes, None
    if earlier is None and (times_steps or config.max_minutes is not None):
        pace = measure_pace(parts)
        config = pace.with_steps(config, num_train, num_processes)
    total_steps = _total_steps(config, num_train, num_processes, earlier)
    timetable = make_timetable(config, total_steps, num_train, num_processes)
    return config, timetable if earlier is None else timetable.keeping(earlier.record), pace


def _images_to_train(plan: Plan, num_processes: int) -> int:
    """Return how many images a process will train, about."""
    config = plan.config
    if config.max_minutes is not None:
        return images_in(60 * config.max_minutes, config)
    steps = _total_steps(config, len(plan.split.train), num_processes, plan.earlier)
    return steps * config.global_batch_size(num_processes=1)


def _total_steps(config: TrainConfig, num_train: int, num_processes: int, earlier: Earlier | None) -> int:
    steps, images_seen = earlier.position if earlier else (0, 0)
    total = config.max_train_steps
    if total is None:  # rounded up: no epoch is cut short
        total = steps + -(-(config.num_epochs * num_train - images_seen) // config.global_batch_size(num_processes))
    if total < steps:
        length = number_of(total, "step") if config.max_train_steps else number_of(config.num_epochs, "epoch")
        found = f"the run has done {number_of(steps, 'step')}, more than {length}"
        raise UserError(found, "Give more, or go back to a checkpoint.")
    return total


def _restore(earlier: Earlier, state: TrainingState, accelerator: Accelerator) -> None:
    """Put the checkpoint in place, in every process the same."""
    if earlier.checkpoint is not None:
        tensors, scalars = earlier.checkpoint.tensors, earlier.checkpoint.scalars
        try:
            state.restore(tensors, scalars, accelerator.process_index, accelerator.num_processes)
        except (RuntimeError, KeyError, ValueError) as error:  # what torch raises for other names or shapes
            found = f"the UNet is not that of the run: {str(error).splitlines()[0]}"
            raise UserError(found, "Give the same UNet as before.") from error
