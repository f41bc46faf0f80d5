"""What stands in a run folder, file by file. docs/run-record.md explains it to readers.

The docstrings are the descriptions in the JSON Schemas that `openddpm schema` writes.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from openddpm.record.bands import Band

SCHEMA_VERSION: Final = 2
MAX_COUNT = 2**53  # up to here every JSON reader keeps whole numbers exactly

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Size = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Seconds = Annotated[float, Field(ge=0)]


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Derived = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A number reckoned from a record, null where that leads to none: odd records have a verdict, too."""

Status = Literal["running", "finished", "interrupted", "failed"]
StatisticName = Literal["brightness", "contrast", "colour", "medium", "fine"]
VerdictCode = Literal[
    "too_early", "learning", "plateaued", "memorizing", "not_learning", "diverged", "unstable", "finished"
]

RAW = "raw"
AVERAGE_NAME = r"ema(?:-[a-z0-9.]{1,24})?"
WEIGHTS_NAME = rf"(?:{RAW}|{AVERAGE_NAME})"
Weights = Annotated[str, StringConstraints(pattern=f"^{WEIGHTS_NAME}$")]
"""A name of weights: "raw", those in training, or of an average of them, "ema", "ema-0.050"."""


def weights_in_order(names: Iterable[Weights]) -> list[Weights]:
    """Return each name of weights once: averages first, by name, then the raw ones."""
    return sorted(set(names), key=lambda name: (name == RAW, name))


def exported_weights(names: Iterable[Weights]) -> Weights:
    """Return which of a run's weights its pipeline has: the first average, the raw ones without any."""
    return next(iter(weights_in_order(names)), RAW)


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
        protected_namespaces=(),
    )


class DatasetRecord(_Record):
    """The decoded images a run was trained on."""

    source: str
    """Name of a built-in set, path, or Hub id."""
    revision: str | None
    """Commit of a data set of the Hub."""
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
    """Held-out images that were looked at for it."""

    @property
    def size(self) -> str:
        """Width and height, in pixels, for people."""
        _, height, width = self.image_shape
        return f"{width}x{height}"


class InitRecord(_Record):
    """The weights that a run started from."""

    source: str
    """Folder or Hub id, as given to --init_from."""
    revision: str | None
    """Commit of a model of the Hub."""
    sha256: str
    """Digest of the file with the weights."""
    resolution: Size | None
    """Image size that they were made for, where their config says so."""


class ModelRecord(_Record):
    """The UNet: enough to build it again."""

    num_parameters: Size
    gflops_per_image: float
    """Work of a forward and a backward pass, a multiply and an add counted as two."""
    config: dict[str, Any]
    """Config of the UNet2DModel."""
    signal_left: float
    """Share of an image that is left at the last timestep, a_T of a_T x_0 + s_T e."""
    init_from: InitRecord | None = None
    """Null where the weights began at random, or were given from Python."""


class Progress(_Record):
    """Where a run stands. `images_seen`, the number of training images consumed, is the one that defines the others."""

    step: Count
    images_seen: Count
    epoch: float


class SpeedRecord(_Record):
    """What `--speed` came to."""

    images_on_device: bool
    """Whether all images lie on the device as bytes."""
    tf32: bool
    """Whether factors are rounded to 10 bits in float32."""
    autotune: bool
    """Whether cuDNN tries its algorithms and takes the fastest."""
    deterministic: bool
    """Whether only kernels that give the same bits each time are used."""
    compile_mode: str | None
    """Mode of torch.compile; null where nothing is compiled."""
    compile_seconds: Seconds


class PaceRecord(_Record):
    """The time of a step, measured before the run began, and what was planned with it."""

    step_seconds: Seconds
    planned_seconds: Seconds
    """Time of the whole run, from its first step on."""


class EnvironmentRecord(_Record):
    """The machine and the software of a session."""

    device: str
    """Name of the GPU, or of the processor."""
    device_type: str
    """"cpu", "cuda" or "mps"."""
    cpu_threads: Size
    """Threads of torch."""
    python: str
    platform: str
    packages: dict[str, str]
    """Versions of openddpm and of the libraries that the numbers depend on."""
    speed: SpeedRecord
    pace: PaceRecord | None = None
    """Null where no steps were timed: in a run that goes on."""


