"""Writes plausible run folders without training anything."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openddpm.config import TrainConfig
from openddpm.pictures import image_grid
from openddpm.record.schema import (
    BandScore,
    DataRecord,
    DatasetRecord,
    EvaluationRow,
    ImageFinding,
    MetricsRow,
    ModelRecord,
    Progress,
    Resumption,
    RunRecord,
    Status,
    Weights,
)
from openddpm.record.writer import METRICS_FILE, RunWriter

BATCH_SIZE = 32
NUM_TRAIN = 5488
SECONDS_A_STEP = 0.125


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
    findings: list[ImageFinding] | None = None,
    config: dict[str, Any] | None = None,
    sample_of_training_data: bool = True,
) -> Path:
    """Write a run of `steps` steps with `rows` metrics rows and `previews` previews, each evaluated unless told.

    `findings=None` writes no data.json. Returns `folder`.
    """
    writer = RunWriter(folder)
    options = {"recipe": "avatars-16", "resolution": resolution, "use_ema": use_ema, **(config or {})}
    writer.write_run(
        RunRecord(
            run_id="3f6c0d5e9a1b4c27",
            name=name,
            status=status,
            created="2026-03-14T09:26:53+00:00",
            seed=0,
            total_steps=total_steps or max(steps, 1),
            num_processes=1,
            config=TrainConfig.model_validate(options).model_dump(),
            dataset=DatasetRecord(
                source=source,
                revision=None,
                split="train",
                num_images=6000,
                num_train=NUM_TRAIN,
                num_heldout=512,
                resolution=resolution,
                channels=3,
                sha256="9f" * 32,
            ),
            model=ModelRecord(
                num_parameters=652_419,
                gflops_per_image=0.21,
                config={"block_out_channels": [32, 64, 64], "layers_per_block": 1, "sample_size": resolution},
            ),
            environment={"device": "AMD EPYC 7B13", "device_type": "cpu", "packages": {"openddpm": "0.1.0"}},
            progress=_progress(steps),
            resumptions=[Resumption(step=steps // 2, time="2026-03-14T09:29:40+00:00")] if steps > 1000 else [],
        )
    )
    weights: list[Weights] = ["ema", "raw"] if use_ema else ["raw"]
    _write_metrics(folder, steps, rows, use_ema)
    for step in _spread(steps, previews if evaluations is None else evaluations):
        for kind in weights:
            writer.append_evaluation(_evaluation(step, kind))
    for step in _spread(steps, previews):
        for kind in weights:
            _write_preview(folder / "samples" / f"step-{step:08d}-{kind}.png", step / steps, kind, resolution)
    if sample_of_training_data:
        _grid(_faces(16, resolution)).save(folder / "samples" / "training-data.png")
    if findings is not None:
        counts: dict[str, int] = {}
        for finding in findings:
            counts[finding.reason] = counts.get(finding.reason, 0) + 1
        writer.write_data(DataRecord(num_images=6000, counts=counts, images=findings))
    return folder


def _progress(step: int) -> Progress:
    return Progress(step=step, images=step * BATCH_SIZE, epoch=step * BATCH_SIZE / NUM_TRAIN)


def _spread(steps: int, count: int) -> list[int]:
    """Return `count` different steps up to `steps`, evenly spaced."""
    return sorted({math.ceil(steps * (index + 1) / count) for index in range(count)}) if steps else []


def _loss(step: int) -> float:
    return 0.055 + 0.95 / (1 + step / 12) ** 0.75


def _write_metrics(folder: Path, steps: int, rows: int, use_ema: bool) -> None:
    """Write all rows in one go, as appending 100,000 of them one by one is slow."""
    noise = np.random.default_rng(1)
    lines = []
    for step in _spread(steps, rows):
        progress = _progress(step)
        warm_up = min(1.0, step / 100)
        row = MetricsRow(
            step=step,
            images=progress.images,
            epoch=progress.epoch,
            wall_seconds=step * SECONDS_A_STEP,
            train_loss=_loss(step) * float(noise.lognormal(0, 0.16)),
            learning_rate=2e-3 * warm_up * 0.5 * (1 + math.cos(math.pi * step / steps)),
            grad_norm=(0.12 + 1.6 / (1 + step / 30)) * float(noise.lognormal(0, 0.3)),
            ema_decay=min(0.999, 1 - (1 + step) ** -0.75) if use_ema else None,
            images_per_second=256 + float(noise.normal(0, 6)),
        )
        lines.append(row.model_dump_json() + "\n")
    (folder / METRICS_FILE).write_text("".join(lines), encoding="utf-8")


def _evaluation(step: int, weights: Weights) -> EvaluationRow:
    loss = _loss(step) * (1.0 if weights == "ema" else 1.12 + 0.06 * math.sin(step))
    return EvaluationRow(
        step=step,
        images=step * BATCH_SIZE,
        weights=weights,
        heldout_loss=loss,
        train_loss=loss * 0.95,
        bands={
            "detail": BandScore(loss=min(1.0, loss * 3.5)),
            "shape": BandScore(loss=loss * 1.1),
            "layout": BandScore(loss=loss * 0.16),
        },
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
