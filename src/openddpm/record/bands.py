"""The bands of noise in which an evaluation tells what a model has learned."""

from typing import Literal

Band = Literal["detail", "shape", "layout"]

BANDS: dict[Band, tuple[float, float]] = {"detail": (10.0, float("inf")), "shape": (0.1, 10.0), "layout": (0.0, 0.1)}
"""Half-open intervals [low, high) of the signal-to-noise ratio; measured to tell what a picture will look like."""

BANDS_AS_DECIDED: tuple[Band, ...] = ("layout", "shape", "detail")
"""In the order in which a picture is decided as it is made of noise."""
