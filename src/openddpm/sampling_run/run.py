"""Sampling from a run folder, batch by batch; each batch is written before the next begins."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from openddpm import __version__
from openddpm.analysis.text import number_of
from openddpm.data.stream import signed_unit_to_uint8
from openddpm.diffusion.denoiser import Denoiser
from openddpm.diffusion.sampling import sample
from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.publishing.weights import fetch_weights, may_be_on_the_hub
from openddpm.record.kept import step_name
from openddpm.record.reader import read_run_record
from openddpm.record.schema import RAW
from openddpm.record.schema import Weights as WeightsName
from openddpm.sampling_run.folder import GRID_IMAGES, ImageFolder, Settings
from openddpm.sampling_run.progress import SamplingProgress
from openddpm.sampling_run.weights import Weights, open_run, read_weights, sampling_precision
from openddpm.seeding import Purpose, standard_normal, torch_generator
from openddpm.solvers import Solver

DEFAULT_STEPS = 50


def sample_run(
    run: Path | str,
    output_dir: Path | None,
    num_images: int,
    solver: Solver,
    num_inference_steps: int | None,
    seed: int,
    batch_size: int,
    weights: WeightsName | None = None,
    checkpoint: int | None = None,
    npz: bool = False,
    at: int | None = None,
) -> ImageFolder:
    """Write exactly `num_images` PNGs, from 00000.png on, to a folder, and a grid beside it.

    Existing images with the same settings are kept.

    Args:
        run: its folder, or a repository of the Hub, USER/NAME, if there is no such folder.
        output_dir: the folder; None for one that is named after the settings, in RUN/generated or, for a run of the
            Hub, in generated/USER/NAME below the current folder.
        num_inference_steps: calls of the model; None for DEFAULT_STEPS, or all timesteps if there are fewer.
        weights: see `read_weights`.
        checkpoint: its step; None for the newest.
        npz: whether to write all images to one file, too; an existing one is always updated.
        at: number of images seen: weights are those of the nearest milestone.

    Raises:
        UserError: no run, no such weights, a number out of range, or a folder that cannot be written or has other
            files.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder, generated = Path(run), Path(run) / "generated"
    if not folder.exists() and may_be_on_the_hub(str(run)):
        if checkpoint is not None or weights is not None:
            found = f"'{run}' is no folder here; of a run on the Hub, --weights and --checkpoint cannot be chosen"
            raise UserError(found, "Leave them out; --at IMAGES takes the nearest milestone.")
        folder, generated = fetch_weights(str(run), at), Path("generated") / run
    chosen = read_weights(folder, weights, checkpoint, at)
    denoise, config, shape = open_run(folder, device, chosen)
    chosen = replace(chosen, tensors={})  # the denoiser has a copy
    if num_inference_steps is None:
        num_inference_steps = min(DEFAULT_STEPS, config["num_train_timesteps"])
    _check_numbers(num_images, num_inference_steps, seed, batch_size, config["num_train_timesteps"])
    settings = Settings(
        run_id=read_run_record(folder).run_id,
        step=chosen.step,
        weights=chosen.name,
        sha256=chosen.sha256,
        solver=solver,
        num_inference_steps=num_inference_steps,
        seed=seed,
        scheduler={name: value for name, value in config.items() if not name.startswith("_")},
        device=device.type,
        precision=str(sampling_precision(device) or torch.float32).removeprefix("torch."),
        openddpm=__version__,
        num_images=num_images,
        batch_size=batch_size,
    )
    images = ImageFolder(output_dir or generated / _folder_name(settings), shape, num_images)
    console = Console(stderr=True, highlight=False)
    for line in (*chosen.notes, _weights_text(chosen)):
        console.print(as_text(line), soft_wrap=True, markup=False)
    try:
        with images.locked():
            _fill(images, settings, denoise, config, console, npz)
    except OSError as error:
        found = f"cannot write to '{images.folder}': {error.strerror or error}; {images.num_there:,} of {num_images:,}"
        hint = "Free some disk space, or fix the cause; then give the same command again: it continues."
        raise UserError(f"{found} images are there", hint) from error
    return images


