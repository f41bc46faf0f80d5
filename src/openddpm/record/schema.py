"""What stands in a run folder, file by file. docs/run-record.md explains it to readers."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

Status = Literal["running", "finished", "interrupted", "failed"]
Weights = Literal["ema", "raw"]
Band = Literal["detail", "shape", "layout"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class DatasetRecord(_Record):
    """The decoded images a run was trained on."""

    source: str
    revision: str | None
    split: str | None
    num_images: int
    num_train: int
    num_heldout: int
    resolution: int
    channels: int
    sha256: str
    """Of the decoded uint8 images in their order, (N, C, H, W)."""


class ModelRecord(_Record):
    """The UNet: enough to build it again."""

    num_parameters: int
    gflops_per_image: float | None
    """Forward and backward, a multiply and an add counted as two."""
    config: dict[str, Any]


class Progress(_Record):
    """Where a run stands. `images`, the number of training images consumed, is the one that defines the others."""

    step: int
    images: int
    epoch: float


class Resumption(_Record):
    """One return to an earlier checkpoint."""

    step: int
    time: str
    skipped_checkpoints: list[str] = []
    """Newer checkpoints that were not valid, with the reason."""


class RunRecord(_Record):
    """run.json"""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    name: str
    status: Status
    created: str
    seed: int
    total_steps: int
    num_processes: int
    config: dict[str, Any]
    dataset: DatasetRecord
    model: ModelRecord
    environment: dict[str, Any]
    progress: Progress
    resumptions: list[Resumption] = []
    own_parts: list[str] = []
    """What was given from Python and is not in the config: "dataset", "transform", "unet"."""


class MetricsRow(_Record):
    """A line of metrics.jsonl. `train_loss` is the mean over the images since the line before."""

    step: int
    images: int
    epoch: float
    wall_seconds: float
    train_loss: float
    learning_rate: float
    grad_norm: float | None
    """Before clipping, of the last step; null where fp16 overflowed and the step was skipped."""
    ema_decay: float | None
    images_per_second: float


class BandScore(_Record):
    """Mean squared noise error in one band of the signal-to-noise ratio, beside its rulers."""

    loss: float | None
    gaussian: float | None = None
    memory: float | None = None
    skill: float | None = None


class EvaluationRow(_Record):
    """A line of evaluations.jsonl: mean squared noise error on fixed (image, timestep, noise) tuples.

    Null stands for what could not be measured: no held-out images, or weights that are no longer finite.
    """

    step: int
    images: int
    weights: Weights
    heldout_loss: float | None
    train_loss: float | None
    skill: float | None = None
    bands: dict[Band, BandScore]


class ImageFinding(_Record):
    """One image that was refused or changed on the way in."""

    path: str
    reason: str
    action: Literal["refused", "converted"]


class DataRecord(_Record):
    """data.json: counts by reason, and every image that was refused or changed."""

    num_images: int
    counts: dict[str, int]
    images: list[ImageFinding]
