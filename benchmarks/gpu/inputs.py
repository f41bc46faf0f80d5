"""What the plain loop and ours train on: photos as JPEG files, and the config of the UNet.

python benchmarks/gpu/inputs.py FOLDER
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from image_folders import write_photo

NUM_IMAGES, IMAGE_SIZE = 740, (475, 475)  # a tenth of the images, and the size, of the data set that is extrapolated to
TINY_UNET: dict[str, Any] = {
    "layers_per_block": 1,
    "block_out_channels": [8, 8, 8, 8],
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
}


def main() -> None:
    """Write both into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dry_run", action="store_true", help="a few small photos, a tiny UNet")
    given = parser.parse_args()
    (given.folder / "images").mkdir(parents=True, exist_ok=True)
    count, size = (24, (64, 64)) if given.dry_run else (NUM_IMAGES, IMAGE_SIZE)
    with ProcessPoolExecutor() as pool:
        list(pool.map(write_photo, [given.folder / "images"] * count, range(count), [size] * count))
    unet = TINY_UNET
    if not given.dry_run:
        from openddpm.diffusion.unet import SIZES  # brings torch

        unet = SIZES["default"]
    (given.folder / "unet.json").write_text(json.dumps(unet))


if __name__ == "__main__":
    main()
