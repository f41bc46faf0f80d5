"""The whole loop against a plain writing of DDPM training, which shares nothing but the keyed draws.

One test stands against several of the bugs that copied scripts carry: another Adam epsilon, clipping of scaled
gradients, accumulation that steps too early or logs a divided loss, a schedule that forgets accumulation, previews
that leave the EMA in the model or reset the random numbers, and an EMA without its warm-up.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.optimizer import AcceleratedOptimizer
from diffusers import DDIMScheduler
from diffusers.optimization import get_scheduler

from openddpm.config import TrainConfig
from openddpm.data.stream import TrainingOrder, split_heldout
from openddpm.record.reader import Preview
from openddpm.seeding import seed_global_generators, standard_normal, uniform
from openddpm.training.loop import fit
from openddpm.training.observer import Observer
from openddpm.training.run import Training
from openddpm.training.setup import prepare
from tiny import digests_of, exact_metrics, newest_tensors, tiny_config, tiny_images

CPU = torch.device("cpu")


def _plain_training(config: TrainConfig) -> tuple[list[float], list[float], dict[str, np.ndarray]]:
    """Train as a textbook would: one backward pass over the whole global batch. Returns losses, rates and weights."""
    images = torch.from_numpy(np.stack(tiny_images())).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
    digests = digests_of(image.transpose(2, 0, 1) for image in tiny_images())
    train = images[split_heldout(digests, config.heldout_images, config.evaluation_seed).train]
    unet = prepare(config, dataset=tiny_images()).state.unet
    averages = {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}
    scheduler = DDIMScheduler(num_train_timesteps=1000, prediction_type=config.prediction_type)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    assert config.max_train_steps
    rates = get_scheduler("cosine", optimizer, num_warmup_steps=3, num_training_steps=config.max_train_steps)
    order, size, accumulation = (
        TrainingOrder(len(train), 0),
        config.train_batch_size,
        config.gradient_accumulation_steps,
    )
    losses, used_rates = [], []
    for step in range(config.max_train_steps):
        micro_losses = []
        for micro in range(accumulation):
            batch = train[order.indices((step * accumulation + micro) * size, size)]
            flips = uniform((size, 1, 1, 1), CPU, 0, "flip", step, micro) < 0.5
            batch = torch.where(flips, batch.flip(-1), batch)
            noise = standard_normal(tuple(batch.shape), CPU, 0, "noise", step, micro)
            timesteps = (uniform((size,), CPU, 0, "timesteps", step, micro) * 1000).long()
            noisy = scheduler.add_noise(batch, noise, timesteps)
            target = noise if config.prediction_type == "epsilon" else scheduler.get_velocity(batch, noise, timesteps)
            seed_global_generators(0, "dropout", step, micro)
            micro_losses.append(F.mse_loss(unet(noisy, timesteps).sample, target))
        loss = torch.stack(micro_losses).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        used_rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        decay = min(0.9999, 1 - (1 + step) ** -0.75) if step else 0.0
        for name, parameter in unet.named_parameters():
            averages[name] = decay * averages[name] + (1 - decay) * parameter.detach()
        losses.append(loss.item())
    tensors = {f"ema:{name}": value.numpy() for name, value in averages.items()}
    return losses, used_rates, tensors | {f"unet:{name}": p.detach().numpy() for name, p in unet.named_parameters()}


class _Disturber(Observer):
    """Looks on in the rudest way: resets the global random numbers."""

    def previewed(self, preview: Preview) -> None:
        torch.manual_seed(0)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_training_is_the_plain_loop(tmp_path: Path, accumulation: int, prediction: str) -> None:
    """Losses, learning rates, weights and their average are those of the plain loop, with previews at every epoch."""
    torch.set_num_threads(1)
    options: dict[str, Any] = {"gradient_accumulation_steps": accumulation, "prediction_type": prediction}
    losses, rates, tensors = _plain_training(tiny_config(tmp_path, "plain", **options))
    config = tiny_config(tmp_path, "ours", save_images_epochs=1, checkpointing_steps=5, **options)
    fit(prepare(config, dataset=tiny_images(), observers=[_Disturber()]))
    rows, found = exact_metrics(tmp_path / "ours"), newest_tensors(tmp_path / "ours")
    np.testing.assert_allclose([row["train_loss"] for row in rows], losses, rtol=1e-4)
    np.testing.assert_allclose([row["learning_rate"] for row in rows], rates, rtol=1e-12)
    for name, expected in tensors.items():
        if name.endswith("to_k.bias"):
            continue  # softmax ignores it: its gradient is rounding noise, which Adam scales up
        np.testing.assert_allclose(found[name], expected, atol=2e-5, err_msg=name)


def _scaled(training: Training, scale: float) -> Training:
    """Give the run a loss scaler, as fp16 on a GPU has one."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    training.accelerator.scaler = training.state.scaler = scaler
    training.state.optimizer = AcceleratedOptimizer(training.state.optimizer.optimizer, scaler=scaler)
    training.accelerator._optimizers = [training.state.optimizer]
    training.accelerator.native_amp = True
    training.accelerator.state._mixed_precision = "fp16"
    return training


