"""The duration of a run on this machine, from a few of its steps, which are undone."""

import os
import time
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from openddpm.analysis.text import duration, number_of
from openddpm.config import TrainConfig
from openddpm.diffusion.unet import image_shape
from openddpm.errors import UserError
from openddpm.record.schema import PaceRecord, Session
from openddpm.training.distributed import say
from openddpm.training.performance import EAGER_STEP_SECONDS
from openddpm.training.probe import Probe, is_out_of_memory
from openddpm.training.run import StepParts
from openddpm.training.timetable import Timetable, forward_cost, make_timetable

MAX_SECONDS, MAX_STEPS = 2.0, 8  # of timing, after the first step
LONG_SECONDS = 10.0  # assumed: if the first step takes longer on a CPU, its time is used alone
MIN_SHARE_OF_CORES = 0.8  # measured on two cores: 0.99 with nothing else running, 0.64 beside one busy process
MIN_SPEEDUP = 1.25  # assumed: less is not worth other rounding


@dataclass(frozen=True)
class Pace:
    """The time of a training step on this machine."""

    step_seconds: float
    pause_factor: float = 1.0
    """Measured time of previews and evaluation over what a timetable assumes."""

    def total_seconds(self, timetable: Timetable) -> float:
        """Return the seconds of a run from its first step on, with previews and evaluation, without saving."""
        return self.step_seconds * (timetable.total_steps + self.pause_factor * timetable.pauses_in_steps)

    def record(self, timetable: Timetable) -> PaceRecord:
        """Return its entry in run.json."""
        seconds = self.total_seconds(timetable)
        return PaceRecord(step_seconds=round(self.step_seconds, 5), planned_seconds=round(seconds, 1))

    def with_steps(self, config: TrainConfig, num_train: int, num_processes: int) -> TrainConfig:
        """Return `config` with as many max_train_steps as fit into its max_minutes; unchanged without these.

        Args:
            num_train: number of training images.
        """
        if config.max_minutes is None:
            return config
        steps = self.steps_in(config.max_minutes, config, num_train, num_processes)
        return config.model_copy(update={"max_train_steps": steps, "max_minutes": None})

    def steps_in(self, minutes: float, config: TrainConfig, num_train: int, num_processes: int) -> int:
        """Return how many steps, with previews and evaluation, fit into `minutes`; at least 1."""
        fewest, most = 1, max(1, int(60 * minutes / self.step_seconds))
        while fewest < most:
            steps = (fewest + most + 1) // 2
            fits = self.total_seconds(make_timetable(config, steps, num_train, num_processes)) <= 60 * minutes
            fewest, most = (steps, most) if fits else (fewest, steps - 1)
        return fewest

    def remarks(self, timetable: Timetable, max_minutes: float | None) -> list[str]:
        """Return what is to be said where not even a run of one step fits into the minutes asked for."""
        seconds = self.total_seconds(timetable)
        if max_minutes is None or seconds <= 60 * max_minutes:
            return []
        return [
            f"--max_minutes {max_minutes:g} is too short: one step, its preview and its evaluation take about "
            f"{duration(seconds)} here, and no more is planned"
        ]


def measure_pace(parts: StepParts) -> Pace:
    """Time a few steps of a run that has not started, and restore its state. A collective call.

    On a CPU that is also busy with other work, one thread per core means that threads wait for each other: if fewer are
    faster, the run uses them, with a note.

    Raises:
        UserError: a step does not fit into memory.
    """
    probe = Probe(replace(parts, stream=_OneBatch(parts)))  # type: ignore[arg-type]
    try:
        step_seconds = _seconds_a_step(probe, parts)
        return Pace(step_seconds, _pause_factor(probe, parts, step_seconds))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        images = number_of(parts.config.train_batch_size, "image")
        raise UserError(f"a training step of {images} does not fit into memory", _fitting_hint(probe, parts)) from error
    finally:
        probe.undo()


def _seconds_a_step(probe: Probe, parts: StepParts) -> float:
    num_micro_batches = parts.config.gradient_accumulation_steps
    # In the first step memory is allocated and libraries choose algorithms: half a minute on some GPUs.
    first = probe.seconds_a_step(num_micro_batches, max_seconds=0.0)
    if first > LONG_SECONDS and parts.accelerator.device.type == "cpu":
        return first
    cores_used, start = time.process_time(), time.perf_counter()
    seconds = probe.seconds_a_step(num_micro_batches, MAX_SECONDS, MAX_STEPS)
    cores_used = (time.process_time() - cores_used) / (time.perf_counter() - start)
    if _may_choose_threads(parts.accelerator):
        seconds = _with_fewer_threads(probe, num_micro_batches, seconds, cores_used)
    return seconds


