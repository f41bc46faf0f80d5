"""Bugs of training scripts, each put into a run of ours by patching it from outside.

The first three are what the widely copied training script does however it is called. A bug checks, while it is in,
that it really is: noise that should repeat is compared, weights that should be overwritten are compared, and so on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch

from openddpm.config import ModelOptions, TrainConfig
from openddpm.diffusion.process import DiffusionProcess
from openddpm.training import loop
from openddpm.training.loop import TrainResult, fit
from openddpm.training.observer import Observer
from openddpm.training.optimizer import learning_rate_schedule
from openddpm.training.run import Training
from openddpm.training.setup import prepare
from openddpm.training.stop import StopRequest

LOSS_SCALE = 65536.0  # the first scale of torch.amp.GradScaler
FORGOTTEN_FACTOR = 4  # accumulation steps or processes that the schedule does not know of


@dataclass(frozen=True)
class Bug:
    """One thing that a training script gets wrong."""

    name: str
    what: str
    """The bug in a few words, for tables and figures."""
    inject_into: Callable[[Training], AbstractContextManager[Any]] = lambda training: nullcontext()
    """Puts the bug into a run that is ready to be trained, for as long as the context lasts."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of `TrainConfig` that are the bug, or part of it."""


def train_with(config: TrainConfig, bugs: Sequence[Bug], observers: Sequence[Observer] = ()) -> TrainResult:
    """Train with `bugs` put in.

    Raises:
        UserError: as `openddpm.train`; a loss that is no longer a number, for one.
        AssertionError: a bug was not in after all.
    """
    options = {name: value for bug in bugs for name, value in bug.options.items()}
    training = prepare(TrainConfig(**{**config.model_dump(), "recipe": None, **options}), observers=observers)
    with ExitStack() as stack:
        for bug in bugs:
            stack.enter_context(bug.inject_into(training))
        return fit(training)


@contextmanager
def _ema_copied_back(training: Training) -> Iterator[None]:
    """Copy the EMA weights into the live model at every preview, and train on from there."""
    evaluate = loop.evaluate

    def copy_and_evaluate(training: Training, stop: StopRequest) -> None:
        ema, unet = training.state.averages["ema"], training.state.unet
        previews = training.timetable.is_preview(training.state.step)
        if previews:
            ema.copy_to(unet.parameters())
        evaluate(training, stop)
        if previews:
            assert all(torch.equal(*pair) for pair in zip(ema.shadow_params, unet.parameters(), strict=True))

    with patch.object(loop, "evaluate", copy_and_evaluate):
        yield


