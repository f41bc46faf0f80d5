import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from made_up_run import write_made_up_run
from openddpm.record.reader import read_run_folder
from openddpm.report.curves import curves_png
from openddpm.report.weights import COLOURS


def has_colour(image: Image.Image, colour: str) -> bool:
    """Return whether a pixel has exactly this colour, written #rrggbb."""
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return bool((np.asarray(image.convert("RGB")) == wanted).all(axis=2).any())


@pytest.mark.parametrize("rows", [0, 1, 2500])
def test_picture_shows_the_heldout_losses_that_were_measured(tmp_path: Path, rows: int) -> None:
    """The picture is 1200 x 500 pixels and draws weights if and only if they were evaluated."""
    run = read_run_folder(write_made_up_run(tmp_path, rows=rows, previews=2 if rows else 0, use_ema=False))
    image = Image.open(BytesIO(curves_png(run)))
    assert image.size == (1200, 500)
    assert {name for name, colour in COLOURS.items() if has_colour(image, colour)} == ({"raw"} if rows else set())


def test_drawing_keeps_clear_of_pyplot() -> None:
    """The picture is drawn without pyplot, whose figures are global and would pile up."""
    code = "import sys, openddpm.report.curves; print({'matplotlib.pyplot', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
