"""The evaluation of weights on fixed samples, beside the baselines on the same samples."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from openddpm.diffusion.denoiser import Denoiser
from openddpm.evaluation.baselines import BaselineErrors
from openddpm.evaluation.fixed_samples import FixedSamples, Kind
from openddpm.record.bands import BANDS, Band
from openddpm.record.schema import BandScore, EvaluationRow, Weights

MAX_BATCH_SIZE = 64  # larger ones gain nothing


@dataclass(frozen=True)
class Evaluation:
    """Measures weights on held-out images, and on as many training images for comparison."""

    samples: Mapping[Kind, FixedSamples]
    """Fixed samples of training images, and as many of held-out ones if there are any."""
    baselines: Mapping[Kind, BaselineErrors]
    """Errors of the baselines on the same samples."""
    batch_size: int
    """Images in a forward pass; no effect on the results."""

    def squared_errors(self, denoise: Denoiser, part: int = 0, num_parts: int = 1) -> torch.Tensor:
        """Return the squared noise error of each sample, mean over pixels.

        Args:
            part, num_parts: index and number of the equal parts that processes measure; the sum of their results is
                that of one process.

        Returns:
            (kinds, samples of a kind) float32, 0 for samples of other parts.
        """
        size = min(self.batch_size, MAX_BATCH_SIZE)
        kinds, count = list(self.samples.values()), len(self.samples["train"].indices)
        first, last = (len(kinds) * count * end // num_parts for end in (part, part + 1))
        rows = []
        for number, samples in enumerate(kinds):
            start, stop = (min(max(end - number * count, 0), count) for end in (first, last))
            errors = samples.squared_errors(denoise, range(start, stop), size)
            rows.append(torch.nn.functional.pad(errors, (start, count - stop)))
        return torch.stack(rows)

    def row(
        self, squared_errors: torch.Tensor, weights: Weights, step: int, images_seen: int, seconds: float
    ) -> EvaluationRow:
        """Return a line of evaluations.jsonl.

        Args:
            squared_errors: of all samples, as from `squared_errors`.
            seconds: spent on measuring them.
        """
        values = squared_errors.cpu().double().numpy()
        errors = dict(zip(self.samples, np.where(np.isfinite(values), values, np.nan), strict=True))
        levels, train, heldout = self.samples["train"].levels, errors["train"], errors.get("heldout")
        scored: Kind = "train" if heldout is None else "heldout"
        skill = self._skill(scored, errors[scored])
        return EvaluationRow(
            step=step,
            images_seen=images_seen,
            weights=weights,
            heldout_loss=None if heldout is None else _finite(levels.mean(heldout)),
            fixed_train_loss=_finite(levels.mean(train)),
            skill=None if heldout is None else _finite(skill),
            skill_error=None if heldout is None else _finite(self._skill_error(scored, heldout, skill)),
            train_skill=_finite(self._skill("train", train)),
            bands={band: self._band_score(scored, errors[scored], band) for band in BANDS},
            by_timestep=[_finite(loss) for loss in levels.by_group(errors[scored])],
            seconds=round(seconds, 3),
        )

    def _skill(self, kind: Kind, errors: np.ndarray, band: Band | None = None) -> float:
        levels = self.samples[kind].levels
        return 1 - levels.mean(errors, band) / levels.mean(self.baselines[kind].linear, band)

    def _skill_error(self, kind: Kind, errors: np.ndarray, skill: float) -> float:
        """Return the standard error of a ratio of means over the same samples (Cochran, 1977, chapter 6)."""
        levels, linear = self.samples[kind].levels, self.baselines[kind].linear
        return levels.standard_error(errors - (1 - skill) * linear) / levels.mean(linear)

    def _band_score(self, kind: Kind, errors: np.ndarray, band: Band) -> BandScore:
        levels = self.samples[kind].levels
        return BandScore(
            loss=_finite(levels.mean(errors, band)),
            linear=_finite(levels.mean(self.baselines[kind].linear, band)),
            memorizing=_finite(levels.mean(self.baselines["train"].memorizing, band)),
            skill=_finite(self._skill(kind, errors, band)),
        )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
