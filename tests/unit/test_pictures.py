import numpy as np
import pytest

from openddpm.pictures import image_grid, to_picture


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pictures_show_each_pixel(channels: int, mode: str) -> None:
    """An image becomes a picture of the same size, with each pixel in its place."""
    image = np.random.default_rng(0).integers(0, 256, (channels, 4, 7), dtype=np.uint8)
    picture = to_picture(image)
    assert (picture.mode, picture.size) == (mode, (7, 4))
    np.testing.assert_array_equal(np.asarray(picture).reshape(4, 7, channels), image.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("count", "size", "scale", "columns", "rows"),
    [(1, 200, 1, 1, 1), (4, 64, 2, 2, 2), (5, 16, 8, 3, 2), (12, 129, 1, 4, 3)],
)
def test_grids_lay_images_out_row_by_row(count: int, size: int, scale: int, columns: int, rows: int) -> None:
    """Images stand row by row in a near-square grid with gaps between, small ones enlarged by a whole number."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(size, 2).repeat(size, 3)
    grid = np.asarray(image_grid(images))
    tile = size * scale
    assert grid.shape == (rows * (tile + 2) + 2, columns * (tile + 2) + 2)
    for index in range(rows * columns):
        top, left = index // columns * (tile + 2) + 2, index % columns * (tile + 2) + 2
        expected = index if index < count else 128
        assert (grid[top : top + tile, left : left + tile] == expected).all()
        assert (grid[top - 2 : top, :] == 128).all() and (grid[:, left - 2 : left] == 128).all()
    assert (grid[-2:] == 128).all() and (grid[:, -2:] == 128).all()


def test_enlarging_keeps_pixels_square() -> None:
    """A small image is enlarged pixel by pixel, without mixing colours."""
    image = np.array([[[[0, 255], [90, 7]]]], np.uint8)
    grid = np.asarray(image_grid(image))[2:-2, 2:-2]
    np.testing.assert_array_equal(grid, np.kron(image[0, 0], np.ones((64, 64), np.uint8)))
