"""What stands in a run folder, file by file. docs/run-record.md explains it to readers."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

Status = Literal["running", "finished", "interrupted", "failed"]
Weights = Literal["ema", "raw"]
Band = Literal["detail", "shape", "layout"]
StatisticName = Literal["brightness", "contrast", "colour", "medium", "fine"]
VerdictCode = Literal[
    "too_early", "learning", "plateaued", "memorizing", "not_learning", "diverged", "unstable", "finished"
]


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
    image_shape: tuple[int, int, int]
    """Channels, height and width of every image."""
    label_names: list[str] = []
    """Names of the labels, by their numbers; empty without labels. Training does not use them."""
    sha256: str
    """Of the decoded uint8 images in their order, (N, C, H, W)."""
    num_near_duplicates: int | None = None
    """Held-out images that are nearly a training image (shifted, mirrored, recompressed, recoloured); null where nobody
    looked. Exact duplicates are on one side of the split."""
    num_compared: int | None = None
    """Held-out images that were looked at for it."""

    @property
    def size(self) -> str:
        """Width and height, in pixels, for people."""
        _, height, width = self.image_shape
        return f"{width}x{height}"


class InitRecord(_Record):
    """The weights that a run started from."""

    source: str
    """A folder or a Hub id, as given to --init_from."""
    revision: str | None
    """The commit, of a model of the Hub."""
    sha256: str
    """Of the file with the weights."""
    resolution: int | None
    """That they were made for, where their config says so."""


class ModelRecord(_Record):
    """The UNet: enough to build it again."""

    num_parameters: int
    gflops_per_image: float | None
    """Forward and backward, a multiply and an add counted as two."""
    config: dict[str, Any]
    signal_left: float | None = None
    """What is left of an image at the last timestep, a_T of a_T x_0 + s_T e."""
    init_from: InitRecord | None = None
    """None of weights that began at random, or were given from Python."""


class Progress(_Record):
    """Where a run stands. `images_seen`, the number of training images consumed, is the one that defines the others."""

    step: int
    images_seen: int
    epoch: float


class Resumption(_Record):
    """One return to an earlier checkpoint."""

    step: int
    time: str
    skipped_checkpoints: list[str] = []
    """Newer checkpoints that were not valid, with the reason."""
    changes: list[str] = []
    """What is other than before: options and images, if --accept_changes let them be, and the number of processes."""
    rolled_back_from: int | None = None
    """The step whose loss or gradient was not finite, where that is why the run went back."""
    learning_rate_factor: float = 1.0
    """On all learning rates from `step` on."""


class EvaluationPlan(_Record):
    """How much is evaluated, and how often."""

    num_fixed_samples: int
    """Held-out tuples, and as many training ones, for each kind of weights."""
    evaluation_steps: int
    """Each stretch of so many steps has an evaluation: at its first preview, or at its end."""
    early_steps: list[int] | None = None
    """Steps with an evaluation besides, from a time when stretches are long."""


class PreviewPlan(_Record):
    """When previews are made."""

    steps: list[int]
    """Rising, without the last step of the run, which always has one."""


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
    chosen_options: list[str] | None = None
    """Names of the options that were given, or that the recipe gives; null in records of an older openddpm."""
    user_supplied: list[str] = []
    """What was given from Python and is not in the config: "dataset", "transform", "unet"."""
    evaluation: EvaluationPlan | None = None
    previews: PreviewPlan | None = None
    """None where --save_images_epochs says when."""
    failure: Literal["loss_not_finite", "gradient_not_finite"] | None = None
    """Why `status` is failed, where training itself failed."""
    failure_text: str | None = None
    """The same for people: the step, the timesteps and the images that it was met at."""


class MetricsRow(_Record):
    """A line of metrics.jsonl. `train_loss` is the mean over the images since the line before."""

    step: int
    images_seen: int
    epoch: float
    wall_seconds: float
    train_loss: float
    learning_rate: float
    grad_norm: float | None
    """Before clipping, of the last step; null where fp16 overflowed and the step was skipped."""
    ema_decay: float | None
    images_per_second: float


class BandScore(_Record):
    """Mean squared noise error in one band of the signal-to-noise ratio, beside its baselines on the same tuples."""

    loss: float | None
    linear: float | None = None
    memorizing: float | None = None
    """Of the memorizing denoiser on training tuples: the floor that memorization would reach."""
    skill: float | None = None
    """1 - loss / linear."""


class EvaluationRow(_Record):
    """A line of evaluations.jsonl: mean squared noise error on fixed (image, timestep, noise) tuples.

    Null stands for what could not be measured: no held-out images, or weights that are no longer finite. Without
    held-out images, `bands` and `by_timestep` are of the training tuples.
    """

    step: int
    images_seen: int
    weights: Weights
    heldout_loss: float | None
    train_loss: float | None
    skill: float | None = None
    """1 - heldout_loss / linear."""
    skill_error: float | None = None
    """Standard error of `skill`, over the choice of tuples."""
    train_skill: float | None = None
    """The same as `skill`, on the training tuples."""
    bands: dict[Band, BandScore]
    by_timestep: list[float | None] = []
    """Mean loss of each group of tuples in baselines.json, in its order."""
    seconds: float | None = None
    """Time this evaluation took."""


class SampleStatistic(_Record):
    """One statistic of the samples of a preview, beside that of training images; all are of 0..1."""

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

    step: int
    images_seen: int
    weights: Weights
    num_samples: int
    num_data: int
    """Training images that were measured."""
    statistics: dict[StatisticName, SampleStatistic]
    """Without "colour" where images are gray."""
    seconds: float | None = None
    """Time it took to measure."""


class BaselinesRecord(_Record):
    """baselines.json: what denoisers that learn nothing score on the very tuples that the model is scored on.

    The lists have an entry for each group of tuples of like timesteps, from little noise to much.
    """

    timesteps: list[float]
    """Mean of the group."""
    snr: list[float]
    """Signal-to-noise ratio at that timestep, the geometric mean of the group."""
    shares: list[float]
    """The group's share of all timesteps; the losses of the groups, weighted by it, add up to the overall loss."""
    zero: list[float]
    """Predicts no noise."""
    linear: list[float]
    """The best linear denoiser, fitted on the training images."""
    linear_train: list[float]
    """The same, on the training tuples."""
    memorizing_train: list[float]
    """The posterior mean over the training images, on training tuples: the floor of memorization."""
    memorizing_heldout: list[float]
    """The same on held-out tuples; empty without held-out images, when `linear` is of the training tuples."""
    num_fixed_samples: int
    """Of either kind."""
    num_images_linear: int
    """Training images that the linear denoiser was fitted on."""
    num_images_memorizing: int
    """Training images that the memorizing denoiser knows, mirrored ones not counted."""
    shrinkage: float
    """Weight of the uncorrelated covariance in the linear denoiser's; more where images are few."""
    includes_flips: bool
    seconds: float
    """Time they took, or had taken when they were cached."""


