"""Performance settings by `--speed`: how a run is computed on its device; its results differ in precision only.

A CPU gains nothing from any of them (measured: compilation takes minutes there, channels_last is slower on small
images), so `--speed` has no effect there.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.backends.cuda as cuda
from diffusers import UNet2DModel
from rich.console import Console
from rich.markup import escape

from openddpm.config import TrainConfig
from openddpm.diffusion.unet import image_shape
from openddpm.errors import UserError
from openddpm.record.schema import SpeedRecord
from openddpm.training.channels_last import keep_channels_last, leave_channels_last

CompileMode = Literal["default", "reduce-overhead"]

MAX_SHARE_OF_MEMORY = 0.1  # assumed: of the device's free memory, for the images; the model needs the rest
_REFUSAL = " does not have a deterministic implementation"  # torch's words (Context.cpp)
MAX_REASON = 300  # characters of a compiler's message, which may fill pages

# Measured on an NVIDIA H200 with torch 2.11, the default UNet at 64x64 (benchmarks/results/gpu.json), by
# --mixed_precision; "no" is TF32. A slower GPU gains more by compiling than these predict.
COMPILE_SECONDS = 83.0  # measured, on 16 cores
EAGER_STEP_SECONDS = {"no": 0.063, "bf16": 0.075, "fp16": 0.075}  # measured, batch 16: launching; fp16 assumed as bf16
COMPILED_LAUNCH_SECONDS = 0.03  # assumed: longer than the kernels, 21.7 ms (measured, bf16, batch 16)
TFLOPS_COMPILED = {"no": 140.0, "bf16": 283.0, "fp16": 283.0}  # measured for bf16, batch 128; the others assumed
COMPILE_GAIN = 0.25  # assumed: share of the kernels' time
MEASURED_LAYERS = 166  # with weights; assumed: the time to launch a step grows with their number


@dataclass(frozen=True)
class Speed:
    """The performance settings of a run."""

    images_on_device: bool = False
    """All images are on the device, as uint8; else a thread copies each micro-batch there ahead of time."""
    tf32: bool = False
    """Convolutions and matrix products round their factors to 10 bits, as PyTorch does for convolutions by default;
    deterministic."""
    autotune: bool = False
    """cuDNN tries its convolution algorithms and uses the fastest."""
    deterministic: bool = False
    """Only kernels with results that repeat to the bit."""
    compile_mode: CompileMode | None = None
    """Compiled by torch.compile, in channels_last; "reduce-overhead" launches a whole pass at once (CUDA graphs)."""

    def record(self, compile_seconds: float) -> SpeedRecord:
        """Return its entry in run.json."""
        return SpeedRecord(**asdict(self), compile_seconds=round(compile_seconds, 1))

    def apply(self, unet: UNet2DModel) -> None:
        """Set torch's global flags, and prepare a UNet on its device."""
        if unet.device.type == "cuda":
            self.set_flags()
            if self.compile_mode is not None:
                self.compile(unet)

    def set_flags(self) -> None:
        """Set torch's global flags for CUDA."""
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as PyTorch's notes on reproducibility ask
        cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cudnn.benchmark = self.autotune
        torch.backends.cudnn.deterministic = self.deterministic
        torch.use_deterministic_algorithms(self.deterministic)
        # Else torch fills new memory with NaN, to reveal reads of uninitialized memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        # Flash and memory-efficient attention add gradients in any order, and would now be refused (ATen,
        # attention_backward.cu). The math kernel that remains keeps all pairs of tokens: 2.1 GB for each of five layers
        # of the default UNet, in batches of 128.
        for enable in (cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_cudnn_sdp):
            enable(not self.deterministic)

    def compile(self, unet: UNet2DModel) -> None:
        """Have a UNet compiled at its first call, in place: its class and the names of its weights do not change."""
        keep_channels_last(unet)
        if may_train_in_eval_mode(unet):
            unet.eval()  # the same result; in training mode diffusers copies the input of each shortcut to NCHW
        unet.compile(options=compile_options(self.compile_mode))


@contextmanager
def unrepeatable_named() -> Iterator[None]:
    """Turn torch's refusal of an operation under `--speed exact` into an error that names it.

    Raises:
        UserError: an operation of the UNet or of a user-supplied transform adds in an order that changes.
    """
    try:
        yield
    except RuntimeError as error:
        operation, found, _ = str(error).partition(_REFUSAL)
        if not found:
            raise
        raise UserError(
            f"--speed exact: {operation.strip()} has no implementation whose results repeat to the bit",
            "Leave it out of the UNet or the transform, or train without --speed exact.",
        ) from error


def compile_options(mode: CompileMode | None) -> dict[str, Any]:
    """Return a mode of torch.compile as options, with ours added: torch accepts either a mode or options."""
    from torch import _inductor  # takes a second to import

    options = dict(_inductor.list_mode_options(mode or "default"))
    # In torch 2.13 it may fuse loops wrongly (pytorch/pytorch 189488, 191134); older versions do not have it.
    if "loop_reindexing_after_fusion" in _inductor.list_options():
        options["loop_reindexing_after_fusion"] = False
    return options


