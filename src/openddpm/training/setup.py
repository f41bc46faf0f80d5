"""From a config to everything the loop works with. Cheap checks come first, so that mistakes are told at once."""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, extract_model_from_parallel
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel

from openddpm.config import TrainConfig
from openddpm.data.near_duplicates import near_duplicates_across, with_near_duplicates
from openddpm.data.store import cache_dir_of, open_images
from openddpm.data.stream import BatchStream, Transform, split_heldout
from openddpm.diffusion.process import DiffusionProcess
from openddpm.diffusion.unet import build_unet, check_own_unet, gflops_per_image, unet_config, zero_residuals
from openddpm.errors import UserError
from openddpm.seeding import seed_global_generators
from openddpm.training.describe import new_record, resumed_record
from openddpm.training.earlier import Earlier, check_images, check_own_parts, find_earlier_run
from openddpm.training.export import export_pipeline
from openddpm.training.heldout import HeldoutEvaluation
from openddpm.training.observers import Observer
from openddpm.training.optimization import build_optimizer, learning_rate_schedule
from openddpm.training.output import Claim, begin_folder, check_own_folder
from openddpm.training.ranks import lost_ranks_named
from openddpm.training.recorder import Recorder
from openddpm.training.rulers import RulerMeasurement
from openddpm.training.run import Training
from openddpm.training.saver import Saver
from openddpm.training.speed import Speed, choose_speed, compiled_by_a_first_pass, gpu_has_bf16, with_fast_precision
from openddpm.training.state import TrainingState
from openddpm.training.timetable import make_timetable

_DATA_PARALLEL = (
    *(DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU),
    *(DistributedType.MULTI_NPU, DistributedType.MULTI_MLU, DistributedType.MULTI_MUSA, DistributedType.MULTI_SDAA),
)


def prepare(
    config: TrainConfig,
    own_dataset: Any = None,
    transform: Transform | None = None,
    own_unet: UNet2DModel | None = None,
    observers: Sequence[Observer] = (),
    rolled_back_from: int | None = None,
) -> Training:
    """Build a run, or find the one to go on with.

    Args:
        rolled_back_from: the step whose numbers were not finite, where the run goes on because of that; from its
            checkpoint on the learning rate is half of what it was.

    Raises:
        UserError: for whatever in the config, the data or the output folder has to be mended first.
    """
    check_own_folder(config)
    config = with_fast_precision(config)
    with lost_ranks_named():
        accelerator = _accelerator(config)
        claim = Claim(Path(config.output_dir), accelerator.is_main_process)
        try:
            return _prepare(config, accelerator, claim, own_dataset, transform, own_unet, observers, rolled_back_from)
        except BaseException:
            claim.release()
            raise


def _prepare(
    config: TrainConfig,
    accelerator: Accelerator,
    claim: Claim,
    own_dataset: Any,
    transform: Transform | None,
    own_unet: UNet2DModel | None,
    observers: Sequence[Observer],
    rolled_back_from: int | None,
) -> Training:
    device, folder = accelerator.device, Path(config.output_dir)
    earlier = find_earlier_run(config, accelerator.num_processes)
    accelerator.wait_for_everyone()  # nobody changes the folder before all have looked at it

    own = {"dataset": own_dataset, "transform": transform, "unet": own_unet}
    own_parts = [name for name, part in own.items() if part is not None]
    if earlier is None:
        structure, data_options = unet_config(config.model, config.resolution) if own_unet is None else {}, config
    else:  # a config file may have changed since, and a branch of the Hub moved on
        check_own_parts(own_parts, earlier.record.own_parts)
        config, structure = earlier.config, earlier.record.model.config
        data_options = config.model_copy(update={"dataset_revision": earlier.record.dataset.revision})
    source, store = open_images(data_options, own_dataset, quiet=not accelerator.is_local_main_process)
    if earlier is not None:
        earlier = check_images(earlier, store)
    split = split_heldout(len(store.images), config.heldout_images, config.seed)
    total_steps = _total_steps(config, len(split.train), accelerator.num_processes, earlier)
    timetable = make_timetable(config, total_steps, len(split.train), accelerator.num_processes)
    if earlier is not None and earlier.record.evaluation is not None:
        timetable = timetable.keeping(earlier.record.evaluation)

    unet = _initial_unet(config, structure, own_unet, store.images.shape[1])
    frozen_unet = copy.deepcopy(unet).to("meta").eval()
    gflops = gflops_per_image(frozen_unet)
    num_images = total_steps * config.train_batch_size * config.gradient_accumulation_steps
    speed = choose_speed(config, device, gflops, num_images, store.images.nbytes)
    model, state = _initial_state(config, accelerator, unet, speed)
    speed, compile_seconds = compiled_by_a_first_pass(speed, unet, config.train_batch_size)
    near = None
    if accelerator.is_main_process:
        near = near_duplicates_across(store, split.train, split.heldout, cache_dir_of(config), quiet=False)
        store = with_near_duplicates(store, near)
    run = new_record(config, accelerator, source, store, split, frozen_unet, gflops, timetable, own_parts, near)
    run.environment["speed"] = {**asdict(speed), "compile_seconds": round(compile_seconds, 1)}
    if earlier is not None:
        _restore(earlier, state, accelerator)
        run = resumed_record(earlier, run, state.step, state.images, rolled_back_from)
    process = DiffusionProcess(config, device)
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
        stream=BatchStream(
            *(store.images, split.train, device, config.seed, config.random_flip, transform),
            on_device=speed.images_on_device,
            num_processes=accelerator.num_processes,
        ),
        evaluation=evaluation,
        timetable=timetable,
        learning_rate_at=learning_rate_schedule(config, total_steps, run.resumptions),
        recorder=recorder,
        saver=Saver(folder, run.run_id, config.checkpoints_total_limit, recorder.sync_rows, export),
        claim=claim,
        was_finished=earlier is not None and earlier.record.status == "finished",
    )


