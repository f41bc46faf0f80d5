"""What makes a small DDPM learn faster: one change at a time, on equal images, several seeds and data sets.

    python benchmarks/learning.py --output_dir runs/learning --data avatars-16 digits --seeds 0 1 2 --jobs 2
    python benchmarks/learning.py --output_dir runs/learning --rates       # seconds a step of each, with nothing else

Every run is a process of its own on one thread, and is not trained again if its result is there. Skill is that of the
EMA weights on 288 held-out (image, timestep, noise) tuples, the same for all variants of a data set and seed. `--table`
prints what is there.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from commands import run_all
from digits import write_digits
from origin import origin, write_results

from openddpm.config import TrainConfig
from openddpm.diffusion import unet as unets
from openddpm.diffusion.sampling import Denoiser
from openddpm.record.reader import read_run_folder
from openddpm.training import loop, setup, timetable
from openddpm.training.heldout import FixedTuples
from openddpm.training.probe import Probe
from openddpm.training.run import Training

FIRST_RECIPE: dict[str, Any] = {
    "model": "unet-16",
    "random_flip": False,
    "train_batch_size": 16,
    "learning_rate": 4e-3,
    "lr_warmup_steps": 100,
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "ema_max_decay": 0.999,
    "timestep_sampling": "stratified",
    "num_inference_steps": 10,
    "save_images_epochs": 1_000_000,  # at the end only
    "checkpointing_steps": 1_000_000,
}
FIRST_UNET = {"block_out_channels": (32, 64), "attention_head_dim": 32}  # what differs from the present unet-16
DATA: dict[str, tuple[dict[str, Any], int]] = {  # options, images to train on
    "avatars-16": ({"dataset": "avatars-16", "resolution": 16}, 16_000),
    "digits-8": ({"resolution": 8}, 16_000),
    "own-32": ({"resolution": 32}, 8_000),
}
TIMETABLE: dict[str, Any] = {"MAX_SHARE_OF_TIME": 0.05, "TUPLE_COUNTS": (288,), "MIN_EVALUATIONS": 1}
MIN_SNR_GAMMA = 5.0  # cited: Hang et al., 2023


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    what: str
    options: dict[str, Any] = field(default_factory=dict)
    unet: dict[str, Any] = field(default_factory=dict)
    weight: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Of an image's error, from its signal-to-noise ratio; the product has none of these."""


_MUON: dict[str, Any] = {"optimizer": "muon"}
_ZERO: dict[str, Any] = {"zero_init_residuals": True}
_IMPORTANCE: dict[str, Any] = {"timestep_sampling": "importance"}
_ALL = {**_MUON, **_ZERO, **_IMPORTANCE}
_PLAIN_BLOCKS = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}

