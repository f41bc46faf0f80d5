"""The page of a comparison: a candidate beside the runs of a reference, pictures first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Protocol

from openddpm.analysis.course import Course
from openddpm.analysis.text import count, listed, number_of, significant, utc_text
from openddpm.comparison.band import COVERAGE
from openddpm.comparison.compare import Comparison, ComparisonVerdict, Standing
from openddpm.record.reader import RunFolder
from openddpm.record.schema import exported_weights
from openddpm.report.charts import Chart
from openddpm.report.compared_curves import apart_chart, band_of, difference_chart, loss_chart
from openddpm.report.facts import MARKS, Badge, rate_text
from openddpm.report.page import asset, render_page, write_page
from openddpm.report.pictures import data_uri, evenly, is_pixel_art
from openddpm.report.series import images_at_steps
from openddpm.report.terms import TERMS, Term, term_links

SCRIPTS = ("page.js", "charts.js", "pixels.js")
MAX_PAIRS = 8  # of previews: as many fit beside each other
PICTURE_BYTES = 50_000  # of one, as text in the page: 16 of them stay below 1 MB
SHOWN_DIFFERENCES = 12  # more fold away

BADGES: dict[ComparisonVerdict, Badge] = {
    "same_bits": Badge("same bits", "good"),
    "same_run": Badge("same run", "good"),
    "inside": Badge("inside", "good"),
    "outside": Badge("outside", "bad"),
    "not_comparable": Badge("not comparable", "warning"),
}
AHEAD = Badge("outside, ahead", "note")

COMPARED_TERMS = {
    **{key: TERMS[key] for key in ("heldout_loss", "fixed_train_loss", "detail", "shape", "layout", "preview", "ema")},
    "band": Term(
        "band",
        f"Where another seed of the reference stays over the whole run, in all losses at once, with a probability of "
        f"{COVERAGE:.0%}: from how much its runs differ.",
    ),
    "detectable": Term(
        "would have been found",
        "The smallest change of this loss at that point that would have left the band 4 times in 5. "
        "A smaller change may be there and not show.",
    ),
    "seed": Term("seed", "Where the random numbers of a run start: runs that differ only in it differ by chance."),
}


class About(Protocol):
    """Where and when a reference was made."""

    @property
    def device(self) -> str:
        """Name of the GPU or CPU."""

    @property
    def made(self) -> date:
        """The day."""


class Reference(Protocol):
    """What the page says of a reference beside its runs, which the comparison has."""

    @property
    def name(self) -> str:
        """Name for people."""

    @property
    def about(self) -> About | None:
        """None if it is not known."""

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of the choice of runs."""


@dataclass(frozen=True)
class Shown:
    """A preview: a data URI and the images seen."""

    picture: str
    images: int


@dataclass(frozen=True)
class Speed:
    """Images a second of one side, evaluations and previews included."""

    who: str
    rate: str
    device: str


def write_comparison(path: Path, comparison: Comparison, reference: Reference) -> Path:
    """Write the page of a comparison, as `write_page` does; return `path`."""
    write_page(path, render_comparison(comparison, reference, datetime.now(UTC)))
    return path


def render_comparison(comparison: Comparison, reference: Reference, built: datetime) -> str:
    """Return the page; `built` is the time of building that it shows."""
    charts = _charts(comparison)
    other = _paired_run(comparison)
    return render_page(
        "compare.html.j2",
        scripts=[asset(name) for name in SCRIPTS],
        data={"charts": {name: chart.spec() for name, chart in charts.items()}},
        terms=COMPARED_TERMS,
        links={key: link for key, link in term_links().items() if key in COMPARED_TERMS},
        comparison=comparison,
        candidate=comparison.candidate.run,
        reference=reference,
        runs=_runs_text(comparison),
        badge=comparison_badge(comparison),
        marks=MARKS,
        charts=charts,
        small=[one for one in comparison.standings[1:] if band_of(comparison, one.quantity)],
        pairs=preview_pairs(comparison.candidate, other),
        paired_seed=other.run.seed,
        same_noise=comparison.candidate.run.evaluation_seed == other.run.evaluation_seed,
        pixel_art=is_pixel_art(comparison.candidate) and is_pixel_art(other),
        speeds=_speeds(comparison),
        standings=comparison.standings,
        significant=significant,
        shown_differences=SHOWN_DIFFERENCES,
        coverage=f"{100 * COVERAGE:.0f} %",
        largest_detectable=_first_detectable(comparison.standings),
        built=utc_text(built.isoformat()),
    )


