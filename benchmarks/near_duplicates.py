"""Sprites in four variants a creature, split at random: near duplicates found against the truth, and the verdict.

    python benchmarks/near_duplicates.py --output_dir runs/near-duplicates --emoji IMAGES.parquet

Creatures are the 16x16 faces of avatars-16, all different; with --emoji also drawings of 64x64, one of each name. Each
is there as it is, recoloured, mirrored, and moved by a pixel and recompressed as JPEG. What is printed and written as
near-duplicates.json: recall by variant and precision at several thresholds, pairs found where no variants are, the time
a comparison takes, and the verdict's evidence on short runs with and without variants in the data set.
"""

import argparse
import io
import json
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from digits import write_digits
from origin import origin, write_results
from PIL import Image

from openddpm.config import TrainConfig
from openddpm.data import near_duplicates
from openddpm.data.near_duplicates import find_near_duplicates
from openddpm.data.pool import pixel_digest
from openddpm.data.store import open_images
from openddpm.data.stream import split_heldout

VARIANTS = ("as it is", "recoloured", "mirrored", "moved and recompressed")
DIFFERENCES, CORRELATIONS = (5.0, 10.0, 15.0, 20.0, 30.0), (0.95, 0.988, 0.996, 0.999)


def recoloured(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return (3, H, W) with another hue, and brightness bent; every other one has its channels exchanged too."""
    hsv = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("HSV")).copy()
    hsv[..., 0] = (hsv[..., 0].astype(int) + random.integers(40, 216)) % 256
    rgb = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB")).transpose(2, 0, 1)
    channels = random.permutation(3) if random.random() < 0.5 else np.arange(3)
    bent = (rgb[channels] / 255) ** random.uniform(0.7, 1.4, (3, 1, 1))
    return np.rint(255 * bent).astype(np.uint8)


def moved_and_recompressed(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return (3, H, W) moved by up to a pixel, as JPEG of quality 75 leaves it."""
    dy, dx = random.integers(-1, 2, 2)
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), "edge")
    side, stream = image.shape[-1], io.BytesIO()
    moved = padded[:, 1 + dy : 1 + dy + side, 1 + dx : 1 + dx + side]
    Image.fromarray(np.ascontiguousarray(moved.transpose(1, 2, 0))).save(stream, "JPEG", quality=75)
    return np.asarray(Image.open(stream)).transpose(2, 0, 1)


def in_four_variants(creatures: np.ndarray) -> np.ndarray:
    """Return (4 N, 3, H, W): the four variants of each of (N, 3, H, W), one after the other."""
    random = np.random.default_rng(0)
    return np.stack(
        [
            variant
            for one in creatures
            for variant in (one, recoloured(one, random), one[..., ::-1], moved_and_recompressed(one, random))
        ]
    )


def _digests(images: np.ndarray) -> np.ndarray:
    return np.array([list(pixel_digest(image)) for image in images], np.uint8)


