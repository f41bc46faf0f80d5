"""openddpm sample"""

from typing import Annotated

import tyro

from openddpm.cli.arguments import OptionalPath, call
from openddpm.solvers import Solver

_Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
_OptionalWeights = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
_OptionalStep = Annotated[int | None, tyro.conf.arg(metavar="STEP", help_behavior_hint="")]
_OptionalImages = Annotated[int | None, tyro.conf.arg(metavar="IMAGES", help_behavior_hint="")]
_OptionalSteps = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]


def run(arguments: list[str]) -> int:
    """Parse `arguments` and make samples."""
    return call(_sample, "sample", arguments)


def _sample(
    run: _Run,
    /,
    output_dir: OptionalPath = None,
    num_images: int = 16,
    solver: Solver = "ddim",
    num_inference_steps: _OptionalSteps = None,
    seed: int = 0,
    batch_size: int = 64,
    weights: _OptionalWeights = None,
    checkpoint: _OptionalStep = None,
    at: _OptionalImages = None,
    npz: bool = False,
) -> int:
    """Generate images with the weights of a run: a folder with a PNG file for each, and a grid of them next to it.

    Each batch is written before the next begins. After Ctrl-C, SIGTERM, a crash or a full disk the same command
    continues; with a larger --num_images it adds to the images that exist. A GPU that has bfloat16 computes in it.

    Args:
        run: The run folder, or the name of a run on the Hub, USER/NAME; of the latter only the weights that are needed
            are fetched, and checked against its record.
        output_dir: Folder for the images; one that holds anything else is refused. A .png (grid of at most 64), a .json
            (how the images were made) and the .npz are written next to it, under the same name
            (default: RUN/generated/step-STEP-WEIGHTS-SOLVER-STEPS-seed-SEED; for a run of the Hub it is in
            generated/USER/NAME).
        num_images: Number of images in the folder at the end.
        solver: Sampler; dpmsolver++ and unipc need the fewest steps, ddpm should get all timesteps.
        num_inference_steps: Sampling steps, each one call of the model (default: 50, or all timesteps if fewer).
        seed: Image number N of a seed does not depend on num_images, nor, up to rounding, on batch_size.
        batch_size: Images generated at a time; lower it if memory runs out.
        weights: Which weights to take: ema, their moving average, or raw (default: ema, or raw if the run keeps no
            average).
        checkpoint: Step of the checkpoint to take the weights from (default: the newest).
        at: Number of images seen: take the weights of the nearest milestone, which --milestones of training keeps.
        npz: Also write all images to one file, as guided-diffusion's evaluator reads it: arr_0, uint8, (N, H, W, 3).
    """
    from openddpm.sampling_run import sample_run

    images = sample_run(
        run, output_dir, num_images, solver, num_inference_steps, seed, batch_size, weights, checkpoint, npz, at
    )
    print(f"grid:   {images.grid_file}\nimages: {images.folder}")
    if images.npz_file.exists():
        print(f"npz:    {images.npz_file}")
    return 0
