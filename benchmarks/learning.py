"""What makes a small DDPM learn faster: one change at a time, on equal images, several seeds and data sets.

    python benchmarks/learning.py --output_dir runs/learning --data avatars-16 digits-8 --seeds 0 1 2 --jobs 2
    python benchmarks/learning.py --output_dir runs/learning --rates       # images a second of each, with nothing else
    python benchmarks/learning.py --output_dir runs/learning --equal_time  # as long as the first recipe, by those rates

Every run is a process of its own on one thread, and is not trained again if its folder and a result of as many images
are there, whatever has changed in this file since: take another --output_dir then. Skill is that of the
EMA weights on 288 held-out (image, timestep, noise) tuples, the same for all variants of a data set and seed; the
kernel distance is that of samples of theirs (see kernel_distance.py; needs openddpm[bench]). `--table` trains nothing.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from commands import int_of_at_least, run_all
from digits import write_digits
from kernel_distance import Features, KernelDistance, features_of
from origin import origin, write_results
from sampling import FEW_STEPS, dataset_images

from openddpm.config import TrainConfig
from openddpm.data.stream import signed_unit_to_uint8
from openddpm.diffusion import unet as unets
from openddpm.diffusion.denoiser import Denoiser
from openddpm.diffusion.objective import Objective
from openddpm.diffusion.sampling import sample
from openddpm.evaluation.evaluation import Evaluation
from openddpm.record.reader import read_run_folder
from openddpm.sampling_run import open_run, starting_noise
from openddpm.training import setup, timetable
from openddpm.training.loop import fit
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
TIMETABLE: dict[str, Any] = {"MAX_SHARE_OF_TIME": 0.05, "FIXED_SAMPLE_COUNTS": (288,), "ENOUGH_EVALUATIONS": 1}
NUM_SAMPLES, SAMPLED_AT_ONCE, NUM_REFERENCE = 256, 64, 2048
RATE_ROUNDS = 24
EQUAL_TIME = "equal-time"  # folder of such runs and their results
MIN_SNR_GAMMA = 5.0  # cited: Hang et al., 2023
LOG_SNR_MEAN, LOG_SNR_SD = 2.4, 2.4  # cited: Karras et al., 2022, ln sigma normal around -1.2 (SD 1.2); SNR = sigma^-2


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    what: str
    options: dict[str, Any] = field(default_factory=dict)
    unet: dict[str, Any] = field(default_factory=dict)
    weight: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Of an image's error, from its signal-to-noise ratio; the product has none of these."""
    density: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Of timesteps, from log-SNR, not weighted back; the product has none of these either."""


_MUON: dict[str, Any] = {"optimizer": "muon"}
_ZERO: dict[str, Any] = {"zero_init_residuals": True}
_IMPORTANCE: dict[str, Any] = {"timestep_sampling": "importance"}
_ALL = {**_MUON, **_ZERO, **_IMPORTANCE}
_PLAIN_BLOCKS = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}

BASE = "first-recipe"
VARIANTS = {
    BASE: Variant("the first recipe: AdamW, batch 16, learning rate 4e-3"),
    "importance": Variant("timesteps by importance", _IMPORTANCE),
    "muon": Variant("Muon", _MUON),
    "zero": Variant("residual blocks begin at 0", _ZERO),
    "muon-zero": Variant("Muon, and residual blocks begin at 0", {**_MUON, **_ZERO}),
    "all": Variant("all: Muon, residual blocks at 0, importance", _ALL),
    "all-batch-32": Variant(
        "all, batch 32, learning rate 6e-3", {**_ALL, "train_batch_size": 32, "learning_rate": 6e-3}
    ),
    "demo": Variant(
        "all, batch 32, learning rate 8e-3, channels (48, 48): the demo's",
        {**_ALL, "train_batch_size": 32, "learning_rate": 8e-3},
        {"block_out_channels": (48, 48), "attention_head_dim": 48},
    ),
    "all-cosine": Variant("all, cosine noise schedule", {**_ALL, "beta_schedule": "squaredcos_cap_v2"}),
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
    "log-snr": Variant(
        "log-SNR of timesteps normal, not weighted back (Karras et al., 2022)",
        density=lambda log_snr: (-((log_snr - LOG_SNR_MEAN) ** 2) / (2 * LOG_SNR_SD**2)).exp(),
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
    parser.add_argument(
        "--results", type=Path, help="file for the numbers (default: learning/learning.json in the output folder)"
    )
    parser.add_argument("--data", nargs="+", default=["avatars-16"], choices=list(DATA))
    parser.add_argument("--user_dataset", type=Path, help="the images of own-32")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int_of_at_least(1), default=1, help="runs at a time, each on a core of its own")
    parser.add_argument("--rates", action="store_true", help="measure images a second of each variant instead")
    parser.add_argument("--equal_time", action="store_true", help="train on more or fewer images, by the rates")
    parser.add_argument("--table", action="store_true", help="only write and print what is there")
    parser.add_argument("--run", action="store_true", help="train the first of all, here and now")
    given = parser.parse_args()
    if given.rates and given.equal_time:
        parser.error("--rates is measured first, and --equal_time goes by it")
    if given.run:
        torch.set_num_threads(1)
        key = given.data[0], given.variants[0], given.seeds[0]
        if not (_is_trained(given, *key) and run_folder(given, *key).exists()):
            train_one(given, *key)
        score_samples(given, *key)
        return
    if given.rates:
        measure_rates(given)
    elif not given.table:
        wanted = [(d, v, s) for s in given.seeds for d in given.data for v in given.variants]
        missing = [key for key in wanted if not _is_complete(given, *key)]
        run_all({f"{d}, {v}, seed {s}": _command(given, d, v, s) for d, v, s in missing}, given.jobs, threads=1)
    results = {**origin(1), "rates": rates(given), "runs": read_results(given.output_dir)}
    results["runs_equal_time"] = read_results(given.output_dir / EQUAL_TIME)
    write_results(results, given.results or given.output_dir / "learning" / "learning.json")
    for title, runs in {"equal images": results["runs"], "equal time": results["runs_equal_time"]}.items():
        print(f"{title}:\n{table(runs, results['rates'])}")


def result_path(given: argparse.Namespace, data: str, variant: str, seed: int) -> Path:
    """Return where the result of a run lies."""
    folder = given.output_dir / EQUAL_TIME if given.equal_time else given.output_dir
    return Path(folder) / f"{data}--{variant}--{seed}.json"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return the results in a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path.stem.count("--") == 2]


def rates(given: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Return the rates of each data set's variants, as far as they are measured (see measure_rates)."""
    path = given.output_dir / "rates.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _is_trained(given: argparse.Namespace, data: str, variant: str, seed: int) -> bool:
    """Tell whether there is a result of as many images as wanted."""
    path = result_path(given, data, variant, seed)
    steps = _num_steps(given, data, variant)
    return path.exists() and json.loads(path.read_text())["images"] == steps * _batch_size(variant)


