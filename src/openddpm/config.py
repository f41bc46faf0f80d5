"""All options of a training run. A field's docstring is its help text."""

import os
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from openddpm.errors import UserError, closest
from openddpm.other_names import answer
from openddpm.recipes import RECIPES
from openddpm.solvers import PreviewSolver

LearningRateSchedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
]

TimestepSampling = Literal["uniform", "stratified", "importance"]


class _Options(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class DataOptions(_Options):
    """Where the images come from and how they are prepared."""

    dataset: str = ""
    """What to train on: a Hub id (huggan/pokemon), a local folder, a parquet, arrow, zip, tar, npz, npy or idx file, or
    a built-in name (avatars-16, digits-8)."""
    dataset_config: str | None = None
    """Configuration to take, where a Hub data set has several or a folder's README.md declares them as on the Hub."""
    dataset_split: str = "train"
    """Split to train on. A folder, zip or tar has splits if its sub-folders, tables or arrays are named train, test,
    val or the like, in any spelling, or if its README.md declares them; other sub-folders can be given by name."""
    dataset_revision: str | None = None
    """Branch, tag or commit of a Hub data set; the commit is recorded."""
    image_column: str | None = None
    """Column with the images (in an npz file the array, in a tar of samples the suffix); found by its type if there is
    only one."""
    cache_dir: str | None = None
    """Folder for downloads and decoded images (default: ~/.cache/openddpm)."""
    resolution: int = Field(64, ge=4, le=4096)
    """Width and height, in pixels, to which images are resized."""
    fit: Literal["crop", "pad"] = "crop"
    """How images become squares: crop keeps the middle; pad shrinks the whole image and fills the rest with the
    background."""
    image_mode: Literal["auto", "rgb", "gray"] = "auto"
    """Channels to train with. auto takes gray if every image is gray, else colour, and refuses a data set that seems to
    mix images with their masks."""
    background: str = "white"
    """Colour behind transparent pixels and around padded images, by name or as #rrggbb."""
    pixel_range: tuple[float, float] | None = None
    """Values that become black and white in images of more than 8 bits, signed or floating-point ones, such as 0 4095
    or -1000 3000 (default: 0 65535; signed and floating-point images, and such arrays, are refused)."""
    small_images: Literal["upscale", "drop", "error"] = "upscale"
    """What to do with images smaller than the resolution: enlarge them, leave them out, or end with an error."""
    duplicates: Literal["keep", "drop"] = "keep"
    """What to do with images that equal an earlier one pixel for pixel: keep them, or leave them out."""
    max_refused_share: float = Field(0.05, ge=0, le=1)
    """Largest share of the images that may be unusable; training continues without them, and data.json lists each."""
    random_flip: bool = True
    """Mirror each training image left to right with probability 1/2, drawn anew at each step."""
    heldout_images: int | None = Field(None, ge=0)
    """Images kept out of training to evaluate on (default: one in ten, at most 512); fewer if exact duplicates, which
    stay together, do not add up to that number."""

    @field_validator("pixel_range", mode="before")
    @classmethod
    def _tuple_of_json(cls, given: Any) -> Any:
        return tuple(given) if isinstance(given, list) else given


class ModelOptions(_Options):
    """The UNet and the diffusion process it learns to reverse."""

    model: str = "default"
    """A named size (default, unet-64, unet-32, unet-16, unet-8), or the path of a UNet2DModel config.json or of its
    folder. Only the architecture is taken, even if the folder holds weights."""
    init_from: str | None = Field(None, min_length=1)
    """Fine-tune: start from these weights, with their architecture. A run folder, the folder of a diffusers pipeline or
    UNet, or a Hub id (google/ddpm-cat-256); safetensors only."""
    num_train_timesteps: int = Field(1000, ge=2, le=1_000_000)
    """Timesteps (noise levels) of the forward process. A multiple of 50 suits the 50 steps of diffusers'
    DDIMPipeline."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    """How the noise grows over the timesteps (squaredcos_cap_v2 is the cosine schedule)."""
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """What the model predicts: the noise, the clean image, or the velocity between them."""
    zero_init_residuals: bool = False
    """Initialize the UNet so that its residual blocks and attention add nothing at first, and its prediction is 0."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of storing them: less memory, more time."""


class OptimizationOptions(_Options):
    """How the weights are trained."""

    train_batch_size: int = Field(16, ge=1, le=1_000_000)
    """Images per micro-batch and process."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Micro-batches whose gradients are averaged into one step."""
    num_epochs: int = Field(100, ge=1, le=10**12)
    """Passes over the training images; max_train_steps or max_minutes, if given, decides instead."""
    max_train_steps: int | None = Field(None, ge=1, le=10**12)
    """Optimizer steps to train for."""
    max_minutes: float | None = Field(None, gt=0, le=10**7)
    """Minutes that a new run may take from its first step on, previews and evaluation included. A few steps are timed
    on this machine, and as many as fit are planned and recorded as max_train_steps."""
    learning_rate: float = Field(1e-4, gt=0)
    """Highest learning rate of the schedule."""
    lr_scheduler: LearningRateSchedule = "cosine"
    """Learning rate schedule, by its name in diffusers."""
    lr_warmup_steps: int = Field(500, ge=0)
    """Optimizer steps over which the learning rate rises from 0."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW; or Muon for the weights of convolutions and projections, with AdamW for the rest. Muon learns more from
    each image, and takes a tenth more time per step on small models. Its cost grows with the number of weights, not
    with the batch: for the default UNet it is that of 16 images of 64x64."""
    adam_beta1: float = Field(0.95, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of AdamW's second moment."""
    adam_weight_decay: float = Field(1e-6, ge=0)
    """Decoupled weight decay, also for Muon."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """Added to AdamW's denominator; from about 1e-5 on it outweighs the gradients and slows training."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Largest gradient norm, over all parameters; larger gradients are scaled down to it."""
    timestep_sampling: TimestepSampling = "uniform"
    """How timesteps are drawn. uniform: independently for each image. stratified: spread evenly over the noise levels
    within a micro-batch. importance: stratified, but more often with little noise, where most of the error is; errors
    are weighted so that the loss stays the mean over all timesteps."""
    use_ema: bool = True
    """Keep an exponential moving average (EMA) of the weights, which gives the best samples."""
    ema_inv_gamma: float = Field(1.0, gt=0)
    """Inverse multiplicative factor of the EMA warm-up: decay = 1 - (1 + step / inv_gamma) ** -power."""
    ema_power: float = Field(0.75, gt=0)
    """Exponent of the EMA warm-up."""
    ema_max_decay: float = Field(0.9999, ge=0, lt=1)
    """Largest decay of the EMA."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the forward and backward pass; weights stay float32."""
    speed: Literal["auto", "exact", "max"] = "auto"
    """How to compute on a GPU, in TF32. exact: the same bits each time. auto: the same up to rounding, with a compiled
    UNet for long runs. max: always compiled, and in half precision unless mixed_precision is given. On a CPU all are
    exact."""
    seed: int = Field(0, ge=0)
    """Seed of the image order, noise, timesteps, flips and initial weights."""
    evaluation_seed: int = Field(0, ge=0)
    """Seed of what a run is evaluated on: the held-out images, the fixed samples with their noise, and the noise of
    previews. Runs that share it can be compared sample by sample, whatever their seeds."""


class RunOptions(_Options):
    """The run folder and what is written when."""

    recipe: str | None = None
    """A named set of options; options given as well replace its values."""
    output_dir: str = Field("ddpm-model", min_length=1)
    """The run folder."""
    overwrite_output_dir: bool = False
    """Remove an earlier run's files from output_dir first."""
    resume_from_checkpoint: str | None = None
    """Continue from a checkpoint of output_dir: 'latest', or a checkpoint's folder."""
    accept_changes: bool = False
    """Resume even if options or images differ from those the run began with; the changes are recorded in run.json."""
    max_rollbacks: int = Field(0, ge=0)
    """How often to go back to the newest checkpoint, with half the learning rate, when the loss or the gradient is NaN
    or infinite."""
    rank_timeout: int = Field(1800, ge=1)
    """Seconds that one of several processes waits for the others before it considers them lost and ends."""
    checkpointing_steps: int = Field(500, ge=1)
    """Steps between checkpoints. If one is due while the last is still being written, it is made right after that."""
    checkpoints_total_limit: int = Field(3, ge=1)
    """Number of checkpoints to keep, the newest ones."""
    keep_every: int | None = Field(None, ge=1)
    """Steps between checkpoints that are kept for good, whole; checkpoints_total_limit counts only the others."""
    milestones: int = Field(0, ge=0, le=10_000)
    """Number of steps whose exported weights are kept for good, without the rest of their checkpoints: spaced evenly on
    a logarithmic scale, from a hundredth of the run to its end. `openddpm sample --at IMAGES` draws with them."""
    save_images_epochs: int | None = Field(None, ge=1)
    """Epochs between previews; one more is made at the end (default: previews take about a twentieth of the time, in
    short runs up to 8 of them a fifth; most come early)."""
    eval_batch_size: int = Field(16, ge=1)
    """Images in a preview."""
    num_inference_steps: int = Field(50, ge=1)
    """Sampling steps of a preview."""
    preview_solver: PreviewSolver = "ddim"
    """Solver for previews; the others need fewer steps than ddim for the same pictures."""
    logging_steps: int = Field(10, ge=1)
    """Steps between lines of metrics.jsonl."""
    follow: str | None = Field(None, min_length=1)
    """Reference to compare the run with while it trains: a built-in name (see `openddpm references`), a run folder, a
    folder of run folders or a Hub id (default: the recipe's, if it has one); none for no reference."""
    logging_dir: str = "logs"
    """TensorBoard events go to LOGGING_DIR/NAME-OF-RUN."""
    report_to: str = "tensorboard"
    """Trackers to log to, separated by commas: tensorboard, wandb, trackio and others that Accelerate has a class for;
    or none. All but tensorboard need `pip install 'openddpm[NAME]'`, and are configured in their own ways (WANDB_MODE,
    TRACKIO_DIR and the like)."""

    @property
    def trackers(self) -> list[str]:
        """Names of the trackers, each once."""
        names = [name.strip() for name in self.report_to.split(",")]
        return [] if names == ["none"] else list(dict.fromkeys(names))


class HubOptions(_Options):
    """Sharing the run on the Hugging Face Hub."""

    push_to_hub: bool = False
    """Upload weights, milestones, record, report and card when the run ends, with a few training images but no
    checkpoints; `openddpm push` does the same."""
    hub_model_id: str | None = None
    """Repository to push to (default: the run folder's name, under your account)."""
    hub_private_repo: bool = False
    """Create the repository as private."""
    hub_token: str | None = Field(None, exclude=True, repr=False)
    """Access token; better given by HF_TOKEN or `hf auth login`. Never written anywhere."""


class TrainConfig(HubOptions, RunOptions, OptimizationOptions, ModelOptions, DataOptions):  # fields: data first
    """All options of a training run. Frozen; unknown names and values out of range are refused, all at once.

    Raises:
        UserError: naming every option that is wrong.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _with_recipe_and_plain_errors(cls, data: Any, handler: Any) -> Any:
        errors = []
        if isinstance(data, dict) and isinstance(data.get("output_dir"), str):
            data = {**data, "output_dir": os.path.expanduser(data["output_dir"])}  # noqa: PTH111 - "" stays ""
        if isinstance(data, dict) and isinstance(data.get("recipe"), str):
            recipe = data["recipe"]
            if recipe not in RECIPES:
                errors.append(f"unknown recipe '{recipe}'; {closest(recipe, list(RECIPES))}")
            data = _with_given(RECIPES.get(recipe, {}), data)
        try:
            config = handler(data)
        except ValidationError as error:
            errors += _describe(error)
        else:
            errors += _contradictions(config)
        if errors:
            raise UserError("\n".join(errors), "See `openddpm train --help` for every option.")
        return config

    def global_batch_size(self, num_processes: int) -> int:
        """Return the number of images per optimizer step, over all processes and accumulation steps."""
        return self.train_batch_size * self.gradient_accumulation_steps * num_processes


OPTION_GROUPS = {
    "data": DataOptions,
    "model": ModelOptions,
    "optimization": OptimizationOptions,
    "run": RunOptions,
    "hub": HubOptions,
}

SECRET_OPTIONS = frozenset({"hub_token"})

# Options that change where a run is kept or what it writes, but none of its numbers.
NEUTRAL_OPTIONS = frozenset(
    {
        *("recipe", "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "logging_dir", "cache_dir"),
        *("report_to", "follow"),
        "dataset",  # the sha256 of its images tells whether it is the same
        *("checkpointing_steps", "checkpoints_total_limit", "keep_every", "milestones"),
        *("accept_changes", "max_rollbacks", "rank_timeout"),
        "max_refused_share",
        *("push_to_hub", "hub_model_id", "hub_private_repo", "hub_token"),
    }
)


def average_names(options: dict[str, Any]) -> list[str]:
    """Return the names of the averages of the weights that a run with these options keeps."""
    return ["ema"] if options.get("use_ema", True) else []


def recorded_config(values: dict[str, Any], **changes: Any) -> TrainConfig:
    """Return the config in run.json with `changes`; a recipe that has changed since has no effect."""
    return TrainConfig(**_with_given({**values, "recipe": None}, changes))


def resuming_config(values: dict[str, Any], folder: str, **changes: Any) -> TrainConfig:
    """Return the config that resumes the run in `folder` with the `values` of its run.json and with `changes`.

    Raises:
        UserError: an option is wrong, or is another folder or a recipe.
    """
    resuming: dict[str, Any] = {"output_dir": folder, "resume_from_checkpoint": "latest"}
    resuming |= {"overwrite_output_dir": False, "accept_changes": False}  # given for one session, not for later ones
    config = recorded_config({**values, **resuming}, **changes)
    if config.output_dir != folder or config.recipe is not None:
        hint = "Leave them out; `openddpm train` begins a new run."
        raise UserError("resume takes neither --output_dir nor --recipe: a run keeps its folder and its options", hint)
    return config


def _with_given(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the `values` of a recipe or of a run, replaced by those that are `given` as well."""
    if "num_epochs" in given or given.get("max_minutes") is not None:
        values = {name: value for name, value in values.items() if name != "max_train_steps"}  # which would win
    return {**values, **given}


def config_differences(ours: TrainConfig, theirs: TrainConfig) -> list[str]:
    """Return a line for each option that would change the numbers of a run: `name: ours, but theirs in the run`."""
    return [
        f"{name}: {_told(getattr(ours, name))}, but {_told(getattr(theirs, name))} in the run"
        for name in TrainConfig.model_fields
        if name not in NEUTRAL_OPTIONS and getattr(ours, name) != getattr(theirs, name)
    ]


def _told(value: Any) -> str:
    """Return a value in words; text is quoted, so that a path in it can be told from the rest of a sentence."""
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else repr(value)


def beta_range(num_train_timesteps: int) -> tuple[float, float]:
    """Return the first and the last beta of the linear and scaled_linear schedules.

    1e-4 and 0.02 for 1000 timesteps (Ho et al., 2020), times 1000 / T for T timesteps, so that the last one leaves as
    little of an image (as in the code of Nichol and Dhariwal, 2021).
    """
    scale = 1000 / num_train_timesteps
    return 1e-4 * scale, 0.02 * scale


def _contradictions(config: TrainConfig) -> list[str]:
    """Return a line for each option that contradicts another, or that is no valid text."""
    errors = []
    num_timesteps, last_beta = config.num_train_timesteps, beta_range(config.num_train_timesteps)[1]
    if config.num_inference_steps > num_timesteps:
        errors.append(
            f"num_inference_steps: found {config.num_inference_steps}, but there are only num_train_timesteps "
            f"{num_timesteps}"
        )
    if config.beta_schedule != "squaredcos_cap_v2" and last_beta >= 1:
        errors.append(
            f"num_train_timesteps: found {num_timesteps}; the last step of the {config.beta_schedule} schedule would "
            f"have beta = 0.02 * 1000 / {num_timesteps} = {last_beta:g}, but it has to be below 1, where nothing is "
            "left of an image: give 21 or more (1000 is usual), or beta_schedule squaredcos_cap_v2"
        )
    if config.max_minutes is not None and config.max_train_steps is not None:
        errors.append(
            f"max_minutes: found {config.max_minutes:g} as well as max_train_steps {config.max_train_steps}; give only "
            "one of them"
        )
    if config.lr_scheduler == "polynomial" and config.learning_rate <= 1e-7:
        errors.append(f"learning_rate: found {config.learning_rate}; polynomial ends at 1e-7, so it has to start above")
    if config.init_from and config.zero_init_residuals:
        errors.append("zero_init_residuals: found True; it would overwrite weights that init_from loads")
    if config.pixel_range is not None and not config.pixel_range[0] < config.pixel_range[1]:
        low, high = config.pixel_range
        errors.append(f"pixel_range: found {low:g} {high:g}; the first value, black, has to be below the second, white")
    if "" in config.trackers or "none" in config.trackers:
        errors.append(f"report_to: found {config.report_to!r}; give names of trackers, separated by commas, or none")
    for name, value in config:
        is_text = isinstance(value, str) and name not in SECRET_OPTIONS
        if is_text and any("\ud800" <= character <= "\udfff" for character in value):  # bytes that are not UTF-8
            errors.append(f"{name}: found {value!r}, which is not valid UTF-8")
    return errors


def _describe(error: ValidationError) -> list[str]:
    """Return a line for each option that is wrong; the value of a secret is never shown."""
    lines = []
    for detail in error.errors():
        name = ".".join(map(str, detail["loc"])) or "config"
        if detail["type"] == "extra_forbidden":
            elsewhere = answer(name)
            hint = f"it {elsewhere}" if elsewhere else closest(name, list(TrainConfig.model_fields))
            lines.append(f"{name}: no such option; {hint}")
        else:
            found = "a value" if name in SECRET_OPTIONS else repr(detail["input"])
            lines.append(f"{name}: found {found}; {detail['msg'][0].lower()}{detail['msg'][1:]}")
    return lines
