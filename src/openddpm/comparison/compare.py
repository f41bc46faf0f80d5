"""The comparison of a run with a reference: same bits, same run, another seed of it, or another run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from openddpm.analysis.text import listed, number_of, significant
from openddpm.comparison.band import MIN_RUNS, Band, common_images, make_bands
from openddpm.comparison.curves import Column, Curve, Quantity, curve_of, quantities_of
from openddpm.comparison.explanations import SPLIT_OF_THE_BATCH, Explanation, explain, option_differences
from openddpm.comparison.planned import unequal_evaluations
from openddpm.comparison.same_run import Relation, related
from openddpm.record.public import last_part
from openddpm.record.reader import RunFolder

ComparisonVerdict = Literal["same_bits", "same_run", "inside", "outside", "not_comparable"]

SAME_SAMPLES = 1e-3  # relative difference of the loss of predicting no noise: that of the fixed noise itself


@dataclass(frozen=True)
class Standing:
    """A quantity of the candidate beside the reference's, at the last number of images that both have."""

    quantity: Quantity
    images: float
    candidate: float
    mean: float
    low: float | None
    high: float | None
    """Ends of the band; None if there are too few runs for one."""
    left_at: float | None
    """Images seen at the first point outside the band."""
    side: int
    """+1 above the band at the last point outside it, -1 below, 0 if it never left."""
    side_since: float | None
    """Images seen at the first of the points on that side without any other point between them."""
    detectable: float | None
    """Relative change that would be found 4 times in 5."""

    @property
    def is_back(self) -> bool:
        """Whether it left the band and is inside again."""
        if self.left_at is None or self.low is None or self.high is None:
            return False
        return self.low <= self.candidate <= self.high


@dataclass(frozen=True)
class Comparison:
    """What a comparison found."""

    candidate: RunFolder
    reference: list[RunFolder]
    """Its runs without the candidate itself, unless that is the only one."""
    verdict: ComparisonVerdict
    sentence: str
    relation: Relation | None
    """Relation to the reference's run with the same seed; None if there is none, options or images differ, or both have
    no row in common."""
    bands: list[Band]
    standings: list[Standing]
    explanations: list[Explanation]

    def answer(self) -> dict[str, Any]:
        """Return the answer for programs."""
        first = self.relation and (self.relation.parted or self.relation.first)
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "first_difference": first and {"step": first.step, "images_seen": first.images_seen, "field": first.field},
            **in_numbers(self.standings),
            "explanations": [
                {"name": one.name, "candidate": one.candidate, "reference": one.reference, "reason": one.reason}
                for one in self.explanations
            ],
        }


def compare(candidate: RunFolder, reference: Sequence[RunFolder]) -> Comparison:
    """Compare a run with the runs of a reference, which differ from each other in their seeds alone.

    Args:
        reference: at least one run.
    """
    reference = list(reference)
    base = same_seed(candidate, reference)
    obstacle = what_prevents(candidate, reference[0])
    if not candidate.evaluations and not candidate.metrics:
        obstacle = "the candidate has not logged a step yet"
    if obstacle:
        sentence = f"The runs cannot be compared: {obstacle}."
        return Comparison(
            candidate, reference, "not_comparable", sentence, None, [], [], explain(candidate, base or reference[0])
        )
    relation = None if base is None else related(candidate, base)
    if relation is not None and not relation.num_numbers:
        relation = None
    others = apart_from(candidate, reference)
    bands = make_bands(others)
    standings = standings_of(candidate, others, bands)
    sides = {one.side for one in standings} - {0}
    explanations = explain(candidate, base or reference[0], sides.pop() if len(sides) == 1 else 0)
    unequal = "" if standings else unequal_evaluations(candidate.run, others)
    verdict, sentence = _verdict(relation, bands, standings, len(others), unequal)
    if candidate.run.failure is not None:
        text = str(candidate.run.failure_text or candidate.run.failure).rstrip(".")
        verdict, sentence = "outside", f"The run failed: {text}. Before that: {sentence}"
    if verdict == "same_bits":
        if candidate.run.run_id in {run.run.run_id for run in reference}:
            sentence += " The reference holds this very run."
        explanations = []
    return Comparison(candidate, others, verdict, sentence, relation, bands, standings, explanations)


def in_numbers(standings: Sequence[Standing]) -> dict[str, Any]:
    """Return where a candidate left the band first, and what would have been found, for programs."""
    left = [one.left_at for one in standings if one.left_at is not None]
    return {
        "left_band_at": int(min(left)) if left else None,
        "detectable": {one.quantity.field: one.detectable for one in standings if one.detectable is not None},
    }


