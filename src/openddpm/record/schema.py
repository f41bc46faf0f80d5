"""Schema of the files in a run folder, explained to readers by docs/run-record.md; data.json is in data_record.py.

The docstrings are the descriptions in the JSON Schemas that `openddpm schema` writes.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from openddpm.config import TrainConfig
from openddpm.record.bands import Band

SCHEMA_VERSION: Final = 2
MAX_COUNT = 2**53  # up to here every JSON reader keeps integers exactly

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Size = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Seconds = Annotated[float, Field(ge=0)]
Loss = Annotated[float, Field(ge=0)]
"""A mean squared error."""


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Derived = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A number computed from a record; null where it is not finite, since odd records have a verdict, too."""

Status = Literal["running", "finished", "interrupted", "failed"]
StatisticName = Literal["brightness", "contrast", "colour", "medium", "fine"]
VerdictCode = Literal[
    "too_early", "learning", "plateaued", "memorizing", "not_learning", "diverged", "unstable", "finished"
]

RAW = "raw"
AVERAGE_NAME = r"ema(?:-[a-z0-9.]{1,24})?"
WEIGHTS_NAME = rf"(?:{RAW}|{AVERAGE_NAME})"
Weights = Annotated[str, StringConstraints(pattern=f"^{WEIGHTS_NAME}$")]
"""Name of a set of weights: "raw", those in training, or an average of them, "ema", "ema-0.050"."""


def weights_in_order(names: Iterable[Weights]) -> list[Weights]:
    """Return each name of a set of weights once: averages first, by name, then "raw"."""
    return sorted(set(names), key=lambda name: (name == RAW, name))


def exported_weights(names: Iterable[Weights]) -> Weights:
    """Return which of a run's sets of weights is exported to its pipeline: the first average, or "raw" without any."""
    return next(iter(weights_in_order(names)), RAW)