class Session(_Record):
    """One start of the run: its beginning, a resumption, or a return to an earlier checkpoint in the same process."""

    time: str
    """When it started, UTC, ISO 8601."""
    environment: EnvironmentRecord
    num_processes: Size
    first_step: Count
    """Step that the session starts from: 0, or that of its checkpoint."""
    last_step: Count
    """Step of its last evaluation, preview or checkpoint."""


class Resumption(_Record):
    """One return to an earlier checkpoint."""

    step: Count
    time: str
    """UTC, ISO 8601."""
    skipped_checkpoints: list[str] = []
    """Newer checkpoints that were not valid, with the reason."""
    changes: list[str] = []
    """What is other than before: options and images, if --accept_changes let them be, and the number of processes."""
    rolled_back_from: Count | None = None
    """Step whose loss or gradient was not finite, where that is why the run went back."""
    learning_rate_factor: float = 1.0
    """Factor on all learning rates from `step` on."""


class EvaluationPlan(_Record):
    """How much is evaluated, and how often."""

    num_fixed_samples: Size
    """Fixed samples of held-out images, and as many of training images, for each set of weights."""
    evaluation_steps: Size
    """Length of a stretch of steps, each of which has an evaluation: at its first preview, or at its end."""
    early_steps: list[Count]
    """Steps of extra early evaluations."""


class PreviewPlan(_Record):
    """When previews are made."""

    steps: list[Count]
    """Steps in rising order, without the last step of the run, which always has one."""


class RunRecord(_Record):
    """run.json: the run as a whole."""

    schema_version: Literal[2] = SCHEMA_VERSION
    run_id: str
    """16 random hexadecimal digits; checkpoints carry them too."""
    name: str
    """Name of the run's folder."""
    status: Status
    created: str
    """UTC, ISO 8601."""
    seed: int
    total_steps: Size
    config: dict[str, Any]
    """Every option of `openddpm train`, but no token."""
    dataset: DatasetRecord
    model: ModelRecord
    progress: Progress
    """Where the run stood at its last evaluation, preview or checkpoint."""
    sessions: list[Session] = Field(min_length=1)
    """Starts of the run, the present one last."""
    resumptions: list[Resumption] = []
    chosen_options: list[str]
    """Names of the options that were given, or that the recipe gives."""
    user_supplied: list[str] = []
    """What was given from Python and is not in the config: "dataset", "transform", "unet"."""
    evaluation: EvaluationPlan
    previews: PreviewPlan | None = None
    """Null where --save_images_epochs says when."""
    failure: Literal["loss_not_finite", "gradient_not_finite"] | None = None
    """Why `status` is failed, where training itself failed."""
    failure_text: str | None = None
    """The same for people: the step, the timesteps and the images that it was met at."""

    @property
    def global_batch_size(self) -> int:
        """Images that a step consumes, over all processes and accumulation steps."""
        return int(
            self.config["train_batch_size"] * self.config["gradient_accumulation_steps"] * self.session.num_processes
        )

    @property
    def session(self) -> Session:
        """The present session, or the last."""
        return self.sessions[-1]


class MetricsRow(_Record):
    """A line of metrics.jsonl: training since the line before."""

    step: Count
    images_seen: Count
    """Training images consumed."""
    epoch: float
    """Images consumed over training images."""
    wall_seconds: Seconds
    """Time of the run, earlier sessions included."""
    train_loss: float
    """Mean squared error of what the model predicts, over the images since the line before; the mean over all
    timesteps."""
    learning_rate: float
    grad_norm: float | None
    """Norm before clipping, of the last step; null where fp16 overflowed and the step was skipped."""
    ema_decay: float | None
    """Decay of the average that is exported; null without any."""
    images_per_second: Annotated[float, Field(ge=0)]
    """Rate of training alone, previews and checkpoints left out."""


class CheckpointRow(_Record):
    """A line of checkpoints.jsonl: a checkpoint that was published, whether it is kept or was pruned since."""

    step: Count
    images_seen: Count
    sha256: dict[str, str]
    """Digest of each of its files, by name."""
    exported_sha256: str
    """Digest of the weights as they are exported: of unet/diffusion_pytorch_model.safetensors while this checkpoint is
    the newest."""


class BandScore(_Record):
    """Mean squared noise error in one band of the signal-to-noise ratio, beside its baselines on the same tuples."""

    loss: float | None
    linear: float | None = None
    memorizing: float | None = None
    """Loss of the memorizing denoiser on training tuples: the floor that memorization would reach."""
    skill: float | None = None
    """1 - loss / linear."""


