"""A plain training loop, written the way widely copied scripts write it, and what each measure of ours is worth in it.

As it stands it decodes its images at every step in the main process, makes noise on the CPU, waits for the device twice
a step, averages the weights one tensor at a time and makes a preview of 16 images by 50 DDIM steps after every epoch.
Each of MEASURES puts one of these right; each of FAULTS is what those scripts get wrong besides. It is a program of its
own, to be timed from its start to its end; it prints one JSON object.

    python benchmarks/plain_loop.py --images FOLDER --unet CONFIG.json --resolution 16 --max_train_steps 400
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from PIL import Image, ImageOps

MEASURES = {
    "decoded-once": "images decoded once and kept as bytes on the device",
    "device-noise": "noise made on the device",
    "bf16": "forward and backward pass in bfloat16",
    "no-waits": "no wait for the device at every step",
    "fused-adamw": "fused AdamW",
    "foreach-ema": "the average of the weights updated by a few calls",
    "half-previews": "previews by half the steps",
}
FAULTS = {
    "adam-epsilon": "Adam's epsilon 1e-3",
    "ema-copied-back": "averaged weights copied over those in training at every preview",
    "random-reset": "random numbers reset at every preview",
}
EMA_INV_GAMMA, EMA_POWER = 1.0, 0.75
PREVIEW_IMAGES, PREVIEW_STEPS = 16, 50


@dataclass(frozen=True)
class Options:
    """What the loop is to do."""

    images: list[Path]
    unet: dict[str, Any]
    resolution: int
    train_batch_size: int
    max_train_steps: int
    learning_rate: float
    lr_warmup_steps: int
    adam_beta1: float
    adam_beta2: float
    ema_max_decay: float
    random_flip: bool
    previews: bool
    seed: int
    switched: frozenset[str] = frozenset()
    """Names in MEASURES and FAULTS."""


@dataclass
class Outcome:
    """What came of it."""

    num_images: int
    seconds: float
    """Of the loop, previews included."""
    preview_seconds: float
    losses: list[float] = field(default_factory=list)
    unet: UNet2DModel | None = None
    ema: list[torch.Tensor] | None = None


def train(options: Options, look: Callable[[UNet2DModel, list[torch.Tensor], int], None] | None = None) -> Outcome:
    """Train a UNet.

    Args:
        look: called after each epoch with the UNet, its averaged weights and the number of images so far; the time it
            takes is not counted.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    unet = UNet2DModel(**options.unet).to(device).train()
    optimizer = torch.optim.AdamW(
        unet.parameters(),
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=1e-6,
        eps=1e-3 if "adam-epsilon" in options.switched else 1e-8,
        fused="fused-adamw" in options.switched,
        foreach=False if "fused-adamw" not in options.switched else None,
    )
    schedule = get_scheduler("cosine", optimizer, options.lr_warmup_steps, options.max_train_steps)
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    ema = [parameter.detach().clone() for parameter in unet.parameters()]
    outcome, start, looked = Outcome(0, 0.0, 0.0), time.perf_counter(), 0.0
    for is_epoch_end, images in _batches(options, device):
        _step(options, unet, optimizer, schedule, scheduler, images, outcome)
        _average(options, ema, unet, len(outcome.losses))
        if is_epoch_end or len(outcome.losses) == options.max_train_steps:
            if options.previews:
                outcome.preview_seconds += _preview(options, unet, ema, scheduler)
            if look is not None:
                before = time.perf_counter()
                look(unet, ema, outcome.num_images)
                looked += time.perf_counter() - before
        if len(outcome.losses) == options.max_train_steps:
            break
    if device.type == "cuda":
        torch.cuda.synchronize()
    outcome.seconds = time.perf_counter() - start - looked
    outcome.losses = [float(loss) for loss in outcome.losses]
    outcome.unet, outcome.ema = unet, ema
    return outcome