def comparison_badge(comparison: Comparison) -> Badge:
    """Return the verdict in words and its tone; being better than the reference is no bad news."""
    has_parted = comparison.relation is not None and comparison.relation.kind == "parted"
    return BADGES[comparison.verdict] if has_parted else badge_of(comparison.verdict, comparison.standings)


def badge_of(verdict: ComparisonVerdict, standings: Sequence[Standing]) -> Badge:
    """Return the verdict of a run that did not part from the same one."""
    is_ahead = verdict == "outside" and all(one.side <= 0 for one in standings)
    return AHEAD if is_ahead else BADGES[verdict]


def preview_pairs(candidate: RunFolder, other: RunFolder) -> list[tuple[Shown, Shown]]:
    """Return previews of two runs after about as many images: of the run with fewer, and the nearest of the other."""
    return picture_pairs(previews_by_images(candidate), previews_by_images(other))


def picture_pairs(ours: Mapping[int, Path], theirs: Mapping[int, Path]) -> list[tuple[Shown, Shown]]:
    """Return the same of pictures by the images seen, without those that cannot be read."""
    if not ours or not theirs:
        return []
    fewer, more = sorted((ours, theirs), key=len)
    chosen = {}
    for images in evenly(sorted(fewer), MAX_PAIRS):
        chosen[_nearest(images, more)] = images
    pairs = [(near, images) if fewer is theirs else (images, near) for near, images in chosen.items()]
    shown = [(_shown(ours[left], left), _shown(theirs[right], right)) for left, right in pairs]
    return [(left, right) for left, right in shown if left and right]


def _nearest(number: int, numbers: Iterable[int]) -> int:
    return min(numbers, key=lambda one: abs(one - number))


def previews_by_images(run: RunFolder) -> dict[int, Path]:
    """Return a run's previews by exported weights, by the images seen."""
    exported = exported_weights(row.weights for row in run.evaluations)
    images = images_at_steps(run, [preview.step for preview in run.previews])
    return {
        count: preview.pictures.get(exported, preview.shown)
        for count, preview in zip(images, run.previews, strict=True)
    }


def _shown(path: Path, images: int) -> Shown | None:
    picture = data_uri(path, PICTURE_BYTES)
    return Shown(picture, images) if picture else None


def _paired_run(comparison: Comparison) -> RunFolder:
    """Return the reference's run of the candidate's seed, or its first."""
    seed = comparison.candidate.run.seed
    runs = comparison.reference
    return next((run for run in runs if run.run.seed == seed), runs[0])


def _charts(comparison: Comparison) -> dict[str, Chart]:
    """Return the charts by name: of the first loss as it is, of every loss with a band as a difference, of a seed."""
    charts: dict[str, Chart] = {}
    if comparison.standings:
        charts["loss"] = loss_chart(comparison, comparison.standings[0])
    for standing in comparison.standings:
        if band := band_of(comparison, standing.quantity):
            charts[standing.quantity.field] = difference_chart(comparison, standing, band)
    relation = comparison.relation
    if relation is not None and relation.first is not None:
        apart = apart_chart(relation, comparison.candidate)
        if any(value is not None for line in apart.lines for value in line.y):  # else only evaluations differ
            charts["apart"] = apart
    return charts


def _speeds(comparison: Comparison) -> list[Speed]:
    runs = comparison.reference
    rates = sorted(rate for run in runs if (rate := _images_per_second(run)))
    devices = dict.fromkeys(run.run.session.environment.device for run in runs)
    span = dict.fromkeys(rate_text(rate) for rate in (rates[:1] + rates[-1:]))
    own = rate_text(_images_per_second(comparison.candidate))
    return [
        Speed("candidate", own, comparison.candidate.run.session.environment.device),
        Speed("reference", " to ".join(span) or "none", listed(list(devices))),
    ]


def _images_per_second(run: RunFolder) -> float | None:
    return Course(run.run, run.metrics, run.evaluations, run.baselines).images_per_second


def _runs_text(comparison: Comparison) -> str:
    """5 runs, seeds 0, 1, 2, 3 and 4"""
    seeds = sorted({run.run.seed for run in comparison.reference})
    words = listed([count(seed) for seed in seeds])
    return f"{number_of(len(comparison.reference), 'run')}, seed{'s' * (len(seeds) > 1)} {words}"


def _first_detectable(standings: Sequence[Standing]) -> str:
    """8 %"""
    first = standings[0].detectable if standings else None
    return "" if first is None else f"{100 * first:.1f} %"
