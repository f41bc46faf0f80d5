"""What a GPU's time in a few steps goes to, by kinds of kernels."""

import time
from pathlib import Path
from typing import Any

import torch

KINDS = {
    "change of layout": ("nchwtonhwc", "nhwctonchw", "nchw_to_nhwc", "nhwc_to_nchw", "transpose_readwrite"),
    "convolution": ("conv", "fprop", "dgrad", "wgrad", "xmma_"),
    "attention": ("flash", "fmha", "attention", "softmax"),
    "matrix products": ("gemm", "nvjet", "::mm", "addmm", "linear"),
    "optimizer and EMA": ("multi_tensor_apply", "fusedadam", "_foreach", "lerp"),
    "written by the compiler": ("triton_",),
    "normalization": ("norm",),
    "copies": ("memcpy", "copy_", "memset"),
}
"""By parts of a kernel's name in small letters, the first that fits; the rest is elementwise work."""


class Profile:
    """Watches the kernels of a few steps; on a GPU not the CPU's work, which makes a step several times longer."""

    def __init__(self) -> None:
        self._on_gpu = torch.cuda.is_available()
        activity = torch.profiler.ProfilerActivity
        self._profiler = torch.profiler.profile(activities=[activity.CUDA if self._on_gpu else activity.CPU])
        wait()
        self._profiler.start()

    def stop(self, table: Path, steps: int) -> dict[str, Any]:
        """Return number and milliseconds of kernels a step, and shares by kind; write the longest 60 to `table`."""
        wait()
        self._profiler.stop()
        averages = self._profiler.key_averages()
        key = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
        times = sorted(((getattr(entry, key), entry.count, entry.key) for entry in averages), reverse=True)
        lines = [f"{spent / 1000:10.3f} ms {count:6d} x  {name}\n" for spent, count, name in times[:60]]
        table.write_text("".join(lines), encoding="utf-8")
        whole = sum(spent for spent, _, _ in times) or 1.0
        totals: dict[str, float] = {}
        for spent, _, name in times:
            totals[kind_of(name)] = totals.get(kind_of(name), 0.0) + spent
        shares = {kind: round(spent / whole, 4) for kind, spent in sorted(totals.items(), key=lambda item: -item[1])}
        count = sum(count for _, count, _ in times)
        return {"kernels": round(count / steps), "milliseconds": round(whole / 1000 / steps, 2), "shares": shares}


def kind_of(name: str) -> str:
    """Return the kind of a kernel."""
    small = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in small for part in parts)), "elementwise")


def wait() -> None:
    """Let the GPU come to the end of what it has been given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ceilings() -> dict[str, float]:
    """Return what the device gives, in a few seconds: TB/s of a copy, TFLOP/s of square products of random numbers."""
    on_gpu = torch.cuda.is_available()
    device, size, count, rounds = ("cuda", 8192, 2**31, 10) if on_gpu else ("cpu", 256, 2**20, 2)
    here = torch.empty(count, dtype=torch.uint8, device=device)
    there = torch.empty_like(here)
    found = {"copy_tb_per_second": round(2 * count / _best(lambda: there.copy_(here), rounds) / 1e12, 4)}
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    for name, dtype in {"bf16": torch.bfloat16, "tf32": torch.float32}.items():
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        found[f"matmul_{name}_tflops"] = round(2 * size**3 / _best(lambda a=left, b=right: a @ b, rounds) / 1e12, 2)
    torch.backends.cuda.matmul.allow_tf32 = before
    if on_gpu:
        torch.cuda.empty_cache()
    return found


def _best(call: Any, rounds: int, tries: int = 3) -> float:
    """Return the seconds of a call in the best of a few tries of `rounds` calls, after one to warm up."""
    best = float("inf")
    for number in range(tries + 1):
        wait()
        begun = time.perf_counter()
        for _ in range(rounds):
            call()
        wait()
        if number:
            best = min(best, (time.perf_counter() - begun) / rounds)
    return best
