"""The 8x8 digits that come with scikit-learn, as a folder of images."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]


def write_digits(folder: Path, count: int | None = None) -> Path:
    """Write the first `count` of the 1,797 digits (default: all) as gray PNG files of 8x8 pixels; return `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    levels = load_digits().images[:count]  # (N, 8, 8), 0..16
    for number, image in enumerate(np.round(levels * 255 / 16).astype(np.uint8)):
        path = folder / f"{number:04d}.png"
        if not path.exists():  # as new, it would be decoded again
            Image.fromarray(image).save(path)
    return folder
