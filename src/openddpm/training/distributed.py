"""The processes of a run: Accelerate as it is used here, and what they tell each other at every step."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as distributed
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs
from rich.console import Console
from rich.markup import escape

from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.training.performance import gpu_has_bf16

_DATA_PARALLEL = (
    *(DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU),
    *(DistributedType.MULTI_NPU, DistributedType.MULTI_MLU, DistributedType.MULTI_MUSA, DistributedType.MULTI_SDAA),
)


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Return the Accelerator of a run, which takes the device and the processes from its launcher, and nothing else.

    What the environment asks for besides, and does not get, is said on standard error.

    Raises:
        UserError: a precision that the device has not, or a launcher that asks for what is not done here.
    """
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
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            cpu=not torch.accelerator.is_available(),
            dynamo_backend="no",  # `speed` alone decides what is compiled
            kwargs_handlers=[patience],
        )
    except (ValueError, ImportError) as error:  # of what accelerate reads from the environment
        names = ", ".join(sorted(name for name in os.environ if name.startswith("ACCELERATE_"))) or "none"
        hint = f"Look at what the launcher or the environment sets of ACCELERATE_*: {names}."
        raise UserError(f"accelerate cannot be set up: {' '.join(str(error).split())[:300]}", hint) from error
    if accelerator.distributed_type not in _DATA_PARALLEL:
        raise UserError(
            f"the launcher asks for {accelerator.distributed_type.value}, which shards the weights",
            "Train data-parallel: accelerate launch --multi_gpu, or torchrun.",
        )
    accelerator.gradient_accumulation_steps = 1  # the loop divides the loss, whatever the launcher has set
    if accelerator.is_main_process:
        say(_unheeded_settings(config))
    return accelerator


def _unheeded_settings(config: TrainConfig) -> list[str]:
    """Return what the launcher or the environment asks Accelerate for and does not get, a sentence each."""
    ours = {
        "DYNAMO_BACKEND": ("no", "what is compiled is decided by --speed"),
        "MIXED_PRECISION": (config.mixed_precision, "precision is decided by --mixed_precision"),
        "GRADIENT_ACCUMULATION_STEPS": (
            str(config.gradient_accumulation_steps),
            "--gradient_accumulation_steps decides",
        ),
    }
    return [
        f"ACCELERATE_{name}={asked} is not heeded: {instead}"
        for name, (taken, instead) in ours.items()
        if (asked := os.environ.get(f"ACCELERATE_{name}", taken)).lower() not in (taken, "no", "1")
    ]


def say(remarks: Iterable[str]) -> None:
    """Print remarks on standard error, a line each."""
    console = Console(stderr=True, highlight=False)
    for remark in remarks:
        console.print(f"[bold]note:[/] {escape(as_text(remark))}", soft_wrap=True)


_SIGNS_OF_A_LOST_RANK = ("gloo", "nccl", "connection", "socket", "timed out", "timeout")


class RankLost(UserError):
    """Another process of the run has ended or no longer answers."""


@dataclass(frozen=True)
class StepStatus:
    """What a process has to say about the step in hand."""

    is_finite: bool = True
    signal: int | None = None
    """That it was asked to stop by."""
    wants_save: bool = False
    """An earlier save has failed, and is to be tried again."""
    evaluation_due: bool = False
    """The weights were not looked at to the end."""
    may_save: bool = False
    """The save before is done; only the main process knows."""


def all_reduce_status(accelerator: Accelerator, status: StepStatus) -> StepStatus:
    """Return what all processes say together. A collective call, and so a barrier, when there are several."""
    if accelerator.num_processes == 1:
        return status
    said = torch.tensor(
        [[not status.is_finite, status.signal or 0, status.wants_save, status.evaluation_due, status.may_save]]
    )
    met, signal, *wants = accelerator.gather(said.to(accelerator.device)).amax(0).tolist()  # type: ignore[union-attr]
    return StepStatus(not met, signal or None, *map(bool, wants))


@contextmanager
def lost_ranks_named() -> Iterator[None]:
    """Turn the backends' errors into one that says what has happened and what to do.

    Raises:
        RankLost: another process has ended, or has not answered within --rank_timeout.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's have no class of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        is_of_a_collective = any(sign in reason.lower() for sign in _SIGNS_OF_A_LOST_RANK)
        if not isinstance(error, distributed.DistError) and not (distributed.is_initialized() and is_of_a_collective):
            raise
        raise RankLost(
            f"another process of this run has ended or no longer answers: {reason}",
            "Look at its own messages; then start all of them again with --resume_from_checkpoint latest.",
        ) from error