def _step(
    options: Options,
    unet: UNet2DModel,
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
        prediction = unet(scheduler.add_noise(images, noise, timesteps), timesteps).sample
    loss = F.mse_loss(prediction.float(), noise)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    outcome.num_images += len(images)
    if "no-waits" in options.switched:
        outcome.losses.append(loss.detach())  # type: ignore[arg-type]
    else:
        outcome.losses.append(loss.detach().item())
        loss.detach().item()  # once for the progress bar, once for the log


def _average(options: Options, ema: list[torch.Tensor], unet: UNet2DModel, step: int) -> None:
    decay = min(max(1 - (1 + step / EMA_INV_GAMMA) ** -EMA_POWER, 0.0), options.ema_max_decay)
    parameters = [parameter.detach() for parameter in unet.parameters()]
    if "foreach-ema" in options.switched:
        torch._foreach_lerp_(ema, parameters, 1 - decay)
    else:
        for average, parameter in zip(ema, parameters, strict=True):
            average.sub_((1 - decay) * (average - parameter))


def _preview(options: Options, unet: UNet2DModel, ema: list[torch.Tensor], scheduler: DDIMScheduler) -> float:
    """Sample with the averaged weights; returns the seconds it took."""
    start = time.perf_counter()
    drawing = torch.Generator().manual_seed(0)
    if "random-reset" in options.switched:
        drawing = torch.manual_seed(0)
    live = [parameter.detach().clone() for parameter in unet.parameters()]
    for parameter, average in zip(unet.parameters(), ema, strict=True):
        parameter.data.copy_(average)
    pipeline = DDIMPipeline(unet=unet, scheduler=copy.deepcopy(scheduler))
    pipeline.set_progress_bar_config(disable=True)
    steps = PREVIEW_STEPS // 2 if "half-previews" in options.switched else PREVIEW_STEPS
    pipeline(batch_size=PREVIEW_IMAGES, generator=drawing, num_inference_steps=steps, output_type="np")
    if "ema-copied-back" not in options.switched:
        for parameter, weight in zip(unet.parameters(), live, strict=True):
            parameter.data.copy_(weight)
    return time.perf_counter() - start


def _batches(options: Options, device: torch.device) -> Iterator[tuple[bool, torch.Tensor]]:
    """Yield (whether the epoch ends, images (B, C, H, W) float32 in [-1, 1]), shuffled anew in every epoch."""
    size, count = options.train_batch_size, len(options.images)
    stored = None
    if "decoded-once" in options.switched:
        stored = torch.stack([_decode(path, options) for path in options.images]).to(device)
    while True:
        order = torch.randperm(count)
        for start in range(0, count, size):
            chosen = order[start : start + size]
            if stored is None:
                images = torch.stack([_decode(options.images[index], options) for index in chosen]).to(device)
            else:
                images = stored[chosen.to(device)]
            if options.random_flip:
                flipped = torch.rand(len(images), device=device) < 0.5
                images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
            yield start + size >= count, images.float() / 127.5 - 1


def _decode(path: Path, options: Options) -> torch.Tensor:
    """Return an image as (3, H, W) uint8, resized and cropped."""
    image = Image.open(path).convert("RGB")
    image = ImageOps.fit(image, (options.resolution, options.resolution), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def main() -> None:
    """Train as the command line asks, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with PNG or JPEG files")
    parser.add_argument("--unet", type=Path, required=True, help="config of a UNet2DModel")
    parser.add_argument("--resolution", type=int, default=16)
    parser.add_argument("--train_batch_size", type=int, default=16)
    parser.add_argument("--max_train_steps", type=int, required=True)
    parser.add_argument("--no_previews", action="store_true")
    parser.add_argument("--switch", nargs="*", default=[], choices=[*MEASURES, *FAULTS], help="measures and faults")
    given = parser.parse_args()
    files = sorted(path for path in given.images.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    options = Options(
        images=files,
        unet={**json.loads(given.unet.read_text("utf-8")), "sample_size": given.resolution},
        resolution=given.resolution,
        train_batch_size=given.train_batch_size,
        max_train_steps=given.max_train_steps,
        learning_rate=1e-4,
        lr_warmup_steps=500,
        adam_beta1=0.95,
        adam_beta2=0.999,
        ema_max_decay=0.9999,
        random_flip=True,
        previews=not given.no_previews,
        seed=0,
        switched=frozenset(given.switch),
    )
    outcome = train(options)
    result = {"num_images": outcome.num_images, "seconds": outcome.seconds, "preview_seconds": outcome.preview_seconds}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