def measured(creatures: np.ndarray) -> dict[str, Any]:
    """Return recall by variant of the held-out image, and precision: the share of pairs that are one creature."""
    images = in_four_variants(creatures)
    split = split_heldout(_digests(images), None, 0)
    truth = np.isin(split.heldout // 4, split.train // 4)
    start = time.process_time()
    found = find_near_duplicates(images, split.train, split.heldout).pairs
    seconds = time.process_time() - start
    hit = {pair.heldout for pair in found}
    has_twin = split.heldout[truth]
    recall = {
        name: float(np.mean([index in hit for index in has_twin if index % 4 == number]))
        for number, name in enumerate(VARIANTS)
    }
    right = [pair.heldout // 4 == pair.train // 4 for pair in found]
    return {
        "num_images": len(images),
        "num_heldout": len(split.heldout),
        "num_with_a_twin": int(truth.sum()),
        "num_found": len(found),
        "recall": float(np.mean([index in hit for index in has_twin])),
        "recall_by_variant": recall,
        "precision": float(np.mean(right)) if right else None,
        "cpu_seconds": round(seconds, 2),
    }


def by_threshold(creatures: np.ndarray) -> list[dict[str, Any]]:
    """Return recall and precision, one threshold changed at a time."""
    rows = []
    thresholds = [("MAX_DIFFERENCE", value) for value in DIFFERENCES]
    thresholds += [("MIN_EDGE_CORRELATION", value) for value in CORRELATIONS]
    for name, value in thresholds:
        with patch.object(near_duplicates, name, value):
            row = measured(creatures)
        rows.append({"threshold": name, "value": value, "recall": row["recall"], "precision": row["precision"]})
    return rows


def found_without_variants(images: np.ndarray) -> str:
    """Return how many pairs are found in a set as it is."""
    split = split_heldout(_digests(images), None, 0)
    found = find_near_duplicates(images, split.train, split.heldout)
    return f"{len(found.pairs)} of {found.num_compared}"


def verdict_of(images: np.ndarray, folder: Path, steps: int) -> dict[str, Any]:
    """Train a short run on (N, 3, 16, 16) and return what its verdict says."""
    from openddpm.api import train

    config = TrainConfig(
        output_dir=str(folder),
        overwrite_output_dir=True,
        logging_dir=str(folder.parent / "logs"),
        cache_dir=str(folder.parent / "cache"),
        resolution=16,
        model="unet-16",
        max_train_steps=steps,
        random_flip=False,
        save_images_epochs=1000,
    )
    train(config, dataset=list(images.transpose(0, 2, 3, 1)))
    verdict = json.loads((folder / "verdict.json").read_text("utf-8"))
    told = [one["text"] for one in verdict["evidence"] if one["name"] == "near_duplicates"]
    return {"sentence": verdict["sentence"], "skill": verdict["skill"], "near_duplicates": told}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--emoji", type=Path, help="a parquet file with columns image, set, name")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="data sets without variants, at 64x64")
    parser.add_argument("--creatures", type=int, default=870, help="times four is the number of images")
    parser.add_argument("--steps", type=int, default=200, help="of the short runs; 0 leaves them out")
    arguments = parser.parse_args()
    cache = str(arguments.output_dir / "cache")

    def images_of(dataset: str, resolution: int, mode: Any = "auto") -> np.ndarray:
        options = TrainConfig(dataset=dataset, resolution=resolution, image_mode=mode, cache_dir=cache)
        return np.asarray(open_images(options, quiet=True)[1].images)

    avatars = images_of("avatars-16", 16)
    faces = avatars[: arguments.creatures]
    digits = images_of(str(write_digits(arguments.output_dir / "digits-8")), 8)
    results: dict[str, Any] = {"origin": origin(int(os.environ.get("OMP_NUM_THREADS", 0)) or None)}
    results["avatars-16"] = {**measured(faces), "by_threshold": by_threshold(faces)}
    results["without variants"] = {"avatars-16": found_without_variants(avatars)}
    results["without variants"]["digits-8"] = found_without_variants(digits)
    if arguments.emoji:
        import pyarrow.parquet as pq

        table = pq.read_table(arguments.emoji, columns=["set", "name"])
        names = [f"{one['set']} {one['name']}" for one in table.to_pylist()]
        _, first = np.unique(names, return_index=True)
        emoji = images_of(str(arguments.emoji), 64)
        chosen = np.random.default_rng(0).permutation(first)[: arguments.creatures]
        results["emoji-64"] = measured(emoji[chosen])
        results["without variants"]["emoji-64"] = found_without_variants(emoji)
    for path in arguments.others:
        results["without variants"][path.stem] = found_without_variants(images_of(str(path), 64))
    if arguments.steps:
        four, folder = in_four_variants(faces), arguments.output_dir
        results["verdicts"] = {
            "four variants a creature": verdict_of(four, folder / "variants", arguments.steps),
            "as many creatures": verdict_of(avatars[: len(four)], folder / "creatures", arguments.steps),
        }
    print(json.dumps(results, indent=1))
    write_results(results, arguments.output_dir / "near-duplicates.json")


if __name__ == "__main__":
    main()
