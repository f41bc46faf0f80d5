"""Writes plausible run folders without training anything."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openddpm.config import TrainConfig
from openddpm.pictures import image_grid
from openddpm.record.data_record import DataRecord, ImageFinding
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import (
    Band,
    BandScore,
    BaselinesRecord,
    CheckpointRow,
    DatasetRecord,
    EnvironmentRecord,
    EvaluationPlan,
    EvaluationRow,
    InitialWeightsRecord,
    MetricsRow,
    ModelRecord,
    Progress,
    Resumption,
    RunRecord,
    SamplesRow,
    SampleStatistic,
    Session,
    SpeedRecord,
    StatisticName,
    Status,
    Weights,
)
from openddpm.record.writer import METRICS_FILE, RunWriter

BATCH_SIZE = 32
NUM_TRAIN = 5488
NUM_HELDOUT = 512
SECONDS_A_STEP = 0.125
BAND_SNR: dict[Band, tuple[float, float]] = {"detail": (10, math.inf), "shape": (0.1, 10), "layout": (0, 0.1)}


def write_made_up_run(
    folder: Path,
    *,
    steps: int = 2400,
    rows: int = 240,
    previews: int = 14,
    evaluations: int | None = None,
    resolution: int = 16,
    status: Status = "finished",
    total_steps: int | None = None,
    name: str = "avatars-16",
    source: str = "avatars-16",
    use_ema: bool = True,
    more_averages: Sequence[Weights] = (),
    findings: list[ImageFinding] | None = None,
    config: dict[str, Any] | None = None,
    sample_of_training_data: bool = True,
    num_heldout: int = NUM_HELDOUT,
    baselines: bool = True,
    seed: int = 0,
    loss_factor: float = 1.0,
) -> Path:
    """Write a run of `steps` steps with `rows` metrics rows and `previews` previews, each evaluated unless told.

    `findings=None` writes no data.json; `baselines=False` a run of which only losses are known. Runs with other seeds
    differ by about a percent in their losses, which are multiplied by `loss_factor`. Returns `folder`.
    """
    writer = RunWriter(folder)
    resumed_at = [steps // 2] if steps > 1000 else []
    options = {"recipe": "avatars-16", "resolution": resolution, "use_ema": use_ema, "seed": seed, **(config or {})}
    writer.write(
        RunRecord(
            run_id=f"3f6c0d5e9a1b{0x4C27 + seed:04x}",
            name=name,
            status=status,
            created="2026-03-14T09:26:53+00:00",
            seed=seed,
            evaluation_seed=0,
            total_steps=total_steps or max(steps, 1),
            config=TrainConfig.model_validate(options).model_dump(),
            dataset=DatasetRecord(
                source=source,
                revision=None,
                split="train",
                num_images=6000,
                num_train=NUM_TRAIN,
                num_heldout=num_heldout,
                image_shape=(3, resolution, resolution),
                sha256="9f" * 32,
                num_near_duplicates=0,
                num_compared=num_heldout,
            ),
            model=ModelRecord(
                num_parameters=652_419,
                gflops_per_image=0.21,
                config={"block_out_channels": [32, 64, 64], "layers_per_block": 1, "sample_size": resolution},
                signal_left=0.0064,
                initial_weights=InitialWeightsRecord(sha256="0" * 64, norm=1.0),
            ),
            progress=_progress(steps),
            sessions=[
                made_up_session(first_step=first, last_step=last) for first, last in pairwise([0, *resumed_at, steps])
            ],
            resumptions=[Resumption(step=step, time="2026-03-14T09:29:40+00:00") for step in resumed_at],
            chosen_options=sorted(options),
            evaluation=EvaluationPlan(num_fixed_samples=2048, evaluation_steps=200, early_steps=[12, 50]),
        )
    )
    weights: list[Weights] = ["ema", *more_averages, "raw"] if use_ema else ["raw"]
    _write_metrics(folder, steps, rows, use_ema, seed, loss_factor)
    for step in _spread(steps, previews if evaluations is None else evaluations):
        for kind in weights:
            factor = loss_factor * _factor_of_seed(seed, step)
            row = _evaluation(step, kind, factor, has_heldout=num_heldout > 0, has_baselines=baselines)
            writer.append(row)
    for step in _spread(steps, previews):
        for kind in weights:
            writer.append(made_up_samples(step, kind, fine=0.14 * (2 - step / steps)))
            _write_preview(folder / "samples" / f"step-{step:08d}-{kind}.png", step / steps, kind, resolution)
    for step in _spread(steps, 3):
        sha256 = dict.fromkeys(("ema.safetensors", "unet.safetensors", "optimizer.safetensors"), f"{step:064x}")
        row = CheckpointRow(step=step, images_seen=step * BATCH_SIZE, sha256=sha256, exported_sha256=f"{step:064x}")
        writer.append_checkpoint(row)
    if sample_of_training_data:
        _grid(_faces(16, resolution)).save(folder / "samples" / "training-data.png")
    if baselines:
        record = made_up_baselines()
        writer.write(record if num_heldout else record.model_copy(update={"memorizing_heldout": []}))
    if findings is not None:
        counts: dict[str, int] = {}
        for finding in findings:
            counts[finding.reason] = counts.get(finding.reason, 0) + 1
        writer.write(DataRecord(num_images=6000, counts=counts, images=findings))
    return folder


def made_up_session(num_processes: int = 1, first_step: int = 0, last_step: int = 0, **machine: Any) -> Session:
    """Return a session on a CPU, but for what is given of its environment."""
    speed = SpeedRecord(
        images_on_device=False, tf32=False, autotune=False, deterministic=False, compile_mode=None, compile_seconds=0.0
    )
    environment = {
        "device": "AMD EPYC 7B13",
        "device_type": "cpu",
        "cpu_threads": 2,
        "python": "3.12.3",
        "platform": "Linux",
        "packages": {"openddpm": "0.1.0"},
        "speed": speed,
        **machine,
    }
    return Session(
        time="2026-03-14T09:26:53+00:00",
        environment=EnvironmentRecord(**environment),
        num_processes=num_processes,
        first_step=first_step,
        last_step=last_step,
    )


def _progress(step: int) -> Progress:
    return Progress(step=step, images_seen=step * BATCH_SIZE, epoch=step * BATCH_SIZE / NUM_TRAIN)


def _spread(steps: int, count: int) -> list[int]:
    """Return `count` different steps up to `steps`, evenly spaced."""
    return sorted({math.ceil(steps * (index + 1) / count) for index in range(count)}) if steps else []


@cache
def made_up_baselines() -> BaselinesRecord:
    """Return baselines of 20 groups of timesteps, for a linear schedule and the spectrum of smooth images."""
    edges = np.unique(np.geomspace(1, 1001, 21).astype(int)) - 1
    groups = [np.arange(low, high) for low, high in pairwise(edges)]
    signal = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # squared
    snr = np.array([math.exp(np.log(signal[group] / (1 - signal[group])).mean()) for group in groups])
    spectrum = 20 * np.arange(1, 769) ** -1.3
    linear = (snr[:, None] * spectrum / (snr[:, None] * spectrum + 1)).mean(1)
    return BaselinesRecord(
        timesteps=[float(group.mean()) for group in groups],
        snr=snr.tolist(),
        shares=[len(group) / 1000 for group in groups],
        zero=[1.0] * len(groups),
        linear=linear.tolist(),
        linear_train=(0.98 * linear).tolist(),
        memorizing_train=(0.85 * linear / (1 + (snr / 0.3) ** 2)).tolist(),
        memorizing_heldout=(0.85 * linear + 0.04 * snr).tolist(),
        num_fixed_samples=2048,
        num_images_linear=NUM_TRAIN,
        num_images_memorizing=NUM_TRAIN,
        shrinkage=0.01,
        includes_flips=True,
        seconds=3.5,
    )


@cache
def _losses(step: int) -> np.ndarray:
    """Return the EMA weights' loss by group of timesteps; strong noise is learned last."""
    baselines = made_up_baselines()
    strong_noise = 1 / (1 + np.exp(3 * (1.5 + np.log10(baselines.snr))))
    of_gaussian = 0.55 + 0.3 * strong_noise + (30 + 90 * strong_noise) * 12 / (12 + step)
    return np.minimum(1.0, np.array(baselines.linear) * of_gaussian)


