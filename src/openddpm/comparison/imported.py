"""The comparison of an imported record with a reference: by training loss, the only number that both have.

A log may have the losses of single batches, so means over windows are compared: of all rows after more than one number
of images and up to the next, weighted by the images since the row before. How far such a mean of the candidate may be
off by chance, because few batches were logged, is estimated from the scatter of its rows; the band of the reference's
seeds is widened by that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from openddpm.analysis.text import number_of
from openddpm.comparison.band import COVERAGE, MIN_RUNS, Band, bands_of
from openddpm.comparison.compare import (
    ComparisonVerdict,
    Standing,
    in_numbers,
    place_in_band,
    standing_beside,
    standing_in_band,
)
from openddpm.comparison.curves import Column, Curve, Quantity
from openddpm.comparison.explanations import Explanation
from openddpm.errors import UserError
from openddpm.record.imported import ImportedFolder, ImportedRecord
from openddpm.record.reader import RunFolder, log_spaced

TRAIN_LOSS = Quantity("train_loss", "training loss", lambda row: None)  # metrics.jsonl has it, and no evaluation
NUM_WINDOWS = 12  # assumed: more would each have few rows
MIN_ROWS = 8  # in a window; assumed: fewer do not show their own scatter, nor follow a falling loss

CAVEAT = (
    "By training loss alone: an imported record does not tell images, UNet, noise schedule, what is predicted, or "
    "whether its losses are running means, which lag behind,"
)


@dataclass(frozen=True)
class ImportedComparison:
    """What a comparison of an imported record found."""

    candidate: ImportedFolder
    reference: list[RunFolder]
    verdict: ComparisonVerdict
    where: str
    """Where the candidate stands."""
    caveat: str
    """How much that means; empty if nothing could be compared."""
    middles: Column
    """Images seen in the middle of each window that is compared, (W,); curves and bands have those at its end."""
    curve: Curve
    """Means of the candidate's loss over the windows."""
    seeds: list[Curve]
    """The same of the reference's runs."""
    band: Band | None
    """Of the seeds, widened by the candidate's own noise; None if there are too few."""
    standings: list[Standing]
    """Of the training loss, if any."""
    explanations: tuple[Explanation, ...] = ()
    """None: the record has nothing that could explain a difference."""

    @property
    def sentence(self) -> str:
        """Both in words."""
        return f"{self.where} {self.caveat}".rstrip()

    def answer(self) -> dict[str, Any]:
        """Return the answer for programs, as of other comparisons."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "first_difference": None,
            **in_numbers(self.standings),
            "explanations": [],
        }


def compare_imported(candidate: ImportedFolder, reference: Sequence[RunFolder]) -> ImportedComparison:
    """Compare an imported record with the runs of a reference, which differ from each other in their seeds alone.

    Args:
        reference: at least one run.

    Raises:
        UserError: it is not known how many images a step of the candidate consumes, or its loss is not above 0.
    """
    record = candidate.record
    if record.images_per_step is None:
        raise UserError(
            f"'{candidate.folder}' does not tell how many images a step consumes, so it cannot be compared",
            "Import the log again with --batch_size.",
        )
    rows = [_rows_of(run) for run in reference]
    images, losses = _rows_of_candidate(record)
    edges = _edges(images, [own for own, _ in rows])
    values, errors, counts = _window_means(images, losses, edges)
    if (values <= 0).any():
        raise UserError(
            f"the loss '{record.tags.train_loss}' of '{candidate.folder}' is 0 or less, as no mean squared error is",
            "Import the log again with the tag of such a loss: --loss_tag TAG.",
        )
    means = [_window_means(*own, edges)[0] for own in rows]
    used = ((counts >= MIN_ROWS) | np.isinf(values)) & np.all([mean > 0 for mean in means], axis=0)
    ends, middles = edges[1:][used], ((edges[:-1] + edges[1:]) / 2)[used]
    curve, seeds = Curve(ends, values[used]), [Curve(ends, mean[used]) for mean in means]
    bands = bands_of({TRAIN_LOSS: seeds}) if len(seeds) >= MIN_RUNS else []
    band = _widened(bands[0], errors[used], counts[used]) if bands else None
    standing = standing_beside(TRAIN_LOSS, curve, seeds) if band is None else standing_in_band(curve, band)
    standings = [] if standing is None else [standing]
    verdict, where = _verdict(record, band, standings, len(reference), len(used))
    caveat = _caveat(reference[0], verdict, len(used) - int(used.sum()), len(used)) if standings else ""
    return ImportedComparison(
        candidate, list(reference), verdict, where, caveat, middles, curve, seeds, band, standings
    )


def _rows_of(run: RunFolder) -> tuple[Column, Column]:
    """Return images seen and training loss of a run's rows."""
    rows = {row.images_seen: row.train_loss for row in run.metrics if row.images_seen}
    return np.array(list(rows), dtype=np.float64), np.array(list(rows.values()))


