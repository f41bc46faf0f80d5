"""The noise bands by which an evaluation is split."""

from typing import Literal

Band = Literal["detail", "shape", "layout"]

BANDS: dict[Band, tuple[float, float]] = {"detail": (10.0, float("inf")), "shape": (0.1, 10.0), "layout": (0.0, 0.1)}
"""Half-open intervals [low, high) of the signal-to-noise ratio; measured to predict what samples look like."""

BANDS_AS_DECIDED: tuple[Band, ...] = ("layout", "shape", "detail")
"""The order in which sampling decides them: strong noise first."""