def apart_from(candidate: RunFolder, reference: Sequence[RunFolder]) -> list[RunFolder]:
    """Return the runs of a reference without records of the candidate itself, unless it has no others."""
    return [run for run in reference if run.run.run_id != candidate.run.run_id] or list(reference)


def what_prevents(candidate: RunFolder, base: RunFolder) -> str:
    """Return why losses of two runs cannot be compared, as the end of a sentence; empty if they can."""
    ours, theirs = candidate.run, base.run
    options = option_differences(candidate, base)
    if ours.dataset.sha256 != theirs.dataset.sha256:
        return (
            f"they were trained on other images ({ours.dataset.num_images:,} of {ours.dataset.size} from "
            f"{last_part(ours.dataset.source)}, {theirs.dataset.num_images:,} of {theirs.dataset.size} from "
            f"{last_part(theirs.dataset.source)})"
        )
    for name, our, their in (
        ("--evaluation_seed", ours.evaluation_seed, theirs.evaluation_seed),
        ("number of held-out images", ours.dataset.num_heldout, theirs.dataset.num_heldout),
        ("number of fixed samples", ours.evaluation.num_fixed_samples, theirs.evaluation.num_fixed_samples),
    ):
        if our != their:
            return f"they were evaluated on other samples, as the {name} differs ({our:,} and {their:,})"
    for name in ("num_train_timesteps", "beta_schedule"):
        if name in options:
            our, their = options[name]
            return f"they were evaluated at other noise levels, as --{name} differs ({our} and {their})"
    if candidate.baselines and base.baselines:
        zero = [np.array(run.baselines.zero) for run in (candidate, base) if run.baselines]
        if len(zero[0]) != len(zero[1]) or np.any(np.abs(zero[0] - zero[1]) > SAME_SAMPLES * np.abs(zero[1])):
            return "they were evaluated on other noises or timesteps"
    return ""


def same_seed(candidate: RunFolder, reference: Sequence[RunFolder]) -> RunFolder | None:
    """Return the reference's run with the seed and options of the candidate; None without one."""
    for base in reference:
        has_same_batch = candidate.run.global_batch_size == base.run.global_batch_size
        if (
            candidate.run.seed == base.run.seed
            and has_same_batch
            and not {*option_differences(candidate, base)} - SPLIT_OF_THE_BATCH
        ):
            return base
    return None


def standings_of(candidate: RunFolder, reference: Sequence[RunFolder], bands: Sequence[Band]) -> list[Standing]:
    """Return where the candidate stands in each quantity that it shares with the reference.

    Args:
        bands: of the reference; empty if it has too few runs.
    """
    by_quantity = {band.quantity: band for band in bands}
    standings = []
    for quantity in quantities_of(candidate):
        curve = curve_of(candidate, quantity, of_broken=np.inf)
        if quantity in by_quantity:
            standing = standing_in_band(curve, by_quantity[quantity])
        elif not bands:
            standing = standing_beside(quantity, curve, [curve_of(run, quantity) for run in reference])
        else:
            continue
        if standing is not None:
            standings.append(standing)
    return standings


def standing_beside(quantity: Quantity, curve: Curve, others: Sequence[Curve]) -> Standing | None:
    """Return where a curve stands beside too few others for a band."""
    known = _known(curve, common_images(others))
    if not len(known):
        return None
    mean = float(np.exp(np.mean([np.log(other.at(known)[-1]) for other in others])))
    return Standing(quantity, known[-1], float(curve.at(known)[-1]), mean, None, None, None, 0, None, None)


def _known(curve: Curve, images: Column) -> Column:
    return images[~np.isnan(curve.near(images))]


def standing_in_band(curve: Curve, band: Band) -> Standing | None:
    """Return where a curve stands in a band; None if they have no number of images in common."""
    known = _known(curve, band.images)
    if not len(known):
        return None
    last = known[-1]
    place = int(np.searchsorted(band.images, last))
    sides = band.outside(curve)[~np.isnan(curve.near(band.images))]
    outside = np.flatnonzero(sides)
    left_at: float | None = None
    side_since: float | None = None
    if len(outside):
        elsewhere = np.flatnonzero(sides[: outside[-1]] != sides[outside[-1]])
        left_at, side_since = float(known[outside[0]]), float(known[elsewhere[-1] + 1 if len(elsewhere) else 0])
    return Standing(
        quantity=band.quantity,
        images=last,
        candidate=float(curve.at(known)[-1]),
        mean=float(band.mean[place]),
        low=float(band.low[place]),
        high=float(band.high[place]),
        left_at=left_at,
        side=int(sides[outside[-1]]) if len(outside) else 0,
        side_since=side_since,
        detectable=band.detectable(last),
    )


