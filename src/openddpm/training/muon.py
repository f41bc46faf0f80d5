"""Muon of `pytorch_optimizer`, but orthogonalizing in float32 on a CPU, where the library does so in bfloat16."""

from collections.abc import Mapping
from typing import Any

import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5


class Muon(pytorch_optimizer.Muon):  # type: ignore[misc]
    """Muon in the precision in which its device is fast: float32 on a CPU, else bfloat16.

    bfloat16 products take several times as long as float32 ones on a CPU without units for them, and with such units
    are no faster on matrices of this size: measured, docs/performance.md.
    """

    @staticmethod
    def _orthogonalize(group: Mapping[str, Any], updates: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the nearest orthogonal matrices, (rows, columns) each; their shapes are equal up to transposition."""
        if updates[0].device.type != "cpu":
            orthogonalized: list[torch.Tensor] = pytorch_optimizer.Muon._orthogonalize(group, updates)
            return orthogonalized
        matrices = [update.flatten(1) for update in updates]
        is_tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
        wide = torch.stack([matrix.mT if tall else matrix for matrix, tall in zip(matrices, is_tall, strict=True)])
        result = zero_power_via_newton_schulz_5(
            wide, num_steps=group["ns_steps"], weights=group["ns_coeffs"], dtype=torch.float32
        )
        return [matrix.mT if tall else matrix for matrix, tall in zip(result, is_tall, strict=True)]
