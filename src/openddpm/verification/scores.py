"""Losses and skills of evaluations.jsonl against each other and against baselines.json."""

import math
from collections.abc import Sequence

from openddpm.record.bands import BANDS
from openddpm.record.reader import RunFolder
from openddpm.record.schema import BaselinesRecord, EvaluationRow
from openddpm.verification.checker import Checker

OF_A_SUM = 1e-6  # relative; assumed: rounding of a sum over fixed samples


def check_baselines(checker: Checker, record: RunFolder) -> bool:
    """Check that the baselines can be compared with; return whether they can."""
    baselines = record.baselines
    checker.holds(baselines is not None or not record.evaluations, "baselines.json is missing, which every run writes")
    if baselines is None:
        return False
    lists = {name: value for name, value in baselines if isinstance(value, list)}
    if not record.run.dataset.num_heldout:
        checker.holds(not lists.pop("memorizing_heldout"), "baselines.json: held-out losses without held-out images")
    is_whole = len({len(value) for value in lists.values()}) == 1 and baselines.linear != []
    checker.holds(is_whole, "baselines.json: its lists have different lengths")
    is_positive = all(value > 0 for name in ("shares", "linear", "linear_train") for value in lists[name])
    checker.holds(is_positive, "baselines.json: a share or a loss of the linear denoiser is not positive")
    return is_whole and is_positive


def check_scores(checker: Checker, row: EvaluationRow, baselines: BaselinesRecord, has_heldout: bool) -> None:
    """Check the losses and skills of an evaluation against its losses by timestep and the baselines.

    A group of timesteps without a loss (of weights that are not finite) leaves all that it is a part of without one.
    """
    file, shares = "evaluations.jsonl", baselines.shares
    if len(row.by_timestep) != len(shares):
        checker.holds(False, f"{file}: {len(row.by_timestep)} groups of timesteps, {len(shares)} expected")
        return

    def same(what: str, found: float | None, expected: float | None) -> None:
        is_none = expected is None or not math.isfinite(expected)
        checker.same(f"{what} of {file}", row.step, found, None if is_none else expected, OF_A_SUM)

    losses = [math.nan if loss is None else loss for loss in row.by_timestep]
    total = _mean(losses, shares)
    linear = _mean(baselines.linear, shares)
    same("heldout_loss", row.heldout_loss, total if has_heldout else None)
    same("skill", row.skill, 1 - total / linear if has_heldout else None)
    train_loss = row.fixed_train_loss
    if not has_heldout:
        same("fixed_train_loss", train_loss, total)
    train_linear = _mean(baselines.linear_train, shares)
    same("train_skill", row.train_skill, None if train_loss is None else 1 - train_loss / train_linear)
    checker.holds(row.bands.keys() == BANDS.keys(), f"{file}: not all bands are at step {row.step:,}")
    for band, score in row.bands.items():
        low, high = BANDS[band]
        inside = [index for index, snr in enumerate(baselines.snr) if low <= snr < high]
        weights = [shares[index] for index in inside]
        loss, floor, memorizing = (
            _mean([values[index] for index in inside], weights)
            for values in (losses, baselines.linear, baselines.memorizing_train)
        )
        of_band = f"of the {band} band"
        same(f"loss {of_band}", score.loss, loss)
        same(f"linear {of_band}", score.linear, floor)
        same(f"memorizing {of_band}", score.memorizing, memorizing)
        same(f"skill {of_band}", score.skill, 1 - loss / floor)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted mean; NaN of nothing."""
    if not values:
        return math.nan
    return math.fsum(value * weight for value, weight in zip(values, weights, strict=True)) / math.fsum(weights)
