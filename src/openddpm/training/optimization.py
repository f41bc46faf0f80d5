"""AdamW and the learning rate, the latter as a pure function of the step."""

import math
from collections.abc import Callable, Sequence

import torch
from diffusers import UNet2DModel
from diffusers.optimization import get_scheduler

from openddpm.config import OptimizationOptions
from openddpm.record.schema import Resumption


def build_optimizer(unet: UNet2DModel, options: OptimizationOptions) -> torch.optim.AdamW:
    """Return AdamW over all parameters, fused where torch has that."""
    return torch.optim.AdamW(
        unet.parameters(),
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=options.adam_weight_decay,
        eps=options.adam_epsilon,
        fused=next(unet.parameters()).device.type in ("cpu", "cuda"),
    )


def learning_rate_schedule(
    options: OptimizationOptions, total_steps: int, resumptions: Sequence[Resumption] = ()
) -> Callable[[int], float]:
    """Return the learning rate of each optimizer step, counted from 0, lowered by whatever rollbacks there were.

    The schedule is diffusers' own; only its function of the step is taken, so that nothing needs restoring on resume
    and neither accumulation nor the number of processes can advance it twice.
    """
    placeholder = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=options.learning_rate)
    scheduler = get_scheduler(
        options.lr_scheduler, placeholder, num_warmup_steps=options.lr_warmup_steps, num_training_steps=total_steps
    )
    factor = scheduler.lr_lambdas[0]

    def learning_rate_at(step: int) -> float:
        lowered = math.prod(entry.learning_rate_factor for entry in resumptions if entry.step <= step)
        return options.learning_rate * factor(step) * lowered

    return learning_rate_at
