"""Fewer steps by other solvers: time and kernel distance of samples from the same noises, beside 50 steps of DDIM.

    python benchmarks/sampling.py RUN --results benchmarks/results/sampling.json --picture docs/pictures/sampling.png

The distance is to images of the run's data set, held-out ones among them. Needs openddpm[bench].
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import int_of_at_least
from kernel_distance import SIDE, Distance, Features, KernelDistance, features_of
from origin import origin, write_results
from PIL import Image

from openddpm.config import recorded_config
from openddpm.data.store import open_images
from openddpm.data.stream import signed_unit_to_uint8
from openddpm.diffusion.sampling import sample
from openddpm.pictures import image_grid
from openddpm.record.reader import read_run_record
from openddpm.sampling_run import open_run, starting_noise
from openddpm.seeding import numpy_generator
from openddpm.solvers import Solver

REFERENCE: tuple[Solver, int] = ("ddim", 50)
CANDIDATES: tuple[tuple[Solver, int], ...] = (
    ("ddim", 20),
    ("dpmsolver++", 15),
    ("dpmsolver++", 20),
    ("unipc", 20),
)
FEW_STEPS = 20
BATCH_SIZE = 32
PICTURE_IMAGES = 36
MIN_IMAGES = 3  # for the error of a distance
INTERVAL = 1.96  # standard errors: 95 % of a normal distribution

Way = tuple[Solver, int]


def main() -> None:
    """Measure, print and write the numbers and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--results", type=Path, default=Path("sampling.json"))
    parser.add_argument("--picture", type=Path, help="PNG file (default: beside the results)")
    parser.add_argument("--num_images", type=int_of_at_least(MIN_IMAGES), default=512)
    parser.add_argument("--num_reference", type=int_of_at_least(MIN_IMAGES), default=2048)
    parser.add_argument("--batch_size", type=int_of_at_least(1), default=BATCH_SIZE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    samples, seconds = sample_all(given.run, given.num_images, given.batch_size, given.seed, device)
    others, reference = dataset_images(given.run, given.num_images, given.num_reference)
    features = Features().to(device)
    distance = KernelDistance(features_of(reference, features))
    found = {way: distance.of(features_of(images, features)) for way, images in samples.items()}
    real = distance.of(features_of(others, features))
    rows = [row(way, found, seconds) for way in samples]
    best = min((way for way in CANDIDATES if way[1] == FEW_STEPS), key=lambda way: found[way].value)
    results = {
        **origin(given.threads),
        "run": _run_in_words(given.run),
        "num_images": given.num_images,
        "num_reference": len(reference),
        "batch_size": given.batch_size,
        "feature_side": SIDE,
        "real_images": {"num_images": len(others), "kernel_distance": real.value, "error": real.error()},
        "rows": rows,
        "best_of_20_steps": list(best),
    }
    write_results(results, given.results)
    for told in rows:
        print(
            "{solver:12} {steps:3}  time {time_ratio:.2f}  distance {kernel_distance:.5f} +- {error:.5f}".format(**told)
        )
    side_by_side(samples[REFERENCE], samples[best]).save(given.picture or given.results.with_suffix(".png"))


def sample_all(
    run: Path, num_images: int, batch_size: int, seed: int, device: torch.device
) -> tuple[dict[Way, np.ndarray], dict[Way, list[float]]]:
    """Sample in every way from the same noises, batch by batch in turn.

    Returns:
        images, (N, C, H, W) uint8, and the seconds an image of each batch.
    """
    denoise, config, shape = open_run(run, device)
    ways = (REFERENCE, *CANDIDATES)
    images: dict[Way, list[np.ndarray]] = {way: [] for way in ways}
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for first in range(0, num_images, batch_size):
        noise = starting_noise(shape, device, seed, range(first, min(first + batch_size, num_images)))
        if first == 0:
            sample(denoise, noise, config, 1)  # warm up
        first_way = len(seconds[REFERENCE]) % len(ways)
        for solver, steps in (*ways[first_way:], *ways[:first_way]):
            start = time.perf_counter()
            batch = signed_unit_to_uint8(sample(denoise, noise, config, steps, solver)).cpu().numpy()
            seconds[solver, steps].append((time.perf_counter() - start) / len(batch))
            images[solver, steps].append(batch)
    return {way: np.concatenate(images[way]) for way in ways}, seconds


def dataset_images(run: Path, num_first: int, num_reference: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two disjoint sets of the images that a run was given, chosen at random, held-out ones among them."""
    images = open_images(recorded_config(read_run_record(run).config))[1].images
    order = numpy_generator(0, "kernel distance").permutation(len(images))
    num_first = min(num_first, len(images) // 2)
    return images[np.sort(order[:num_first])], images[np.sort(order[num_first:][:num_reference])]


def row(way: Way, found: dict[Way, Distance], seconds: dict[Way, list[float]]) -> dict[str, Any]:
    """Return a way to sample in numbers, beside the reference; times are medians over batches, ratios within each."""
    solver, steps = way
    difference = found[way].value - found[REFERENCE].value
    error = found[way].error_of_difference(found[REFERENCE])
    return {
        "solver": solver,
        "steps": steps,
        "seconds_per_image": round(float(np.median(seconds[way])), 6),
        "time_ratio": round(float(np.median(np.divide(seconds[way], seconds[REFERENCE]))), 4),
        "kernel_distance": found[way].value,
        "error": found[way].error(),
        "difference": difference,
        "difference_interval": [difference - INTERVAL * error, difference + INTERVAL * error],
    }


def side_by_side(left: np.ndarray, right: np.ndarray) -> Image.Image:
    """Return two grids of images, (N, C, H, W) uint8, of the same noises in the same places."""
    grids = [image_grid(images[:PICTURE_IMAGES]) for images in (left, right)]
    width, height = grids[0].size
    canvas = Image.new("RGB", (2 * width + 24, height), "white")
    for number, grid in enumerate(grids):
        canvas.paste(grid, (number * (width + 24), 0))
    return canvas


def _run_in_words(run: Path) -> dict[str, Any]:
    record = read_run_record(run)
    return {
        "dataset": record.dataset.source,
        "resolution": record.dataset.image_shape[1],
        "num_parameters": record.model.num_parameters,
        "images": record.progress.images_seen,
        "prediction_type": record.config.get("prediction_type"),
    }


if __name__ == "__main__":
    main()
