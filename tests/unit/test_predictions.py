"""What a model may predict: one table for training, evaluation and verdict."""

from typing import get_args

import pytest
import torch

from openddpm.config import TrainConfig
from openddpm.predictions import PREDICTIONS


def test_every_option_has_its_entry() -> None:
    """The table has an entry for each name that the option takes, and no other."""
    assert set(PREDICTIONS) == set(get_args(TrainConfig.model_fields["prediction_type"].annotation))


@pytest.mark.parametrize("name", PREDICTIONS)
def test_what_is_said_of_errors_is_so(name: str) -> None:
    """An error of 0.01 in what is predicted is one of 0.01 in the noise, of less, or, amplified, of much more."""
    prediction, a = PREDICTIONS[name], torch.tensor([0.01, 0.5, 0.9999]).view(-1, 1, 1, 1).double()
    s = (1 - a**2).sqrt()
    clean, noise = torch.rand((2, 3, 1, 2, 2), generator=torch.Generator().manual_seed(0)).double()
    wrong = prediction.target(clean, noise, a, s) + 0.01
    errors = (prediction.to_noise(wrong, a * clean + s * noise, a, s) - noise).abs().amax(dim=(1, 2, 3))
    assert bool((errors > 0.011).any()) == prediction.amplifies_errors
    assert torch.allclose(errors, torch.full_like(errors, 0.01)) == prediction.trains_on_noise_error