@contextmanager
def _random_numbers_reset(training: Training) -> Iterator[None]:
    """Draw in every epoch what the first one drew: order, flips, timesteps and noise, all from the one generator."""
    steps_an_epoch = training.stream.order.num_images // training.global_batch_size
    assert steps_an_epoch, "an epoch has to have a whole batch"
    first: list[torch.Tensor] = []

    def compare(unet: torch.nn.Module, inputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        if training.state.step == 0 and training.config.gradient_accumulation_steps == 1:
            first.append(inputs[0])
            assert torch.equal(first[0], first[-1])  # the same images with the same noise

    with _drawing_as_at(lambda step: step % steps_an_epoch), training.model.register_forward_pre_hook(compare):
        yield
    assert len(first) >= training.state.step // steps_an_epoch


@contextmanager
def _drawing_as_at(place: Callable[[int], int]) -> Iterator[None]:
    """Draw at each step what is drawn at step `place(step)`: all draws are functions of the position in the run."""
    micro_batch_loss = loop.micro_batch_loss

    def moved_loss(training: Training, accumulation_index: int) -> torch.Tensor:
        state = training.state
        step, images = state.step, state.images_seen
        state.step, state.images_seen = place(step), place(step) * training.global_batch_size
        try:
            return micro_batch_loss(training, accumulation_index)
        finally:
            state.step, state.images_seen = step, images

    with patch.object(loop, "micro_batch_loss", moved_loss):
        yield


class _HalfNoising(DiffusionProcess):
    """Noises as a script does that casts its images and noise to bfloat16: the scheduler casts the schedule too."""

    def add_noise(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self.scheduler.add_noise(images.bfloat16(), noise.bfloat16(), timesteps).float()  # type: ignore[arg-type]

    def target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return super().target(images.bfloat16(), noise.bfloat16(), timesteps)


class _SwappedTargets(DiffusionProcess):
    """Asks of each image the noise of its neighbour in the batch."""

    def target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return super().target(images, noise.roll(1, dims=0), timesteps)


def _trained_by(kind: type[DiffusionProcess]) -> Callable[[Training], AbstractContextManager[Any]]:
    """Return what trains by another forward process; the held-out evaluation keeps the right one."""

    @contextmanager
    def inject_into(training: Training) -> Iterator[None]:
        right, device = training.process, training.accelerator.device
        wrong = kind(_model_options(training.config), device)
        training.objective = replace(training.objective, process=wrong)
        size, first = training.config.train_batch_size, torch.zeros(1, dtype=torch.long, device=device)
        noise, image = torch.randn((size, 1, 2, 2), device=device), torch.ones((1, 1, 2, 2), device=device)
        if kind is _HalfNoising:
            assert torch.equal(wrong.add_noise(image, noise[:1], first), image)
            assert not torch.equal(right.add_noise(image, noise[:1], first), image)
        else:
            assert torch.equal(wrong.target(noise, noise, first)[1:], noise[:-1])
        yield

    return inject_into


def _model_options(config: TrainConfig) -> ModelOptions:
    return ModelOptions(**{name: getattr(config, name) for name in ModelOptions.model_fields})


@contextmanager
def _schedule_too_long(training: Training) -> Iterator[None]:
    """Stretch warm-up and horizon, as when micro-batches are counted and steps are taken."""
    config = training.config
    right = training.learning_rate_at
    stretched = config.model_copy(update={"lr_warmup_steps": config.lr_warmup_steps * FORGOTTEN_FACTOR})
    training.learning_rate_at = learning_rate_schedule(stretched, training.total_steps * FORGOTTEN_FACTOR)
    yield
    assert training.learning_rate_at(training.total_steps) > right(training.total_steps)


@contextmanager
def _frozen(training: Training) -> Iterator[None]:
    """Leave the weights as they are, as when the optimizer was given those of another copy of the model."""
    before = [parameter.detach().clone() for parameter in training.state.unet.parameters()]
    training.state.optimizer.step = lambda *_: None
    yield
    assert all(torch.equal(*pair) for pair in zip(before, training.state.unet.parameters(), strict=True))


@contextmanager
def _full_decay_at_once(training: Training) -> Iterator[None]:
    yield
    state, highest = training.state, training.config.ema_max_decay
    assert state.step < 2 or state.averages["ema"].cur_decay_value == highest


@contextmanager
def _large_epsilon(training: Training) -> Iterator[None]:
    assert {group["eps"] for group in training.state.optimizer.param_groups} == {1e-3}
    yield


ADAM_EPSILON = Bug("adam-epsilon", "Adam epsilon 1e-3", _large_epsilon, {"adam_epsilon": 1e-3})
EMA_COPIED = Bug("ema-copied-back", "EMA copied into the live model at every preview", _ema_copied_back)
RANDOM_RESET = Bug("random-reset", "random numbers reset every epoch", _random_numbers_reset)
CLIPPED_SCALED = Bug(
    "clipped-scaled", "gradients clipped while still loss-scaled", options={"max_grad_norm": 1 / LOSS_SCALE}
)
HALF_NOISING = Bug("half-noising", "noise added in bfloat16", _trained_by(_HalfNoising))
SCHEDULE = Bug("schedule-too-long", "schedule that forgets accumulation", _schedule_too_long)
EMA_AT_ONCE = Bug(
    "ema-no-warm-up",
    "EMA decay 0.9999 without warm-up",
    _full_decay_at_once,
    {"ema_inv_gamma": 1e-12, "ema_max_decay": 0.9999},
)
OTHER_DRAWS = Bug(
    "other-draws",
    "none, other random numbers",
    lambda training: _drawing_as_at(lambda step: step + 1_000_000),
)
SWAPPED = Bug("targets-swapped", "noise targets swapped between images", _trained_by(_SwappedTargets))
FROZEN = Bug("frozen", "weights that never change", _frozen)

COPIED_SCRIPT = (ADAM_EPSILON, EMA_COPIED, RANDOM_RESET)
COMMON = (*COPIED_SCRIPT, CLIPPED_SCALED, HALF_NOISING, SCHEDULE, EMA_AT_ONCE)
BUGS = (*COMMON, OTHER_DRAWS, SWAPPED, FROZEN)
