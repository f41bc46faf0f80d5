"""The layers that keep a compiled UNet in channels_last: how many convolutions do, and that they compute the same."""

from collections import Counter
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.upsampling import Upsample2D
from torch.utils._python_dispatch import TorchDispatchMode

from openddpm.diffusion.unet import SIZES
from openddpm.training.channels_last import (
    ChannelsLastGroupNorm,
    ChannelsLastUpsample2D,
    keep_channels_last,
    leave_channels_last,
)
from openddpm.training.performance import Speed, undo_compile
from tiny import TINY_UNET

aten = torch.ops.aten


def layout(tensor: torch.Tensor) -> str:
    """Return how a tensor (B, C, H, W) lies in memory."""
    if tensor.is_contiguous():
        return "NCHW"
    return "NHWC" if tensor.is_contiguous(memory_format=torch.channels_last) else "other"


class CudaLayouts(TorchDispatchMode):
    """Counts what convolutions are given, of tensors without data.

    They are laid out as by the kernels for GPUs but for convolutions, which follow cuDNN's rule here:
    channels_last where images or weights are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images: Counter[str] = Counter()
        self.gradients: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is aten.convolution.default:
            self.images[layout(args[0])] += 1
            is_last = "NHWC" in (layout(args[0]), layout(args[1]))
            result = result.contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)
        elif func is aten.convolution_backward.default:
            self.gradients[layout(args[0])] += 1
        return result


def counted(unet: UNet2DModel, batch_size: int) -> CudaLayouts:
    """Count over a pass forward and backward, in evaluation mode."""
    unet.eval()
    size = unet.config["sample_size"]
    noisy = torch.empty((batch_size, 3, size, size), device="meta")
    with CudaLayouts() as layouts:
        unet(noisy, torch.empty((batch_size,), dtype=torch.long, device="meta")).sample.sum().backward()
    return layouts


@pytest.mark.parametrize(
    ("size", "resolution", "batch_size", "before", "convolutions"),
    [
        ("unet-16", 16, 64, 19, 24),
        pytest.param("default", 64, 16, 46, 67, marks=pytest.mark.slow),
        pytest.param("default", 64, 128, 49, 67, marks=pytest.mark.slow),
    ],
)
def test_a_compiled_unet_stays_in_channels_last(
    monkeypatch: pytest.MonkeyPatch, size: str, resolution: int, batch_size: int, before: int, convolutions: int
) -> None:
    """All convolutions but the first, of the images, are given channels_last; by layers as they are most are not."""
    with torch.device("meta"):
        unet = UNet2DModel(**SIZES[size], sample_size=resolution)
    unet.to(memory_format=torch.channels_last)
    plain = counted(unet, batch_size)
    assert plain.images == {"NCHW": before, "NHWC": convolutions - before} and plain.gradients["NCHW"] > 0
    monkeypatch.setattr(UNet2DModel, "compile", lambda self, options: None)
    Speed(compile_mode="default").compile(unet)
    kept = counted(unet, batch_size)
    assert kept.images == {"NCHW": 1, "NHWC": convolutions - 1} and kept.gradients["NCHW"] == 0


@pytest.mark.parametrize("shape", [(3, 12, 5, 7), (2, 12, 9)])
@pytest.mark.parametrize("is_last", [False, True])
def test_the_norm_is_torchs(shape: tuple[int, ...], is_last: bool) -> None:
    """Values and gradients are GroupNorm's up to rounding, of images and of tokens, however they lie in memory."""
    generator = torch.Generator().manual_seed(0)
    images = 3 + torch.randn(shape, generator=generator)
    if is_last:
        images = images.movedim(1, -1).contiguous().movedim(-1, 1)
    plain = torch.nn.GroupNorm(4, 12, eps=1e-5)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    ours = ChannelsLastGroupNorm(4, 12, eps=1e-5)
    ours.load_state_dict(plain.state_dict())
    upstream = torch.randn(shape, generator=generator)
    results = []
    for norm in (plain, ours):
        given = images.clone().requires_grad_()
        normal = norm(given)
        results.append((normal, *torch.autograd.grad(normal, (given, *norm.parameters()), upstream)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_norm_computes_in_float32_and_returns_it_under_autocast() -> None:
    """Of half-precision images the statistics are float32, and so is the result, as autocast has it of GroupNorm."""
    images = 100 + torch.randn((2, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    plain, ours = torch.nn.GroupNorm(2, 8), ChannelsLastGroupNorm(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(images.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(images.bfloat16().float()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_upsampling_is_diffusers(batch_size: int) -> None:
    """Values are Upsample2D's, by either name of its convolution and without one, and they stay in channels_last."""
    images = torch.randn((batch_size, 4, 3, 5), generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    for options in ({"use_conv": True}, {"use_conv": True, "name": "Conv2d_0"}, {}):
        plain = Upsample2D(4, **options)
        ours = ChannelsLastUpsample2D(4, **options)
        ours.load_state_dict(plain.state_dict())
        torch.testing.assert_close(ours(images), plain(images))
        torch.testing.assert_close(ours(images, output_size=(6, 10)), plain(images, output_size=(6, 10)))
        assert layout(ours(images)) == "NHWC"


def test_only_the_class_of_layers_changes_and_comes_back() -> None:
    """Names, weights, config, the UNet's class and derived layers stay; undone, every layer is what it was."""

    class Derived(torch.nn.GroupNorm):
        pass

    unet = UNet2DModel(**TINY_UNET, sample_size=8)
    unet.conv_norm_out.__class__ = Derived
    before = {name: (type(module), id(module)) for name, module in unet.named_modules()}
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    config = unet.to_json_string()
    keep_channels_last(unet)
    kinds = Counter(type(module) for module in unet.modules())
    assert kinds[ChannelsLastGroupNorm] > 5 and kinds[ChannelsLastUpsample2D] == 1
    assert torch.nn.GroupNorm not in kinds and type(unet.conv_norm_out) is Derived
    assert type(unet) is UNet2DModel and unet.to_json_string() == config
    assert list(unet.state_dict()) == list(weights)
    assert {name: id(module) for name, module in unet.named_modules()} == {
        name: was for name, (_, was) in before.items()
    }
    leave_channels_last(unet)
    assert {name: (type(module), id(module)) for name, module in unet.named_modules()} == before
    for name, tensor in unet.state_dict().items():
        assert tensor.is_contiguous() and torch.equal(tensor, weights[name])


def test_a_unet_that_was_never_compiled_is_left_alone() -> None:
    """A caller's own UNet in channels_last, or in evaluation mode, stays so where nothing was compiled."""
    unet = UNet2DModel(**TINY_UNET, sample_size=8).to(memory_format=torch.channels_last).eval()
    undo_compile(unet)
    assert not unet.training and layout(unet.down_blocks[0].resnets[0].conv1.weight) == "NHWC"
