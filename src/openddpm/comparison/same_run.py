"""Whether two records are of one run: the same numbers, or apart only as rounding is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from openddpm.comparison.rounding import WINDOW, Quantity, limit
from openddpm.record.reader import RunFolder
from openddpm.record.schema import EvaluationRow, MetricsRow

RelationKind = Literal["same_bits", "rounding", "parted", "other_random_numbers"]

EXACT = ("images_seen", "epoch", "learning_rate", "ema_decay")
"""Columns of metrics.jsonl that are functions of the step and the options."""
ROUNDED = ("train_loss", "grad_norm")
"""Columns that depend on every operation since the run began."""
LOGGED: tuple[str, ...] = (*EXACT, *ROUNDED)
EVALUATED: tuple[str, ...] = ("heldout_loss", "fixed_train_loss")
"""The same in evaluations.jsonl."""
OF_GROUPS = 10.0  # assumed; measured of equal weights: losses of groups of timesteps differ 7 times as much as all
LOSSES = ("train_loss", *EVALUATED)
WORDS = {"train_loss": "training loss", "grad_norm": "gradient norm", "heldout_loss": "held-out loss"}
"""Names of columns for people, where they are others."""
OF_A_FORMULA = 1e-9  # relative; assumed: rounding of a formula in double precision

COARSE_LOSS = 2e-2  # assumed: the smallest limit of a loss in TF32, bfloat16 or float16, where nothing is measured
COARSE_NORM = 2.0  # assumed: the same of a gradient norm, which then is not compared


@dataclass(frozen=True)
class Difference:
    """A logged number in which two records differ."""

    step: int
    images_seen: int
    field: str
    relative: float
    """The difference divided by the larger absolute value; infinite if one record has no number there."""

    @property
    def text(self) -> str:
        """What the difference is, as a part of a sentence, where it is more than rounding."""
        return self.how_far + ", more than rounding does" * math.isfinite(self.relative)

    @property
    def how_far(self) -> str:
        """What differs and by how much, as a part of a sentence."""
        field, _, weights = self.field.partition(" ")
        name = " ".join([WORDS.get(field, field.replace("_", " ")), weights]).strip()
        if math.isinf(self.relative):
            return f"one of the two has no {name}"
        return f"the {name} differs by {100 * self.relative:.2g} %"


class Relation:
    """How a run, row by row, is related to a finished one with the same seed and options.

    Numbers that differ by more than rounding from the first logged step on come of other random numbers, unless a later
    one is equal to the bit. A training loss is compared where both records take its mean over the same steps.

    Args:
        is_coarse: whether one of the two computes in less than float32.
        since: step until which both are known to be equal.
    """

    def __init__(self, other: RunFolder, is_coarse: bool = False, since: int = 0) -> None:
        self.other = other
        self.num_numbers = 0
        """Numbers that both records have."""
        self.largest = 0.0
        """The largest relative difference of a loss."""
        self.last: MetricsRow | EvaluationRow | None = None
        """The last row that both records have."""
        self.first: Difference | None = None
        """The first number that differs."""
        self.parted: Difference | None = None
        """The first number that differs by more than rounding does."""
        self.row_before = max((row.step for row in other.metrics if row.step <= since), default=0)
        """Step of the run's last line of metrics.jsonl, after which the mean of its next one begins."""
        self._has_met = False
        self._is_rounded = False
        self._equal_until = since
        self._is_coarse = is_coarse
        self._steps_of_mean = 0
        self._metrics = {row.step: row for row in other.metrics}
        self._rows_before = rows_before(other.metrics)
        self._evaluations = {(row.step, row.weights): row for row in other.evaluations}

    @property
    def kind(self) -> RelationKind:
        """The relation so far."""
        if self.parted is not None:  # what a formula gives needs no random numbers
            return "parted" if self._has_met or self.parted.field in EXACT else "other_random_numbers"
        return "same_bits" if self.first is None else "rounding"

    def add(self, row: MetricsRow | EvaluationRow) -> None:
        """Take in the next row of the run, in the order of the steps."""
        other: MetricsRow | EvaluationRow | None
        if isinstance(row, MetricsRow):
            other, names = self._metrics.get(row.step), LOGGED
            if self._rows_before.get(row.step) != self.row_before:
                names = tuple(name for name in LOGGED if name != "train_loss")
            self._steps_of_mean = row.step - self.row_before
            self.row_before = row.step
        else:
            other, names = self._evaluations.get((row.step, row.weights)), EVALUATED
        if other is None:
            return
        pairs = [(name, getattr(row, name), getattr(other, name)) for name in names]
        groups = _groups(row, other) if isinstance(row, EvaluationRow) and isinstance(other, EvaluationRow) else []
        if self.parted is None:
            self.last = row
            for name, ours, theirs in (*pairs, *groups):
                self._take(row, name, ours, theirs)
            if not self._is_rounded:
                self._equal_until = row.step
        trained = [(ours, theirs) for name, ours, theirs in pairs if name not in EXACT]
        self._has_met = self._has_met or any(ours == theirs is not None for ours, theirs in trained)

    def _take(self, row: MetricsRow | EvaluationRow, name: str, ours: float | None, theirs: float | None) -> None:
        if ours is None and theirs is None:
            return
        self.num_numbers += 1
        if ours != theirs:
            label = name if isinstance(row, MetricsRow) else f"{name} of the {row.weights} weights"
            difference = Difference(row.step, row.images_seen, label, relative_difference(ours, theirs))
            self.first = self.first or difference
            if name in LOSSES:
                self.largest = max(self.largest, difference.relative)
            self._is_rounded |= name not in EXACT
            if difference.relative > self._allowed(name, row.step - self._equal_until):
                self.parted = self.parted or difference
                return
        self._has_met = self._has_met or name == "train_loss"

    def _allowed(self, name: str, steps: int) -> float:
        """Return the largest relative difference that rounding makes `steps` after the two were equal."""
        if name in EXACT:
            return OF_A_FORMULA
        quantity: Quantity = "evaluated_loss"
        if name == "grad_norm":
            quantity = "grad_norm"
        elif name == "train_loss":
            quantity = "mean_train_loss" if self._steps_of_mean >= WINDOW else "train_loss"
        measured = limit(quantity, steps) * (OF_GROUPS if name not in (*LOGGED, *EVALUATED) else 1.0)
        return max(measured, COARSE_NORM if name == "grad_norm" else COARSE_LOSS) if self._is_coarse else measured


