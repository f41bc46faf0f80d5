"""Checks that a UNet can be trained here: of a config, and of a user-supplied UNet."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from diffusers import UNet2DModel
from torch import nn

from openddpm.errors import UserError, closest

MIN_RESOLUTION, MAX_RESOLUTION = 4, 4096  # of --resolution

_DEFAULTS = {
    name: field for name, field in inspect.signature(UNet2DModel.__init__).parameters.items() if name != "self"
}
_WITHOUT_LABELS = "Remove class_embed_type and num_class_embeds: the model is then trained without labels."
_LABELS = ("class_embed_type", "num_class_embeds")


def num_halvings(config: Mapping[str, Any]) -> int:
    """Return how often a UNet with this config halves its images: once less than it has levels.

    Raises:
        UserError: block_out_channels is not a list of whole numbers.
    """
    channels = config.get("block_out_channels", _DEFAULTS["block_out_channels"].default)
    if not isinstance(channels, list | tuple) or not channels or not all(isinstance(c, int) for c in channels):
        found = f"the UNet has block_out_channels {channels!r}"
        raise UserError(found, "Give a list with the number of channels of each level.")
    return len(channels) - 1


def fits(resolution: int, halvings: int) -> bool:
    """Tell whether images of `resolution` pixels can be halved `halvings` times; diffusers' UNet does not pad."""
    return resolution % 2**halvings == 0


def nearest_resolutions(resolution: int, halvings: int) -> list[int]:
    """Return the allowed resolutions that can be halved `halvings` times: `resolution`, or its neighbours."""
    factor = 2**halvings
    below = resolution // factor * factor
    near = {below, below if below == resolution else below + factor}
    return [size for size in sorted(near) if MIN_RESOLUTION <= size <= MAX_RESOLUTION]


