"""Checks of a planned run before it begins: from its record alone, in no time, without torch."""

import math
from collections.abc import Iterator

from openddpm.analysis.data_checks import check_images, check_mirroring, check_pixels, check_split
from openddpm.analysis.finding import Finding, by_severity
from openddpm.analysis.left_out import check_left_out
from openddpm.analysis.noise_checks import check_noise
from openddpm.analysis.text import number_of
from openddpm.config import average_names
from openddpm.record.data_record import DataRecord
from openddpm.record.schema import RunRecord

# Model
SMALLEST_LEVEL, LARGEST_LEVEL = 4, 16  # published UNets end at 4 to 8 pixels (Ho et al., 2020; Dhariwal & Nichol, 2021)
LEVELS_OF_SIZES = {"unet-8": 2, "unet-16": 2, "unet-32": 3, "unet-64": 4}
CPU_GFLOPS_PER_THREAD = 100.0  # optimistic for any CPU: measured 16 to 60 on one core of an EPYC with AVX-512
LONG_DAYS = 7.0  # assumed
FORWARDS_PER_TRAINED_IMAGE = 3.0  # a backward pass costs as much as two forward passes
# Optimization
HIGH_RATE, HARMFUL_RATE = 5e-3, 2e-2  # assumed: AdamW moves every weight by about this much a step
LOW_RATE, USELESS_RATE = 1e-5, 1e-6  # assumed
LARGE_MODEL, HIGH_RATE_LARGE = 10_000_000, 2e-3  # assumed; Karras et al. (2022) train 56 million weights with 1e-3
MUON_RATE_FACTOR = 4  # measured: it learns well with 4e-3 to 1e-2, and with 2e-2 still better than AdamW does at best
HIGH_EPSILON, HARMFUL_EPSILON = 1e-5, 1e-4  # measured: AdamW's steps shrink to 0.97 at 1e-6, to 0.51 at 1e-4
HIGH_BETA1, LOW_BETA2 = 0.98, 0.9  # assumed
SMALL_BATCH = 4  # assumed
SMALL_GRAD_NORM, LOOSE_GRAD_NORM = 0.01, 10.0  # assumed: gradients of a UNet have a norm of 0.05 to 2
SHORT_RUN_STEPS = 100  # assumed: too few to judge an average by
LONG_AVERAGE_SHARE, SHORT_AVERAGE_STEPS = 1 / 3, 10  # assumed
FEW_IMAGES_SEEN = 20_000  # measured: 16x16 faces are no better than a linear denoiser before 46,000


def check_plan(run: RunRecord, data: DataRecord | None) -> list[Finding]:
    """Return the findings on a planned run, the most severe first; few or none on a sound one."""
    findings = [*check_left_out(data)] if data is not None else []
    findings += check_images(run, data, _total_images(run))
    if data is not None:
        findings += check_pixels(run, data)
    findings += check_split(run, data)
    findings += check_mirroring(run, data)
    for check in (_model, check_noise, _average, _learning_rate, _optimizer, _batch, _precision, _previews, _length):
        findings += check(run)
    return by_severity(findings)


def count_previews(run: RunRecord) -> int:
    """Return how many previews the run makes: as planned or every --save_images_epochs, and after the last step."""
    every = run.config["save_images_epochs"]
    if every is None:
        return 1 + len(run.previews.steps if run.previews else [])
    total_images, images_per_preview = _total_images(run), run.dataset.num_train * every
    num_ended = total_images // images_per_preview
    last_ends_none = num_ended == (total_images - run.global_batch_size) // images_per_preview
    return min(run.total_steps, num_ended + last_ends_none)


def preview_cost(run: RunRecord) -> float:
    """Return the work of all previews of the run, in units of trained images."""
    config = run.config
    forwards = (1 + len(average_names(config))) * config["eval_batch_size"] * config["num_inference_steps"]
    return count_previews(run) * forwards / FORWARDS_PER_TRAINED_IMAGE


def _total_images(run: RunRecord) -> int:
    return run.total_steps * run.global_batch_size


