"""How a run is computed on its device, as `--speed` asks: never what it computes, but for the precision of `max`.

A CPU gains nothing from any of this (measured: compilation takes minutes there, channels_last is slower on small
images), so that all choices are one there.
"""

import os
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.backends.cuda as cuda
from diffusers import UNet2DModel
from rich.console import Console
from rich.markup import escape

from openddpm.config import TrainConfig

CompileMode = Literal["default", "reduce-overhead"]

MAX_SHARE_OF_MEMORY = 0.1  # assumed: of the device's free memory, for the images; the rest is the model's
TFLOPS_EAGER = 100.0  # assumed: what a present GPU makes of a UNet before it is compiled, in TF32
COMPILE_SECONDS = 120.0  # assumed: for a UNet, forward and backward
COMPILE_GAIN = 0.25  # assumed: of the time of a step
MAX_REASON = 300  # characters of a compiler's message, which may be pages
LAUNCH_SECONDS = 0.03  # assumed: to launch the kernels of a step one by one; CUDA graphs do so at once


@dataclass(frozen=True)
class Speed:
    """What is switched on."""

    images_on_device: bool = False
    """All images lie on the device as bytes; else a thread brings each micro-batch from memory ahead of time."""
    tf32: bool = False
    """Convolutions and matrix products round their factors to 10 bits, as PyTorch lets convolutions do by itself."""
    autotune: bool = False
    """cuDNN tries its algorithms for convolutions, and takes the fastest."""
    deterministic: bool = False
    """Only kernels that give the same bits each time."""
    compile_mode: CompileMode | None = None
    """Compiled by torch.compile, in channels_last; reduce-overhead launches a whole pass at once (CUDA graphs)."""

    def apply(self, unet: UNet2DModel) -> None:
        """Set torch's switches, which hold for the whole process, and prepare a UNet on its device."""
        if unet.device.type != "cuda":
            return
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as PyTorch's notes on reproducibility ask
        cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cudnn.benchmark = self.autotune
        torch.backends.cudnn.deterministic = self.deterministic
        torch.use_deterministic_algorithms(self.deterministic, warn_only=True)
        for enable in (cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_cudnn_sdp):
            enable(not self.deterministic)  # their gradients are sums in whatever order threads end
        if self.compile_mode is not None:
            self.compile(unet)

    def compile(self, unet: UNet2DModel) -> None:
        """Have a UNet compiled when it is first called, in place: its names and its class stay what they are."""
        unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if may_train_in_eval_mode(unet):
            unet.eval()  # the same maths; in training mode diffusers copies what each shortcut takes, to NCHW
        unet.compile(mode=self.compile_mode)


def compiled_by_a_first_pass(speed: Speed, unet: UNet2DModel, batch_size: int) -> tuple[Speed, float]:
    """Compile, which takes a minute or more, before the clock of the run starts. Each process does so by itself.

    Returns:
        the speed, without compilation where it fails, which is said; and the seconds that it took.
    """
    if speed.compile_mode is None:
        return speed, 0.0
    console, start = Console(stderr=True, highlight=False), time.perf_counter()
    console.print(f"compiling the UNet ({speed.compile_mode}): a minute or two, once a run")
    size = unet.config["sample_size"]
    noisy = torch.zeros((batch_size, unet.config["in_channels"], size, size), device=unet.device)
    try:
        for _ in range(3):  # CUDA graphs are recorded at the second pass, and first replayed at the third
            unet(noisy, torch.zeros((batch_size,), dtype=torch.long, device=unet.device)).sample.sum().backward()
            unet.zero_grad(set_to_none=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of a compiler, which may be missing or fail in any way
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        console.print(f"the UNet cannot be compiled here, and is run as it is: {escape(reason)}")
        unet._compiled_call_impl = None
        unet.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        unet.train().zero_grad(set_to_none=True)
        speed = replace(speed, compile_mode=None)
    return speed, time.perf_counter() - start


def choose_speed(
    config: TrainConfig, device: torch.device, gflops_per_image: float, total_images: int, num_bytes: int
) -> Speed:
    """Return how to compute a run.

    Args:
        gflops_per_image: forward and backward.
        total_images: of the whole run, in this process.
        num_bytes: of all images, decoded.
    """
    if device.type != "cuda":
        return Speed()
    free, _ = torch.cuda.mem_get_info(device)
    images_on_device = num_bytes <= MAX_SHARE_OF_MEMORY * free
    if config.speed == "exact":
        return Speed(images_on_device, deterministic=True)
    eager_seconds = total_images * gflops_per_image / (1000 * TFLOPS_EAGER)
    pays = config.speed == "max" or eager_seconds * COMPILE_GAIN > COMPILE_SECONDS
    step_seconds = config.train_batch_size * gflops_per_image / (1000 * TFLOPS_EAGER)
    # A recorded pass writes its gradients to the same place each time: it cannot add to those of the pass before.
    may_record = config.gradient_accumulation_steps == 1
    mode: CompileMode = "reduce-overhead" if may_record and step_seconds < LAUNCH_SECONDS else "default"
    return Speed(images_on_device, tf32=True, autotune=True, compile_mode=mode if pays else None)


def with_fast_precision(config: TrainConfig) -> TrainConfig:
    """Return the config with half precision where `--speed max` asks for it and no other has been chosen."""
    if config.speed != "max" or config.mixed_precision != "no" or not torch.cuda.is_available():
        return config
    return config.model_copy(update={"mixed_precision": "bf16" if gpu_has_bf16() else "fp16"})


def gpu_has_bf16() -> bool:
    """Tell whether the GPU computes in bfloat16; torch says so of older ones, too, which have no convolutions in it."""
    return torch.cuda.get_device_capability() >= (8, 0)


def may_train_in_eval_mode(unet: UNet2DModel) -> bool:
    """Tell whether evaluation mode changes nothing: no dropout, and no activations to be computed twice."""
    drops = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in unet.modules())
    return not drops and not unet.is_gradient_checkpointing
