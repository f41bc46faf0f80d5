"""Quantities that a model can predict from x_t = a x_0 + s e. Plain arithmetic: imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """A quantity that a model can predict. Tensors are (B, C, H, W) float32, a and s (B, 1, 1, 1)."""

    description: str
    """Its name for messages, with the value of the option."""
    target: Callable[["Tensor", "Tensor", "Tensor", "Tensor"], "Tensor"]
    """(x_0, e, a, s) -> what the model should predict."""
    to_noise: Callable[["Tensor", "Tensor", "Tensor", "Tensor"], "Tensor"]
    """(prediction, x_t, a, s) -> the e that the prediction implies."""
    trains_on_noise_error: bool
    """Whether the training loss is the error of the predicted noise, as the held-out loss always is."""
    amplifies_errors: bool
    """Whether at low noise a small error of the prediction implies a large error of the noise."""


# The velocity is v = a e - s x_0 (Salimans and Ho, 2022, appendix D), from which e = a v + s x_t follows.
PREDICTIONS = {
    "epsilon": Prediction(
        "the noise (epsilon)",
        target=lambda clean, noise, a, s: noise,
        to_noise=lambda noise, noisy, a, s: noise,
        trains_on_noise_error=True,
        amplifies_errors=False,
    ),
    "sample": Prediction(
        "the clean image (sample)",
        target=lambda clean, noise, a, s: clean,
        to_noise=lambda clean, noisy, a, s: (noisy - a * clean) / s,
        trains_on_noise_error=False,
        amplifies_errors=True,
    ),
    "v_prediction": Prediction(
        "the velocity (v_prediction)",
        target=lambda clean, noise, a, s: a * noise - s * clean,
        to_noise=lambda velocity, noisy, a, s: a * velocity + s * noisy,
        trains_on_noise_error=False,
        amplifies_errors=False,
    ),
}
"""Predictions by their names in `--prediction_type`, which are those of diffusers."""