def _model(run: RunRecord) -> Iterator[Finding]:
    side, num_levels = min(run.dataset.image_shape[1:]), len(run.model.config["block_out_channels"])
    lowest = side // 2 ** (num_levels - 1)
    if not SMALLEST_LEVEL <= lowest <= LARGEST_LEVEL:
        fitting = [n for n in range(1, 12) if SMALLEST_LEVEL <= side // 2 ** (n - 1) <= LARGEST_LEVEL]
        names = [name for name, levels in LEVELS_OF_SIZES.items() if levels in fitting]
        yield Finding(
            "levels",
            "warning",
            f"a UNet of {number_of(num_levels, 'level')} reduces {run.dataset.size} images to {lowest}x{lowest} at "
            "its lowest level",
            "Layout is decided there: above 16x16, distant parts hardly interact; below 4x4, the level is wasted.",
            (f"Use --model {' or '.join(names)}, or" if names else "Use")
            + f" a UNet2DModel config with {' or '.join(map(str, fitting))} level{'s' * (fitting != [1])}.",
        )


def _average(run: RunRecord) -> Iterator[Finding]:
    config, steps = run.config, run.total_steps
    if not config["use_ema"] or steps < SHORT_RUN_STEPS:
        return
    warmed_up = 1 - (1 + steps / config["ema_inv_gamma"]) ** -config["ema_power"]
    is_warm_up, horizon = warmed_up < config["ema_max_decay"], 1 / (1 - min(config["ema_max_decay"], warmed_up))
    what = f"the EMA will average over about {horizon:,.0f} steps, of {steps:,} in the run"
    if horizon > LONG_AVERAGE_SHARE * steps:
        yield Finding(
            "ema_horizon",
            "warning",
            what,
            "It still contains weights from early in training, so its samples lag behind those of the raw weights.",
            "Raise --ema_inv_gamma or lower --ema_power (1 and 0.75 are usual)."
            if is_warm_up
            else "Lower --ema_max_decay, or train longer.",
        )
    elif horizon < SHORT_AVERAGE_STEPS:
        yield Finding(
            "ema_horizon",
            "warning",
            what,
            "That hardly averages anything: its samples are as noisy as those of the raw weights.",
            "Lower --ema_inv_gamma or raise --ema_power (1 and 0.75 are usual)."
            if is_warm_up
            else "Raise --ema_max_decay (0.999 is usual for short runs, 0.9999 for long ones).",
        )


def _optimizer(run: RunRecord) -> Iterator[Finding]:
    config = run.config
    epsilon, max_norm = config["adam_epsilon"], config["max_grad_norm"]
    if epsilon >= HIGH_EPSILON:
        why = "Adam divides by |gradient| + epsilon: weights whose gradients are not far above epsilon hardly move."
        if max_norm <= LOOSE_GRAD_NORM:
            why += f" Clipped to norm {max_norm:g}, gradients here average at most "
            why += f"{max_norm / run.model.num_parameters**0.5:.0e} per weight, and far less as the loss falls."
        yield Finding(
            "adam_epsilon",
            "error" if epsilon >= HARMFUL_EPSILON else "warning",
            f"--adam_epsilon {epsilon:g}",
            why,
            "Use --adam_epsilon 1e-8.",
        )
    beta1, beta2 = config["adam_beta1"], config["adam_beta2"]
    if beta1 > HIGH_BETA1 or beta2 < LOW_BETA2 or beta1 > beta2:
        yield Finding(
            "adam_betas",
            "warning",
            f"--adam_beta1 {beta1:g} --adam_beta2 {beta2:g}",
            "Adam averages gradients over 1 / (1 - beta1) steps and their squares over 1 / (1 - beta2); the first "
            "should be about 10 steps, the second more.",
            "Use 0.9 to 0.95 for the first and 0.99 to 0.999 for the second.",
        )
    if max_norm < SMALL_GRAD_NORM:
        yield Finding(
            "max_grad_norm",
            "warning",
            f"--max_grad_norm {max_norm:g}",
            "Every gradient would be scaled down to it, which Adam mostly undoes; a rare bad batch is then not limited "
            "more than the others.",
            "Use --max_grad_norm 1.",
        )


def _learning_rate(run: RunRecord) -> Iterator[Finding]:
    config, num_weights = run.config, run.model.num_parameters
    rate, warmup_steps = config["learning_rate"], config["lr_warmup_steps"]
    usual = "Usual with AdamW: 1e-4 for 100 million weights, 2e-4 to 1e-3 for 10 million, up to 4e-3 below a million."
    factor = MUON_RATE_FACTOR if config["optimizer"] == "muon" else 1
    if rate > factor * HIGH_RATE or (num_weights >= LARGE_MODEL and rate > factor * HIGH_RATE_LARGE):
        yield Finding(
            "learning_rate",
            "error" if rate > factor * HARMFUL_RATE else "warning",
            f"--learning_rate {rate:g} for {num_weights:,} weights is high",
            "AdamW moves each weight by about as much at every step: training tends to diverge, or to give gray.",
            usual,
        )
    elif rate < LOW_RATE:
        yield Finding(
            "learning_rate",
            "error" if rate < USELESS_RATE else "warning",
            f"--learning_rate {rate:g} is low",
            f"In {run.total_steps:,} steps no weight can move by more than about {rate * run.total_steps:.1g}.",
            usual,
        )
    if warmup_steps >= run.total_steps and config["lr_scheduler"] != "constant":
        yield Finding(
            "lr_warmup",
            "warning",
            f"the learning rate rises for {number_of(warmup_steps, 'step')}, and this run has {run.total_steps:,}",
            "It never reaches --learning_rate.",
            f"Use --lr_warmup_steps {run.total_steps // 10}, or train longer.",
        )


def _batch(run: RunRecord) -> Iterator[Finding]:
    batch, num_train = run.global_batch_size, run.dataset.num_train
    if batch < min(SMALL_BATCH, num_train):
        yield Finding(
            "batch_size",
            "warning",
            f"a step has {number_of(batch, 'image')}",
            "Each image has one noise level per step, so the gradient is mostly random.",
            "Raise --train_batch_size, or --gradient_accumulation_steps if memory is short.",
        )
    elif batch > num_train:
        yield Finding(
            "batch_size",
            "warning",
            f"a step has {number_of(batch, 'image')}, the training set {num_train:,}",
            "Each step goes through the whole set more than once.",
            "Lower --train_batch_size or --gradient_accumulation_steps.",
        )


def _precision(run: RunRecord) -> Iterator[Finding]:
    precision, device = run.config["mixed_precision"], run.session.environment.device_type
    if precision == "bf16" and device == "cpu":
        yield Finding(
            "precision",
            "warning",
            "--mixed_precision bf16 on a CPU",
            "Most CPUs emulate bfloat16: slower than float32, and less exact.",
            "Use --mixed_precision no, unless you have measured that yours is faster.",
        )
    elif precision == "no" and device == "cuda":
        yield Finding(
            "precision",
            "note",
            "--mixed_precision no on a GPU",
            "GPUs of the Ampere generation (2020) and later train 2 to 3 times as fast in bfloat16, at half the memory "
            "for activations.",
            "Try --mixed_precision bf16; weights stay float32.",
        )
    elif precision == "fp16":
        yield Finding(
            "precision",
            "note",
            "--mixed_precision fp16",
            "Its range is small: gradients are scaled, and steps that overflow are skipped.",
            "Prefer --mixed_precision bf16 if the GPU supports it.",
        )


def _previews(run: RunRecord) -> Iterator[Finding]:
    total_images, num_previews = _total_images(run), count_previews(run)
    times = preview_cost(run) / total_images
    if times > 1 and num_previews > 1:
        epochs = total_images / run.dataset.num_train / max(1, num_previews / (10 * times))
        yield Finding(
            "previews",
            "warning",
            f"previews take about {times:.1f} times as long as training",
            "There is one every --save_images_epochs, and epochs of so few images are short.",
            f"Use --save_images_epochs {math.ceil(epochs)}, or leave it out: then their number is chosen for the run.",
        )


def _length(run: RunRecord) -> Iterator[Finding]:
    total_images, environment, gflops = _total_images(run), run.session.environment, run.model.gflops_per_image
    if total_images < FEW_IMAGES_SEEN:
        yield Finding(
            "length",
            "note",
            f"the run sees {number_of(total_images, 'image')} in total, repetitions included",
            "Before about 50,000 even 16x16 faces look like noise; larger images take longer.",
            "For more than a trial raise --num_epochs or --max_train_steps.",
        )
    if environment.device_type == "cpu":
        days = total_images * gflops / (environment.cpu_threads * CPU_GFLOPS_PER_THREAD) / 86_400
        if days > LONG_DAYS:
            yield Finding(
                "duration",
                "warning",
                f"{total_images:,} images of {gflops:,.0f} GFLOP each take {days:,.0f} days or more on this CPU",
                "This model needs a GPU.",
                f"Use a smaller --model ({', '.join(LEVELS_OF_SIZES)}), fewer steps, or a GPU.",
            )
