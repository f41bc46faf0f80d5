"""What is said of noise levels, by numbers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from openddpm.analysis.finding import Finding
from openddpm.analysis.noise_checks import brightness_error, check_noise
from openddpm.record.schema import DatasetRecord, RunRecord


def noise(signal_left: float | None = 0.006, resolution: int = 16, **config: Any) -> dict[str, Finding]:
    """Return what is said of a process with these options."""
    options = {"num_train_timesteps": 1000, "beta_schedule": "linear", **config}
    dataset = DatasetRecord.model_construct(image_shape=(3, resolution, resolution))
    run = RunRecord.model_construct(config=options, model=SimpleNamespace(signal_left=signal_left), dataset=dataset)
    return {finding.name: finding for finding in check_noise(run)}


@pytest.mark.parametrize(
    ("num_timesteps", "names"),
    [(99, {"timesteps", "pipeline_steps"}), (100, set()), (50, {"timesteps"}), (51, {"timesteps", "pipeline_steps"})],
)
def test_numbers_of_timesteps(num_timesteps: int, names: set[str]) -> None:
    """A hundred or more, and of more than fifty a multiple of fifty, are sound."""
    found = noise(num_train_timesteps=num_timesteps)
    assert found.keys() == names
    assert all(finding.severity == "warning" and str(num_timesteps) in finding.what for finding in found.values())


@pytest.mark.parametrize(("signal_left", "resolution"), [(0.006, 16), (0.0271, 64), (0.2, 8)])
def test_brightness_error_is_that_of_the_flow(signal_left: float, resolution: int) -> None:
    """Following the probability flow of plain images' mean from pure noise to the end leads to as much less."""
    mean, variance, noise_variance = 0.49, 0.15**2, 1 / resolution**2
    # The flow keeps the standard score of the mean: at the end it is what 0 is at the start.
    start = signal_left**2 * variance + (1 - signal_left**2) * noise_variance
    score = (0 - signal_left * mean) / np.sqrt(start)
    assert brightness_error(signal_left, resolution**2) == pytest.approx(-score * np.sqrt(variance))


def test_what_is_left_is_a_note_until_it_is_much() -> None:
    """A hundredth of an image warns; less is a note where it darkens large images by a twentieth, and else nothing."""
    assert {left: noise(left)["signal_left"].severity for left in (0.0101, 0.02)} == dict.fromkeys(
        (0.0101, 0.02), "warning"
    )
    assert "signal_left" not in noise(0.01)
    limit = next(side for side in range(16, 4096) if brightness_error(0.006, side**2) > 0.05)
    assert "signal_left" not in noise(0.006, limit - 1)
    found = noise(0.006, limit)["signal_left"]
    assert noise(0.01, limit)["signal_left"].severity == "note"
    assert found.severity == "note" and f"{limit}x{limit}" in found.why and "+0.44" in found.why


def test_the_hint_is_another_schedule_or_more_timesteps() -> None:
    """Cosine noise leaves next to nothing already: there the way on is more timesteps."""
    assert "squaredcos_cap_v2" in noise(0.03)["signal_left"].hint
    assert noise(0.03, beta_schedule="squaredcos_cap_v2")["signal_left"].hint == "Use --num_train_timesteps 1000."