class RecordModel(BaseModel):
    """A JSON file of a run folder, a line of one, or a part of either."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
        protected_namespaces=(),
    )


class DatasetRecord(RecordModel):
    """The decoded images a run was trained on."""

    source: str
    """Name of a built-in data set, path, or Hub id."""
    revision: str | None
    """Commit of a data set on the Hub."""
    split: str | None
    num_images: Size
    num_train: Size
    num_heldout: Count
    image_shape: tuple[Size, Size, Size]
    """Channels, height and width of every image."""
    label_names: list[str] = []
    """Names of the labels, by their numbers; empty without labels. Training does not use them."""
    sha256: str
    """Digest of the decoded uint8 images in their order, (N, C, H, W)."""
    num_near_duplicates: Count
    """Held-out images that are nearly a training image (shifted, mirrored, recompressed, recoloured). Exact duplicates
    are on one side of the split."""
    num_compared: Count
    """Held-out images that were compared with the training images."""

    @property
    def size(self) -> str:
        """Width and height in pixels, as text."""
        _, height, width = self.image_shape
        return f"{width}x{height}"


class InitRecord(RecordModel):
    """The weights that a run started from."""

    source: str
    """Folder or Hub id, as given to --init_from."""
    revision: str | None
    """Commit of a model on the Hub."""
    sha256: str
    """Digest of the file with the weights."""
    resolution: Size | None
    """Image size that they were trained on, if their config says so."""


class InitialWeightsRecord(RecordModel):
    """The raw weights before the first step."""

    sha256: str
    """Digest: for each tensor, in the order of the names, its name, dtype and shape as a line ("conv_in.bias float32
    32"), then its bytes."""
    norm: float
    """Square root of the sum of the squares of all weights, in double precision: other processors round it alike."""


class ModelRecord(RecordModel):
    """The UNet: enough to build it again."""

    num_parameters: Size
    gflops_per_image: float
    """Work of a forward and a backward pass; a multiply and an add count as two operations."""
    config: dict[str, Any]
    """Config of the UNet2DModel."""
    signal_left: float
    """Share of an image that is left at the last timestep, a_T of a_T x_0 + s_T e."""
    initial_weights: InitialWeightsRecord
    init_from: InitRecord | None = None
    """Null if the weights were initialized at random, or given from Python."""


class Progress(RecordModel):
    """Position of a run. `images_seen`, the number of training images consumed, determines the other two."""

    step: Count
    images_seen: Count
    epoch: float


class SpeedRecord(RecordModel):
    """The settings that `--speed` chose."""

    images_on_device: bool
    """Whether all images are stored on the device as bytes."""
    tf32: bool
    """Whether float32 factors are rounded to 10 bits of mantissa (TF32)."""
    autotune: bool
    """Whether cuDNN tries its algorithms and uses the fastest."""
    deterministic: bool
    """Whether only kernels that give the same bits each time are used."""
    compile_mode: str | None
    """Mode of torch.compile; null if nothing is compiled."""
    compile_seconds: Seconds


class PaceRecord(RecordModel):
    """Time of a step, measured before the run began, and the run time planned from it."""

    step_seconds: Seconds
    planned_seconds: Seconds
    """Time of the whole run from its first step on."""


class EnvironmentRecord(RecordModel):
    """The machine and the software of a session."""

    device: str
    """Name of the GPU or CPU."""
    device_type: str
    """"cpu", "cuda" or "mps"."""
    cpu_threads: Size
    """CPU threads that torch uses."""
    python: str
    platform: str
    packages: dict[str, str]
    """Versions of openddpm and of the libraries that the numbers depend on."""
    speed: SpeedRecord
    pace: PaceRecord | None = None
    """Null if no steps were timed, as in a resumed run."""


class Session(RecordModel):
    """One start of the run: its beginning, a resumption, or a rollback in the same process."""

    time: str
    """Start of the session, UTC, ISO 8601."""
    environment: EnvironmentRecord
    num_processes: Size
    first_step: Count
    """Step that the session starts from: 0, or the step of its checkpoint."""
    last_step: Count
    """Step of its last evaluation, preview or checkpoint."""


class Resumption(RecordModel):
    """One return to an earlier checkpoint."""

    step: Count
    time: str
    """UTC, ISO 8601."""
    skipped_checkpoints: list[str] = []
    """Newer checkpoints that were not valid, with the reason."""
    changes: list[str] = []
    """Differences from before: options and images, if --accept_changes was given, and the number of processes."""
    rolled_back_from: Count | None = None
    """Step whose loss or gradient was not finite, if the run went back because of it."""
    learning_rate_factor: float = 1.0
    """Factor on all learning rates from `step` on."""


class EvaluationPlan(RecordModel):
    """Number of fixed samples, and the steps at which they are evaluated."""

    num_fixed_samples: Size
    """Fixed samples of held-out images, and as many of training images, for each set of weights."""
    evaluation_steps: Size
    """Interval in steps; each interval has one evaluation, at its first preview or at its end."""
    early_steps: list[Count]
    """Steps of extra early evaluations."""


class PreviewPlan(RecordModel):
    """Steps at which previews are made."""

    steps: list[Count]
    """Steps in increasing order, without the last step of the run, which always has one."""


class RunRecord(RecordModel):
    """run.json: the run as a whole."""

    schema_version: Literal[2] = SCHEMA_VERSION
    run_id: str
    """16 random hexadecimal digits, also stored in checkpoints."""
    name: str
    """Name of the run's folder."""
    status: Status
    created: str
    """UTC, ISO 8601."""
    seed: int
    evaluation_seed: Count
    """Key of the held-out images, the fixed samples and their noise."""
    total_steps: Size
    config: dict[str, Any]
    """Every option of `openddpm train` except tokens."""
    dataset: DatasetRecord
    model: ModelRecord
    progress: Progress
    """Position of the run at its last evaluation, preview or checkpoint."""
    sessions: list[Session] = Field(min_length=1)
    """Starts of the run, the latest one last."""
    resumptions: list[Resumption] = []
    chosen_options: list[str]
    """Names of the options that were given, or that the recipe sets."""
    user_supplied: list[str] = []
    """Objects that were given from Python and are not in the config: "dataset", "transform", "unet"."""
    evaluation: EvaluationPlan
    previews: PreviewPlan | None = None
    """Null if --save_images_epochs is given."""
    failure: Literal["loss_not_finite", "gradient_not_finite"] | None = None
    """Why `status` is failed, if training itself failed."""
    failure_text: str | None = None
    """The failure in words: its step, timesteps and images."""

    @property
    def global_batch_size(self) -> int:
        """Images that a step consumes, over all processes and accumulation steps."""
        options = {name: field.default for name, field in TrainConfig.model_fields.items()} | self.config
        return int(options["train_batch_size"] * options["gradient_accumulation_steps"] * self.session.num_processes)

    @property
    def session(self) -> Session:
        """The latest session."""
        return self.sessions[-1]


class MetricsRow(RecordModel):
    """A line of metrics.jsonl: training since the line before."""

    step: Count
    images_seen: Count
    """Training images consumed."""
    epoch: float
    """Images consumed divided by training images."""
    wall_seconds: Seconds
    """Time of the run, earlier sessions included."""
    train_loss: Loss
    """Mean squared error of what the model predicts, over the images since the line before; the mean over all
    timesteps."""
    learning_rate: float
    grad_norm: float | None
    """Norm of the last step's gradient before clipping; null if fp16 overflowed and the step was skipped."""
    ema_decay: float | None
    """Decay of the exported average; null without one."""
    images_per_second: Annotated[float, Field(ge=0)]
    """Rate of training alone, without previews and checkpoints."""


class CheckpointRow(RecordModel):
    """A line of checkpoints.jsonl: a checkpoint that was published, whether it is kept or was pruned later."""

    step: Count
    images_seen: Count
    sha256: dict[str, str]
    """Digest of each file of the checkpoint, by name."""
    exported_sha256: str
    """Digest of the exported weights: of unet/diffusion_pytorch_model.safetensors while this checkpoint is the
    newest."""


class BandScore(RecordModel):
    """Mean squared error of the noise in one band of the signal-to-noise ratio, and that of the baselines."""

    loss: Loss | None
    linear: float | None = None
    memorizing: float | None = None
    """Loss of the memorizing denoiser on the fixed training samples: the floor that memorization would reach."""
    skill: float | None = None
    """1 - loss / linear."""


class EvaluationRow(RecordModel):
    """A line of evaluations.jsonl: mean squared error of the noise on fixed samples (image, timestep, noise).

    Null stands for what could not be measured: no held-out images, or weights that are not finite. Without held-out
    images, `bands` and `by_timestep` are of the fixed training samples.
    """

    step: Count
    images_seen: Count
    weights: Weights
    heldout_loss: Loss | None
    fixed_train_loss: Loss | None
    """The same on the fixed training samples; `train_loss` of metrics.jsonl is of the images just trained on."""
    skill: float | None = None
    """1 - heldout_loss / linear."""
    skill_error: float | None = None
    """Standard error of `skill`, over the choice of fixed samples."""
    train_skill: float | None = None
    """The same as `skill`, on the fixed training samples."""
    bands: dict[Band, BandScore]
    by_timestep: list[Loss | None]
    """Mean loss of each group of fixed samples in baselines.json, in its order."""
    seconds: Seconds
    """Time this evaluation took."""


class SampleStatistic(RecordModel):
    """One statistic of a preview's samples and of training images, from 0 to 1."""

    samples: float
    """Mean over the samples."""
    data: float
    """Mean over the training images that were measured."""
    error: float
    """Standard error of the mean of as many training images."""
    low: float
    """Smallest mean of 10,000 groups of as many training images, drawn at random."""
    high: float
    """Largest of them."""


class SamplesRow(RecordModel):
    """A line of samples.jsonl: statistics of a preview's samples, compared with the training images."""

    step: Count
    images_seen: Count
    weights: Weights
    num_samples: Size
    num_data: Size
    """Training images that were measured."""
    statistics: dict[StatisticName, SampleStatistic]
    """Without "colour" if the images are gray."""
    seconds: Seconds
    """Time that measuring took."""


class BaselinesRecord(RecordModel):
    """baselines.json: the losses of denoisers that need no training, on the fixed samples that the model is scored on.

    The lists have an entry for each group of fixed samples of similar timesteps, from little noise to much.
    """

    timesteps: list[float]
    """Mean timestep of the group."""
    snr: list[float]
    """Geometric mean of the group's signal-to-noise ratios."""
    shares: list[float]
    """The group's share of all timesteps; the overall loss is the sum of the groups' losses, weighted by it."""
    zero: list[float]
    """Loss of predicting no noise."""
    linear: list[float]
    """Loss of the best linear denoiser, fitted on the training images."""
    linear_train: list[float]
    """The same, on the fixed training samples."""
    memorizing_train: list[float]
    """Loss of the posterior mean over the training images, on the fixed training samples: the floor of memorization."""
    memorizing_heldout: list[float]
    """The same on the held-out samples; empty without held-out images, when `linear` is of the training samples."""
    num_fixed_samples: Size
    """Fixed samples of held-out images, and as many of training images."""
    num_images_linear: Size
    """Training images that the linear denoiser was fitted on."""
    num_images_memorizing: Size
    """Training images that the memorizing denoiser knows, mirrored ones not counted."""
    shrinkage: float
    """Weight of the uncorrelated covariance in that of the linear denoiser; larger for few images."""
    includes_flips: bool
    """Whether both denoisers also know the mirrored training images."""
    seconds: Seconds
    """Time that measuring took, also if the result was cached."""


class Evidence(RecordModel):
    """One observation that a verdict is based on."""

    name: str
    """Name of the observation, for programs: "skill_trend", "train_heldout_gap", ..."""
    kind: Literal["good", "note", "warning"]
    text: str
    """The observation as a sentence."""
    value: Derived = None
    error: Derived = None
    """Standard error of `value`."""


class Forecast(RecordModel):
    """Forecast of when the skill will flatten if training continues as it does: a range, not a promise."""

    images_low: Annotated[int, Field(ge=0)]
    images_high: Annotated[int, Field(ge=0)]
    hours_low: float
    hours_high: float
    """Hours from now."""
    text: str


class QuantityBand(RecordModel):
    """Where the curve of one quantity lies for 95 % of runs that are another seed of the reference."""

    field: str
    """"heldout_loss" and other losses on the fixed samples, of the exported weights; or "heldout_loss_raw"."""
    images_seen: list[Count]
    mean: list[float]
    low: list[float]
    high: list[float]


class ReferenceBandRecord(RecordModel):
    """reference_band.json: the band of the reference that a run follows."""

    reference: str
    """Name, folder or Hub id of the reference."""
    seeds: list[int]
    """Seeds of its runs."""
    bands: list[QuantityBand]
    """Empty for fewer than three runs. A run is inside if it is inside all of them, over its whole course."""


class Following(RecordModel):
    """Where a run stands beside a reference that it follows."""

    reference: str
    """Name, folder or Hub id of the reference."""
    state: Literal["too_early", "same_bits", "same_run", "another_seed", "behind", "ahead", "parted", "not_comparable"]
    """"same_run": rounding apart; "another_seed": inside the band of the reference's seeds; "parted": seed and options
    are the same, but the numbers differ by more than rounding."""
    since_images: Count | None
    """Images seen where it left the band to that side, or parted; null in the other states."""
    text: str
    """The same as a sentence."""
    differences: list[str] = []
    """What differs from the reference in options, images, software and hardware, the most important first."""


class Verdict(RecordModel):
    """verdict.json: whether a run is working, in words and numbers."""

    code: VerdictCode
    sentence: str
    evidence: list[Evidence]
    forecast: Forecast | None = None
    step: Count
    images_seen: Count
    """Images seen at the last evaluation that this is based on."""
    skill: float | None = None
    """Skill of the best weights at that evaluation."""
    weights: Weights | None = None
    """The best weights."""
    following: Following | None = None
    """Null if the run follows no reference."""
