"""Each planted fault in a plan is found, and sound plans are left in peace."""

from typing import Any

import pytest

from made_up_run import made_up_session
from openddpm.analysis.checks import LEVELS_OF_SIZES, check_plan, count_previews, preview_cost
from openddpm.analysis.data_checks import counts_text
from openddpm.analysis.finding import SEVERITIES, Finding
from openddpm.config import TrainConfig
from openddpm.diffusion.unet import SIZES
from openddpm.record.data_record import CutImage, DataRecord, ImageFinding, LeftOut
from openddpm.record.schema import DatasetRecord, ModelRecord, Progress, RunRecord
from openddpm.training.timetable import make_timetable

LEVELS = {"default": 4, **LEVELS_OF_SIZES}
CPU = {"device_type": "cpu", "cpu_threads": 2}
GPU = {"device_type": "cuda", "cpu_threads": 16}
SEED: dict[str, Any] = {
    "dataset": "huggan/pokemon",
    "resolution": 64,
    "train_batch_size": 16,
    "num_epochs": 400,
    "learning_rate": 1e-4,
}


def plan(
    num_train: int = 5488,
    num_heldout: int = 512,
    num_parameters: int = 702_499,
    gflops: float = 0.385,
    environment: dict[str, Any] = CPU,
    signal_left: float = 0.0064,
    **options: Any,
) -> RunRecord:
    """Return the record of a run that has not begun: the demo's, but for what is given."""
    config = TrainConfig(**({"recipe": "avatars-16", **options} if "num_epochs" not in options else options))
    batch = config.train_batch_size * config.gradient_accumulation_steps
    total_steps = config.max_train_steps or -(-config.num_epochs * num_train // batch)
    timetable = make_timetable(config, total_steps, num_train, num_processes=1)
    return RunRecord(
        run_id="0",
        name="run",
        status="running",
        created="",
        seed=0,
        evaluation_seed=0,
        total_steps=total_steps,
        config=config.model_dump(),
        dataset=DatasetRecord(
            source="images",
            revision=None,
            split=None,
            num_images=num_train + num_heldout,
            num_train=num_train,
            num_heldout=num_heldout,
            image_shape=(3, config.resolution, config.resolution),
            sha256="",
            num_near_duplicates=0,
            num_compared=num_heldout,
        ),
        model=ModelRecord(
            num_parameters=num_parameters,
            gflops_per_image=gflops,
            config={"block_out_channels": [32] * LEVELS[config.model]},
            signal_left=signal_left,
            initial_sha256="5c" * 32,
        ),
        progress=Progress(step=0, images_seen=0, epoch=0),
        sessions=[made_up_session(**environment)],
        chosen_options=["random_flip"],
        evaluation=timetable.plan(),
        previews=timetable.plan_of_previews(),
    )


def seed_plan(environment: dict[str, Any] = GPU, **options: Any) -> RunRecord:
    """Return the record of the seed command line on 7,400 images."""
    return plan(6888, 512, 231_440_643, 270.0, environment, **{**SEED, **options})


def images(counts: dict[str, int] | None = None, num_duplicates: int = 0, **pixels: Any) -> DataRecord:
    """Return the data record of 6,000 images like photographs, but for what is given."""
    brightness = {"pixel_min": 0, "pixel_max": 255, "pixel_mean": 120.0, "pixel_std": 60.0, **pixels}
    return DataRecord(num_images=6000, counts=counts or {}, images=[], num_duplicates=num_duplicates, **brightness)


WIDE = CutImage(path="wide.png", share=0.75)


def severities(findings: list[Finding]) -> dict[str, str]:
    """Return the findings that are shown at the start of training."""
    return {finding.name: finding.severity for finding in findings if finding.severity != "note"}


@pytest.mark.parametrize(
    "sound",
    [
        plan(),
        plan(environment=GPU),
        seed_plan(),
        plan(mixed_precision="bf16", environment=GPU),
        plan(adam_epsilon=1e-6),
    ],
)
def test_sound_plans_give_no_alarm(sound: RunRecord) -> None:
    """The demo recipe on any device, with a usual epsilon, and the seed command on a GPU, give neither fault nor
    warning."""
    assert severities(check_plan(sound, images({"alpha composited": 6000}))) == {}


PLANTED: dict[str, tuple[RunRecord, str, str]] = {
    "tiny set": (plan(90, 10), "memorizing", "warning"),
    "many weights, many epochs": (plan(900, 100, 231_440_643, environment=GPU, **SEED), "memorizing", "warning"),
    "nothing held out": (plan(num_heldout=0), "heldout", "warning"),
    "lowest level too large": (plan(resolution=64, model="unet-16"), "levels", "warning"),
    "lowest level too small": (plan(resolution=16, model="unet-64"), "levels", "warning"),
    "few timesteps": (plan(num_train_timesteps=50), "timesteps", "warning"),
    "timesteps that 50 does not divide": (plan(num_train_timesteps=128), "pipeline_steps", "warning"),
    "scaled_linear": (plan(signal_left=0.0271), "signal_left", "warning"),
    "EMA without warm-up": (plan(ema_inv_gamma=1e-4, ema_max_decay=0.9999), "ema_horizon", "warning"),
    "EMA of all steps": (plan(ema_power=1.0, ema_max_decay=0.99999), "ema_horizon", "warning"),
    "EMA of a few steps": (plan(ema_max_decay=0.5), "ema_horizon", "warning"),
    "demo rate x 100": (plan(learning_rate=0.4), "learning_rate", "error"),
    "Muon's rate x 10": (plan(learning_rate=0.08, optimizer="muon"), "learning_rate", "warning"),
    "AdamW with Muon's rate": (plan(optimizer="adamw"), "learning_rate", "warning"),
    "demo rate / 1000": (plan(learning_rate=4e-6), "learning_rate", "warning"),
    "seed rate x 100": (seed_plan(learning_rate=1e-2), "learning_rate", "warning"),
    "seed rate / 1000": (seed_plan(learning_rate=1e-7), "learning_rate", "error"),
    "demo rate, large model": (seed_plan(learning_rate=4e-3), "learning_rate", "warning"),
    "warm-up longer than the run": (plan(max_train_steps=400, lr_warmup_steps=400), "lr_warmup", "warning"),
    "Adam eps 1e-3": (plan(adam_epsilon=1e-3), "adam_epsilon", "error"),
    "Adam eps 1e-4": (plan(adam_epsilon=1e-4), "adam_epsilon", "error"),
    "Adam eps 1e-5": (plan(adam_epsilon=1e-5), "adam_epsilon", "warning"),
    "betas the wrong way round": (plan(adam_beta1=0.97, adam_beta2=0.95), "adam_betas", "warning"),
    "tiny max_grad_norm": (plan(max_grad_norm=1e-4), "max_grad_norm", "warning"),
    "batch of two": (plan(train_batch_size=2), "batch_size", "warning"),
    "batch beyond the set": (plan(300, train_batch_size=512), "batch_size", "warning"),
    "bf16 on a CPU": (plan(mixed_precision="bf16"), "precision", "warning"),
    "previews of tiny epochs": (plan(250, 60, num_inference_steps=50, save_images_epochs=1), "previews", "warning"),
    "large model on a CPU": (seed_plan(CPU), "duration", "warning"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_alone(name: str) -> None:
    """Each planted fault is told once, under its own name and with its severity, and brings no other alarm."""
    run, expected, severity = PLANTED[name]
    found = severities(check_plan(run, images()))
    follow = {"previews"} if run.dataset.num_train < 1000 else set()  # epochs of so few images are short
    assert found[expected] == severity
    assert found.keys() - follow == {expected} - follow


@pytest.mark.parametrize(
    ("data", "name", "severity"),
    [
        (images(num_duplicates=600), "duplicates", "warning"),
        (images(num_duplicates=60), "duplicates", "note"),
        (images({"alpha composited": 10}), "converted", "note"),
        (images({"16 bits scaled to 8": 10}), "converted", "note"),
        (images({"16 bits scaled to 8": 10}, raw_max=65535.0), "converted", "note"),
        (images({"16 bits scaled to 8": 10}, raw_max=4095.0), "converted", "warning"),
        (images({"16 bits scaled to 8": 10}, raw_max=1.0), "converted", "warning"),
        (images({"16 bits scaled to 8": 10}, raw_max=0.0), "converted", "note"),
        (images({"gray to colour": 4}), "gray", "note"),
        (images({"cut by more than a quarter": 9}, cut_mean=0.7, most_cut=[WIDE]), "cropped", "note"),
        (images({"cut by more than a quarter": 5000}, cut_mean=0.4, most_cut=[WIDE]), "cropped", "note"),
        (images({"cut by more than a quarter": 5000}, cut_mean=0.7, most_cut=[WIDE]), "cropped", "warning"),
        (images(num_duplicates=5999), "duplicates", "error"),
        (images({"upscaled": 3000}), "upscaled", "warning"),
        (images(pixel_max=17, pixel_mean=7.0, pixel_std=5.0), "brightness", "error"),
        (images(pixel_max=1, pixel_mean=0.4, pixel_std=0.3), "brightness", "error"),
        (images(pixel_min=255, pixel_mean=255.0, pixel_std=0.0), "brightness", "error"),
        (images(pixel_min=100, pixel_max=140, pixel_std=9.0), "brightness", "warning"),
    ],
    ids=str,
)
def test_what_decoding_met_is_judged(data: DataRecord, name: str, severity: str) -> None:
    """Duplicates, changed and enlarged images, and images in another range than 0..255, are told with their number."""
    (finding,) = (finding for finding in check_plan(plan(), data) if finding.name != "memorizing")
    assert (finding.name, finding.severity) == (name, severity)
    assert any(character.isdigit() for character in finding.what)


def images_of(**counts: int) -> DataRecord:
    """Return the data record with these counts, underscores for blanks."""
    return images({name.replace("_", " "): number for name, number in counts.items()})


OLD = {"max_train_steps": 3000, "ema_inv_gamma": 1e-6}  # an EMA that is warmed up from the start
CUT = "cut by more than a quarter"
Case = tuple[RunRecord, DataRecord | None]
LIMITS: dict[str, tuple[Case, Case, str | None, str]] = {
    "levels, small": ((plan(model="unet-32"), None), (plan(resolution=15, model="unet-32"), None), None, "warning"),
    "levels, large": (
        (plan(resolution=33, model="unet-16"), None),
        (plan(resolution=34, model="unet-16"), None),
        None,
        "warning",
    ),
    "timesteps": ((plan(num_train_timesteps=100), None), (plan(num_train_timesteps=99), None), None, "warning"),
    "pipeline_steps": ((plan(num_train_timesteps=50), None), (plan(num_train_timesteps=51), None), None, "warning"),
    "signal_left": ((plan(signal_left=0.01), None), (plan(signal_left=0.0101), None), None, "warning"),
    "ema_horizon, long": (
        (plan(**OLD, ema_max_decay=1 - 1 / 999), None),
        (plan(**OLD, ema_max_decay=1 - 1 / 1001), None),
        None,
        "warning",
    ),
    "ema_horizon, short": (
        (plan(**OLD, ema_max_decay=0.901), None),
        (plan(**OLD, ema_max_decay=0.899), None),
        None,
        "warning",
    ),
    "ema_horizon, steps": (
        (plan(max_train_steps=99, lr_warmup_steps=0, ema_max_decay=0.5), None),
        (plan(max_train_steps=100, lr_warmup_steps=0, ema_max_decay=0.5), None),
        None,
        "warning",
    ),
    "learning_rate, high": (
        (plan(learning_rate=5e-3, optimizer="adamw"), None),
        (plan(learning_rate=5.1e-3, optimizer="adamw"), None),
        None,
        "warning",
    ),
    "learning_rate, harmful": (
        (plan(learning_rate=2e-2, optimizer="adamw"), None),
        (plan(learning_rate=2.1e-2, optimizer="adamw"), None),
        "warning",
        "error",
    ),
    "learning_rate, Muon": (
        (plan(learning_rate=2e-2, optimizer="muon"), None),
        (plan(learning_rate=2.1e-2, optimizer="muon"), None),
        None,
        "warning",
    ),
    "learning_rate, harmful with Muon": (
        (plan(learning_rate=8e-2, optimizer="muon"), None),
        (plan(learning_rate=8.1e-2, optimizer="muon"), None),
        "warning",
        "error",
    ),
    "learning_rate, large model": (
        (seed_plan(learning_rate=2e-3), None),
        (seed_plan(learning_rate=2.1e-3), None),
        None,
        "warning",
    ),
    "learning_rate, large model with Muon": (
        (seed_plan(learning_rate=8e-3, optimizer="muon"), None),
        (seed_plan(learning_rate=8.1e-3, optimizer="muon"), None),
        None,
        "warning",
    ),
    "learning_rate, size": (
        (plan(num_parameters=9_999_999, learning_rate=3e-3, optimizer="adamw"), None),
        (plan(num_parameters=10_000_000, learning_rate=3e-3, optimizer="adamw"), None),
        None,
        "warning",
    ),
    "learning_rate, low": ((plan(learning_rate=1e-5), None), (plan(learning_rate=0.99e-5), None), None, "warning"),
    "learning_rate, useless": (
        (plan(learning_rate=1e-6), None),
        (plan(learning_rate=0.99e-6), None),
        "warning",
        "error",
    ),
    "lr_warmup": (
        (plan(max_train_steps=400, lr_warmup_steps=399), None),
        (plan(max_train_steps=400, lr_warmup_steps=400), None),
        None,
        "warning",
    ),
    "lr_warmup, constant": (
        (plan(max_train_steps=400, lr_warmup_steps=400, lr_scheduler="constant"), None),
        (plan(max_train_steps=400, lr_warmup_steps=400, lr_scheduler="linear"), None),
        None,
        "warning",
    ),
    "adam_epsilon": ((plan(adam_epsilon=0.9e-5), None), (plan(adam_epsilon=1e-5), None), None, "warning"),
    "adam_epsilon, harmful": ((plan(adam_epsilon=0.9e-4), None), (plan(adam_epsilon=1e-4), None), "warning", "error"),
    "adam_betas, first": ((plan(adam_beta1=0.98), None), (plan(adam_beta1=0.981), None), None, "warning"),
    "adam_betas, second": (
        (plan(adam_beta1=0.8, adam_beta2=0.9), None),
        (plan(adam_beta1=0.8, adam_beta2=0.89), None),
        None,
        "warning",
    ),
    "adam_betas, order": (
        (plan(adam_beta1=0.95, adam_beta2=0.95), None),
        (plan(adam_beta1=0.951, adam_beta2=0.95), None),
        None,
        "warning",
    ),
    "max_grad_norm": ((plan(max_grad_norm=0.01), None), (plan(max_grad_norm=0.0099), None), None, "warning"),
    "batch_size, small": ((plan(train_batch_size=4), None), (plan(train_batch_size=3), None), None, "warning"),
    "batch_size, large": (
        (plan(500, train_batch_size=500), None),
        (plan(500, train_batch_size=501), None),
        None,
        "warning",
    ),
    "precision, GPU": ((plan(), None), (plan(environment=GPU), None), None, "note"),
    "precision, fp16": (
        (plan(mixed_precision="bf16", environment=GPU), None),
        (plan(mixed_precision="fp16", environment=GPU), None),
        None,
        "note",
    ),
    "length": (
        (plan(max_train_steps=1250, train_batch_size=16), None),
        (plan(max_train_steps=1249, train_batch_size=16), None),
        None,
        "note",
    ),
    "duration": (
        (plan(max_train_steps=10_000, train_batch_size=16, gflops=0.999999 * 7 * 86_400 * 200 / 160_000), None),
        (plan(max_train_steps=10_000, train_batch_size=16, gflops=1.000001 * 7 * 86_400 * 200 / 160_000), None),
        None,
        "warning",
    ),
    "memorizing, images": ((plan(200), None), (plan(199), None), None, "warning"),
    "memorizing, copies": (
        (plan(400, 100), images().model_copy(update={"num_images": 500, "num_duplicates": 250})),
        (plan(400, 100), images().model_copy(update={"num_images": 500, "num_duplicates": 252})),
        None,
        "warning",
    ),
    "memorizing, epochs": (
        (plan(1000, num_parameters=10**8, max_train_steps=299, train_batch_size=1000), None),
        (plan(1000, num_parameters=10**8, max_train_steps=300, train_batch_size=1000), None),
        None,
        "warning",
    ),
    "memorizing, weights": (
        (plan(1000, num_parameters=10 * 1000 * 3 * 256 - 1, max_train_steps=300, train_batch_size=1000), None),
        (plan(1000, num_parameters=10 * 1000 * 3 * 256, max_train_steps=300, train_batch_size=1000), None),
        None,
        "warning",
    ),
    "heldout": ((plan(num_heldout=48), None), (plan(num_heldout=47), None), None, "note"),
    "heldout, none": ((plan(num_heldout=1), None), (plan(num_heldout=0), None), "note", "warning"),
    "duplicates": ((plan(), images()), (plan(), images(num_duplicates=1)), None, "note"),
    "duplicates, many": ((plan(), images(num_duplicates=120)), (plan(), images(num_duplicates=121)), "note", "warning"),
    "duplicates, all": (
        (plan(), images(num_duplicates=5998)),
        (plan(), images(num_duplicates=5999)),
        "warning",
        "error",
    ),
    "upscaled": ((plan(), images_of(upscaled=1500)), (plan(), images_of(upscaled=1501)), None, "warning"),
    "cropped": (
        (plan(), images({CUT: 1500}, cut_mean=0.51, most_cut=[WIDE])),
        (plan(), images({CUT: 1501}, cut_mean=0.51, most_cut=[WIDE])),
        "note",
        "warning",
    ),
    "cropped, share": (
        (plan(), images({CUT: 1501}, cut_mean=0.5, most_cut=[WIDE])),
        (plan(), images({CUT: 1501}, cut_mean=0.51, most_cut=[WIDE])),
        "note",
        "warning",
    ),
    "converted, bits": (
        (plan(), images({"16 bits scaled to 8": 1}, raw_max=2.0**14)),
        (plan(), images({"16 bits scaled to 8": 1}, raw_max=2.0**14 - 1)),
        "note",
        "warning",
    ),
    "converted, dark": (
        (plan(), images({"16 bits scaled to 8": 1}, raw_max=4095.0, pixel_max=20)),
        (plan(), images({"16 bits scaled to 8": 1}, raw_max=4095.0, pixel_max=21)),
        "note",
        "warning",
    ),
    "cropped, by how much": (
        (plan(), images({CUT: 1501}, most_cut=[WIDE])),
        (plan(), images({CUT: 1501}, cut_mean=0.51, most_cut=[WIDE])),
        "note",
        "warning",
    ),
    "brightness, contrast": ((plan(), images(pixel_std=12.75)), (plan(), images(pixel_std=12.74)), None, "warning"),
    "brightness, dark": ((plan(), images(pixel_max=21)), (plan(), images(pixel_max=20)), None, "error"),
    "brightness, plain": (
        (plan(), images(pixel_min=254, pixel_std=0.0)),
        (plan(), images(pixel_min=255, pixel_std=0.0)),
        "warning",
        "error",
    ),
}
"""What is within a limit, what is just beyond it, and the severity of what is said of either."""


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_where_they_are(name: str) -> None:
    """On one side of each limit there is nothing to say, or something less grave, and just beyond it there is."""
    *cases, within, beyond = LIMITS[name]
    found = [said(*case).get(name.partition(",")[0]) for case in cases]
    assert [one and one.severity for one in found] == [within, beyond]


FOUR_CUT = [CutImage(path=f"{number}.png", share=0.75 - number / 10) for number in range(4)]
RAW = {"raw_min": 0.0, "raw_max": 4095.0}
TEXTS: list[tuple[Case, str, dict[str, str]]] = [
    (
        (plan(resolution=64, model="unet-16"), None),
        "levels",
        {
            "what": "a UNet of 2 levels reduces 64x64 images to 32x32 at its lowest level",
            "hint": "Use --model unet-32 or unet-64, or a UNet2DModel config with 3 or 4 or 5 levels.",
        },
    ),
    (
        (plan(resolution=67, model="unet-16"), None),
        "levels",
        {"hint": "Use --model unet-32 or unet-64, or a UNet2DModel config with 3 or 4 or 5 levels."},
    ),
    (
        (plan(250, 60, num_inference_steps=50, save_images_epochs=1), None),
        "previews",
        {
            "what": "previews take about 2.1 times as long as training",
            "hint": "Use --save_images_epochs 22, or leave it out: then their number is chosen for the run.",
        },
    ),
    (
        (plan(resolution=4, model="unet-16"), None),
        "levels",
        {
            "what": "a UNet of 2 levels reduces 4x4 images to 2x2 at its lowest level",
            "hint": "Use a UNet2DModel config with 1 level.",
        },
    ),
    (
        (plan(max_train_steps=1000, ema_inv_gamma=2.0, ema_power=1.0, ema_max_decay=0.9999), None),
        "ema_horizon",
        {"what": "the EMA will average over about 501 steps, of 1,000 in the run"},
    ),
    (
        (plan(**OLD, ema_max_decay=0.9995), None),
        "ema_horizon",
        {"what": "the EMA will average over about 2,000 steps, of 3,000 in the run"},
    ),
    (
        (plan(adam_epsilon=1e-4, max_grad_norm=10.0, num_parameters=10_000), None),
        "adam_epsilon",
        {
            "what": "--adam_epsilon 0.0001",
            "why": "Adam divides by |gradient| + epsilon: weights whose gradients are not far above epsilon hardly "
            "move. Clipped to norm 10, gradients here average at most 1e-01 per weight, and far less as the loss "
            "falls.",
        },
    ),
    (
        (plan(adam_epsilon=1e-4, max_grad_norm=10.1), None),
        "adam_epsilon",
        {"why": "Adam divides by |gradient| + epsilon: weights whose gradients are not far above epsilon hardly move."},
    ),
    ((plan(learning_rate=0.4), None), "learning_rate", {"what": "--learning_rate 0.4 for 702,499 weights is high"}),
    (
        (plan(learning_rate=4e-6, max_train_steps=5000), None),
        "learning_rate",
        {"why": "In 5,000 steps no weight can move by more than about 0.02."},
    ),
    (
        (plan(max_train_steps=439, lr_warmup_steps=1439), None),
        "lr_warmup",
        {
            "what": "the learning rate rises for 1,439 steps, and this run has 439",
            "hint": "Use --lr_warmup_steps 43, or train longer.",
        },
    ),
    ((plan(train_batch_size=2), None), "batch_size", {"what": "a step has 2 images"}),
    ((plan(300, train_batch_size=512), None), "batch_size", {"what": "a step has 512 images, the training set 300"}),
    (
        (plan(max_train_steps=1249, train_batch_size=16), None),
        "length",
        {"what": "the run sees 19,984 images in total, repetitions included"},
    ),
    (
        (plan(max_train_steps=10_000, train_batch_size=16, gflops=3 * 7 * 86_400 * 200 / 160_000), None),
        "duration",
        {
            "what": "160,000 images of 2,268 GFLOP each take 21 days or more on this CPU",
            "hint": "Use a smaller --model (unet-8, unet-16, unet-32, unet-64), fewer steps, or a GPU.",
        },
    ),
    (
        (
            plan(100, 20, num_parameters=123_456, max_train_steps=1000, train_batch_size=10),
            images(num_duplicates=600),
        ),
        "memorizing",
        {
            "what": "100 training images (about 90 distinct), each seen 111 times, for 123,456 weights (1,372 per "
            "image)",
            "hint": "Use more images, a smaller --model or fewer steps; let the held-out loss decide when to stop.",
        },
    ),
    (
        (plan(100, 20, num_parameters=123_456, max_train_steps=1000, train_batch_size=10), images()),
        "memorizing",
        {"what": "100 training images, each seen 100 times, for 123,456 weights (1,235 per image)"},
    ),
    (
        (plan(100, 0, max_train_steps=10, train_batch_size=10), images(num_duplicates=5999)),
        "memorizing",
        {
            "what": "100 training images (about 1 distinct), each seen 100 times, for 702,499 weights (702,499 per "
            "image)",
            "hint": "Use more images, a smaller --model or fewer steps.",
        },
    ),
    (
        (plan(100, 20, max_train_steps=1, train_batch_size=10), None),
        "memorizing",
        {"what": "100 training images, each seen 1 time, for 702,499 weights (7,025 per image)"},
    ),
    (
        (plan(num_heldout=47), None),
        "heldout",
        {
            "what": "47 held-out images",
            "hint": "Hold out 48 or more, if there are enough: --heldout_images N.",
        },
    ),
    ((plan(num_heldout=0), None), "heldout", {"what": "no held-out images"}),
    (
        (plan(), images(num_duplicates=1)),
        "duplicates",
        {"what": "1 of 6,000 images (0.0%) is an exact duplicate of another"},
    ),
    (
        (plan(), images(num_duplicates=600)),
        "duplicates",
        {"what": "600 of 6,000 images (10.0%) are exact duplicates of others"},
    ),
    (
        (plan(), images(num_duplicates=5999)),
        "duplicates",
        {"what": "all 6,000 images are the same, pixel for pixel"},
    ),
    (
        (plan(), images().model_copy(update={"num_duplicates_left_out": 3})),
        "duplicates",
        {"severity": "note", "what": "3 exact duplicates left out"},
    ),
    (
        (plan(), images({"gray to colour": 1004})),
        "gray",
        {"what": "1,004 of 6,000 images are gray and converted to colour"},
    ),
    (
        (plan(), images({CUT: 1501}, cut_mean=0.51, most_cut=FOUR_CUT)),
        "cropped",
        {
            "what": "cut by more than a quarter: 1,501 of 6,000 images; most of all 0.png (75%), 1.png (65%), 2.png "
            "(55%)"
        },
    ),
    (
        (plan(), images({"upscaled": 1501})),
        "upscaled",
        {"what": "1,501 of 6,000 images are smaller than 16 pixels and were enlarged"},
    ),
    (
        (plan(1, 0), images({"upscaled": 1}).model_copy(update={"num_images": 2})),
        "upscaled",
        {"what": "1 of 2 images is smaller than 16 pixels and was enlarged"},
    ),
    (
        (plan(), images({"alpha composited": 1000, "16 bits scaled to 8": 2000}, **RAW)),
        "converted",
        {
            "severity": "warning",
            "what": "images were converted: alpha composited: 1,000, 16 bits scaled to 8: 2,000",
            "why": "Transparent pixels get the background colour, white, and the model learns it. White is 65535, the "
            "largest value here 4095: images that use fewer bits become dark.",
            "hint": "Look at samples/training-data.png in the run's folder; choose another --background if these look "
            "wrong. Look at samples/training-data.png in the run's folder; if these are dark, give --pixel_range 0 "
            "4095.",
        },
    ),
    (
        (plan(), images(pixel_min=254, pixel_max=254, pixel_std=0.0)),
        "brightness",
        {"what": "every pixel of every image is 254"},
    ),
    (
        (plan(), images(pixel_max=17, pixel_mean=7.0, pixel_std=5.0)),
        "brightness",
        {
            "what": "nearly black images: pixel values from 0 to 17 of 0 to 255, mean 7.00, standard deviation 5.00",
            "hint": "Write them again with values from 0 to 255.",
        },
    ),
    ((plan(), images(pixel_max=17, **RAW)), "brightness", {"hint": "Try --pixel_range 0 4095."}),
    (
        (plan(), images(pixel_std=9.0)),
        "brightness",
        {
            "what": "hardly any contrast: pixel values from 0 to 255 of 0 to 255, mean 120, standard deviation 9.00",
            "hint": "Stretch their contrast, if it has no meaning.",
        },
    ),
    (
        (plan(), images(pixel_std=9.0, **RAW)),
        "brightness",
        {"hint": "Stretch their contrast, if it has no meaning: --pixel_range 0 4095."},
    ),
]


@pytest.mark.parametrize(("case", "name", "texts"), TEXTS)
def test_findings_have_their_numbers(case: Case, name: str, texts: dict[str, str]) -> None:
    """What is found is told with the numbers of the plan and the data, and the hint is what helps there."""
    found = said(*case)[name]
    assert {field: getattr(found, field) for field in texts} == texts


@pytest.mark.parametrize(
    "reason",
    [
        *("alpha composited", "16 bits scaled to 8", "one of several in its row", "gray by its column's mode"),
        *("colour by its column's mode", "as the data set's transform gives it"),
    ],
)
def test_each_conversion_is_told(reason: str) -> None:
    """A conversion that may not be intended has a finding, by the name that decoding counts it under."""
    assert said(plan(), images({reason: 7}))["converted"].what == f"images were converted: {reason}: 7"


@pytest.mark.parametrize("field", ["pixel_min", "pixel_max", "pixel_mean", "pixel_std"])
def test_brightness_that_is_not_known_is_not_judged(field: str) -> None:
    """Where a record lacks a number of the pixels, nothing is said of them."""
    assert "brightness" not in said(plan(), images(**{"pixel_max": 10, "pixel_std": 5.0, field: None}))


def test_work_is_counted() -> None:
    """A batch counts processes and accumulation; a preview is of all kinds of weights, at a third of an image trained
    for each forward pass."""
    run = plan(train_batch_size=8, gradient_accumulation_steps=3, max_train_steps=10, eval_batch_size=5)
    run = run.model_copy(update={"sessions": [made_up_session(num_processes=2)], "previews": None})
    assert run.global_batch_size == 48 and count_previews(run) == 1
    per_weights = 5 * run.config["num_inference_steps"] / 3
    assert preview_cost(run) == pytest.approx(2 * per_weights)
    assert preview_cost(run.model_copy(update={"config": {**run.config, "use_ema": False}})) == pytest.approx(
        per_weights
    )


def said(run: RunRecord, data: DataRecord | None = None) -> dict[str, Finding]:
    """Return all findings by their names."""
    return {finding.name: finding for finding in check_plan(run, data)}


@pytest.mark.parametrize(
    "options",
    [
        {"num_epochs": 3, "save_images_epochs": 1},
        {"num_epochs": 3, "save_images_epochs": 2},
        {"max_train_steps": 7, "save_images_epochs": 1},
        {"max_train_steps": 8, "train_batch_size": 40, "save_images_epochs": 1},
        {"max_train_steps": 9, "train_batch_size": 300, "save_images_epochs": 1},
        {"max_train_steps": 10, "train_batch_size": 30, "gradient_accumulation_steps": 2, "save_images_epochs": 1},
        {"max_train_steps": 10},
        {"num_epochs": 400},
    ],
    ids=str,
)
def test_previews_are_counted_as_they_are_made(options: dict[str, Any]) -> None:
    """The number of previews that a plan is judged by is that of the steps at which training makes them."""
    run = plan(100, 10, **{**SEED, **options})
    timetable = make_timetable(TrainConfig(**run.config), run.total_steps, 100, 1)
    assert count_previews(run) == sum(timetable.is_preview(step) for step in range(1, run.total_steps + 1))


@pytest.mark.parametrize("options", [{"num_epochs": 30}, {"num_epochs": 30, "train_batch_size": 200}], ids=str)
def test_the_advice_on_previews_helps(options: dict[str, Any]) -> None:
    """--save_images_epochs as advised is more than was planned, and ends the warning; so does leaving it out."""
    options = {**SEED, **options}
    hint = said(plan(100, 10, **options, save_images_epochs=1))["previews"].hint
    epochs = int(hint.removeprefix("Use --save_images_epochs ").partition(",")[0])
    assert epochs > 1 and "leave it out" in hint
    assert "previews" not in said(plan(100, 10, **options, save_images_epochs=epochs))
    assert "previews" not in said(plan(100, 10, **options))


def test_the_one_preview_at_the_end_is_not_questioned() -> None:
    """A run too short for a preview but its last is not told to make fewer."""
    assert "previews" not in said(plan(100, 10, **{**SEED, "num_epochs": 1}))


@pytest.mark.parametrize(
    ("options", "advised"),
    [
        ({"ema_power": 1.0, "ema_max_decay": 0.99999}, "--ema_inv_gamma"),
        ({"ema_inv_gamma": 1e-4, "ema_max_decay": 0.9999}, "--ema_max_decay"),
        ({"ema_max_decay": 0.5}, "--ema_max_decay"),
        ({"ema_inv_gamma": 1e5}, "--ema_inv_gamma"),
    ],
    ids=str,
)
def test_the_option_that_limits_the_average_is_named(options: dict[str, Any], advised: str) -> None:
    """Whether the average is too long or too short, the options named are those that it is as long because of."""
    hint = said(plan(**options))["ema_horizon"].hint
    assert [option for option in ("--ema_inv_gamma", "--ema_max_decay") if option in hint] == [advised]


def test_a_loose_clip_bounds_no_gradient() -> None:
    """Where clipping is practically off, the finding on epsilon derives nothing from it."""
    assert "Clipped to norm 1," in said(plan(adam_epsilon=1e-4))["adam_epsilon"].why
    assert "Clipped" not in said(plan(adam_epsilon=1e-4, max_grad_norm=1e9))["adam_epsilon"].why


def test_copies_are_no_images_to_learn_from() -> None:
    """Many copies of a few images are judged as those few, by their number and how often each is seen."""
    found = said(plan(), images(num_duplicates=5900))["memorizing"]
    assert found.severity == "warning"
    assert "about 91 distinct" in found.what


def test_duplicates_are_named() -> None:
    """A finding on duplicates names three of them in words, and all for programs."""
    copies = [ImageFinding(path=f"{n}.png", reason="exact duplicate of 9.png", action="kept") for n in range(4)]
    refused = ImageFinding(path="5.png", reason="empty file", action="refused")
    for number, more in ((4, ", ..."), (3, "")):
        data = images(num_duplicates=4).model_copy(update={"images": [refused, *copies[:number]]})
        found = said(plan(), data)["duplicates"]
        assert found.what.endswith(f": 0.png, 1.png, 2.png{more}")
        assert found.images == tuple(copy.path for copy in copies[:number])


def test_what_is_left_of_an_image_is_told_by_its_number() -> None:
    """With how bright samples are at the run's resolution; large images are told of linear noise in a note; a record
    that does not hold it is passed over."""
    found = said(seed_plan(signal_left=0.0271))["signal_left"]
    assert found.what.startswith("2.7% of an image") and "+0.49" in found.why and "+0.37 at 64x64" in found.why
    assert said(seed_plan(signal_left=0.00635, resolution=256))["signal_left"].severity == "note"
    assert "signal_left" not in said(seed_plan(signal_left=0.00635))


@pytest.mark.parametrize("num_train", [1, 2, 3])
def test_some_batch_size_suits_the_smallest_sets(num_train: int) -> None:
    """A batch of all of one to three images is neither too small nor too large, and a larger one is too large."""
    assert "batch_size" not in said(plan(num_train, 0, **{**SEED, "train_batch_size": num_train}))
    hint = said(plan(num_train, 0, **{**SEED, "train_batch_size": num_train + 1}))["batch_size"].hint
    assert hint.startswith("Lower")


def test_words_fit_what_they_speak_of() -> None:
    """One image is no plural, the held-out loss is left out where there is none, and 16 bits are not transparency."""
    found = said(plan(1, 0), images({"16 bits scaled to 8": 1}))
    assert found["memorizing"].what.startswith("1 training image,")
    assert "held-out" not in found["memorizing"].hint
    assert "ransparent" not in found["converted"].why
    assert (
        "mean 0.312, standard deviation 0.461"
        in said(plan(), images(pixel_max=1, pixel_mean=0.312, pixel_std=0.461))["brightness"].what
    )
    assert said(plan(resolution=4, model="unet-16"))["levels"].hint.endswith("1 level.")


def test_what_a_record_does_not_hold_is_passed_over() -> None:
    """Without data.json, only the plan is judged."""
    assert check_plan(plan(), None) == []
    assert check_plan(plan(), images().model_copy(update={"num_images": 3})) == []


def test_all_that_is_checked_is_told() -> None:
    """What was left out, near duplicates and mirroring are among the findings; no GPU is too slow."""
    run = plan(environment=GPU, max_train_steps=10_000, train_batch_size=16, gflops=1e5, random_flip=True)
    run = run.model_copy(
        update={"chosen_options": [], "dataset": run.dataset.model_copy(update={"num_near_duplicates": 100})}
    )
    data = images().model_copy(update={"left_out": [LeftOut(reason=".heic", count=1)]})
    assert said(run, data).keys() == {"left_out", "near_duplicates", "mirroring", "precision"}


def test_the_gravest_comes_first() -> None:
    """Faults stand before warnings, and warnings before notes."""
    found = check_plan(plan(90, 10, adam_epsilon=1e-3), images({"alpha composited": 1}))
    ranks = [SEVERITIES.index(finding.severity) for finding in found]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}


def test_levels_named_are_those_of_the_sizes() -> None:
    """The sizes that a finding recommends have as many levels as it takes them to have."""
    named = {name: len(size["block_out_channels"]) for name, size in SIZES.items() if name != "default"}
    assert named == LEVELS_OF_SIZES


def test_counts_are_of_all_images_found() -> None:
    """What is counted is set against all images: used, refused, and left out as duplicates."""
    counts = {"refused": 2, "dropped": 1, "upscaled": 0, "exact duplicate": 6}
    data = DataRecord(num_images=18, counts=counts, images=[], num_duplicates_left_out=6)
    assert counts_text(data) == "of 27 images: refused 2, dropped 1, exact duplicate 6"
    assert counts_text(DataRecord(num_images=1, counts={"upscaled": 1}, images=[])) == "of 1 image: upscaled 1"
    assert counts_text(DataRecord(num_images=18, counts={"upscaled": 0}, images=[])) == ""
