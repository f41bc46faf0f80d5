"""The processes of a run: the set-up of Accelerate, and the status that they exchange at every step."""

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


def build_accelerator(config: TrainConfig, on_cpu: bool = False) -> Accelerator:
    """Return the Accelerator of a run, which takes only the device and the processes from its launcher.

    Other settings of the environment are ignored, with a note on standard error.

    Args:
        on_cpu: whether to leave a GPU alone that is there.

    Raises:
        UserError: a precision that the device does not have, or a launcher that shards the weights.
    """
    precision = config.mixed_precision
    if torch.cuda.is_available() and not on_cpu:
        if precision == "bf16" and not gpu_has_bf16():
            capability = torch.cuda.get_device_capability()
            raise UserError(
                f"--mixed_precision bf16 needs compute capability 8.0, this GPU has {capability[0]}.{capability[1]}",
                "Use --mixed_precision fp16.",
            )
    elif precision == "fp16":
        raise UserError("--mixed_precision fp16 needs a GPU, and none was found", "Use --mixed_precision no.")
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    # Without a GPU, the processes only find each other if the CPU is requested.
    patience = InitProcessGroupKwargs(timeout=timedelta(seconds=config.rank_timeout))
    try:
        accelerator = Accelerator(
            mixed_precision=precision,
            cpu=on_cpu or not torch.accelerator.is_available(),
            dynamo_backend="no",  # `speed` alone decides what is compiled
            kwargs_handlers=[patience],
        )
    except (ValueError, ImportError) as error:  # from settings in the environment
        names = ", ".join(sorted(name for name in os.environ if name.startswith("ACCELERATE_"))) or "none"
        hint = f"Check the ACCELERATE_* variables that the launcher or the environment sets: {names}."
        raise UserError(f"accelerate cannot be set up: {' '.join(str(error).split())[:300]}", hint) from error
    if accelerator.distributed_type not in _DATA_PARALLEL:
        raise UserError(
            f"the launcher asks for {accelerator.distributed_type.value}, which shards the weights",
            "Use data parallelism: accelerate launch --multi_gpu, or torchrun.",
        )
    accelerator.gradient_accumulation_steps = 1  # the loop divides the loss, whatever the launcher has set
    if accelerator.is_main_process:
        say(_ignored_settings(config))
    return accelerator


def _ignored_settings(config: TrainConfig) -> list[str]:
    """Return the settings of the launcher or the environment that are ignored, a sentence each."""
    ours = {
        "DYNAMO_BACKEND": ("no", "--speed decides what is compiled"),
        "MIXED_PRECISION": (config.mixed_precision, "--mixed_precision decides"),
        "GRADIENT_ACCUMULATION_STEPS": (
            str(config.gradient_accumulation_steps),
            "--gradient_accumulation_steps decides",
        ),
    }
    return [
        f"ACCELERATE_{name}={asked} is ignored: {instead}"
        for name, (taken, instead) in ours.items()
        if (asked := os.environ.get(f"ACCELERATE_{name}", taken)).lower() not in (taken, "no", "1")
    ]


def say(remarks: Iterable[str]) -> None:
    """Print remarks on standard error, a line each."""
    console = Console(stderr=True, highlight=False)
    for remark in remarks:
        console.print(f"[bold]note:[/] {escape(as_text(remark))}", soft_wrap=True)


_COMMUNICATION_WORDS = ("gloo", "nccl", "connection", "socket", "timed out", "timeout")


class RankLost(UserError):
    """Another process of the run has ended or no longer answers."""


@dataclass(frozen=True)
class StepStatus:
    """The status of a process at the current step."""

    is_finite: bool = True
    signal: int | None = None
    """The signal that asked it to stop."""
    wants_save: bool = False
    """An earlier save failed and should be tried again."""
    evaluation_due: bool = False
    """The evaluation of the weights is not complete."""
    may_save: bool = False
    """The previous save is done; only the main process knows."""


def all_reduce_status(accelerator: Accelerator, status: StepStatus) -> StepStatus:
    """Return the combined status of all processes. A collective call, and so a barrier, if there are several."""
    if accelerator.num_processes == 1:
        return status
    ours = torch.tensor(
        [[not status.is_finite, status.signal or 0, status.wants_save, status.evaluation_due, status.may_save]]
    )
    not_finite, signal, *wants = accelerator.gather(ours.to(accelerator.device)).amax(0).tolist()  # type: ignore[union-attr]
    return StepStatus(not not_finite, signal or None, *map(bool, wants))


@contextmanager
def lost_ranks_named() -> Iterator[None]:
    """Turn the communication backends' errors into one that says what happened and what to do.

    Raises:
        RankLost: another process has ended, or has not answered within --rank_timeout.
    """
    try:
        yield
    except RuntimeError as error:  # gloo has no error class of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        is_communication = any(sign in reason.lower() for sign in _COMMUNICATION_WORDS)
        if not isinstance(error, distributed.DistError) and not (distributed.is_initialized() and is_communication):
            raise
        raise RankLost(
            f"another process of this run has ended or no longer answers: {reason}",
            "Read the messages of that process; then restart all of them with --resume_from_checkpoint latest.",
        ) from error
