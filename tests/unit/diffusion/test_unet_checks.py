"""UNets that cannot be trained here, and resolutions that do not suit one, are refused in words."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import nn
from torch._dynamo import OptimizedModule

from openddpm.diffusion.unet import SIZES, build_unet, check_runs, remarks_on_model, unet_config
from openddpm.diffusion.unet_checks import check_user_unet, unwrapped_unet
from openddpm.errors import UserError
from tiny import TINY_UNET


def tiny_unet(**options: Any) -> UNet2DModel:
    """Return a UNet for images of 8 pixels."""
    return UNet2DModel(**{**TINY_UNET, "sample_size": 8, **options})


@pytest.mark.parametrize("name", SIZES)
def test_named_models_at_every_resolution(name: str) -> None:
    """A named model goes at a resolution, or the message names models and resolutions, all of which do go."""
    for resolution in range(4, 131):
        try:
            config = {**unet_config(name, resolution), "in_channels": 1, "out_channels": 1}
        except UserError as refusal:
            sizes = [int(size) for size in re.findall(r"--resolution (\d+)(?: or (\d+))?", refusal.hint)[0] if size]
            assert [unet_config(name, size)["sample_size"] for size in sizes] == sizes
            assert min(abs(size - resolution) for size in sizes) < 8
            models = re.search(r"--model ([\w -]+?)(?:,| --resolution (\d+))", refusal.hint)
            assert models is not None, refusal.hint
            for other in models[1].split(" or "):
                assert unet_config(other, int(models[2] or resolution))
        else:
            if resolution in (8, 12, 28, 120):  # the others are as these
                check_runs(config, "")


def test_28_pixels_name_the_models_that_suit() -> None:
    """The digits of 28 pixels are refused by the default UNet with the halves, the models and the resolutions."""
    with pytest.raises(UserError, match=r"28 -> 14 -> 7 -> 3\.5") as refusal:
        unet_config("default", 28)
    assert "--resolution 24 or 32" in refusal.value.hint
    assert "--model unet-32 or unet-16" in refusal.value.hint


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unet = tiny_unet()


class Subclass(UNet2DModel):
    pass


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: nn.Linear(3, 3), "Linear"),
        (Wrapper, "Wrapper"),
        (lambda: Subclass(**{**TINY_UNET, "sample_size": 8}), "Subclass"),
        (lambda: UNet2DModel, "the class UNet2DModel"),
        (lambda: "a/path", "str"),
        (lambda: TINY_UNET, "dict"),
        (
            lambda: UNet2DConditionModel(
                block_out_channels=(8,),
                down_block_types=("CrossAttnDownBlock2D",),
                up_block_types=("CrossAttnUpBlock2D",),
                norm_num_groups=4,
                cross_attention_dim=8,
                attention_head_dim=8,
            ),
            "UNet2DConditionModel",
        ),
    ],
)
def test_what_is_no_unet2dmodel_is_refused(make: Callable[[], Any], named: str) -> None:
    """Anything but a UNet2DModel is named and refused, before it is asked for what it has not."""
    with pytest.raises(UserError, match=named) as refusal:
        unwrapped_unet(make())
    assert "UNet2DModel" in refusal.value.hint


def test_wrappers_are_taken_off() -> None:
    """A UNet in DataParallel, or compiled, is trained as the UNet that it is."""
    unet = tiny_unet()
    assert unwrapped_unet(nn.DataParallel(unet)) is unet
    assert unwrapped_unet(OptimizedModule(unet, lambda call: call)) is unet


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_class_embeds": 10}, "class labels"),
        ({"class_embed_type": "timestep"}, "class labels"),
        ({"class_embed_type": "identity"}, "class labels"),
        ({"sample_size": (8, 16)}, "8 x 16"),
        ({"sample_size": 16}, r"\(16, 3, 3\)"),
        ({"out_channels": 6}, r"\(8, 3, 6\)"),
        ({"time_embedding_type": "fourier"}, "fourier"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 500}, "500 timesteps, and the run has 1000"),
    ],
)
def test_own_unets_that_do_not_fit(options: dict[str, Any], words: str) -> None:
    """A caller's UNet that the images or the timesteps do not fit is refused with what was found."""
    with pytest.raises(UserError, match=words):
        check_user_unet(tiny_unet(**options), (3, 8, 8), 1000)


@pytest.mark.parametrize("size", [None, (8, 8), [8, 8], 8])
def test_sample_sizes_that_mean_the_resolution(size: Any) -> None:
    """No sample size, and a square one, become the resolution, which the exported config then says."""
    unet = tiny_unet(sample_size=size)
    check_user_unet(unet, (3, 8, 8), 1000)
    assert json.loads(unet.to_json_string())["sample_size"] == 8


def test_a_unet_of_too_many_levels_is_refused() -> None:
    """A caller's UNet that halves its images more often than they can be is reported, with the size that would do."""
    unet = UNet2DModel(
        sample_size=4,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        layers_per_block=1,
    )
    with pytest.raises(UserError, match="halves its images 3 times") as refusal:
        check_user_unet(unet, (3, 4, 4), 1000)
    assert "--resolution 8" in refusal.value.hint
    assert "--model" not in refusal.value.hint


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"block_out_chanels": [8]}, "did you mean 'block_out_channels'"),
        ({"num_class_embeds": 3}, "class labels"),
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ({"_class_name": "DDPMPipeline"}, "DDPMPipeline"),
        ({"block_out_channels": "8"}, "block_out_channels '8'"),
    ],
)
def test_config_files_that_cannot_be_trained(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    """A config file of another class, with unknown fields or with class labels is refused with what was found."""
    path = tmp_path / "unet.json"
    path.write_text(json.dumps({**TINY_UNET, **fields}))
    with pytest.raises(UserError, match=re.escape(words)):
        unet_config(str(path), 8)


def test_remarks_on_a_config(tmp_path: Path) -> None:
    """What is taken otherwise than a config says is said: other channels, shifted inputs, and weights beside it."""
    folder = tmp_path / "pipeline" / "unet"
    tiny_unet(in_channels=4, out_channels=4, center_input_sample=True, sample_size=[8, 16]).save_pretrained(folder)
    (tmp_path / "pipeline" / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    config = unet_config(str(tmp_path / "pipeline"), 16)
    unet = build_unet(config, (3, 16, 16))
    assert (unet.config["in_channels"], unet.config["sample_size"]) == (3, 16)
    said = " ".join(remarks_on_model(str(tmp_path / "pipeline"), config, 3))
    for words in ("in_channels 4 and out_channels 4", "center_input_sample", f"--init_from {tmp_path / 'pipeline'}"):
        assert words in said
    assert unet_config(str(tmp_path / "pipeline" / "model_index.json"), 16) == config
    assert remarks_on_model("unet-16", unet_config("unet-16", 16), 3) == []


def test_a_hub_id_given_as_model_names_init_from() -> None:
    """A Hub id as --model is answered with the option that takes one."""
    with pytest.raises(UserError) as refusal:
        unet_config("google/ddpm-cat-256", 64)
    assert "--init_from google/ddpm-cat-256" in refusal.value.hint
