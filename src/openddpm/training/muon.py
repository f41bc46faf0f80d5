"""Muon of `pytorch_optimizer`, which orthogonalizes in float32 on a CPU; the library does so in bfloat16 everywhere."""

from collections.abc import Mapping
from typing import Any

import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5


class Muon(pytorch_optimizer.Muon):  # type: ignore[misc]
    """Muon in the precision that its device is fast in.

    A CPU without bfloat16 units takes several times as long for such products as for float32 ones, and one that has
    them gains nothing from them on matrices of this size: measured, docs/performance.md. A GPU keeps bfloat16.
    """

    @staticmethod
    def _orthogonalize(group: Mapping[str, Any], updates: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the updates as nearest orthogonal matrices, (rows, columns) each; alike up to transposition."""
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
