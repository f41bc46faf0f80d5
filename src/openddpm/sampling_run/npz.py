"""Writing of images to one npz file, as the evaluator of guided-diffusion reads it."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from openddpm.record.files import replaced_atomically


def write_npz(path: Path, images: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Write images as the array `arr_0`, (N, H, W, 3) uint8, one by one, with only one in memory.

    The evaluator (openai/guided-diffusion, evaluations/evaluator.py) accepts three channels only, so gray is written
    three times. The file is not compressed, as by numpy.savez; the same images give the same bytes.

    Args:
        images: each (H, W, 1) or (H, W, 3) uint8.
        shape: (N, H, W).

    Raises:
        OSError: the disk is full; an earlier file stays, and nothing else is left.
    """
    with (
        replaced_atomically(path) as file,
        zipfile.ZipFile(file, "w") as archive,
        archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as member,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (*shape, 3)}
        np.lib.format.write_array_header_1_0(member, header)
        for image in images:
            member.write(np.ascontiguousarray(np.broadcast_to(image, (*shape[1:], 3))).tobytes())