def undo_compile(unet: UNet2DModel) -> None:
    """Undo `Speed.compile`, in place; free the compiled code and the memory of its CUDA graphs.

    torch frees all compiled code of the process at once; the user's is compiled again at its next call.
    """
    if unet._compiled_call_impl is None:
        return
    unet._compiled_call_impl = None
    leave_channels_last(unet)
    unet.train()
    torch.compiler.reset()


def compile_by_first_pass(speed: Speed, unet: UNet2DModel, batch_size: int) -> tuple[Speed, float]:
    """Compile the UNet by its first calls, in each process and before the run's time is counted: a minute or more.

    Returns:
        the speed, without compilation if that failed, with a note; and the seconds it took.
    """
    if speed.compile_mode is None:
        return speed, 0.0
    console, start = Console(stderr=True, highlight=False), time.perf_counter()
    console.print(f"compiling the UNet ({speed.compile_mode}): takes a minute or two, once per session")
    noisy = torch.zeros((batch_size, *image_shape(unet.config)), device=unet.device)
    try:
        for _ in range(3):  # CUDA graphs are recorded at the second pass, and first replayed at the third
            unet(noisy, torch.zeros((batch_size,), dtype=torch.long, device=unet.device)).sample.sum().backward()
            unet.zero_grad(set_to_none=True)
    except Exception as error:  # a compiler may be missing, run out of memory or fail in any way
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        console.print(f"the UNet cannot be compiled here, and runs without compilation: {escape(reason)}")
        undo_compile(unet)
        unet.zero_grad(set_to_none=True)
        speed = replace(speed, compile_mode=None)
    return speed, time.perf_counter() - start


def choose_speed(
    config: TrainConfig,
    device: torch.device,
    gflops_per_image: float,
    num_layers: int,
    total_images: int,
    num_bytes: int,
) -> Speed:
    """Return how to compute a run.

    Args:
        gflops_per_image: forward and backward.
        num_layers: of the UNet, with weights.
        total_images: of the whole run, in this process.
        num_bytes: of all images, decoded.
    """
    if device.type != "cuda":
        return Speed()
    free, _ = torch.cuda.mem_get_info(device)
    images_on_device = num_bytes <= MAX_SHARE_OF_MEMORY * free
    if config.speed == "exact":
        return Speed(images_on_device, tf32=True, deterministic=True)
    # A pass takes as long as its kernels, or as launching them one by one; CUDA graphs launch them at once.
    precision, share = config.mixed_precision, num_layers / MEASURED_LAYERS
    kernels = config.train_batch_size * gflops_per_image / (1000 * TFLOPS_COMPILED[precision])
    eager = max(kernels / (1 - COMPILE_GAIN), share * EAGER_STEP_SECONDS[precision])
    launching = share * COMPILED_LAUNCH_SECONDS
    # A CUDA graph overwrites its gradients each time: it cannot accumulate them over passes.
    may_record = config.gradient_accumulation_steps == 1
    mode: CompileMode = "reduce-overhead" if may_record and kernels < launching else "default"
    compiled = kernels if mode == "reduce-overhead" else max(kernels, launching)
    saved = (eager - compiled) * total_images / config.train_batch_size
    pays = config.speed == "max" or saved > COMPILE_SECONDS
    return Speed(images_on_device, tf32=True, autotune=True, compile_mode=mode if pays else None)


def num_layers(unet: UNet2DModel) -> int:
    """Return the number of layers that have weights of their own."""
    return sum(any(True for _ in module.parameters(recurse=False)) for module in unet.modules())


def with_fast_precision(config: TrainConfig) -> TrainConfig:
    """Return the config, with half precision if `--speed max` is given without --mixed_precision."""
    if config.speed != "max" or "mixed_precision" in config.model_fields_set or not torch.cuda.is_available():
        return config
    return config.model_copy(update={"mixed_precision": "bf16" if gpu_has_bf16() else "fp16"})


def remarks_on_speed(config: TrainConfig, device: torch.device) -> list[str]:
    """Return remarks on `--speed` in combination with other options, a sentence each."""
    if device.type != "cuda" or config.speed != "max" or config.mixed_precision != "no":
        return []
    return [
        "--speed max runs without half precision here, because of --mixed_precision no or of the run that is resumed; "
        "a new run without that option would use it"
    ]


def gpu_has_bf16() -> bool:
    """Tell whether the GPU has bfloat16 convolutions; torch claims bfloat16 for older ones, which do not."""
    return torch.cuda.get_device_capability() >= (8, 0)


def may_train_in_eval_mode(unet: UNet2DModel) -> bool:
    """Tell whether evaluation mode trains the same: no dropout and no gradient checkpointing."""
    drops = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in unet.modules())
    return not drops and not unet.is_gradient_checkpointing
