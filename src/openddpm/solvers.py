"""Solvers for samples and previews; a new one takes a line here. Imports neither torch nor diffusers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class SolverTraits:
    """Properties of a solver."""

    scheduler: str
    """Name of its class in diffusers."""
    takes_few_steps: bool = False
    """Whether it is of higher order; its steps are then spaced as in Karras et al. (2022)."""
    adds_noise: bool = False
    """Whether it draws noise at each step; previews are then not made with it."""


SOLVERS = {
    "ddim": SolverTraits("DDIMScheduler"),
    "ddpm": SolverTraits("DDPMScheduler", adds_noise=True),
    "dpmsolver++": SolverTraits("DPMSolverMultistepScheduler", takes_few_steps=True),  # its default algorithm_type
    "unipc": SolverTraits("UniPCMultistepScheduler", takes_few_steps=True),
}

if TYPE_CHECKING:  # a type checker cannot read the keys of a dict
    Solver = str
    PreviewSolver = str
else:
    Solver = Literal[tuple(SOLVERS)]
    PreviewSolver = Literal[tuple(name for name, traits in SOLVERS.items() if not traits.adds_noise)]