def _loss(step: int) -> float:
    return _mean(_losses(step))


def _mean(losses: Sequence[float] | np.ndarray, band: Band | None = None) -> float:
    """Return the mean over all timesteps, or over those of a band, of losses by group."""
    baselines = made_up_baselines()
    low, high = BAND_SNR[band] if band else (0, math.inf)
    weights = np.array(
        [share * (low <= snr < high) for share, snr in zip(baselines.shares, baselines.snr, strict=True)]
    )
    return float(np.dot(losses, weights) / weights.sum())


def _factor_of_seed(seed: int, step: int) -> float:
    return math.exp(0.01 * np.random.default_rng((seed, step)).normal()) if seed else 1.0


def _write_metrics(folder: Path, steps: int, rows: int, use_ema: bool, seed: int, loss_factor: float) -> None:
    """Write all rows in one go, as appending 100,000 of them one by one is slow."""
    noise = np.random.default_rng(1 + seed)
    lines = []
    for step in _spread(steps, rows):
        progress = _progress(step)
        warm_up = min(1.0, step / 100)
        row = MetricsRow(
            step=step,
            images_seen=progress.images_seen,
            epoch=progress.epoch,
            wall_seconds=step * SECONDS_A_STEP,
            train_loss=loss_factor * _loss(step) * float(noise.lognormal(0, 0.16)),
            learning_rate=2e-3 * warm_up * 0.5 * (1 + math.cos(math.pi * step / steps)),
            grad_norm=(0.12 + 1.6 / (1 + step / 30)) * float(noise.lognormal(0, 0.3)),
            ema_decay=min(0.999, 1 - (1 + step) ** -0.75) if use_ema else None,
            images_per_second=256 + float(noise.normal(0, 6)),
        )
        lines.append(row.model_dump_json() + "\n")
    (folder / METRICS_FILE).write_text("".join(lines), encoding="utf-8")


