"""Findings about a planned run from measurements: of its disk, its memory, and a few training steps."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from openddpm.analysis.checks import LONG_DAYS
from openddpm.analysis.finding import Finding
from openddpm.analysis.text import byte_size, duration, number_of, significant
from openddpm.record.schema import RunRecord

ENOUGH_STEPS = 20  # measured: fewer say nothing about a model whose loss has not fallen
SOUND_REMAINING = 0.5  # measured: sound models keep 0.2 of the first loss or less, whatever they predict
SLOW_REMAINING, FLAT_REMAINING = 0.7, 0.98  # measured on 16x16 faces: 0.2 at rate 1e-4, 0.90 at 4e-6, 0.997 at 1e-7
SMALL_EPSILON_SHARE, SOUND_EPSILON_SHARE = 0.6, 0.9  # measured there: 0.97 at epsilon 1e-6, 0.51 at 1e-4


@dataclass(frozen=True)
class Fit:
    """A batch memorized, within a limit of steps and time."""

    num_images: int
    num_steps: int
    first_loss: float
    last_loss: float
    """May be infinite or NaN."""

    @property
    def remaining(self) -> float:
        """Return the last loss over the first; infinity if the last is not finite."""
        return self.last_loss / self.first_loss if math.isfinite(self.last_loss) else math.inf

    def __str__(self) -> str:
        return f"loss {self.first_loss:.3g} -> {self.last_loss:.3g} in {number_of(self.num_steps, 'step')}"


@dataclass
class Measurements:
    """Measurements of a planned run; None stands for what was not or could not be measured."""

    num_frozen: int = 0
    """Weights whose requires_grad is False."""
    signal_left: float | None = None
    """a_t at the last timestep: the share of the image that is left there."""
    batch_size: int | None = None
    """Images in a timed step: train_batch_size, or its largest divisor that fits into memory."""
    out_of_memory: bool = False
    """train_batch_size did not fit; if batch_size is None, not even one image did."""
    memory_bytes: int | None = None
    """Peak memory of the GPU, or else of the process."""
    step_seconds: float | None = None
    images_per_second: float | None = None
    """The rate of one process."""
    training_seconds: float | None = None
    """Expected for the whole run in one process, without previews and evaluations."""
    preview_seconds: float | None = None
    """Expected for all previews together, computed from their number of forward passes."""
    disk_needed_bytes: int | None = None
    """For checkpoints, at most."""
    disk_free_bytes: int | None = None
    careful_fit: Fit | None = None
    """A batch memorized with settings that work for any sound model."""
    own_fit: Fit | None = None
    """The same batch, with the run's own optimizer settings."""
    epsilon_share: float | None = None
    """Length of AdamW's last step in `own_fit`, over its length without adam_epsilon."""

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the measurements to show, each as a name and a formatted text."""
        if self.step_seconds is not None and self.images_per_second is not None:
            rate = f"{significant(self.step_seconds)} s, {significant(self.images_per_second)} images/s"
            yield f"a step of {number_of(self.batch_size or 0, 'image')}", rate
        if self.training_seconds is not None and self.preview_seconds is not None:
            previews = f"and {duration(self.preview_seconds)} of previews"
            yield "the whole run", f"about {duration(self.training_seconds)} of training, {previews}"
        if self.signal_left is not None:
            yield "share of the image left at the last timestep", f"{self.signal_left:.2%}"
        if self.memory_bytes is not None:
            yield "memory, at most", byte_size(self.memory_bytes)
        if self.disk_needed_bytes is not None and self.disk_free_bytes is not None:
            yield "disk", f"{byte_size(self.disk_needed_bytes)} for checkpoints, {byte_size(self.disk_free_bytes)} free"
        if self.careful_fit is not None:
            yield "memorizing one batch", str(self.careful_fit)
        if self.own_fit is not None:
            yield "the same with your settings", str(self.own_fit)


def refuted(measured: Measurements) -> set[str]:
    """Return the names of findings of the plan that the measurements refute."""
    share = measured.epsilon_share
    return {"adam_epsilon"} if share is not None and share > SOUND_EPSILON_SHARE else set()


def check_measurements(run: RunRecord, measured: Measurements) -> Iterator[Finding]:
    """Yield findings; each replaces the one of the same name from the plan."""
    for check in (_disk, _frozen, _memory, _time, _fits):
        yield from check(run, measured)


def _frozen(run: RunRecord, measured: Measurements) -> Iterator[Finding]:
    if measured.num_frozen:
        yield Finding(
            "frozen",
            "warning",
            f"{measured.num_frozen:,} of {run.model.num_parameters:,} weights are frozen: their requires_grad is False",
            "They keep their initial values through the whole run.",
            "Call unet.requires_grad_(True), unless you froze them on purpose.",
        )


def _time(run: RunRecord, measured: Measurements) -> Iterator[Finding]:
    training, previews = measured.training_seconds, measured.preview_seconds
    if training is None or previews is None or training + previews <= LONG_DAYS * 86_400:
        return
    rate, total = significant(measured.images_per_second or 0), duration(training + previews)
    what = f"at {rate} images a second the run takes {total}"
    hint = "Take a smaller --model, a lower --resolution, fewer steps, or a faster machine."
    if previews > training:
        what += f", {duration(previews)} of it for previews"
        hint = "Raise or leave out --save_images_epochs, or lower --num_inference_steps or --eval_batch_size."
    yield Finding("duration", "warning", what, "A mistake in the plan would show late or never.", hint)


def _disk(run: RunRecord, measured: Measurements) -> Iterator[Finding]:
    needed, free = measured.disk_needed_bytes, measured.disk_free_bytes
    if needed is not None and free is not None and needed > free:
        yield Finding(
            "disk",
            "error",
            f"checkpoints need {byte_size(needed)} of disk space, and {byte_size(free)} are free",
            "The run would stop when the disk is full.",
            "Free disk space, keep less (--checkpoints_total_limit, --keep_every, --milestones), or choose another "
            "--output_dir.",
        )


def _memory(run: RunRecord, measured: Measurements) -> Iterator[Finding]:
    if not measured.out_of_memory:
        return
    planned = run.config["train_batch_size"]
    hint = "Take a smaller --model or --resolution, --gradient_checkpointing, or --mixed_precision bf16."
    if measured.batch_size is not None:
        accumulation = run.config["gradient_accumulation_steps"] * planned // measured.batch_size
        options = f"--train_batch_size {measured.batch_size} --gradient_accumulation_steps {accumulation}"
        hint = f"Use {options} for as many images per step."
    yield Finding(
        "memory",
        "error",
        f"a batch of {number_of(planned, 'image')} does not fit into memory",
        "The run would stop at its first step.",
        hint,
    )


def _fits(run: RunRecord, measured: Measurements) -> Iterator[Finding]:
    careful, own, config = measured.careful_fit, measured.own_fit, run.config
    if careful is not None and careful.remaining > SOUND_REMAINING:
        yield _unsound(careful)
    if measured.epsilon_share is not None and measured.epsilon_share < SMALL_EPSILON_SHARE:
        yield Finding(
            "adam_epsilon",
            "error",
            f"with --adam_epsilon {config['adam_epsilon']:g} AdamW's steps are {measured.epsilon_share:.0%} as long "
            "as without",
            "Adam divides by |gradient| + epsilon. This epsilon is as large as the gradients, which get smaller as "
            "training goes on.",
            "Use --adam_epsilon 1e-8.",
        )
    if careful is None or own is None or careful.remaining > SOUND_REMAINING or own.remaining <= SLOW_REMAINING:
        return
    if own.num_steps < ENOUGH_STEPS and math.isfinite(own.last_loss):
        return
    rises, is_flat = own.remaining > 1, own.remaining > FLAT_REMAINING
    yield Finding(
        "own_settings",
        "error" if rises or is_flat else "warning",
        f"--learning_rate {config['learning_rate']:g} with your other optimizer settings: {own}; with safe ones: "
        f"{careful}",
        "The model can memorize this batch, but with your settings "
        + ("its loss rises." if rises else "it hardly does: its steps are too small, or so large that they overshoot."),
        "Start from the defaults: --adam_beta1 0.95 --adam_beta2 0.999 --adam_epsilon 1e-8 --max_grad_norm 1, with "
        "--learning_rate 1e-4 for a large model and 1e-3 for a small one.",
    )


def _unsound(fit: Fit) -> Finding:
    images = number_of(fit.num_images, "image")
    if fit.num_steps < ENOUGH_STEPS and math.isfinite(fit.last_loss):
        return Finding(
            "one_batch",
            "note",
            f"one batch of {images}, memorized: {fit}, when time ran out",
            "So few steps do not show whether model and data are sound.",
            "Run the doctor on the machine that will train.",
        )
    return Finding(
        "one_batch",
        "error",
        f"one batch of {images} is not memorized: {fit}",
        "With the same images, noise and timesteps at each step, the loss of a sound model soon falls below half of "
        "its first value. Here it does not: the model or its input is broken.",
        "Check the UNet, and the transform if you give one: does its output depend on the input at all?",
    )