def inside_again(shown: Standing, standings: Sequence[Standing]) -> str:
    """Return in words that a loss is back in the band; which one, if others are still outside."""
    all_are = all(one.left_at is None or one.is_back for one in standings)
    return "inside again" if all_are else f"inside again in its {shown.quantity.name}"


def is_same_run(relation: Relation, standings: Sequence[Standing]) -> bool:
    """Tell whether a run is the one that it is related to, to the bit or rounding apart.

    The band may see what grows too slowly to be told from rounding; while all bits are the same, it counts only where
    that run's record has ended.
    """
    left = [one.left_at for one in standings if one.left_at is not None]
    if relation.kind == "same_bits":
        end = 0 if relation.last is None else relation.last.images_seen
        return not any(images > end for images in left)
    return relation.kind == "rounding" and not left


def _verdict(
    relation: Relation | None, bands: Sequence[Band], standings: Sequence[Standing], num_runs: int, unequal: str
) -> tuple[ComparisonVerdict, str]:
    if relation is not None and relation.last is not None and is_same_run(relation, standings):
        if relation.first is None:
            numbers = f"all {relation.num_numbers:,} numbers that both records have, up to step {relation.last.step:,},"
            return "same_bits", f"The same run, to the bit: {numbers} are equal."
        since = f"the numbers differ from step {relation.first.step:,} on"
        return "same_run", f"The same run, rounding apart: {since}, never by more than rounding grows to."
    where = place_in_band(bands, standings, num_runs)
    if unequal:
        where = f"The losses cannot be compared: {unequal}."
    if relation is not None and relation.parted is not None and relation.kind == "parted":
        parted = relation.parted
        return "outside", (
            f"Not the same run, though seed and options are: at step {parted.step:,} {parted.text}. {where}"
        )
    if relation is not None and relation.kind in ("same_bits", "rounding"):
        where += " It began as one of its runs, with the same seed and options."
    elif relation is not None:
        where += " Seed and options are those of one of its runs, but the random numbers are others from the start on."
    if not bands or not standings:
        return "not_comparable", where
    has_left = any(one.left_at is not None for one in standings)
    return ("outside" if has_left else "inside"), where


def place_in_band(bands: Sequence[Band], standings: Sequence[Standing], num_runs: int) -> str:
    """Return where the candidate stands, in sentences."""
    if not standings:
        return "The runs have no evaluation after equal numbers of images so far."
    first = standings[0]
    name, runs = first.quantity.name, number_of(num_runs, "run")
    if first.detectable is None:
        change = 100 * (first.candidate / first.mean - 1)
        far = f"{abs(change):.1f} % {'higher' if change > 0 else 'lower'}" if np.isfinite(change) else "not finite"
        return (
            f"The {name} is {far}, but {runs} cannot show how much seeds differ: a reference needs {MIN_RUNS} or more."
        )
    left = [(one.left_at, one) for one in standings if one.left_at is not None]
    if not left:
        return (
            f"Inside: over {first.images:,.0f} images nothing tells it from another seed of the reference's {runs}. A "
            f"{name} that is {100 * first.detectable:.0f} % off at this point would have been found 4 times in 5."
        )
    left_at, earliest = min(left, key=lambda pair: pair[0])
    by = "all losses" if len(left) == len(standings) > 1 else listed([f"its {one.quantity.name}" for _, one in left])
    shown = earliest if first.left_at is None else first
    kind = f"{'was' if shown.is_back else 'is'} {'behind' if shown.side > 0 else 'ahead'}"
    if shown.side_since is not None and shown.side_since > left_at:
        kind += f" since {shown.side_since:,.0f}"
    if first.left_at is None and len(left) < len(standings):
        kind += f" in {'this' if len(left) == 1 else 'these'}"
    if shown.is_back:
        kind += f", but is {inside_again(shown, standings)}"
    value = significant(first.candidate) if np.isfinite(first.candidate) else "not finite"
    return (
        f"Outside: it left the band of the reference's {runs} after {left_at:,.0f} images, by {by}, and {kind}. "
        f"After {first.images:,.0f} images its {name} is {value}, the reference's "
        f"{significant(first.mean)}."
    )
