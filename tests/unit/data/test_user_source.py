import itertools
from collections.abc import Callable

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from openddpm.config import DataOptions
from openddpm.data.decode import Preprocessing, decode_image
from openddpm.data.sources import open_source
from openddpm.data.user_source import TRANSFORMED
from openddpm.errors import UserError
from picture_files import image_dataset, png, tones


def colours(seed: int = 0) -> np.ndarray:
    """Return the pixels of an image that is neither gray nor the same mirrored."""
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def declared(mode: str, number: int = 3, seed: int = 0) -> datasets.Dataset:
    """Return a data set whose column of colour images is declared to have a mode."""
    rows = {"image": [Image.fromarray(colours(seed + index)) for index in range(number)]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()})).cast_column(
        "image", datasets.Image(mode=mode)
    )


def pixels_of(own: object, **options: str) -> list[np.ndarray]:
    """Return the images as they are trained on, as (H, W, C)."""
    source = open_source(DataOptions(**options), own)
    decoded = [decode_image(encoded, Preprocessing(8, "auto", "white"))[0] for _, encoded, _ in source.items()]
    assert source.num_items == len(decoded)
    return [pixels.transpose(1, 2, 0) for pixels in decoded]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_mode_of_a_feature_is_honoured(mode: str) -> None:
    """Image(mode=...) trains on what the caller's rows show, under another digest than without it, and is counted."""
    own = declared(mode)
    for found, row in zip(pixels_of(own), own, strict=True):
        np.testing.assert_array_equal(found.squeeze(), np.asarray(row["image"]))
    source = open_source(DataOptions(), own)
    assert source.digest != open_source(DataOptions(), declared("L" if mode == "RGB" else "RGB")).digest
    changes = decode_image(next(source.items())[1], Preprocessing(8, "auto", "white"))[1]
    assert changes == (["gray by its column's mode"] if mode == "L" else [])


def test_gray_by_mode_stays_gray_in_three_channels() -> None:
    """--image_mode rgb makes three channels of what the mode made gray, and brings no colour back."""
    encoded = next(open_source(DataOptions(), declared("L")).items())[1]
    pixels, *_ = decode_image(encoded, Preprocessing(8, "rgb", "white"))
    assert pixels.shape == (3, 8, 8)
    assert (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all()


def test_transparency_is_composited_whatever_the_mode() -> None:
    """Image(mode="RGB") uncovers no colours beneath transparent pixels: these become the background."""
    hidden = np.zeros((8, 8, 4), np.uint8)
    own = datasets.Dataset.from_dict({"image": [Image.fromarray(hidden)]}).cast_column(
        "image", datasets.Image(mode="RGB")
    )
    assert (pixels_of(own)[0] == 255).all()


def test_a_mode_that_is_neither_gray_nor_colour_is_the_users_error() -> None:
    """Image(mode="1") is refused with how to declare the column; modes of more bits leave the files as they are."""
    with pytest.raises(UserError, match=r"Image\(mode='1'\)(.|\n)*cast_column"):
        open_source(DataOptions(), declared("1"))
    deep = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    rows = {"image": [deep]}
    own = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image(mode="I;16"))
    assert (pixels_of(own)[0] == 255).all()


def inverted(rows: dict[str, list[Image.Image]]) -> dict[str, list[Image.Image]]:
    """Return negatives: a transform."""
    return {"input": [Image.fromarray(255 - np.asarray(image)) for image in rows["image"]]}


@pytest.mark.parametrize("setter", ["set_transform", "with_transform"])
def test_a_transform_is_not_bypassed(setter: str) -> None:
    """A data set with a transform trains on what the transform gives, decoded afresh each time, and says so."""
    own = declared("RGB")
    own = getattr(own, setter)(inverted) or own
    for index, found in enumerate(pixels_of(own)):
        np.testing.assert_array_equal(found, 255 - colours(index))
    source = open_source(DataOptions(), own)
    assert source.digest is None
    assert decode_image(next(source.items())[1], Preprocessing(8, "auto", "white"))[1] == [TRANSFORMED]


@pytest.mark.parametrize("low", [0, -1])
def test_tensors_made_for_a_model_are_the_users_error(low: int) -> None:
    """A transform to floating-point tensors is refused with the range that was found and the way on."""

    def normalised(rows: dict[str, list[Image.Image]]) -> dict[str, list[torch.Tensor]]:
        tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in rows["image"]]
        return {"input": [tensor * (1 - low) + low for tensor in tensors]}

    with pytest.raises(UserError, match=rf"float32 values from {low}[. 0-9-]* to [.0-9]+(.|\n)*reset_format"):
        open_source(DataOptions(), declared("RGB").with_transform(normalised))


def test_whole_tensors_are_images() -> None:
    """Tensors of uint8 (C, H, W) from a transform, or in a sequence, are the images they show; arrays are (H, W, C)."""
    tensor = torch.from_numpy(colours()).permute(2, 0, 1)
    for own in ([tensor], [(tensor, 3)], [{"x": tensor, "y": 3}], [colours()], [colours().transpose(2, 0, 1)]):
        np.testing.assert_array_equal(pixels_of(own)[0], colours())


class Augmented:
    """A data set whose items are made by chance, as torchvision's with random transforms are."""

    def __init__(self) -> None:
        self.calls = itertools.count()

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(colours(next(self.calls)))


@pytest.mark.parametrize(
    "wrap",
    [lambda own: own, lambda own: image_dataset(1, 2).with_transform(lambda rows: {"image": [own[0]]})],
    ids=["sequence", "transform"],
)
def test_items_made_by_chance_are_the_users_error(wrap: Callable[[Augmented], object]) -> None:
    """Random transforms are refused: each image is decoded once, so that one draw of them would be trained on."""
    with pytest.raises(UserError, match=r"another image each time(.|\n)*--random_flip"):
        open_source(DataOptions(), wrap(Augmented()))


@pytest.mark.parametrize("kind", ["torch", "numpy", "arrow", "pandas", "python"])
def test_formats_change_the_type_and_no_image(kind: str) -> None:
    """with_format gives the same images in another type, which are read as they are stored."""
    assert list(tones(open_source(DataOptions(), image_dataset(1, 2).with_format(kind))).values()) == [1, 2]


def test_columns_that_a_format_hides_are_not_trained_on() -> None:
    """Of two columns of images the one that the format shows is taken; with none shown, that is said."""
    features = datasets.Features({"photo": datasets.Image(), "mask": datasets.Image(), "label": datasets.Value("int8")})
    own = datasets.Dataset.from_dict({"photo": [png(1)], "mask": [png(2)], "label": [0]}, features=features)
    assert list(tones(open_source(DataOptions(), own.with_format("torch", columns=["mask"]))).values()) == [2]
    with pytest.raises(UserError, match="no image column: its columns are label"):
        open_source(DataOptions(), own.with_format("torch", columns=["label"]))
    everything = own.with_format("torch", columns=["label"], output_all_columns=True)
    with pytest.raises(UserError, match="several image columns"):
        open_source(DataOptions(), everything)
