"""Layers that keep activations in channels_last where those of torch and diffusers return NCHW.

For a compiled UNet on a GPU: its convolutions compute in channels_last, and each conversion costs a pass over memory.
Counted (tests/unit/training/test_channels_last.py): of the 67 convolutions of the default UNet, 46 get NCHW inputs in
batches of 16, and 49 from 64 images on; with these layers one, the first.
"""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.models.upsampling import Upsample2D

MAX_ELEMENTS = 2**31  # cited: above it diffusers converts to NCHW for an ATen kernel (pytorch/pytorch 141831)


class ChannelsLastGroupNorm(torch.nn.GroupNorm):
    """torch's GroupNorm on channels_last views; ATen's GPU kernels return NCHW."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalize (B, C, ...) over groups of channels in float32; returns the weights' dtype, as autocast does."""
        count, channels = input.shape[:2]
        last = input.movedim(1, -1)
        shape = (count, -1, self.num_groups, channels // self.num_groups)
        grouped = last.reshape(shape)  # (B, H * W, groups, C / groups)
        grouped = grouped.to(torch.promote_types(grouped.dtype, torch.float32))
        variance, mean = torch.var_mean(grouped, dim=(1, 3), correction=0, keepdim=True)
        normal = ((grouped - mean) * torch.rsqrt(variance + self.eps)).reshape(last.shape)
        return (normal * self.weight + self.bias).movedim(-1, 1).to(self.weight.dtype)


class ChannelsLastUpsample2D(Upsample2D):  # type: ignore[misc]
    """diffusers' Upsample2D without its conversion to NCHW from 64 images on.

    The conversion is for old ATen kernels (huggingface/diffusers 984), which a compiled UNet does not call.
    """

    def forward(self, hidden_states: torch.Tensor, output_size: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Double height and width of (B, C, H, W), and convolve."""
        if 4 * hidden_states.numel() > MAX_ELEMENTS or output_size is not None:
            return super().forward(hidden_states, output_size, *args, **kwargs)
        larger = F.interpolate(hidden_states, scale_factor=2.0, mode="nearest")
        if not self.use_conv:
            return larger
        return self.conv(larger) if self.name == "conv" else self.Conv2d_0(larger)


def keep_channels_last(unet: UNet2DModel) -> None:
    """Convert a UNet's weights to channels_last, in place, and make its layers keep activations there.

    Layers stay the same objects, with their names, weights and hooks; only their class changes to one of the above.
    Layers of other classes, subclasses included, are not changed.
    """
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in unet.modules():
        if type(module) is torch.nn.GroupNorm and module.affine:
            module.__class__ = ChannelsLastGroupNorm
        elif type(module) is Upsample2D and _only_doubles(module):
            module.__class__ = ChannelsLastUpsample2D


def leave_channels_last(unet: UNet2DModel) -> None:
    """Undo `keep_channels_last`, in place."""
    for module in unet.modules():
        if type(module) is ChannelsLastGroupNorm:
            module.__class__ = torch.nn.GroupNorm  # type: ignore[assignment]
        elif type(module) is ChannelsLastUpsample2D:
            module.__class__ = Upsample2D
    unet.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _only_doubles(module: Upsample2D) -> bool:
    return module.norm is None and module.interpolate and not module.use_conv_transpose