def _is_complete(given: argparse.Namespace, data: str, variant: str, seed: int) -> bool:
    path = result_path(given, data, variant, seed)
    return _is_trained(given, data, variant, seed) and "kernel_distance" in json.loads(path.read_text())


def _batch_size(variant: str) -> int:
    return int({**FIRST_RECIPE, **VARIANTS[variant].options}["train_batch_size"])


def _num_steps(given: argparse.Namespace, data: str, variant: str) -> int:
    num_images = DATA[data][1]
    if given.equal_time:
        found = rates(given).get(data, {})
        if variant not in found:
            raise SystemExit(f"no rate of {variant} on {data}: --rates measures it")
        num_images = round(num_images * found[variant]["of_base"])
    return num_images // _batch_size(variant)


def _command(given: argparse.Namespace, data: str, variant: str, seed: int) -> list[str]:
    """Return the command that trains one run here and now."""
    command = [sys.executable, __file__, "--run", "--output_dir", str(given.output_dir), "--data", data]
    command += ["--variants", variant, "--seeds", str(seed)]
    command += ["--equal_time"] if given.equal_time else []
    return [*command, *(["--user_dataset", str(given.user_dataset)] if given.user_dataset else [])]


def _config(given: argparse.Namespace, data: str, name: str, seed: int, folder: Path) -> TrainConfig:
    options = DATA[data][0]
    if data == "own-32" and given.user_dataset is None:
        raise SystemExit("own-32 needs --user_dataset")
    dataset = {
        "digits-8": lambda: str(write_digits(given.output_dir / "digits")),
        "own-32": lambda: str(given.user_dataset),
    }
    options = {**options, "dataset": options.get("dataset") or dataset[data]()}
    return TrainConfig(
        **{**FIRST_RECIPE, **options, **VARIANTS[name].options},
        max_train_steps=_num_steps(given, data, name),
        seed=seed,
        output_dir=str(folder),
        overwrite_output_dir=True,
        logging_dir=str(given.output_dir / "logs"),
        cache_dir=str(given.output_dir / "cache"),
    )


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
    folder = run_folder(given, data, name, seed)
    training = prepared(_config(given, data, name, seed, folder), variant)
    if variant.options.get("beta_schedule"):
        linear_folder = given.output_dir / "runs" / f"{data}--linear--{seed}"
        linear = prepared(_config(given, data, BASE, seed, linear_folder), VARIANTS[BASE])
        linear.close()
        _judge_on_linear_noise(training, linear)
    plain = training.objective
    training.objective = VariantObjective(plain.process, plain.sampling, plain.seed, plain.device, variant)
    start = time.process_time()
    assert fit(training).status == "finished"
    ema, raw = (
        [row for row in read_run_folder(folder).evaluations if row.weights == kind][-1] for kind in ("ema", "raw")
    )
    result = {
        "commit": origin(1)["commit"],
        **{"data": data, "variant": name, "seed": seed, "images": ema.images_seen, "skill": ema.skill},
        **{"skill_raw": raw.skill, "skill_error": ema.skill_error, "heldout_loss": ema.heldout_loss},
        "bands": {band: score.skill for band, score in ema.bands.items()},
        "cpu_seconds": round(time.process_time() - start, 1),
    }
    path = result_path(given, data, name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result) + "\n")


