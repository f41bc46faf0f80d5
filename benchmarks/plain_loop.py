"""A plain training loop, written the way widely copied scripts write it, and what each measure of ours is worth in it.

As it stands it decodes its images at every step in the main process, makes noise on the CPU, waits for the device twice
a step, averages the weights one tensor at a time and makes a preview of 16 images by 50 DDIM steps after every epoch.
Each of MEASURES puts one of these right; each of BUGS is what those scripts get wrong besides. It is a program of its
own, to be timed from its start to its end; it prints one JSON object.

    python benchmarks/plain_loop.py --images FOLDER --unet CONFIG.json --resolution 16 --max_train_steps 400
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from measures import BUGS, MEASURES
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

NUM_WORKERS = 4
EMA_INV_GAMMA, EMA_POWER, EMA_MAX_DECAY = 1.0, 0.75, 0.9999
PREVIEW_IMAGES, PREVIEW_STEPS = 16, 50
SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Options:
    """What the loop is to do; the defaults are the copied script's."""

    images: Sequence[Path]
    unet: dict[str, Any]
    resolution: int
    max_train_steps: int
    train_batch_size: int = 16
    learning_rate: float = 1e-4
    lr_warmup_steps: int = 500
    random_flip: bool = True
    save_images_epochs: int = 1
    """Epochs between previews; there is one at the end besides."""
    previews: bool = True
    seed: int = 0
    window_steps: int = 5
    """Steps from one entry of `Outcome.windows` to the next."""
    switched: frozenset[str] = frozenset()
    """Names in MEASURES and BUGS."""


@dataclass
class Outcome:
    """What came of it."""

    num_images: int = 0
    seconds: float = 0.0
    """Of the loop, previews included."""
    preview_seconds: float = 0.0
    windows: list[dict[str, float]] = field(default_factory=list)
    """`images`, `seconds` and `preview_seconds` after every so many steps, before a preview that is due then."""
    losses: list[torch.Tensor | float] = field(default_factory=list)
    unet: UNet2DModel | None = None
    ema: list[torch.Tensor] | None = None


Evaluate = Callable[[UNet2DModel, list[torch.Tensor], Outcome], None]