def test_loss_scaling_changes_nothing(tmp_path: Path) -> None:
    """With losses scaled by 1024, clipping and weights are those without: gradients are unscaled before clipping."""
    torch.set_num_threads(1)
    for name in ("plain", "scaled"):
        training = prepare(tiny_config(tmp_path, name, max_grad_norm=0.01), dataset=tiny_images())
        fit(_scaled(training, 1024.0) if name == "scaled" else training)
    plain, scaled = newest_tensors(tmp_path / "plain"), newest_tensors(tmp_path / "scaled")
    for name, expected in plain.items():
        assert np.isfinite(scaled[name]).all()
        np.testing.assert_allclose(scaled[name], expected, atol=1e-6, err_msg=name)
    assert [row["grad_norm"] for row in exact_metrics(tmp_path / "scaled")] == pytest.approx(
        [row["grad_norm"] for row in exact_metrics(tmp_path / "plain")], rel=1e-5
    )


def test_previews_and_evaluation_leave_training_unchanged(tmp_path: Path) -> None:
    """With previews and evaluation at every epoch or at none, all weights and losses are equal to the bit."""
    torch.set_num_threads(1)
    for name, every in (("often", 1), ("never", 1000)):
        config = tiny_config(tmp_path, name, save_images_epochs=every)
        fit(prepare(config, dataset=tiny_images(), observers=[_Disturber()] if name == "often" else []))
    assert len(list((tmp_path / "often" / "samples").glob("step-*-ema.png"))) == 3  # after epochs 1, 2 and at the end
    often, never = newest_tensors(tmp_path / "often"), newest_tensors(tmp_path / "never")
    assert [name for name in never if often[name].tobytes() != never[name].tobytes()] == []
    assert exact_metrics(tmp_path / "often") == exact_metrics(tmp_path / "never")


def test_no_two_steps_share_their_noise(tmp_path: Path) -> None:
    """The model meets different noise at every micro-batch of a run, also after previews."""
    met: list[bytes] = []
    training = prepare(tiny_config(tmp_path, save_images_epochs=1), dataset=tiny_images(), observers=[_Disturber()])
    target = training.process.target  # which evaluation does not ask for

    def recording(images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        met.append(noise.numpy().tobytes())
        return target(images, noise, timesteps)

    training.process.target = recording  # type: ignore[method-assign]
    fit(training)
    assert len(met) == 12 and len(set(met)) == 12


def test_an_epoch_count_becomes_optimizer_steps(tmp_path: Path) -> None:
    """Epochs are turned into steps of the global batch, and the schedule ends with the last of them."""
    config = tiny_config(
        tmp_path, max_train_steps=None, num_epochs=4, gradient_accumulation_steps=2, lr_scheduler="linear"
    )
    training = prepare(config, dataset=tiny_images())
    assert training.total_steps == 10  # 4 epochs of 20 images in batches of 2 x 4
    assert training.learning_rate_at(3) == pytest.approx(1e-3)
    assert training.learning_rate_at(9) == pytest.approx(1e-3 / 7)
    fit(training)
    assert exact_metrics(tmp_path / "run")[-1]["images_seen"] == 80