def run_folder(given: argparse.Namespace, data: str, name: str, seed: int) -> Path:
    """Return where a run is trained."""
    return Path(given.output_dir) / (EQUAL_TIME if given.equal_time else "runs") / f"{data}--{name}--{seed}"


def score_samples(given: argparse.Namespace, data: str, name: str, seed: int) -> None:
    """Add the kernel distance of a run's samples to its result."""
    folder, device = run_folder(given, data, name, seed), torch.device("cpu")
    denoise, config, shape = open_run(folder, device)
    batches = []
    for first in range(0, NUM_SAMPLES, SAMPLED_AT_ONCE):
        noise = starting_noise(shape, device, seed, range(first, first + SAMPLED_AT_ONCE))
        batches.append(signed_unit_to_uint8(sample(denoise, noise, config, FEW_STEPS, "dpmsolver++")).numpy())
    features = Features()
    distance = KernelDistance(_reference(given, data, folder, features)).of(
        features_of(np.concatenate(batches), features)
    )
    path = result_path(given, data, name, seed)
    found = {"kernel_distance": round(distance.value, 5), "kernel_distance_error": round(distance.error(), 5)}
    path.write_text(json.dumps({**json.loads(path.read_text()), **found}) + "\n")


def _reference(given: argparse.Namespace, data: str, folder: Path, features: Features) -> np.ndarray:
    """Return the features of images of a data set, (M, D), computed once."""
    path = given.output_dir / f"features-{data}.npy"
    if not path.exists():
        _, images = dataset_images(folder, 0, NUM_REFERENCE)
        own = path.with_suffix(f".{os.getpid()}.npy")  # two runs may be here at once
        np.save(own, features_of(images, features))
        own.replace(path)
    return np.load(path)


