"""From a config to everything the loop works with. Cheap checks come first, so that mistakes are told at once."""

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
from openddpm.data.store import cache_dir_of, open_images
from openddpm.data.stream import BatchStream, Transform, split_heldout
from openddpm.diffusion.process import DiffusionProcess
from openddpm.diffusion.unet import gflops_per_image, unet_config
from openddpm.diffusion.unet_checks import unwrapped_unet
from openddpm.errors import UserError
from openddpm.training.accelerator import build_accelerator, say
from openddpm.training.describe import new_record, resumed_record
from openddpm.training.earlier import Earlier, check_images, check_own_parts, find_earlier_run
from openddpm.training.ema import LerpEMA
from openddpm.training.export import export_pipeline
from openddpm.training.heldout import HeldoutEvaluation
from openddpm.training.hosts import check_same_images, check_same_start, processes_without_folder
from openddpm.training.initial import initial_unet, remarks_on_start, weights_to_start_from
from openddpm.training.observers import Observer
from openddpm.training.optimization import build_optimizer, learning_rate_schedule
from openddpm.training.output import Claim, begin_folder, check_own_folder
from openddpm.training.pace import Pace, images_in, keep_threads, measure_pace
from openddpm.training.ranks import lost_ranks_named
from openddpm.training.recorder import Recorder
from openddpm.training.rulers import RulerMeasurement
from openddpm.training.run import StepParts, Training
from openddpm.training.saver import Saver
from openddpm.training.speed import (
    Speed,
    choose_speed,
    compiled_by_a_first_pass,
    num_layers,
    remarks_on_speed,
    run_as_it_is,
    with_fast_precision,
)
from openddpm.training.state import TrainingState
from openddpm.training.timetable import Timetable, make_timetable