VARIANTS = {
    "first-recipe": Variant("the first recipe: AdamW, batch 16, learning rate 4e-3"),
    "importance": Variant("timesteps by importance", _IMPORTANCE),
    "muon": Variant("Muon", _MUON),
    "zero": Variant("residual blocks begin at 0", _ZERO),
    "muon-zero": Variant("Muon, and residual blocks begin at 0", {**_MUON, **_ZERO}),
    "all": Variant("all: Muon, residual blocks at 0, importance", _ALL),
    "all-batch-32": Variant(
        "all, batch 32, learning rate 6e-3", {**_ALL, "train_batch_size": 32, "learning_rate": 6e-3}
    ),
    "all-batch-32-even": Variant(
        "all, batch 32, channels (48, 48)",
        {**_ALL, "train_batch_size": 32, "learning_rate": 6e-3},
        {"block_out_channels": (48, 48), "attention_head_dim": 48},
    ),
    "all-lr-8e-3": Variant("all, learning rate 8e-3", {**_ALL, "learning_rate": 8e-3}),
    "all-lr-2e-3": Variant("all, learning rate 2e-3", {**_ALL, "learning_rate": 2e-3}),
    "uniform": Variant("timesteps drawn independently", {"timestep_sampling": "uniform"}),
    "batch-32": Variant("batch 32", {"train_batch_size": 32}),
    "lr-8e-3": Variant("learning rate 8e-3", {"learning_rate": 8e-3}),
    "lr-2e-3": Variant("learning rate 2e-3", {"learning_rate": 2e-3}),
    "ema-0.9999": Variant("EMA decay up to 0.9999", {"ema_max_decay": 0.9999}),
    "ema-0.99": Variant("EMA decay up to 0.99", {"ema_max_decay": 0.99}),
    "v": Variant("velocity predicted", {"prediction_type": "v_prediction"}),
    "v-noise-error": Variant(
        "velocity predicted, error of the noise",
        {"prediction_type": "v_prediction"},
        weight=lambda snr: snr / (snr + 1),
    ),
    "v-min-snr": Variant(
        "velocity predicted, min-SNR-5 weights",
        {"prediction_type": "v_prediction"},
        weight=lambda snr: snr.clamp(max=MIN_SNR_GAMMA) / (snr + 1),
    ),
    "cosine-noise": Variant("cosine noise schedule", {"beta_schedule": "squaredcos_cap_v2"}),
    "scale-shift": Variant("time embedding scales and shifts", unet={"resnet_time_scale_shift": "scale_shift"}),
    "wide": Variant("channels (48, 64)", unet={"block_out_channels": (48, 64)}),
    "even": Variant("channels (48, 48)", unet={"block_out_channels": (48, 48), "attention_head_dim": 48}),
    "deep": Variant("two layers a block", unet={"layers_per_block": 2}),
    "no-attention": Variant("no attention in blocks", unet=_PLAIN_BLOCKS),
}


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="file for the numbers (default: in the output folder)")
    parser.add_argument("--data", nargs="+", default=["avatars-16"], choices=list(DATA))
    parser.add_argument("--own_dataset", type=Path, help="the images of own-32")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on a core of its own")
    parser.add_argument("--rates", action="store_true", help="measure the time of a step of each variant instead")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--run", action="store_true", help="train the first of all, here and now")
    given = parser.parse_args()
    output_dir: Path = given.output_dir
    if given.run:
        torch.set_num_threads(1)
        train_one(given, given.data[0], given.variants[0], given.seeds[0])
        return
    if given.rates:
        measure_rates(given)
    elif not given.table:
        wanted = [(d, v, s) for s in given.seeds for d in given.data for v in given.variants]
        missing = [key for key in wanted if not _result(output_dir, *key).exists()]
        run_all({f"{d}, {v}, seed {s}": _command(given, d, v, s) for d, v, s in missing}, given.jobs, threads=1)
    runs = [json.loads(path.read_text()) for path in sorted(output_dir.glob("*.json")) if path.stem.count("--") == 2]
    rates = output_dir / "rates.json"
    results = {**origin(1), "rates": json.loads(rates.read_text()) if rates.exists() else {}, "runs": runs}
    write_results(results, given.results or output_dir / "learning" / "learning.json")
    print(table(results))


def _result(output_dir: Path, data: str, variant: str, seed: int) -> Path:
    return output_dir / f"{data}--{variant}--{seed}.json"


def _command(given: argparse.Namespace, data: str, variant: str, seed: int) -> list[str]:
    """Return the command that trains one run here and now."""
    command = [sys.executable, __file__, "--run", "--output_dir", str(given.output_dir), "--data", data]
    command += ["--variants", variant, "--seeds", str(seed)]
    return [*command, *(["--own_dataset", str(given.own_dataset)] if given.own_dataset else [])]


