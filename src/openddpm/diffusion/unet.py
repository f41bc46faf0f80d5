"""Builds UNet2DModel: a named size, a config file, or the caller's own."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch.utils.flop_counter import FlopCounterMode

from openddpm.errors import UserError, closest

SIZES: dict[str, dict[str, Any]] = {
    "default": {
        "layers_per_block": 2,
        "block_out_channels": (128, 256, 512, 1024),
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    },
    "unet-64": {
        "layers_per_block": 2,
        "block_out_channels": (64, 128, 256, 256),
        "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 64,
    },
    "unet-32": {
        "layers_per_block": 2,
        "block_out_channels": (64, 128, 128),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 64,
    },
    "unet-16": {
        "layers_per_block": 1,
        "block_out_channels": (48, 48),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 48,
        "norm_num_groups": 8,
    },
}


def unet_config(model: str, resolution: int) -> dict[str, Any]:
    """Return the UNet2DModel config that `model` names, for square images of `resolution` pixels.

    Raises:
        UserError: an unknown name, an unreadable file, or a resolution that the UNet cannot halve often enough.
    """
    if model in SIZES:
        config = dict(SIZES[model])
    else:
        config = _read_config(model)
    channels = config.get("block_out_channels", SIZES["default"]["block_out_channels"])
    if not isinstance(channels, list | tuple) or not channels or not all(isinstance(c, int) for c in channels):
        found = f"--model '{model}' has block_out_channels {channels!r}"
        raise UserError(found, "It takes a list with the channels of each level.")
    num_levels = len(channels)
    factor = 2 ** (num_levels - 1)
    if resolution % factor:
        below = resolution // factor * factor
        nearest = [str(size) for size in (below, below + factor) if size]
        raise UserError(
            f"--resolution {resolution} cannot be halved {num_levels - 1} times, as a UNet of {num_levels} levels "
            "has to",
            f"Nearest that fit: --resolution {' or '.join(nearest)}.",
        )
    return {**config, "sample_size": resolution}


def build_unet(config: dict[str, Any], channels: int) -> UNet2DModel:
    """Return a freshly initialized UNet2DModel for images of `channels` channels.

    Raises:
        UserError: diffusers cannot build that config.
    """
    config = {**config, "in_channels": channels, "out_channels": channels}
    options = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        with torch.device("meta"):  # a dry run, without memory or time: some configs build but cannot run
            noisy = torch.zeros((1, channels, config["sample_size"], config["sample_size"]))
            UNet2DModel(**options)(noisy, torch.zeros((1,), dtype=torch.long))
    except Exception as error:  # diffusers raises whatever a wrong value leads to
        found = f"diffusers cannot run this UNet: {type(error).__name__}: {error}"
        raise UserError(found, "Mend the config given as --model.") from error
    return UNet2DModel(**options)


def zero_residuals(unet: UNet2DModel) -> None:
    """Set to 0, in place, what each residual block and each attention adds, and the prediction itself.

    As in Ho et al. (2020), whose blocks begin so; diffusers begins with random weights everywhere.
    """
    last = [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    last += [module.to_out[0] for module in unet.modules() if isinstance(module, Attention)]
    for layer in [*last, unet.conv_out]:
        torch.nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)


def check_own_unet(unet: UNet2DModel, resolution: int, channels: int) -> None:
    """Refuse a caller's UNet that does not fit the images.

    Raises:
        UserError: naming the size expected and found.
    """
    dtypes = {parameter.dtype for parameter in unet.parameters()}
    if dtypes != {torch.float32}:
        todo = "Give it with float32 weights; --mixed_precision bf16 computes in bfloat16 all the same."
        raise UserError(f"the UNet has weights of {', '.join(sorted(map(str, dtypes)))}", todo)
    if not any(parameter.requires_grad for parameter in unet.parameters()):
        todo = "Let some of its weights be trained: unet.requires_grad_(True)."
        raise UserError("all weights of the UNet are frozen, so there is nothing to train", todo)
    found = (unet.config["sample_size"], unet.config["in_channels"], unet.config["out_channels"])
    expected = (resolution, channels, channels)
    if found != expected:
        raise UserError(
            f"the UNet has (sample_size, in_channels, out_channels) {found}, the images need {expected}",
            "Build it for the images, or change --resolution or --image_mode.",
        )


def gflops_per_image(unet: UNet2DModel) -> float:
    """Return GFLOP of one image forward and backward, a multiply and an add counted as two."""
    parameter = next(unet.parameters())
    size = unet.config["sample_size"]
    noisy = torch.zeros((1, unet.config["in_channels"], size, size), device=parameter.device)
    with FlopCounterMode(display=False) as counter:
        unet(noisy, torch.zeros((1,), dtype=torch.long, device=parameter.device)).sample.sum().backward()
    unet.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 1e9


def _read_config(model: str) -> dict[str, Any]:
    path = Path(model).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise UserError(
            f"--model '{model}' is neither a named size nor a config file", f"{closest(model, list(SIZES))}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or config.get("_class_name", "UNet2DModel") != "UNet2DModel":
            raise ValueError("it is not the config of a UNet2DModel")
    except ValueError as error:
        raise UserError(f"--model '{path}' cannot be used: {error}", "Give a UNet2DModel's config.json.") from error
    return config