class Evidence(_Record):
    """One thing that a verdict rests on."""

    name: str
    """What was looked at, for programs: "skill_trend", "train_heldout_gap", ..."""
    kind: Literal["good", "note", "warning"]
    text: str
    """A sentence for people."""
    value: float | None = None
    error: float | None = None
    """Standard error of `value`."""


class Forecast(_Record):
    """When the skill will flatten if training goes on as it does: a range, not a promise."""

    images_low: int
    images_high: int
    hours_low: float
    hours_high: float
    """From now."""
    text: str


class Verdict(_Record):
    """verdict.json: whether a run is working, in words and numbers."""

    code: VerdictCode
    sentence: str
    evidence: list[Evidence]
    forecast: Forecast | None = None
    step: int
    images_seen: int
    """Where the run stood at the last evaluation that this rests on."""
    skill: float | None = None
    """Of the better weights at that evaluation."""
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
    count: int
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
    """Of its area, 0..1."""


class LabelsRecord(_Record):
    """Labels of the images, which training does not use."""

    origin: str
    """Where they are from, for people: "sub-folders", "the column 'label'"; empty where none are taken."""
    note: str = ""
    """Why none are taken, where there may be some: the choice would be a guess."""
    num_labels: int = 0
    num_labelled: int = 0
    """Images with a label."""
    counts: dict[str, int] = {}
    """Images of each label, in the order of the labels' numbers; of the first 100 where there are more."""
    are_numbers: bool = False
    """Whether the names are numbers that the source gives no names to."""


def _nearly_fill(least: float, greatest: float, low: float, high: float) -> bool:
    """Whether numbers from `least` to `greatest` lie in a usual range, or nearly, and take more than half of it."""
    beyond = BEYOND_USUAL * (high - low)
    return low - beyond <= least and greatest <= high + beyond and greatest - least > (high - low) / 2


class DataRecord(_Record):
    """data.json: counts by reason, every image that they are of but for those that are cut, and how bright they are.

    Null stands for what the openddpm that decoded the images did not look at.
    """

    num_images: int
    counts: dict[str, int]
    images: list[ImageFinding]
    left_out: list[LeftOut] = []
    """What the source holds besides its images."""
    labels: LabelsRecord | None = None
    """Null where the source has none."""
    near_duplicates: list[NearDuplicateRecord] = []
    """Held-out images of a run that are nearly a training image."""
    num_duplicates: int | None = None
    """Images of `num_images` whose decoded pixels are those of an earlier one, to the bit."""
    num_duplicates_left_out: int = 0
    """More such images, no part of `num_images` (--duplicates drop)."""
    pixel_min: int | None = None
    """Of all pixels and channels, 0..255; mean and standard deviation are of evenly spaced pixels of large images."""
    pixel_max: int | None = None
    pixel_mean: float | None = None
    pixel_std: float | None = None
    cut_mean: float | None = None
    """Of an image's area, what cropping to a square cuts away, 0..1, on average; 0 of images that are padded."""
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