def _config(given: argparse.Namespace, data: str, variant: Variant, seed: int, folder: Path) -> TrainConfig:
    options, num_images = DATA[data]
    if data == "own-32" and given.own_dataset is None:
        raise SystemExit("own-32 needs --own_dataset")
    dataset = {
        "digits-8": lambda: str(write_digits(given.output_dir / "digits")),
        "own-32": lambda: str(given.own_dataset),
    }
    options = {**options, "dataset": options.get("dataset") or dataset[data]()}
    config = TrainConfig(
        **{**FIRST_RECIPE, **options, **variant.options},
        seed=seed,
        output_dir=str(folder),
        overwrite_output_dir=True,
        logging_dir=str(given.output_dir / "logs"),
        cache_dir=str(given.output_dir / "cache"),
    )
    return config.model_copy(update={"max_train_steps": num_images // config.train_batch_size})


def prepared(config: TrainConfig, variant: Variant) -> Training:
    """Return a run of a variant, ready to be trained."""
    with (
        patch.dict(unets.SIZES, {"unet-16": {**unets.SIZES["unet-16"], **FIRST_UNET, **variant.unet}}),
        patch.multiple(timetable, **TIMETABLE),
    ):
        return setup.prepare(config)


def train_one(given: argparse.Namespace, data: str, name: str, seed: int) -> None:
    """Train one run and write its result."""
    variant = VARIANTS[name]
    folder = given.output_dir / "runs" / f"{data}--{name}--{seed}"
    training = prepared(_config(given, data, variant, seed, folder), variant)
    if variant.options.get("beta_schedule"):
        _judge_on_linear_noise(training, data, given, seed)
    loss = weighted_loss(variant) if variant.weight else loop.micro_batch_loss
    start = time.process_time()
    with patch.object(loop, "micro_batch_loss", loss):
        status = loop.fit(training).status
    assert status == "finished"
    ema, raw = (
        [row for row in read_run_folder(folder).evaluations if row.weights == kind][-1] for kind in ("ema", "raw")
    )
    result = {
        **{"data": data, "variant": name, "seed": seed, "images": ema.images, "skill": ema.skill},
        **{"skill_raw": raw.skill, "skill_error": ema.skill_error, "heldout_loss": ema.heldout_loss},
        "bands": {band: score.skill for band, score in ema.bands.items()},
        "cpu_seconds": round(time.process_time() - start, 1),
    }
    _result(given.output_dir, data, name, seed).write_text(json.dumps(result) + "\n")


def weighted_loss(variant: Variant) -> Callable[[Training, int], torch.Tensor]:
    """Return the loss of the loop, with each image's error weighted by its signal-to-noise ratio."""
    weight = variant.weight
    assert weight is not None

    def loss(training: Training, accumulation_index: int) -> torch.Tensor:
        timesteps, _ = training.timesteps_of(accumulation_index)

        def weighted(prediction: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
            errors = (prediction - target).square()
            return errors * weight(training.process.snr()[timesteps]).view(-1, 1, 1, 1)

        with patch.object(F, "mse_loss", weighted):
            return _PLAIN_LOSS(training, accumulation_index)

    return loss


_PLAIN_LOSS = loop.micro_batch_loss


def _judge_on_linear_noise(training: Training, data: str, given: argparse.Namespace, seed: int) -> None:
    """Score a model of another noise schedule on the tuples of the linear one, at the timesteps of like noise."""
    linear = prepared(
        _config(given, data, Variant(""), seed, given.output_dir / "runs" / f"{data}--linear--{seed}"), Variant("")
    )
    linear.close()
    theirs, ours = linear.process.snr().log(), training.process.snr().log()
    nearest = (theirs[:, None] - ours[None]).abs().argmin(dim=1)
    score = FixedTuples.squared_errors

    def translated(self: FixedTuples, denoise: Denoiser, batch_size: int) -> Any:
        return score(self, lambda noisy, timesteps: denoise(noisy, nearest[timesteps]), batch_size)

    training.evaluation = linear.evaluation
    for tuples in (linear.evaluation.train, linear.evaluation.heldout):
        if tuples is not None:
            tuples.squared_errors = translated.__get__(tuples)  # type: ignore[method-assign]


def measure_rates(given: argparse.Namespace) -> None:
    """Write the images a second of each variant: medians over rounds in which all take turns."""
    torch.set_num_threads(1)
    rates: dict[str, dict[str, float]] = {}
    for data in given.data:
        probes = {}
        for name in given.variants:
            folder = given.output_dir / "runs" / "rate"
            training = prepared(_config(given, data, VARIANTS[name], 0, folder), VARIANTS[name])
            training.close()
            probes[name] = (Probe(training), training.config.train_batch_size)
        seconds: dict[str, list[float]] = {name: [] for name in probes}
        for _ in range(9):
            for name, (probe, _) in probes.items():
                seconds[name].append(probe._timed_step())
        rates[data] = {
            name: round(size / statistics.median(seconds[name][1:]), 1) for name, (_, size) in probes.items()
        }
    path = given.output_dir / "rates.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **rates}, indent=1) + "\n")


def table(results: dict[str, Any]) -> str:
    """Return Markdown: a row a variant, a column a data set; skill as mean and range over seeds."""
    runs = results["runs"]
    names = [data for data in DATA if any(run["data"] == data for run in runs)]
    lines = [
        "| what | " + " | ".join(f"{n}: skill | images/s" for n in names) + " |",
        "|---" * (1 + 2 * len(names)) + "|",
    ]
    for name, variant in VARIANTS.items():
        cells: list[str] = []
        for data in names:
            skills = [run["skill"] for run in runs if (run["data"], run["variant"]) == (data, name)]
            cells += [_spread(skills), str(results["rates"].get(data, {}).get(name, ""))]
        if any(cells):
            lines.append(f"| {variant.what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(skills: Sequence[float]) -> str:
    if not skills:
        return ""
    mean = f"{statistics.mean(skills):+.3f}"
    return mean if len(skills) == 1 else f"{mean} ({min(skills):+.3f} to {max(skills):+.3f})"


if __name__ == "__main__":
    main()
