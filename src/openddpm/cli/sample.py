"""openddpm sample"""

from typing import Literal

from openddpm.cli.arguments import OptionalPath, RunFolder, call


def run(arguments: list[str]) -> int:
    """Parse and sample."""
    return call(_sample, "sample", arguments)


def _sample(
    run: RunFolder,
    /,
    output_dir: OptionalPath = None,
    num_images: int = 16,
    solver: Literal["ddim", "ddpm", "dpmsolver++", "unipc"] = "ddim",
    num_inference_steps: int = 50,
    seed: int = 0,
    batch_size: int = 64,
) -> int:
    """Make images with the averaged weights of a run: a grid, and each image as a PNG.

    A GPU that has bfloat16 computes in it.

    Args:
        run: The run folder.
        output_dir: Where to write (default: RUN/generated/SOLVER-STEPS-seed-SEED).
        num_images: Images to make.
        solver: Sampler; dpmsolver++ and unipc need the fewest steps, ddpm wants as many as there are timesteps.
        num_inference_steps: Calls of the model an image.
        seed: Image number N of a seed is the same whatever num_images and batch_size are.
        batch_size: Images made at a time; lower it where memory is short.
    """
    from openddpm.sampling_run import sample_run

    default = run / "generated" / f"{solver}-{num_inference_steps}-seed-{seed}"
    grid = sample_run(run, output_dir or default, num_images, solver, num_inference_steps, seed, batch_size)
    print(f"grid:   {grid}\nimages: {grid.parent}")
    return 0