class EvaluationRow(_Record):
    """A line of evaluations.jsonl: mean squared noise error on fixed (image, timestep, noise) tuples.

    Null stands for what could not be measured: no held-out images, or weights that are no longer finite. Without
    held-out images, `bands` and `by_timestep` are of the training tuples.
    """

    step: Count
    images_seen: Count
    weights: Weights
    heldout_loss: float | None
    fixed_train_loss: float | None
    """The same on the fixed training tuples; `train_loss` of metrics.jsonl is of whatever was just trained on."""
    skill: float | None = None
    """1 - heldout_loss / linear."""
    skill_error: float | None = None
    """Standard error of `skill`, over the choice of tuples."""
    train_skill: float | None = None
    """The same as `skill`, on the training tuples."""
    bands: dict[Band, BandScore]
    by_timestep: list[float | None]
    """Mean loss of each group of tuples in baselines.json, in its order."""
    seconds: Seconds
    """Time this evaluation took."""


class SampleStatistic(_Record):
    """One statistic of the samples of a preview, beside that of training images; all are from 0 to 1."""

    samples: float
    """Mean over the samples."""
    data: float
    """Mean over the training images that were measured."""
    error: float
    """Standard error of `samples`, were they training images."""
    low: float
    """The least mean of 10,000 groups of as many training images, drawn at random."""
    high: float
    """The greatest of them."""


class SamplesRow(_Record):
    """A line of samples.jsonl: what the samples of a preview look like beside the training images."""

    step: Count
    images_seen: Count
    weights: Weights
    num_samples: Size
    num_data: Size
    """Training images that were measured."""
    statistics: dict[StatisticName, SampleStatistic]
    """Without "colour" where images are gray."""
    seconds: Seconds
    """Time it took to measure."""


class BaselinesRecord(_Record):
    """baselines.json: what denoisers that learn nothing score on the very tuples that the model is scored on.

    The lists have an entry for each group of tuples of like timesteps, from little noise to much.
    """

    timesteps: list[float]
    """Mean timestep of the group."""
    snr: list[float]
    """Signal-to-noise ratio at that timestep, the geometric mean of the group."""
    shares: list[float]
    """The group's share of all timesteps; the losses of the groups, weighted by it, add up to the overall loss."""
    zero: list[float]
    """Loss of predicting no noise."""
    linear: list[float]
    """Loss of the best linear denoiser, fitted on the training images."""
    linear_train: list[float]
    """The same, on the training tuples."""
    memorizing_train: list[float]
    """Loss of the posterior mean over the training images, on training tuples: the floor of memorization."""
    memorizing_heldout: list[float]
    """The same on held-out tuples; empty without held-out images, when `linear` is of the training tuples."""
    num_fixed_samples: Size
    """Held-out tuples, and as many training ones."""
    num_images_linear: Size
    """Training images that the linear denoiser was fitted on."""
    num_images_memorizing: Size
    """Training images that the memorizing denoiser knows, mirrored ones not counted."""
    shrinkage: float
    """Weight of the uncorrelated covariance in the linear denoiser's; more where images are few."""
    includes_flips: bool
    """Whether they know the training images mirrored, too."""
    seconds: Seconds
    """Time they took, or had taken when they were cached."""


class Evidence(_Record):
    """One thing that a verdict rests on."""

    name: str
    """What was looked at, for programs: "skill_trend", "train_heldout_gap", ..."""
    kind: Literal["good", "note", "warning"]
    text: str
    """A sentence for people."""
    value: Derived = None
    error: Derived = None
    """Standard error of `value`."""


class Forecast(_Record):
    """When the skill will flatten if training goes on as it does: a range, not a promise."""

    images_low: Annotated[int, Field(ge=0)]
    images_high: Annotated[int, Field(ge=0)]
    hours_low: float
    hours_high: float
    """Hours from now."""
    text: str


class Verdict(_Record):
    """verdict.json: whether a run is working, in words and numbers."""

    code: VerdictCode
    sentence: str
    evidence: list[Evidence]
    forecast: Forecast | None = None
    step: Count
    images_seen: Count
    """Where the run stood at the last evaluation that this rests on."""
    skill: float | None = None
    """Skill of the better weights at that evaluation."""
    weights: Weights | None = None
    """The better weights."""


class ImageFinding(_Record):
    """One image that was refused, dropped as too small, changed on the way in, or a duplicate: kept, or left out."""

    path: str
    reason: str
    action: Literal["refused", "dropped", "converted", "kept", "left out"]


