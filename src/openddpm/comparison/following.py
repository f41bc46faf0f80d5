"""Where a run in training stands beside a reference that it follows."""

import math
from collections.abc import Sequence

from openddpm.analysis.text import number_of, significant
from openddpm.comparison.band import make_bands
from openddpm.comparison.compare import (
    Standing,
    apart_from,
    inside_again,
    is_same_run,
    same_seed,
    standings_of,
    what_prevents,
)
from openddpm.comparison.explanations import explain
from openddpm.comparison.planned import unequal_evaluations
from openddpm.comparison.same_run import Relation, related
from openddpm.record.reader import RunFolder
from openddpm.record.schema import EvaluationRow, Following, MetricsRow, QuantityBand, ReferenceBandRecord


class Follower:
    """Compares a run with a reference while it trains.

    Args:
        name: of the reference, for people.
        reference: its runs, at least one; the run itself, of which a folder may have a record from before, is left out.
        run: the record in memory; its rows grow during training.
    """

    def __init__(self, name: str, reference: Sequence[RunFolder], run: RunFolder) -> None:
        self.name, self.run = name, run
        self._reference = apart_from(run, reference)
        self._bands = make_bands(self._reference)
        self._obstacle = what_prevents(run, self._reference[0])
        self._unequal = unequal_evaluations(run.run, self._reference)
        base = None if self._obstacle else same_seed(run, self._reference)
        self._relation = None if base is None else related(run, base)
        self._standings: list[Standing] = []
        self._stand()
        self._differences = [
            f"{one.name}: {one.candidate}, but {one.reference} there"
            for one in explain(run, base or self._reference[0])
        ]

    def band_record(self) -> ReferenceBandRecord:
        """Return the reference's band as the run folder keeps it."""
        return ReferenceBandRecord(
            reference=self.name,
            seeds=[run.run.seed for run in self._reference],
            bands=[
                QuantityBand(
                    field=band.quantity.field,
                    images_seen=[int(count) for count in band.images],
                    mean=band.mean.tolist(),
                    low=band.low.tolist(),
                    high=band.high.tolist(),
                )
                for band in self._bands
            ],
        )

    def add(self, row: MetricsRow | EvaluationRow) -> None:
        """Take in a new row, which the record in memory has already."""
        if self._relation is not None:
            self._relation.add(row)
        if isinstance(row, EvaluationRow):
            self._stand()

    def following(self) -> Following:
        """Return where the run stands after the rows so far."""
        if self._obstacle:
            return self._state("not_comparable", None, f"it cannot be compared with {self.name}: {self._obstacle}")
        relation = self._relation
        if relation is not None and (relation.kind == "parted" or is_same_run(relation, self._standings)):
            return self._beside_same_seed(relation)
        return self._beside_other_seeds()

    def _stand(self) -> None:
        if not self._obstacle:
            self._standings = standings_of(self.run, self._reference, self._bands)

    def _beside_same_seed(self, relation: Relation) -> Following:
        run = f"seed {relation.other.run.seed} of {self.name}"
        if relation.parted is not None:
            parted = relation.parted
            text = f"it parted from {run} at step {parted.step:,}: {parted.text}"
            return self._state("parted", parted.images_seen, text)
        if relation.first is not None:
            text = f"the same run as {run}, rounding apart since step {relation.first.step:,}"
            return self._state("same_run", None, text)
        if not relation.num_numbers:
            return self._state("too_early", None, f"it has the seed and the options of {run}; nothing is logged yet")
        return self._state("same_bits", None, f"the same bits as {run}, in all {relation.num_numbers:,} numbers so far")

    def _beside_other_seeds(self) -> Following:
        seeds = number_of(len(self._reference), "seed")
        first = self._standings[0] if self._standings else None
        if first is None or first.detectable is None:
            if first is None and self._unequal:
                return self._state(
                    "not_comparable", None, f"its losses cannot be compared with {self.name}: {self._unequal}"
                )
            missing = "nothing is evaluated yet" if self._bands else f"{seeds} cannot show how much seeds differ"
            return self._state("too_early", None, f"another run than those of {self.name}; {missing}")
        left = [(one.left_at, one) for one in self._standings if one.left_at is not None]
        if not left:
            text = f"like another seed of {self.name}: inside the band of its {seeds}"
            return self._state("another_seed", None, f"{text} (a change of {100 * first.detectable:.0f} % would show)")
        shown = first if first.side else min(left, key=lambda pair: pair[0])[1]
        since = shown.side_since
        assert since is not None
        state, place = ("behind", "behind") if shown.side > 0 else ("ahead", "ahead of")
        place = f"{place} {self.name} since {since:,.0f} images"
        if shown.is_back:
            place = f"{inside_again(shown, self._standings)}, after it was {place}"
        value = significant(shown.candidate) if math.isfinite(shown.candidate) else "not finite"
        return self._state(
            state, int(since), f"{place}: {shown.quantity.name} {value}, {significant(shown.mean)} there"
        )

    def _state(self, state: str, since: int | None, text: str) -> Following:
        return Following.model_validate(
            {
                "reference": self.name,
                "state": state,
                "since_images": since,
                "text": f"{text[0].upper()}{text[1:]}.",
                "differences": self._differences,
            }
        )
