"""The solvers that samples and previews are made with: to add one takes a line here.

Their names are known to the command line, which loads neither torch nor diffusers.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class SolverTraits:
    """What is to be known of a solver."""

    scheduler: str
    """Its class, by its name in diffusers."""
    takes_few_steps: bool = False
    """Whether it is of a higher order: its steps are spaced as Karras et al. (2022) do."""
    adds_noise: bool = False
    """Whether it draws noise at each step, and so is none for previews."""


SOLVERS = {
    "ddim": SolverTraits("DDIMScheduler"),
    "ddpm": SolverTraits("DDPMScheduler", adds_noise=True),
    "dpmsolver++": SolverTraits("DPMSolverMultistepScheduler", takes_few_steps=True),  # its default algorithm_type
    "unipc": SolverTraits("UniPCMultistepScheduler", takes_few_steps=True),
}

if TYPE_CHECKING:  # which cannot know what is in a dict
    Solver = str
    PreviewSolver = str
else:
    Solver = Literal[tuple(SOLVERS)]
    PreviewSolver = Literal[tuple(name for name, traits in SOLVERS.items() if not traits.adds_noise)]