@dataclass(frozen=True)
class VariantObjective(Objective):
    """The objective with a variant's weights of errors and density of timesteps."""

    variant: Variant

    def timesteps(self, count: int, step: int, micro_index: int) -> torch.Tensor:
        """Return timesteps, (B,) int64: stratified, by the variant's density over log-SNR if it has one."""
        timesteps = super().timesteps(count, step, micro_index)
        if self.variant.density is None:
            return timesteps
        log_snr = self.process.snr().double().log()
        widths = log_snr.diff(append=2 * log_snr[-1:] - log_snr[-2:-1]).abs()
        cumulated = (self.variant.density(log_snr) * widths).cumsum(0)
        draws = (timesteps + 0.5) / len(log_snr)
        return torch.searchsorted(cumulated / cumulated[-1], draws.double())

    def weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return weights, (B,) float32: times those of the variant, by the signal-to-noise ratio, if it has any."""
        weights = super().weights(timesteps)
        return weights if self.variant.weight is None else weights * self.variant.weight(self.process.snr()[timesteps])


def _judge_on_linear_noise(training: Training, linear: Training) -> None:
    """Score a model of another noise schedule on the linear one's fixed samples, at the timesteps of like noise."""
    theirs, ours = linear.process.snr().log(), training.process.snr().log()
    nearest = (theirs[:, None] - ours[None]).abs().argmin(dim=1)

    class OnLinearNoise(Evaluation):
        def squared_errors(self, denoise: Denoiser, part: int = 0, num_parts: int = 1) -> torch.Tensor:
            return super().squared_errors(lambda noisy, timesteps: denoise(noisy, nearest[timesteps]), part, num_parts)

    training.evaluation = OnLinearNoise(**vars(linear.evaluation))


def measure_rates(given: argparse.Namespace) -> None:
    """Write the images a second of each variant, and as multiples of the base's: medians over rounds of all in turn.

    A variant's weights of errors and its density of timesteps, which cost next to nothing, are left out.
    """
    torch.set_num_threads(1)
    measured = rates(given)
    for data in given.data:
        probes = {}
        for name in [BASE, *(name for name in given.variants if name != BASE)]:
            folder = given.output_dir / "runs" / "rate"
            training = prepared(_config(given, data, name, 0, folder), VARIANTS[name])
            training.close()
            probes[name] = (Probe(training), training.config.train_batch_size)
        seconds: dict[str, list[float]] = {name: [] for name in probes}
        for _ in range(1 + RATE_ROUNDS):
            for name, (probe, _) in probes.items():
                seconds[name].append(probe._timed_step(1))
        found = {name: size / statistics.median(seconds[name][1:]) for name, (_, size) in probes.items()}
        measured.setdefault(data, {}).update(
            {
                name: {"images_per_second": round(rate, 1), "of_base": round(rate / found[BASE], 3)}
                for name, rate in found.items()
            }
        )
    (given.output_dir / "rates.json").write_text(json.dumps(measured, indent=1) + "\n")


def table(runs: Sequence[dict[str, Any]], rates: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return Markdown: a row a variant; for each data set skill and kernel distance, mean and range over seeds."""
    names = [data for data in DATA if any(run["data"] == data for run in runs)]
    columns = [column for name in names for column in (f"{name}: skill", "kernel distance", "rate")]
    lines = ["| what | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, variant in VARIANTS.items():
        cells: list[str] = []
        for data in names:
            chosen = [run for run in runs if (run["data"], run["variant"]) == (data, name)]
            for key, style in (("skill", "+.3f"), ("kernel_distance", ".3f")):
                cells.append(_spread([run[key] for run in chosen if key in run], style))
            rate = rates.get(data, {}).get(name)
            cells.append(f"{rate['of_base']:.2f}" if chosen and rate else "")
        if any(cells):
            lines.append(f"| {variant.what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float], style: str) -> str:
    if not values:
        return ""
    mean, least, most = (format(value, style) for value in (statistics.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({least} to {most})"


if __name__ == "__main__":
    main()
