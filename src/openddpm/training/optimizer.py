"""The optimizer, and the learning rate as a pure function of the step."""

import math
from collections.abc import Callable, Sequence

import torch
from diffusers import UNet2DModel
from diffusers.optimization import get_scheduler

from openddpm.config import OptimizationOptions
from openddpm.record.schema import Resumption

MIN_MUON_SIZE = 16  # assumed: smallest number of rows and columns for which Muon is used


def build_optimizer(unet: UNet2DModel, options: OptimizationOptions) -> torch.optim.Optimizer:
    """Return AdamW over all parameters, fused if torch supports it; or Muon, with AdamW for what is not a matrix."""
    if options.optimizer == "muon":
        return _muon(unet, options)
    return torch.optim.AdamW(
        unet.parameters(),
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=options.adam_weight_decay,
        eps=options.adam_epsilon,
        fused=next(unet.parameters()).device.type in ("cpu", "cuda"),
    )


def _muon(unet: UNet2DModel, options: OptimizationOptions) -> torch.optim.Optimizer:
    """Return Muon (Jordan, 2024) for the weights that are matrices once flattened, and AdamW for the rest.

    Muon's updates are scaled to the size of AdamW's (Liu et al., 2025, equation 4), so both share one learning rate.
    """
    from openddpm.training.muon import Muon  # its dependencies take a second to import

    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for parameter in unet.parameters():
        is_matrix = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= MIN_MUON_SIZE
        (matrices if is_matrix else rest).append(parameter)
    shared = {"lr": options.learning_rate, "weight_decay": options.adam_weight_decay}
    betas = (options.adam_beta1, options.adam_beta2)
    groups = [
        {"params": matrices, "use_muon": True, "use_adjusted_lr": True, **shared},
        {"params": rest, "use_muon": False, "betas": betas, "eps": options.adam_epsilon, **shared},
    ]
    return Muon([group for group in groups if group["params"]])


def learning_rate_schedule(
    options: OptimizationOptions, total_steps: int, resumptions: Sequence[Resumption] = ()
) -> Callable[[int], float]:
    """Return the learning rate of each optimizer step, counted from 0, with the factors of all rollbacks.

    Only the function of the step is taken from diffusers' scheduler: nothing needs restoring on resume, and neither
    accumulation nor the number of processes can advance it twice.
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
