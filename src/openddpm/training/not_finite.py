"""Stopping all processes at a loss or gradient that is not finite, before it reaches the weights, with its origin."""

import math

import torch

from openddpm.training.distributed import StepStatus, all_reduce_status
from openddpm.training.run import Training
from openddpm.training.state import NotFinite

_MAX_NAMED = 16  # timesteps and images of a micro-batch that a message names


def step_status(
    training: Training, losses: list[torch.Tensor], grad_norm: torch.Tensor, signal: int | None
) -> StepStatus:
    """Return the combined status of all processes at this step, once the device has computed it.

    Args:
        losses: of this process's micro-batches, () float32 each.
        grad_norm: of the unscaled gradient over all processes. Under fp16 an infinite one is no error: the scaler
            skips that step and lowers its scale.
    """
    *loss_values, norm = torch.stack([*losses, grad_norm]).tolist()
    is_finite = all(map(math.isfinite, loss_values)) and (training.state.scaler is not None or math.isfinite(norm))
    return all_reduce_status(training.accelerator, StepStatus(is_finite, signal, training.checkpointer.wants_retry()))


def not_finite(training: Training, losses: list[torch.Tensor], may_go_back: bool) -> NotFinite:
    """Return the error with the micro-batches whose loss is not finite, all if it is the gradient. Collective."""
    state, accelerator = training.state, training.accelerator
    by_rank = accelerator.gather(torch.stack(losses)[None]).tolist()  # type: ignore[union-attr]
    by_micro_index = [loss for of_all_ranks in zip(*by_rank, strict=True) for loss in of_all_ranks]
    not_finite_indices = [index for index, loss in enumerate(by_micro_index) if not math.isfinite(loss)]
    what = (
        f"the training loss is {by_micro_index[not_finite_indices[0]]}"
        if not_finite_indices
        else "the gradient is not finite"
    )
    places = [
        f"  timesteps {_listed(training.timesteps_of(index))} of images {_listed(training.image_indices_of(index))}"
        for index in not_finite_indices or range(len(by_micro_index))
    ]
    return NotFinite(
        f"{what} at step {state.step + 1}, in " + "\n".join(places[:4] + ["  ..."] * (len(places) > 4)).lstrip(),
        "The weights are those before this step. Resume from an earlier checkpoint with a lower --learning_rate and "
        "--accept_changes, let --max_rollbacks do so, or start again; --mixed_precision no or bf16 has a larger range "
        "than fp16.",
        what="loss" if not_finite_indices else "gradient",
        step=state.step + 1,
        may_go_back=may_go_back,
    )


def _listed(values: torch.Tensor) -> str:
    shown = ", ".join(str(value) for value in values[:_MAX_NAMED].tolist())
    return shown + (f" and {len(values) - _MAX_NAMED} more" if len(values) > _MAX_NAMED else "")