def _pause_factor(probe: Probe, parts: StepParts, step_seconds: float) -> float:
    """Return the time to denoise an image of a preview, over the assumed one.

    It is 1 where steps are too slow for measuring more, and where memory is too small for a preview.
    """
    config, num_images = parts.config, parts.config.eval_batch_size
    if step_seconds > LONG_SECONDS:
        return 1.0
    assumed = forward_cost(config) * step_seconds / config.global_batch_size(num_processes=1)
    try:
        return probe.seconds_a_forward(num_images) / num_images / assumed
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or parts.accelerator.num_processes > 1:
            raise
        return 1.0


def _fitting_hint(probe: Probe, parts: StepParts) -> str:
    """Return a hint for a batch that is too large."""
    config, smaller = parts.config, "use --gradient_checkpointing or a smaller --model."
    fits = probe.fit_memory() if parts.accelerator.num_processes == 1 else None
    if fits is None:
        return f"Halve --train_batch_size and double --gradient_accumulation_steps; or {smaller}"
    accumulation = config.global_batch_size(num_processes=1) // fits
    return (
        f"--train_batch_size {fits} --gradient_accumulation_steps {accumulation} fits, with as many images per step; "
        f"or {smaller}"
    )


class _OneBatch:
    """Replaces the stream of images by one random batch, so that no user-supplied transform is called."""

    def __init__(self, parts: StepParts) -> None:
        shape = (parts.config.train_batch_size, *image_shape(parts.state.unet.config))
        draws = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        self._images = (2 * draws - 1).to(parts.accelerator.device)

    def micro_batch(self, start: int, size: int, step: int, micro_index: int) -> torch.Tensor:
        """Return the first `size` images, (B, C, H, W) float32 in [-1, 1], whatever the position."""
        return self._images[:size]


def images_in(seconds: float, config: TrainConfig) -> int:
    """Return how many images a GPU may train in this time, estimated before any step, to decide about compiling."""
    return int(seconds / EAGER_STEP_SECONDS[config.mixed_precision]) * config.train_batch_size


def keep_threads(before: Session, accelerator: Accelerator) -> None:
    """Use as many threads as the previous session, unless the user chose: another number rounds differently.

    Only for a run that stays in one process on a CPU.
    """
    recorded, threads = before.environment.cpu_threads, torch.get_num_threads()
    if before.num_processes > 1 or before.environment.device_type != "cpu" or not _may_choose_threads(accelerator):
        return
    if recorded < threads:
        torch.set_num_threads(recorded)
        say([f"using {number_of(recorded, 'thread')} of {threads}, as before: another number would round differently"])


def _may_choose_threads(accelerator: Accelerator) -> bool:
    """Tell whether the user left the number of threads to the program."""
    is_one_cpu = accelerator.device.type == "cpu" and accelerator.num_processes == 1
    return is_one_cpu and torch.get_num_threads() > 1 and "OMP_NUM_THREADS" not in os.environ


def _with_fewer_threads(probe: Probe, num_micro_batches: int, seconds: float, cores_used: float) -> float:
    """Use as many threads as cores are free, if that makes steps faster; return the time of a step."""
    threads = torch.get_num_threads()
    fewer = max(1, int(cores_used))
    if cores_used >= MIN_SHARE_OF_CORES * threads or fewer == threads:
        return seconds
    torch.set_num_threads(fewer)
    with_fewer = probe.seconds_a_step(num_micro_batches, MAX_SECONDS, MAX_STEPS)
    if seconds / with_fewer < MIN_SPEEDUP:
        torch.set_num_threads(threads)
        return seconds
    verb = "makes" if fewer == 1 else "make"
    say(
        [
            f"this machine is busy with other work: {number_of(fewer, 'thread')} instead of {threads} {verb} a step "
            f"{seconds / with_fewer:.1f} times as fast; to decide yourself set OMP_NUM_THREADS"
        ]
    )
    return with_fewer
