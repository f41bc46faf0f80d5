"""openddpm sample"""

from typing import Annotated

import tyro

from openddpm.cli.arguments import OptionalPath, RunFolder, call
from openddpm.solvers import Solver

_OptionalWeights = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
_OptionalStep = Annotated[int | None, tyro.conf.arg(metavar="STEP", help_behavior_hint="")]
_OptionalSteps = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]


def run(arguments: list[str]) -> int:
    """Parse and sample."""
    return call(_sample, "sample", arguments)


def _sample(
    run: RunFolder,
    /,
    output_dir: OptionalPath = None,
    num_images: int = 16,
    solver: Solver = "ddim",
    num_inference_steps: _OptionalSteps = None,
    seed: int = 0,
    batch_size: int = 64,
    weights: _OptionalWeights = None,
    checkpoint: _OptionalStep = None,
    npz: bool = False,
) -> int:
    """Make images with the weights of a run: each as a PNG in a folder of their own, and a grid beside it.

    Each batch is written before the next is begun. After Ctrl-C, a SIGTERM, a crash or a full disk the same command
    goes on; with a larger --num_images it adds to what is there. A GPU that has bfloat16 computes in it.

    Args:
        run: The run folder.
        output_dir: Folder of the images and of nothing else; .png (a grid of at most 64), .json (how they were made)
            and .npz of the same name lie beside it. One that holds anything else is refused
            (default: RUN/generated/step-STEP-WEIGHTS-SOLVER-STEPS-seed-SEED).
        num_images: Images that the folder holds in the end.
        solver: Sampler; dpmsolver++ and unipc need the fewest steps, ddpm wants as many as there are timesteps.
        num_inference_steps: Calls of the model an image (default: 50, or all timesteps where there are fewer).
        seed: Image number N of a seed is the same whatever num_images is; up to rounding, also whatever batch_size is.
        batch_size: Images made at a time; lower it where memory is short.
        weights: Name of the weights: ema, an average of them, or raw (default: ema, or raw where the run keeps no
            average).
        checkpoint: Step of the checkpoint whose weights are taken (default: the newest).
        npz: Write the images into one file, too, as guided-diffusion's evaluator reads it: arr_0, uint8, (N, H, W, 3).
    """
    from openddpm.sampling_run import sample_run

    images = sample_run(
        run, output_dir, num_images, solver, num_inference_steps, seed, batch_size, weights, checkpoint, npz
    )
    print(f"grid:   {images.grid_file}\nimages: {images.folder}")
    if images.npz_file.exists():
        print(f"npz:    {images.npz_file}")
    return 0