def prepare(
    config: TrainConfig,
    own_dataset: Any = None,
    transform: Transform | None = None,
    own_unet: UNet2DModel | None = None,
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
        UserError: for whatever in the config, the data or the output folder has to be mended first.
    """
    config = with_fast_precision(config)
    with lost_ranks_named():
        accelerator = build_accelerator(config)
        claim, threads = Claim(Path(config.output_dir), accelerator.is_main_process), torch.get_num_threads()
        own = (own_dataset, transform, own_unet, observers)
        with ExitStack() as given_back:
            given_back.callback(claim.release)
            given_back.callback(torch.set_num_threads, threads)
            training = _prepare(config, accelerator, claim, given_back, *own, rolled_back_from, times_steps)
            given_back.pop_all()  # by `Training.close` from here on
        training.threads_before = threads
        return training


def _prepare(
    config: TrainConfig,
    accelerator: Accelerator,
    claim: Claim,
    given_back: ExitStack,
    own_dataset: Any,
    transform: Transform | None,
    own_unet: UNet2DModel | None,
    observers: Sequence[Observer],
    rolled_back_from: int | None,
    times_steps: bool,
) -> Training:
    device, folder = accelerator.device, Path(config.output_dir)
    without_folder = processes_without_folder(accelerator, folder)
    check_own_folder(config)
    earlier = find_earlier_run(config, accelerator.num_processes)
    remarks = check_same_start(accelerator, config, earlier, without_folder)  # the folder is as it was until all agree
    if accelerator.is_main_process:
        say(remarks)

    own_unet = own_unet if own_unet is None else unwrapped_unet(own_unet)
    pretrained = weights_to_start_from(config, earlier, own_unet)
    own = {"dataset": own_dataset, "transform": transform, "unet": own_unet}
    own_parts = [name for name, part in own.items() if part is not None]
    if earlier is None:
        structure, data_options = {}, config
        if own_unet is None and pretrained is None:
            structure = unet_config(config.model, config.resolution, config.num_train_timesteps)
    else:  # a config file may have changed since, and a branch of the Hub moved on
        check_own_parts(own_parts, earlier.record.own_parts)
        if config.max_minutes is not None and accelerator.is_main_process:
            say(["--max_minutes plans a run that begins: this one keeps the length that it has"])
        config, structure = earlier.config, earlier.record.model.config
        data_options = config.model_copy(update={"dataset_revision": earlier.record.dataset.revision})
    source, store = open_images(data_options, own_dataset, quiet=not accelerator.is_local_main_process)
    if earlier is not None:
        earlier = check_images(earlier, store)
        keep_threads(earlier.record, accelerator)
    check_same_images(accelerator, store.sha256, structure)
    split = split_heldout(len(store.images), config.heldout_images, config.seed)

    unet = initial_unet(config, structure, own_unet, pretrained, store.images.shape[1])
    if earlier is None and accelerator.is_main_process:
        say(remarks_on_start(config, structure, own_unet, pretrained, store.images.shape[1]))
    if accelerator.is_main_process:
        say(remarks_on_speed(config, device))
    frozen_unet = copy.deepcopy(unet).to("meta").eval()
    gflops = gflops_per_image(frozen_unet)
    if config.max_minutes is None:
        total_steps = _total_steps(config, len(split.train), accelerator.num_processes, earlier)
        num_images = total_steps * config.train_batch_size * config.gradient_accumulation_steps
    else:
        num_images = images_in(60 * config.max_minutes, config)
    speed = choose_speed(config, device, gflops, num_layers(frozen_unet), num_images, store.images.nbytes)
    stream = BatchStream(
        *(store.images, split.train, device, config.seed, config.random_flip, transform),
        on_device=speed.images_on_device,
        num_processes=accelerator.num_processes,
    )
    given_back.callback(stream.close)
    given_back.callback(run_as_it_is, unet)
    if speed.images_on_device and not stream.on_device:
        say(["the GPU has no room for the images, which stay in memory and are brought batch by batch"])
        speed = replace(speed, images_on_device=False)
    model, state, speed, compile_seconds = _initial_state(config, accelerator, unet, speed)
    process = DiffusionProcess(config, device)
    left = process.signal_left()

    parts = StepParts(config, accelerator, model, state, process, stream)
    config, timetable, pace = _planned(parts, len(split.train), earlier, times_steps)
    init_from = None if pretrained is None else pretrained.record()
    near = None
    if accelerator.is_main_process:
        near = near_duplicates_across(store, split.train, split.heldout, cache_dir_of(config), quiet=False)
        store = with_near_duplicates(store, near)
    run = new_record(
        *(config, accelerator, source, store, split, frozen_unet, gflops, left, timetable, own_parts, near, init_from)
    )
    run.environment["speed"] = {**asdict(speed), "compile_seconds": round(compile_seconds, 1)}
    if pace is not None:
        run.environment["pace"] = pace.record(timetable)
    if earlier is not None:
        _restore(earlier, state, accelerator)
        run = resumed_record(earlier, run, state.step, state.images, rolled_back_from)
    evaluation = HeldoutEvaluation(
        store.images, split, process, device, config.seed, config.train_batch_size, timetable.num_tuples
    )
    recorder = Recorder(run, folder, observers, accelerator.is_main_process)

    def export(checkpoint: Path) -> None:
        export_pipeline(folder, checkpoint, frozen_unet, process.scheduler)

    if accelerator.is_main_process:
        measurement = RulerMeasurement(evaluation, store, split, process, config.random_flip, config.seed, device)
        rulers = measurement.measure(cache_dir_of(config), quiet=False)
        begin_folder(folder, earlier, run, state, store, split, rulers)
        if earlier is not None and earlier.checkpoint is not None:  # the run may have died before it did so itself
            export(earlier.checkpoint.folder)
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
        claim=claim,
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
        images=0,
        step=0,
        wall_seconds=0.0,
        loss_sum=torch.zeros((), device=accelerator.device),
        steps_since_log=0,
    )
    return model, state, speed, compile_seconds


def _planned(
    parts: StepParts, num_train: int, earlier: Earlier | None, times_steps: bool
) -> tuple[TrainConfig, Timetable, Pace | None]:
    """Return the config with the length of the run, when it is looked at, and the time of a step if it was measured."""
    config, num_processes, pace = parts.config, parts.accelerator.num_processes, None
    if earlier is None and (times_steps or config.max_minutes is not None):
        pace = measure_pace(parts)
        config = pace.with_steps(config, num_train, num_processes)
    total_steps = _total_steps(config, num_train, num_processes, earlier)
    timetable = make_timetable(config, total_steps, num_train, num_processes)
    if pace is not None and parts.accelerator.is_main_process:
        say(pace.remarks(timetable, parts.config.max_minutes))
    return config, timetable if earlier is None else timetable.keeping(earlier.record), pace


def _total_steps(config: TrainConfig, num_train: int, num_processes: int, earlier: Earlier | None) -> int:
    steps, images = earlier.position if earlier else (0, 0)
    per_step = config.train_batch_size * config.gradient_accumulation_steps * num_processes
    total = config.max_train_steps
    if total is None:
        total = steps + -(-(config.num_epochs * num_train - images) // per_step)  # rounded up: no epoch is cut short
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