def starting_noise(shape: tuple[int, ...], device: torch.device, seed: int, numbers: Iterable[int]) -> torch.Tensor:
    """Return the starting noise of samples by their numbers, (B, C, H, W) float32."""
    return torch.stack([standard_normal(shape, device, seed, Purpose.SAMPLE, number) for number in numbers])


def _fill(images: ImageFolder, settings: Settings, denoise: Denoiser, config: Any, console: Console, npz: bool) -> None:
    """Make the missing images.

    Batches depend only on the number of images and the batch size, and a batch with a missing image is computed as a
    whole: so a call after an interruption gives the same rounding as an uninterrupted one.
    """
    messages = images.begin(settings)
    num_there, has_grid = images.num_there, False
    is_whole = num_there == settings.num_images
    npz = npz or images.npz_file.exists()
    if not is_whole:
        images.npz_file.unlink(missing_ok=True)  # it has another number of images
    with SamplingProgress(settings.num_images, num_there, console) as progress:
        for line in messages:
            progress.say(line)
        for first in range(0, settings.num_images, settings.batch_size):
            numbers = range(first, min(first + settings.batch_size, settings.num_images))
            if missing := images.missing(numbers):
                batch = _make(numbers, images.shape, settings, denoise, config)
                try:
                    for number in missing:
                        images.write(number, batch[number - first])
                finally:  # count those that are there, also after an interruption
                    progress.advance(len(missing) - len(images.missing(numbers)))
            if not has_grid and numbers.stop >= min(GRID_IMAGES, settings.num_images):
                images.write_grid()
                has_grid = True
        images.check_whole()
        if npz and not (is_whole and images.npz_file.exists()):
            progress.say(f"writing {images.npz_file}")
            images.write_npz()


def _make(numbers: range, shape: tuple[int, ...], settings: Settings, denoise: Denoiser, config: Any) -> Any:
    """Return the images of a batch, (B, C, H, W) uint8.

    Raises:
        UserError: pixels are not finite, as broken weights give, or there is too little memory.
    """
    device, seed = torch.device(settings.device), settings.seed
    noise = starting_noise(shape, device, seed, numbers)
    generators = [torch_generator(device, seed, Purpose.SAMPLE_STEPS, number) for number in numbers]
    solver: Any = settings.solver
    try:
        batch = sample(denoise, noise, config, settings.num_inference_steps, solver, generators)
    except torch.OutOfMemoryError as error:
        found = f"{number_of(len(numbers), 'image')} at a time need more memory than the GPU has left"
        raise UserError(found, f"Lower --batch_size, which is {settings.batch_size}.") from error
    if not torch.isfinite(batch).all():
        found = f"the weights give pixels that are not finite, in images {numbers.start} to {numbers.stop - 1}"
        raise UserError(found, "Use an earlier --checkpoint STEP, or another --solver.")
    return signed_unit_to_uint8(batch).cpu().numpy()


def _folder_name(settings: Settings) -> str:
    """Return a name made of the settings, but without the number of images, as a later call may add some."""
    origin = step_name(settings.step) if settings.step is not None else f"weights-{settings.sha256[:8]}"
    steps = settings.num_inference_steps
    return f"{origin}-{settings.weights}-{settings.solver}-{steps}-seed-{settings.seed}"


def _weights_text(chosen: Weights) -> str:
    kind = RAW if chosen.name == RAW else f"averaged ({chosen.name})"
    step = "an unknown step" if chosen.step is None else f"step {chosen.step:,}"
    return f"weights: {kind}, of {step}, sha256 {chosen.sha256[:12]}"


def _check_numbers(num_images: int, num_inference_steps: int, seed: int, batch_size: int, num_timesteps: int) -> None:
    """Refuse numbers that are out of range."""
    at_least = {"num_images": (num_images, 1), "num_inference_steps": (num_inference_steps, 1)}
    at_least |= {"batch_size": (batch_size, 1), "seed": (seed, 0)}
    wrong = [f"--{name} {value} is less than {least}" for name, (value, least) in at_least.items() if value < least]
    if num_inference_steps > num_timesteps:
        wrong.append(f"--num_inference_steps {num_inference_steps} is more than the run's {num_timesteps} timesteps")
    if wrong:
        raise UserError("\n".join(wrong), "See `openddpm sample --help`.")