def _evaluation(step: int, weights: Weights, factor: float, *, has_heldout: bool, has_baselines: bool) -> EvaluationRow:
    baselines = made_up_baselines()
    losses = factor * _losses(step) * (1.0 if weights == "ema" else 1.12 + 0.06 * math.sin(step))
    loss = _mean(losses)
    row = EvaluationRow(
        step=step,
        images_seen=step * BATCH_SIZE,
        weights=weights,
        heldout_loss=loss if has_heldout else None,
        fixed_train_loss=loss * 0.95,
        bands={band: BandScore(loss=_mean(losses, band)) for band in BAND_SNR},
        by_timestep=[],
        seconds=0.6,
    )
    if not has_baselines:
        return row
    scores = {
        "skill": 1 - loss / _mean(baselines.linear) if has_heldout else None,
        "skill_error": 0.008 if has_heldout else None,
        "train_skill": 1 - loss * 0.95 / _mean(baselines.linear_train),
        "bands": {band: _band_score(losses, band) for band in BAND_SNR},
        "by_timestep": losses.tolist(),
    }
    return row.model_copy(update=scores)


def _band_score(losses: np.ndarray, band: Band) -> BandScore:
    baselines = made_up_baselines()
    loss, linear = _mean(losses, band), _mean(baselines.linear, band)
    return BandScore(
        loss=loss, linear=linear, memorizing=_mean(baselines.memorizing_train, band), skill=1 - loss / linear
    )


def made_up_samples(step: int, weights: Weights, **means: float) -> SamplesRow:
    """Return a measurement of 16 samples that look like the training images, but for these means."""
    data: dict[StatisticName, float] = {
        "brightness": 0.7,
        "contrast": 0.21,
        "colour": 0.27,
        "medium": 0.14,
        "fine": 0.14,
    }
    return SamplesRow(
        step=step,
        images_seen=step * BATCH_SIZE,
        weights=weights,
        num_samples=16,
        num_data=2048,
        statistics={
            name: SampleStatistic(
                samples=means.get(name, mean + 0.01), data=mean, error=0.013, low=mean - 0.05, high=mean + 0.05
            )
            for name, mean in data.items()
        },
        seconds=0.005,
    )


@cache
def _faces(count: int, resolution: int) -> np.ndarray:
    """Return mirrored blobs in flat colours, which pass for faces: (count, resolution, resolution, 3), uint8."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[0:resolution, 0:resolution] / (resolution - 1)
    x = np.abs(x - 0.5)
    faces = np.empty((count, resolution, resolution, 3), np.uint8)
    for face in faces:
        backdrop, hair, skin = random.integers(60, 250, (3, 3))
        face[:] = backdrop
        face[(x / 0.36) ** 2 + ((y - 0.5) / 0.44) ** 2 < 1] = hair
        face[(x / 0.28) ** 2 + ((y - 0.58) / 0.34) ** 2 < 1] = skin
        face[(np.abs(x - 0.13) < 0.05) & (np.abs(y - 0.52) < 0.05)] = 25
        face[(x < random.uniform(0.05, 0.16)) & (np.abs(y - 0.75) < 0.035)] = 70
    return faces


def _grid(images: np.ndarray) -> Image.Image:
    return image_grid(images.transpose(0, 3, 1, 2))


def _write_preview(path: Path, done: float, weights: Weights, resolution: int) -> None:
    """Write faces that come out of the noise as `done` goes from 0 to 1, the same noise at every step."""
    faces = _faces(16, resolution) / 127.5 - 1
    noise = np.random.default_rng(3).normal(size=faces.shape)
    share = (1 - done) ** 1.5 + (0.0 if weights == "ema" else 0.12)
    mixed = math.sqrt(max(0.0, 1 - share**2)) * faces + share * noise
    _grid(np.clip((mixed + 1) * 127.5, 0, 255).astype(np.uint8)).save(path, compress_level=1)


def a_run(folder: Path, name: str = "run", step: int = 0, total_steps: int = 100) -> RunRecord:
    """Return the record of a run at `step`."""
    made_up = write_made_up_run(folder, steps=40, rows=4, previews=1, name=name, total_steps=total_steps)
    progress = Progress(step=step, images_seen=step * 32, epoch=0.0)
    return read_run_folder(made_up).run.model_copy(update={"progress": progress})


def a_row(step: int, loss: float = 0.5, seconds: float = 0.0) -> MetricsRow:
    """Return a logged line."""
    return MetricsRow(
        step=step,
        images_seen=step * 32,
        epoch=0.1,
        wall_seconds=seconds,
        train_loss=loss,
        learning_rate=1e-3,
        grad_norm=None,
        ema_decay=None,
        images_per_second=100.0,
    )
