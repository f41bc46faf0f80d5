"""Conversion of image arrays to pictures for people."""

import math

import numpy as np
from PIL import Image

SMALLEST_TILE = 128  # pixels; assumed: smaller ones are hard to see
_GAP = 2
_GAP_GRAY = 128


def to_picture(image: np.ndarray) -> Image.Image:
    """Return an image, (C, H, W) uint8 with one or three channels, as a Pillow image of the same size."""
    return Image.fromarray(image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0))


def image_grid(images: np.ndarray) -> Image.Image:
    """Return images, (N, C, H, W) uint8, in a near-square grid, row by row; small ones are enlarged pixel by pixel."""
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, SMALLEST_TILE // max(height, width))
    tiles = images.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = height * scale + _GAP, width * scale + _GAP
    canvas = np.full((channels, rows * height + _GAP, columns * width + _GAP), _GAP_GRAY, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * height + _GAP, index % columns * width + _GAP
        canvas[:, top : top + height - _GAP, left : left + width - _GAP] = tile
    return to_picture(canvas)
