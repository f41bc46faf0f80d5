"""The forward process: noising, targets, and what a prediction says about the noise. Always in float32."""

import torch
from diffusers import DDIMScheduler

from openddpm.config import ModelOptions, beta_range
from openddpm.predictions import PREDICTIONS


class DiffusionProcess:
    """q(x_t | x_0) = N(a_t x_0, s_t^2 I) with a_t^2 + s_t^2 = 1 (Ho et al., 2020, equation 4).

    Noising is in float32 at any training precision: in bfloat16 the first timesteps would add no noise.
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
        self.prediction = PREDICTIONS[options.prediction_type]

    def snr(self) -> torch.Tensor:
        """Return a_t^2 / s_t^2 for every timestep, (T,) float32."""
        return self.scheduler.alphas_cumprod / (1 - self.scheduler.alphas_cumprod)

    def signal_left(self) -> float:
        """Return a_t of the last timestep: the share of the image left there, while sampling starts from pure noise."""
        return float(self.scheduler.alphas_cumprod[-1].sqrt())

    def add_noise(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return x_t, (B, C, H, W) float32, for x_0 `images`, `noise` of the same shape and timesteps (B,) int64."""
        return self.scheduler.add_noise(images.float(), noise.float(), timesteps)  # type: ignore[arg-type]

    def target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return what the model should predict, (B, C, H, W) float32."""
        return self.prediction.target(images.float(), noise.float(), *self._signal_and_sigma(timesteps))

    def to_noise(self, prediction: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the noise that `prediction` implies, (B, C, H, W) float32, comparable between targets."""
        return self.prediction.to_noise(prediction.float(), noisy, *self._signal_and_sigma(timesteps))

    def _signal_and_sigma(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a_t and s_t, (B, 1, 1, 1) float32 each."""
        alphas = self.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()