def train(options: Options, evaluate: Evaluate | None = None) -> Outcome:
    """Train a UNet.

    Args:
        evaluate: called after each epoch and at the end with the UNet, its averaged weights and the outcome so far; the
            time it takes is not counted.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    torch.backends.cuda.matmul.allow_tf32 = "tf32" in options.switched  # convolutions may anyway, by default
    torch.backends.cudnn.benchmark = "tf32" in options.switched
    unet = UNet2DModel(**options.unet).to(device).train()
    model: Any = unet
    if "compile" in options.switched:
        model = torch.compile(unet.to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW(
        unet.parameters(),
        lr=options.learning_rate,
        betas=(0.95, 0.999),
        weight_decay=1e-6,
        eps=1e-3 if "adam-epsilon" in options.switched else 1e-8,
        fused=True if "fused-adamw" in options.switched else None,
    )
    warmup, steps = options.lr_warmup_steps, options.max_train_steps
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    ema = [parameter.detach().clone() for parameter in unet.parameters()]
    outcome, start, evaluating, epochs = Outcome(unet=unet, ema=ema), time.perf_counter(), 0.0, 0
    for is_epoch_end, images in _batches(options, device):
        _step(options, model, optimizer, schedule, scheduler, images, outcome)
        _average(options, ema, unet, len(outcome.losses))
        is_over = len(outcome.losses) == options.max_train_steps
        if is_over or len(outcome.losses) % options.window_steps == 0:
            _wait(device)
            seconds = {"seconds": time.perf_counter() - start - evaluating, "preview_seconds": outcome.preview_seconds}
            outcome.windows.append({"images": outcome.num_images, **seconds})
        epochs += is_epoch_end
        if is_epoch_end or is_over:
            if options.previews and (is_over or epochs % options.save_images_epochs == 0):
                outcome.preview_seconds += _preview(options, unet, ema, scheduler)
            _wait(device)
            before = time.perf_counter()
            outcome.seconds = before - start - evaluating
            if evaluate is not None:
                evaluate(unet, ema, outcome)
            evaluating += time.perf_counter() - before
        if is_over:
            break
    return outcome


def _step(
    options: Options,
    model: Any,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    scheduler: DDIMScheduler,
    images: torch.Tensor,
    outcome: Outcome,
) -> None:
    maker = images.device if "device-noise" in options.switched else torch.device("cpu")
    noise = torch.randn(images.shape, device=maker).to(images.device)
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(images),), device=images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled="bf16" in options.switched):
        prediction = model(scheduler.add_noise(images, noise, timesteps), timesteps).sample
    loss = F.mse_loss(prediction.float(), noise)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    outcome.num_images += len(images)
    if "no-waits" in options.switched:
        outcome.losses.append(loss.detach())
    else:
        outcome.losses.append(loss.detach().item())
        loss.detach().item()  # once for the progress bar, once for the log


def _average(options: Options, ema: list[torch.Tensor], unet: UNet2DModel, step: int) -> None:
    decay = min(max(1 - (1 + step / EMA_INV_GAMMA) ** -EMA_POWER, 0.0), EMA_MAX_DECAY)
    parameters = [parameter.detach() for parameter in unet.parameters()]
    if "foreach-ema" in options.switched:
        torch._foreach_lerp_(ema, parameters, 1 - decay)
    else:
        for average, parameter in zip(ema, parameters, strict=True):
            average.sub_((1 - decay) * (average - parameter))


def _preview(options: Options, unet: UNet2DModel, ema: list[torch.Tensor], scheduler: DDIMScheduler) -> float:
    """Sample with the averaged weights; returns the seconds it took."""
    _wait(unet.device)
    start = time.perf_counter()
    drawing = torch.manual_seed(0) if "random-reset" in options.switched else torch.Generator().manual_seed(0)
    live = [parameter.detach().clone() for parameter in unet.parameters()]
    _copy(ema, unet)
    pipeline = DDIMPipeline(unet=unet, scheduler=copy.deepcopy(scheduler))
    pipeline.set_progress_bar_config(disable=True)
    steps = PREVIEW_STEPS // 2 if "half-previews" in options.switched else PREVIEW_STEPS
    pipeline(batch_size=PREVIEW_IMAGES, generator=drawing, num_inference_steps=steps, output_type="np")
    if "ema-copied-back" not in options.switched:
        _copy(live, unet)
    return time.perf_counter() - start


def _copy(weights: list[torch.Tensor], unet: UNet2DModel) -> None:
    for parameter, weight in zip(unet.parameters(), weights, strict=True):
        parameter.data.copy_(weight)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class _Images(Dataset[torch.Tensor]):
    """Image files, decoded and transformed whenever they are asked for."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def __len__(self) -> int:
        return len(self._options.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return an image, (3, H, W) float32 in [-1, 1]."""
        image = decode(self._options.images[index], self._options.resolution)
        if self._options.random_flip and torch.rand(()) < 0.5:
            image = image.flip(-1)
        return image.float() / 127.5 - 1


def _batches(options: Options, device: torch.device) -> Iterator[tuple[bool, torch.Tensor]]:
    """Yield (whether the epoch ends, images (B, C, H, W) float32 in [-1, 1]), shuffled anew in every epoch."""
    if "decoded-once" in options.switched:
        yield from _kept_batches(options, device)
    workers = NUM_WORKERS if "workers" in options.switched else 0
    loader = DataLoader(
        _Images(options), options.train_batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        for number, images in enumerate(loader, start=1):
            yield number == len(loader), images.to(device)


def _kept_batches(options: Options, device: torch.device) -> Iterator[tuple[bool, torch.Tensor]]:
    stored = torch.stack([decode(path, options.resolution) for path in options.images]).to(device)
    size = options.train_batch_size
    while True:
        order = torch.randperm(len(stored)).to(device)
        for start in range(0, len(stored), size):
            images = stored[order[start : start + size]]
            if options.random_flip:
                flipped = torch.rand((len(images), 1, 1, 1), device=device) < 0.5
                images = torch.where(flipped, images.flip(-1), images)
            yield start + size >= len(stored), images.float() / 127.5 - 1


def decode(path: Path, resolution: int) -> torch.Tensor:
    """Return an image as (3, H, W) uint8, resized and cropped."""
    with Image.open(path) as file:
        image = ImageOps.fit(file.convert("RGB"), (resolution, resolution), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def image_files(folder: Path) -> list[Path]:
    """Return the PNG and JPEG files in a folder and below."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def main() -> None:
    """Train as the command line asks, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with PNG or JPEG files")
    parser.add_argument("--unet", type=Path, required=True, help="config of a UNet2DModel")
    parser.add_argument("--max_train_steps", type=int, required=True)
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--train_batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--lr_warmup_steps", type=int, default=500)
    parser.add_argument("--random_flip", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save_images_epochs", type=int, default=1)
    parser.add_argument("--previews", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--window_steps", type=int, default=5, help="steps after which the time is noted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of the CPU (default: what torch takes)")
    parser.add_argument("--switch", nargs="*", default=[], choices=[*MEASURES, *BUGS], help="measures and bugs")
    given = vars(parser.parse_args())
    if (threads := given.pop("threads")) is not None:
        torch.set_num_threads(threads)
    unet = {**json.loads(given.pop("unet").read_text("utf-8")), "sample_size": given["resolution"]}
    switched = frozenset(given.pop("switch"))
    outcome = train(Options(**{**given, "images": image_files(given["images"])}, unet=unet, switched=switched))
    result = {name: getattr(outcome, name) for name in ("num_images", "seconds", "preview_seconds", "windows")}
    result["last_loss"] = float(outcome.losses[-1])
    if torch.cuda.is_available():
        result["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