def _initial_unet(
    config: TrainConfig, structure: dict[str, Any], own_unet: UNet2DModel | None, channels: int
) -> UNet2DModel:
    if own_unet is not None:
        check_own_unet(own_unet, config.resolution, channels)
        if config.zero_init_residuals:
            todo = "Leave the option out; openddpm.diffusion.unet.zero_residuals(unet) does so beforehand."
            raise UserError("zero_init_residuals is for UNets that openddpm builds, and this one is given", todo)
        own_unet.__dict__.pop("_is_accelerate_prepared", None)  # by an earlier run, maybe in another precision
        own_unet._compiled_call_impl = None
        return extract_model_from_parallel(own_unet, keep_fp32_wrapper=False)
    seed_global_generators(config.seed, "initial weights")
    unet = build_unet(structure, channels)
    if config.zero_init_residuals:
        zero_residuals(unet)
    return unet


def _initial_state(
    config: TrainConfig, accelerator: Accelerator, unet: UNet2DModel, speed: Speed
) -> tuple[Any, TrainingState]:
    """Return the UNet prepared for training, and the state of a run at step 0 around it."""
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.to(accelerator.device).train().zero_grad(set_to_none=True)  # a caller's may have been trained before
    speed.apply(unet)
    model, optimizer = accelerator.prepare(unet, build_optimizer(unet, config))
    ema = None
    if config.use_ema:
        ema = EMAModel(
            unet.parameters(),
            decay=config.ema_max_decay,
            use_ema_warmup=True,
            inv_gamma=config.ema_inv_gamma,
            power=config.ema_power,
            foreach=True,
        )
    return model, TrainingState(
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


def _accelerator(config: TrainConfig) -> Accelerator:
    precision = config.mixed_precision
    if torch.cuda.is_available():
        if precision == "bf16" and not gpu_has_bf16():
            capability = torch.cuda.get_device_capability()
            raise UserError(
                f"--mixed_precision bf16 needs compute capability 8.0, this GPU has {capability[0]}.{capability[1]}",
                "Use --mixed_precision fp16.",
            )
    elif precision == "fp16":
        raise UserError("--mixed_precision fp16 needs a GPU, and none was found", "Use --mixed_precision no.")
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    # Without a device, only the CPU being asked for makes ranks find each other.
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=config.rank_timeout))
    accelerator = Accelerator(
        mixed_precision=precision, cpu=not torch.accelerator.is_available(), kwargs_handlers=[patience]
    )
    if accelerator.distributed_type not in _DATA_PARALLEL:
        raise UserError(
            f"the launcher asks for {accelerator.distributed_type.value}, which shards the weights",
            "Train data-parallel: accelerate launch --multi_gpu, or torchrun.",
        )
    accelerator.gradient_accumulation_steps = 1  # the loop divides the loss, whatever the launcher has set
    return accelerator


def _total_steps(config: TrainConfig, num_train: int, num_processes: int, earlier: Earlier | None) -> int:
    steps, images = earlier.position if earlier else (0, 0)
    per_step = config.train_batch_size * config.gradient_accumulation_steps * num_processes
    total = config.max_train_steps
    if total is None:
        total = steps + -(-(config.num_epochs * num_train - images) // per_step)  # rounded up: no epoch is cut short
    if total < steps:
        length = f"{config.num_epochs} epochs" if config.max_train_steps is None else f"{total:,} steps"
        raise UserError(
            f"the run has done {steps:,} steps, more than {length}", "Give more, or go back to a checkpoint."
        )
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
    steps = accelerator.gather(torch.tensor([state.step], device=accelerator.device))
    if int(steps.min()) != int(steps.max()):  # type: ignore[union-attr]
        found = f"the processes would resume from different steps: {steps.tolist()}"  # type: ignore[union-attr]
        raise UserError(found, "Give all of them the same run folder, on a file system that they share.")
