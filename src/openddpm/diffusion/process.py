"""The forward process: noising, targets, and what a prediction says about the noise. Always in float32."""

from functools import lru_cache

import torch
from diffusers import DDIMScheduler

from openddpm.config import ModelOptions, TimestepSampling, beta_range

IMPORTANCE_POWER = 2.0  # measured: docs/lab-log.md


class DiffusionProcess:
    """q(x_t | x_0) = N(a_t x_0, s_t^2 I) with a_t^2 + s_t^2 = 1 (Ho et al., 2020, equation 4).

    Noising runs in float32 whatever the precision of training: in bfloat16 the first timesteps would add no noise.
    """

    def __init__(self, options: ModelOptions, device: torch.device) -> None:
        first_beta, last_beta = beta_range(options.num_train_timesteps)
        self.scheduler = DDIMScheduler(
            num_train_timesteps=options.num_train_timesteps,
            beta_start=first_beta,
            beta_end=last_beta,
            beta_schedule=options.beta_schedule,
            prediction_type=options.prediction_type,
            timestep_spacing="trailing",  # for DDIMPipeline; measured against "linspace": docs/lab-log.md
        )
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.to(device)
        self.num_timesteps = options.num_train_timesteps
        self.prediction_type = options.prediction_type

    def snr(self) -> torch.Tensor:
        """Return a_t^2 / s_t^2 for every timestep, (T,) float32."""
        return self.scheduler.alphas_cumprod / (1 - self.scheduler.alphas_cumprod)

    def signal_left(self) -> float:
        """Return a_t of the last timestep: what is left of an image where samples start from noise alone."""
        return float(self.scheduler.alphas_cumprod[-1].sqrt())

    def add_noise(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return x_t, (B, C, H, W) float32, for x_0 `images` and `noise` of that shape and timesteps (B,) int64."""
        return self.scheduler.add_noise(images.float(), noise.float(), timesteps)  # type: ignore[arg-type]

    def target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return what the model should predict, (B, C, H, W) float32."""
        if self.prediction_type == "epsilon":
            return noise.float()
        if self.prediction_type == "sample":
            return images.float()
        return self.scheduler.get_velocity(images.float(), noise.float(), timesteps)  # type: ignore[arg-type]

    def to_noise(self, prediction: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the noise that `prediction` implies, so that runs compare whatever they predict.

        From x_t = a x_0 + s e and v = a e - s x_0 (Salimans and Ho, 2022, appendix D): e = (x_t - a x_0) / s and
        e = a v + s x_t.
        """
        prediction = prediction.float()
        if self.prediction_type == "epsilon":
            return prediction
        alphas = self.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        signal, sigma = alphas.sqrt(), (1 - alphas).sqrt()
        if self.prediction_type == "sample":
            return (noisy - signal * prediction) / sigma
        return signal * prediction + sigma * noisy


def sample_timesteps(
    draws: torch.Tensor, num_timesteps: int, sampling: TimestepSampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn uniform draws into timesteps.

    stratified gives each of B equal parts of the draws to one image. Which image gets which part need not be random,
    since the images come in random order. importance does so too, and makes timestep t as likely as the interval from
    t / T to (t + 1) / T is long once both are raised to 1 / IMPORTANCE_POWER: the smaller t, the likelier. Sampling
    where the loss is large, weighted back, is what Nichol and Dhariwal (2021, section 3.3) learn as they train.

    Args:
        draws: (B,) float32 in [0, 1).

    Returns:
        timesteps: (B,) int64 in 0 .. num_timesteps - 1.
        weights: (B,) float32, under which every timestep counts the same in the mean.
    """
    count = len(draws)
    if sampling != "uniform":
        draws = (torch.arange(count, device=draws.device) + draws) / count
    if sampling == "importance":
        draws = draws**IMPORTANCE_POWER
    timesteps = (draws * num_timesteps).long().clamp(max=num_timesteps - 1)
    if sampling != "importance":
        return timesteps, torch.ones_like(draws)
    return timesteps, _importance_weights(num_timesteps, draws.device)[timesteps]


@lru_cache(maxsize=8)
def _importance_weights(num_timesteps: int, device: torch.device) -> torch.Tensor:
    """Return the weight of each timestep, (T,) float32; made in float64, on the CPU: not every device knows that."""
    edges = torch.arange(num_timesteps + 1, dtype=torch.float64, device="cpu") / num_timesteps
    likelihoods = (edges ** (1 / IMPORTANCE_POWER)).diff()
    return (1 / (num_timesteps * likelihoods)).float().to(device)
