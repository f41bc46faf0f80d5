"""The 8x8 digits that come with scikit-learn: as a folder of images, and as the built-in set `digits-8`.

python benchmarks/digits.py src/openddpm/data/builtin/digits-8.parquet
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]


def digits() -> np.ndarray:
    """Return the 1,797 digits, (N, 8, 8) uint8; their 17 levels of gray spread over 0..255."""
    return np.round(load_digits().images * 255 / 16).astype(np.uint8)


def write_digits(folder: Path, count: int | None = None) -> Path:
    """Write the first `count` of the digits (default: all) as gray PNG files of 8x8 pixels; return `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(digits()[:count]):
        path = folder / f"{number:04d}.png"
        if not path.exists():  # as new, it would be decoded again
            Image.fromarray(image).save(path)
    return folder


def write_parquet(path: Path) -> None:
    """Write the digits with their labels as one parquet file, as the `datasets` library reads it."""
    cells = []
    for number, image in enumerate(digits()):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "png", optimize=True)
        cells.append({"bytes": png.getvalue(), "path": f"{number:04d}.png"})
    features = {
        "image": {"_type": "Image"},
        "label": {"names": [str(digit) for digit in range(10)], "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"image": cells, "label": pa.array(load_digits().target, pa.int64())}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, compression="zstd", compression_level=19)


if __name__ == "__main__":
    write_parquet(Path(sys.argv[1]))
