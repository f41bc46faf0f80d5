"""Runs that differ from a made-up run as other seeds of it would."""

from dataclasses import replace

import numpy as np

from openddpm.record.reader import RunFolder
from openddpm.record.schema import EvaluationRow


def another_seed(run: RunFolder, seed: int, spread: float = 0.02, factor: float = 1.0, since: int = 0) -> RunFolder:
    """Return `run` with another seed: all losses of an evaluation times a factor that wanders by `spread`.

    Args:
        factor: on all losses, in addition, at more than `since` images.
    """
    generator = np.random.default_rng(seed)
    wander, factors = generator.normal(), dict[int, float]()
    for step in sorted({row.step for row in run.evaluations}):
        wander = 0.7 * wander + np.sqrt(1 - 0.7**2) * generator.normal()
        factors[step] = float(np.exp(spread * wander))
    evaluations = [
        _scaled(row, factors[row.step] * (factor if row.images_seen > since else 1.0)) for row in run.evaluations
    ]
    metrics = [
        row.model_copy(update={"train_loss": row.train_loss * float(generator.lognormal(0, spread))})
        for row in run.metrics
    ]
    record = run.run.model_copy(update={"seed": seed, "run_id": f"{seed:016x}", "name": f"seed-{seed}"})
    return replace(run, run=record, evaluations=evaluations, metrics=metrics)


def _scaled(row: EvaluationRow, factor: float) -> EvaluationRow:
    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    bands = {name: score.model_copy(update={"loss": times(score.loss)}) for name, score in row.bands.items()}
    return row.model_copy(
        update={
            "heldout_loss": times(row.heldout_loss),
            "fixed_train_loss": times(row.fixed_train_loss),
            "bands": bands,
        }
    )