def _rows_of_candidate(record: ImportedRecord) -> tuple[Column, Column]:
    """Return the same of an imported record; losses that were not finite are infinite."""
    assert record.images_per_step is not None
    steps = np.array([*record.step, *record.not_finite_steps], dtype=np.float64)
    losses = np.array([*record.train_loss, *([np.inf] * len(record.not_finite_steps))])
    order = np.argsort(steps)
    return steps[order] * record.images_per_step, losses[order]


def _edges(images: Column, of_seeds: Sequence[Column]) -> Column:
    """Return the ends of windows after 0 images, (W + 1,): where all seeds have a row, as far as the candidate goes.

    It goes as far as its next row would be, since the last one may be a little short.
    """
    common = set.intersection(*(set(own.tolist()) for own in of_seeds))
    reach = images[-1] + (images[-1] - images[-2] if len(images) > 1 else 0)
    return np.array([0, *log_spaced((int(one) for one in common if one <= reach), NUM_WINDOWS)], dtype=np.float64)


def _window_means(images: Column, losses: Column, edges: Column) -> tuple[Column, Column, Column]:
    """Return mean loss, its relative standard error and the number of rows of each window, (W,); NaN without rows.

    The number is at most that of rows with equal weights whose mean is as certain (Kish, 1965, "Survey sampling"), with
    the end of the window after its last row as one more: a gap in a log counts, as nothing shows what happened in it.
    """
    weights = np.diff(images, prepend=0.0)
    place = np.searchsorted(edges, images, side="left") - 1  # a row after as many images as a window's end is in it
    means, errors = np.full((2, len(edges) - 1), np.nan)
    counts = np.zeros(len(edges) - 1)
    for window in np.unique(place[place < len(counts)]):
        own, at, share = losses[place == window], images[place == window], weights[place == window]
        parts = np.append(share, edges[window + 1] - at[-1])
        share, counts[window] = share / share.sum(), min(len(own), parts.sum() ** 2 / (parts**2).sum())
        means[window] = (own * share).sum()
        if counts[window] >= MIN_ROWS and 0 < means[window] < np.inf:
            x = np.log(at)
            scatter = own - np.polynomial.Polynomial.fit(x, own, 1)(x)  # about the loss that falls within the window
            variance = (scatter**2).sum() / (len(own) - 2) * (share**2).sum()
            errors[window] = np.sqrt(variance) / abs(means[window])
    return means, errors, counts


def _widened(band: Band, errors: Column, counts: Column) -> Band:
    """Return a band for means that are also off by chance, with relative standard errors `errors`.

    The half-widths for both reasons, each such that none of the windows exceeds it with a probability of 95 %, are
    added in quadrature, as limits are for the sum of two estimates (Zou and Donner, 2008, "Construction of confidence
    limits about effect measures: a general approach").
    """
    errors = np.nan_to_num(errors)  # without one, the mean is not finite
    normal = NormalDist().inv_cdf(1 - (1 - COVERAGE) / 2 / len(errors))  # Bonferroni
    own = errors * _student(normal, np.maximum(counts, MIN_ROWS) - 2)
    width = np.hypot(np.log(band.high / band.mean), own)
    return replace(
        band,
        low=band.mean * np.exp(-width),
        high=band.mean * np.exp(width),
        spread=np.hypot(band.spread, errors),
    )


def _student(normal: float, freedom: Column) -> Column:
    """Return the quantiles of Student's t that correspond to one of the normal distribution.

    By the first terms of its expansion (Abramowitz and Stegun, 1964, 26.7.5); 1 % too small at worst for 6 degrees of
    freedom and more.
    """
    z = normal
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return np.asarray(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))


def _verdict(
    record: ImportedRecord, band: Band | None, standings: Sequence[Standing], num_runs: int, num_windows: int
) -> tuple[ComparisonVerdict, str]:
    if not standings:
        windows = number_of(num_windows, "window")
        reason = (
            f"none of {windows} of images has {MIN_ROWS} or more losses of the candidate and no gap; it has "
            f"{len(record.step):,} in all"
        )
        if not num_windows:
            reason = "the candidate ends before the reference's runs have a loss after the same number of images"
        return "not_comparable", f"The runs cannot be compared: {reason}."
    where = place_in_band([] if band is None else [band], standings, num_runs)
    if band is None:
        return "not_comparable", where
    return ("inside" if standings[0].left_at is None else "outside"), where


def _caveat(reference: RunFolder, verdict: ComparisonVerdict, num_left_out: int, num_windows: int) -> str:
    means = {"inside": "so inside means no more than this.", "outside": "any of which can be the reason."}
    text = f"{CAVEAT} {means.get(verdict, 'so even equal losses would not make it the same.')}"
    predicted = reference.run.config.get("prediction_type", "epsilon")
    if predicted != "epsilon":
        text += f" The reference's loss is that of {predicted}, which only a run that predicts the same can be held to."
    if num_left_out:
        windows = f"{num_left_out} of {number_of(num_windows, 'window')} of images"
        text += f" Left out: {windows}, with fewer than {MIN_ROWS} of the candidate's losses, or after a gap in them."
    return text