def _groups(row: EvaluationRow, other: EvaluationRow) -> list[tuple[str, float | None, float | None]]:
    """Return the losses of groups of timesteps in two evaluations, and the standard errors of their skills.

    Those depend on the baselines, too, whose rounding is nothing of the run.
    """
    losses = zip_longest(row.by_timestep, other.by_timestep)
    groups = [(f"loss_of_group_{index}_of_timesteps", *pair) for index, pair in enumerate(losses)]
    ours, theirs = row.skill_error, other.skill_error
    if ours is not None and theirs is not None and math.isclose(ours, theirs, rel_tol=OF_A_FORMULA):
        ours = theirs
    return [("skill_error", ours, theirs), *groups]


def rows_before(rows: Sequence[MetricsRow]) -> dict[int, int]:
    """Return the step of the row before each, by its own step; 0 for the first."""
    steps = [row.step for row in rows]
    return dict(zip(steps, [0, *steps], strict=False))


def related(candidate: RunFolder, other: RunFolder) -> Relation:
    """Return the relation of a run, as far as it is recorded, to another with the same seed and options."""
    relation = Relation(other, is_coarse=computes_coarsely(candidate) or computes_coarsely(other))
    rows: list[MetricsRow | EvaluationRow] = [*candidate.metrics, *candidate.evaluations]
    for row in sorted(rows, key=lambda row: row.step):
        relation.add(row)
    return relation


def relative_difference(ours: float | None, theirs: float | None) -> float:
    """Return the difference of two unequal numbers, divided by the larger absolute value; infinite without one."""
    if ours is None or theirs is None:
        return float("inf")
    return abs(ours - theirs) / max(abs(ours), abs(theirs))


def computes_coarsely(run: RunFolder) -> bool:
    """Tell whether a run computes in TF32, bfloat16 or float16."""
    return run.run.config.get("mixed_precision", "no") != "no" or any(
        session.environment.speed.tf32 and session.environment.device_type == "cuda" for session in run.run.sessions
    )