def check_resolution(
    resolution: int, config: Mapping[str, Any], what: str, named: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Refuse a resolution that a UNet cannot halve often enough.

    Args:
        what: the UNet, as the message names it.
        named: configs to propose instead, by name.

    Raises:
        UserError: with the resolutions that fit this UNet, and those of `named` that fit this resolution.
    """
    halvings = num_halvings(config)
    if fits(resolution, halvings):
        return
    sizes = [float(resolution)]
    while sizes[-1] == int(sizes[-1]):
        sizes.append(sizes[-1] / 2)
    shown, times = " -> ".join(f"{size:g}" for size in sizes), "once" if halvings == 1 else f"{halvings} times"
    found = f"--resolution {resolution} does not fit {what}, which halves its images {times}: {shown}"
    ways = [f"--resolution {_nearest(resolution, halvings)}, to which the images are then resized"]
    fitting = [name for name, other in (named or {}).items() if fits(resolution, num_halvings(other))]
    if fitting:
        ways.append(f"--model {' or '.join(fitting)}, which takes {resolution}")
    elif named:
        finest = min(named, key=lambda name: num_halvings(named[name]))
        ways.append(f"--model {finest} --resolution {_nearest(resolution, num_halvings(named[finest]))}")
    raise UserError(found, f"Give {'; or '.join(ways)}.")


def _nearest(resolution: int, halvings: int) -> str:
    return " or ".join(map(str, nearest_resolutions(resolution, halvings)))


def check_config(
    config: Mapping[str, Any], num_train_timesteps: int, what: str, hint_without_labels: str = _WITHOUT_LABELS
) -> None:
    """Refuse a UNet2DModel's config that cannot be trained here on any images.

    Args:
        what: the UNet, as the message names it.

    Raises:
        UserError: unknown fields, class embeddings, or a time embedding that does not take timesteps.
    """
    known = list(_DEFAULTS)
    unknown = [name for name in config if not name.startswith("_") and name not in known]
    if unknown:
        hints = "; ".join(
            f"'{name}': {closest(name, known).split('known: ')[0].strip() or 'no such field'}" for name in unknown
        )
        hint = "Remove them, or check that it is the config of a UNet2DModel."
        raise UserError(f"{what} has fields that a UNet2DModel does not know: {hints}", hint)
    labels = [f"{name} {config[name]!r}" for name in _LABELS if config.get(name) is not None]
    if labels:
        raise UserError(
            f"{what} takes class labels ({', '.join(labels)}), and openddpm trains without labels",
            hint_without_labels,
        )
    embedding = config.get("time_embedding_type", "positional")
    if embedding == "fourier":
        raise UserError(
            f"{what} has time_embedding_type 'fourier', for noise levels above 0; the timesteps of a DDPM begin at 0",
            "Use 'positional', the default.",
        )
    most = config.get("num_train_timesteps")
    if embedding == "learned" and (not isinstance(most, int) or most < num_train_timesteps):
        raise UserError(
            f"{what} has learned time embeddings for {most!r} timesteps, and the run has {num_train_timesteps}",
            f"Set num_train_timesteps to {num_train_timesteps} in the UNet's config, or give --num_train_timesteps.",
        )


def remarks_on_config(config: Mapping[str, Any], what: str) -> list[str]:
    """Return remarks on a config that can be trained but is unusual, a sentence each."""
    if config.get("center_input_sample"):
        return [
            f"{what} has center_input_sample, which maps images in 0..1 to -1..1; here they are in -1..1 already, and "
            "become -3..1"
        ]
    return []


def unwrapped_unet(unet: Any) -> UNet2DModel:
    """Return a user-supplied UNet without its wrappers, such as DataParallel or torch.compile.

    Raises:
        UserError: it is not a UNet2DModel.
    """
    if isinstance(unet, nn.Module):
        unet = extract_model_from_parallel(unet, keep_fp32_wrapper=False, keep_torch_compile=False)
    if type(unet) is UNet2DModel:
        return unet
    if isinstance(unet, type):
        found, hint = (
            f"unet is the class {unet.__name__}, not a model",
            "Build it first: UNet2DModel(sample_size=64, ...).",
        )
    elif not isinstance(unet, nn.Module):
        found = f"unet is of type {type(unet).__name__}, not a model"
        hint = "Give a diffusers.UNet2DModel; for a path or a Hub id use init_from or model in the config."
    else:
        found = f"unet is of type {type(unet).__name__}; only a UNet2DModel can be trained, exported and sampled"
        hint = "Give a diffusers.UNet2DModel itself, not another class, a subclass or a wrapper."
    raise UserError(found, hint)


def check_user_unet(unet: UNet2DModel, image_shape: tuple[int, int, int], num_train_timesteps: int) -> None:
    """Refuse a user-supplied UNet that does not fit images of (C, H, W); set its sample size if it has none.

    Raises:
        UserError: with what was expected and found.
    """
    what = "the UNet"
    dtypes = {parameter.dtype for parameter in unet.parameters()}
    if dtypes != {torch.float32}:
        hint = "Give it float32 weights; --mixed_precision bf16 still computes in bfloat16."
        raise UserError(f"the UNet has weights of {', '.join(sorted(map(str, dtypes)))}", hint)
    if any(parameter.is_meta for parameter in unet.parameters()):
        raise UserError("the UNet is on the meta device, without weights", "Build it on the CPU.")
    if not any(parameter.requires_grad for parameter in unet.parameters()):
        hint = "Unfreeze some of its weights: unet.requires_grad_(True)."
        raise UserError("all weights of the UNet are frozen, so there is nothing to train", hint)
    check_config(unet.config, num_train_timesteps, what)
    channels, height, width = image_shape
    expected_size = height if height == width else (height, width)
    size = unet.config["sample_size"]
    if size is None or (isinstance(size, list | tuple) and tuple(size) == (height, width)):
        size = expected_size
        unet.register_to_config(sample_size=size)
        unet.sample_size = size
    found = (size, unet.config["in_channels"], unet.config["out_channels"])
    expected = (expected_size, channels, channels)
    if isinstance(size, list | tuple) and len(set(size)) > 1 and height == width:
        hint = f"Build it with sample_size={height}, the --resolution."
        raise UserError(f"the UNet is for images of {' x '.join(map(str, size))} pixels; here they are square", hint)
    if found != expected:
        raise UserError(
            f"the UNet has (sample_size, in_channels, out_channels) {found}, the images need {expected}",
            "Build it for the images, or change --resolution or --image_mode.",
        )
    for side in {height, width}:
        check_resolution(side, unet.config, what, {})
