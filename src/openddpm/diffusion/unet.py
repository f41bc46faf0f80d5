"""Building UNet2DModel from a named size or a config file."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch.utils.flop_counter import FlopCounterMode

from openddpm.diffusion.unet_checks import check_config, check_resolution, remarks_on_config
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
    "unet-8": {
        "layers_per_block": 1,
        "block_out_channels": (32, 48),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "attention_head_dim": 48,
        "norm_num_groups": 8,
    },
}


def unet_config(model: str, resolution: int, num_train_timesteps: int = 1000) -> dict[str, Any]:
    """Return the UNet2DModel config that `model` names, for square images of `resolution` pixels.

    Raises:
        UserError: an unknown name, an unreadable file, a config that cannot be trained here, or a resolution that the
            UNet cannot halve often enough.
    """
    config = dict(SIZES[model]) if model in SIZES else _read_config(model)
    check_config(config, num_train_timesteps, f"--model {model}")
    check_resolution(resolution, config, f"--model {model}", SIZES)
    return {**config, "sample_size": resolution}


def remarks_on_model(model: str, config: Mapping[str, Any], channels: int) -> list[str]:
    """Return remarks on a config file or a folder given as --model, a sentence each.

    Args:
        config: as `unet_config` read it.
        channels: of the images.
    """
    if model in SIZES:
        return []
    what, remarks = f"--model {model}", remarks_on_config(config, f"--model {model}")
    others = [name for name in ("in_channels", "out_channels") if config.get(name, channels) != channels]
    if others:
        had = " and ".join(f"{name} {config[name]}" for name in others)
        remarks.append(f"{what} has {had}; it is built with {channels}, like the images")
    folder = _config_file(model).parent
    if any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir()):
        given = model if Path(model).expanduser().is_dir() else folder
        remarks.append(f"{what} gives only the architecture; to start from its weights: --init_from {given}")
    return remarks


def image_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the channels, height and width of the images that a UNet2DModel with this config takes."""
    size = config["sample_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return config.get("in_channels", 3), height, width


def for_images(config: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return `config` with the size and channels of images of `shape`, (C, H, W)."""
    channels, height, width = shape
    size = height if height == width else (height, width)
    return {**config, "sample_size": size, "in_channels": channels, "out_channels": channels}


def build_unet(config: dict[str, Any], shape: tuple[int, int, int]) -> UNet2DModel:
    """Return a freshly initialized UNet2DModel for images of `shape`, (C, H, W).

    Raises:
        UserError: diffusers cannot build that config.
    """
    config = for_images(config, shape)
    return UNet2DModel(**check_runs(config, "Fix the config given as --model."))


def check_runs(config: Mapping[str, Any], hint: str) -> dict[str, Any]:
    """Return the options of UNet2DModel in a config, after a dry run at its own sample size and channels.

    Raises:
        UserError: diffusers cannot build or run that config; with `hint`.
    """
    options = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        with torch.device("meta"):  # a free dry run: some configs build but cannot run
            noisy = torch.zeros((1, *image_shape(config)))
            UNet2DModel(**options)(noisy, torch.zeros((1,), dtype=torch.long))
    except Exception as error:  # a wrong value can raise anything in diffusers
        found = f"diffusers cannot run this UNet: {type(error).__name__}: {error}"
        raise UserError(found, hint) from error
    return options


def zero_residuals(unet: UNet2DModel) -> None:
    """Set to 0, in place, the last layer of each residual block, of each attention, and of the UNet.

    Ho et al. (2020) initialize so; diffusers has random weights everywhere.
    """
    last = [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    last += [module.to_out[0] for module in unet.modules() if isinstance(module, Attention)]
    for layer in [*last, unet.conv_out]:
        torch.nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)


def gflops_per_image(unet: UNet2DModel) -> float:
    """Return the GFLOP of one image, forward and backward; a multiply-add counts as two."""
    parameter = next(unet.parameters())
    noisy = torch.zeros((1, *image_shape(unet.config)), device=parameter.device)
    with FlopCounterMode(display=False) as counter:
        unet(noisy, torch.zeros((1,), dtype=torch.long, device=parameter.device)).sample.sum().backward()
    unet.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 1e9


def _config_file(model: str) -> Path:
    """Return the config file of a UNet, given as that file, its folder, or a pipeline's folder."""
    path = Path(model).expanduser()
    if path.name == "model_index.json":
        path = path.parent
    inside = (path / "unet" / "config.json", path / "config.json")
    return next((file for file in inside if file.is_file()), inside[1]) if path.is_dir() else path


def _read_config(model: str) -> dict[str, Any]:
    path = _config_file(model)
    if not path.is_file():
        found = f"--model '{model}' is neither a named size nor a config file"
        hint = closest(model, list(SIZES))
        if Path(model).expanduser().is_dir():
            found = f"--model '{model}' is a folder without the config.json of a UNet"
        elif re.fullmatch(r"[\w.-]+/[\w.-]+", model) and not Path(model).suffix:
            hint = f"{hint}. To start from the architecture and the weights of a model on the Hub: --init_from {model}"
        raise UserError(found, hint)
    try:
        config = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        name = config.get("_class_name", "UNet2DModel") if isinstance(config, dict) else type(config).__name__
        if name != "UNet2DModel":
            raise ValueError(f"it is the config of a {name}, not of a UNet2DModel")
    except (ValueError, OSError) as error:
        raise UserError(f"--model '{path}' cannot be used: {error}", "Give a UNet2DModel's config.json.") from error
    return config


def refuse_constant(name: str) -> None:
    """Raise ValueError for NaN and Infinity, which Python's json accepts and a config must not have."""
    raise ValueError(f"it contains {name}, which is not a finite number")