class NearDuplicateRecord(_Record):
    """A held-out image that is nearly a training image."""

    heldout: str
    train: str
    """Name of the training image."""
    how: str
    """"nearly identical" (recompressed, shifted by a pixel), "mirrored", "recoloured", "mirrored and recoloured"."""


class LeftOut(_Record):
    """Files, rows or images of a source that are not among its images at all: passed over before any decoding."""

    reason: str
    """What they are and why they are passed over, for people: "split 'test'", ".heic", "hidden folder"."""
    count: Count
    examples: list[str] = []
    """Names of the first few."""
    is_data: bool = True
    """Whether they may be images that were meant: false of other splits, and of what a system leaves (thumbnails)."""
    is_text: bool = False
    """Whether they are texts, as most data sets have beside their images (README, LICENSE, captions): listed here, and
    not told in the terminal."""


BEYOND_USUAL = 0.05  # assumed: by how much of a usual range resizing and filters go beyond its ends
CUT_MUCH = "cut by more than a quarter"
"""Among the counts of a DataRecord: images of which cropping takes more than a quarter of the area."""


class CutImage(_Record):
    """An image of which cropping to a square cuts much away."""

    path: str
    share: float
    """Share of its area that is cut away, 0..1."""


class LabelsRecord(_Record):
    """Labels of the images, which training does not use."""

    origin: str
    """Where they are from, for people: "sub-folders", "the column 'label'"; empty where none are taken."""
    note: str = ""
    """Why none are taken, where there may be some: the choice would be a guess."""
    num_labels: Count = 0
    num_labelled: Count = 0
    """Images with a label."""
    counts: dict[str, Count] = {}
    """Images of each label, in the order of the labels' numbers; of the first 100 where there are more."""
    are_numbers: bool = False
    """Whether the names are numbers that the source gives no names to."""


def _nearly_fill(least: float, greatest: float, low: float, high: float) -> bool:
    """Whether numbers from `least` to `greatest` lie in a usual range, or nearly, and take more than half of it."""
    beyond = BEYOND_USUAL * (high - low)
    return low - beyond <= least and greatest <= high + beyond and greatest - least > (high - low) / 2


class DataRecord(_Record):
    """data.json: counts by reason, every image that they are of but for those that are cut, and how bright they are.

    Brightness is null where no image can be used.
    """

    num_images: Count
    counts: dict[str, Count]
    images: list[ImageFinding]
    left_out: list[LeftOut] = []
    """What the source holds besides its images."""
    labels: LabelsRecord | None = None
    """Null where the source has none."""
    near_duplicates: list[NearDuplicateRecord] = []
    """Held-out images of a run that are nearly a training image."""
    num_duplicates: Count = 0
    """Images of `num_images` whose decoded pixels are those of an earlier one, to the bit."""
    num_duplicates_left_out: Count = 0
    """More such images, no part of `num_images` (--duplicates drop)."""
    pixel_min: Count | None = None
    """Least value of all pixels and channels, 0..255; of large images, mean and standard deviation are of evenly spaced
    pixels."""
    pixel_max: Count | None = None
    pixel_mean: float | None = None
    pixel_std: float | None = None
    cut_mean: float | None = None
    """Share of an image's area that cropping to a square cuts away, 0..1, on average; 0 of images that are padded."""
    most_cut: list[CutImage] = []
    """The few that lose most, of those that lose more than a quarter."""
    raw_min: float | None = None
    """Least and greatest number in the files of images of more than 8 bits, refused ones too; null without any."""
    raw_max: float | None = None

    @property
    def range_option(self) -> str:
        """An option for the numbers in the files: a usual range that they nearly fill, or the number of their bits."""
        least, greatest = self.raw_min or 0.0, self.raw_max or 0.0
        if least >= -BEYOND_USUAL and greatest <= 1 + BEYOND_USUAL:
            least, greatest = 0, 1
        elif _nearly_fill(least, greatest, -1, 1):
            least, greatest = -1, 1
        elif least >= 0 and greatest.is_integer():
            least, greatest = 0, 2 ** math.ceil(math.log2(greatest + 1)) - 1
        elif not (least.is_integer() and greatest.is_integer()) and _nearly_fill(least, greatest, 0, 255):
            least, greatest = 0, 255
        return f"--pixel_range {least:.6g} {greatest:.6g}"
