"""The page of an imported record, alone or beside a reference."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from openddpm.analysis.text import count, duration, significant, utc_text
from openddpm.comparison.band import COVERAGE
from openddpm.comparison.curves import Column
from openddpm.comparison.imported import ImportedComparison
from openddpm.record.files import write_atomically
from openddpm.record.imported import MISSING, ImportedFolder, ImportedRecord
from openddpm.report.charts import Area, Chart, Line, Mark, rounded
from openddpm.report.compare import (
    COMPARED_TERMS,
    PICTURE_BYTES,
    Reference,
    Shown,
    badge_of,
    picture_pairs,
    previews_by_images,
)
from openddpm.report.compared_curves import CANDIDATE, IMAGES, MEAN, SEED
from openddpm.report.facts import MARKS, Fact
from openddpm.report.page import asset, render_page, write_page
from openddpm.report.pictures import data_uri, evenly
from openddpm.report.series import MAX_POINTS, smooth, thin
from openddpm.report.terms import TERMS, term_links

SCRIPTS = ("page.js", "charts.js", "pixels.js")
SMOOTHING = 0.02  # share of the curve that the moving average covers
MAX_PICTURES = 12  # of one tag
IMPORTED_TERMS = {
    **{key: TERMS[key] for key in ("train_loss", "learning_rate", "smoothing", "heldout_loss", "preview")},
    **{key: COMPARED_TERMS[key] for key in ("band", "detectable", "seed")},
}


@dataclass(frozen=True)
class Gallery:
    """Pictures of one tag: data URIs and captions."""

    tag: str
    pictures: list[tuple[str, str]]
    num_all: int


def write_imported_report(imported: ImportedFolder) -> Path:
    """Write report.html of an imported record into its folder; return its path."""
    path = imported.folder / "report.html"
    write_atomically(path, render_imported(imported, datetime.now(UTC)))
    return path


def write_imported_comparison(path: Path, comparison: ImportedComparison, reference: Reference) -> Path:
    """Write the page of an imported record beside a reference, as `write_page` does; return `path`."""
    write_page(path, render_imported(comparison.candidate, datetime.now(UTC), comparison, reference))
    return path


def render_imported(
    imported: ImportedFolder,
    built: datetime,
    comparison: ImportedComparison | None = None,
    reference: Reference | None = None,
) -> str:
    """Return the page; `built` is the time of building that it shows.

    Args:
        comparison: with the reference that `reference` describes; None for the record alone.
    """
    record = imported.record
    charts = _charts(record, comparison)
    return render_page(
        "imported.html.j2",
        scripts=[asset(name) for name in SCRIPTS],
        data={"charts": {name: chart.spec() for name, chart in charts.items()}},
        terms=IMPORTED_TERMS,
        links={key: link for key, link in term_links().items() if key in IMPORTED_TERMS},
        record=record,
        created=utc_text(record.created),
        facts=_facts(record),
        charts=charts,
        galleries=_galleries(imported),
        missing=MISSING,
        comparison=comparison,
        reference=reference,
        badge=comparison and badge_of(comparison.verdict, comparison.standings),
        marks=MARKS,
        pairs=[] if comparison is None else _pairs(comparison),
        coverage=f"{100 * COVERAGE:.0f} %",
        significant=significant,
        built=utc_text(built.isoformat()),
    )


def _facts(record: ImportedRecord) -> list[Fact]:
    images = record.images_per_step
    return [
        Fact("steps", count(record.step[-1]), f"{count(len(record.step))} with a loss"),
        Fact("images", "not known" if images is None else count(record.step[-1] * images), _per_step(images)),
        Fact("time", duration(record.wall_seconds[-1]), "from the first entry of the log on"),
        Fact("training loss", significant(float(_smoothed(record)[-1])), "at the end, averaged", "train_loss"),
    ]


def _per_step(images: int | None) -> str:
    return "no --batch_size was given" if images is None else f"{count(images)} a step"


def _smoothed(record: ImportedRecord) -> Column:
    return _average(thin({"loss": np.array(record.train_loss)}, MAX_POINTS)["loss"])


def _average(losses: Column) -> Column:
    return smooth(losses, max(1.0, SMOOTHING * len(losses)))


def _charts(record: ImportedRecord, comparison: ImportedComparison | None) -> dict[str, Chart]:
    """Return the charts by name: loss, its difference from a reference's mean, learning rate."""
    title = "step" if record.images_per_step is None else IMAGES
    all_x = np.array(record.step, dtype=np.float64) * (record.images_per_step or 1)
    columns = thin({"x": all_x, "loss": np.array(record.train_loss)}, MAX_POINTS)
    x = columns["x"]
    logged = Line("as logged", rounded(x), rounded(columns["loss"]), SEED, width=0.7, is_named=False)
    average = Line("moving average", rounded(x), rounded(_average(columns["loss"])), CANDIDATE, width=2.5)
    is_positive = min(record.train_loss) > 0  # no logarithm shows others
    charts = {"loss": Chart(f"Training loss over {title}", title, [logged, average], is_log_y=is_positive)}
    if comparison is not None and comparison.standings:
        charts = {"loss": _beside(comparison, logged), "difference": _difference(comparison)}
    rates = np.array([np.nan if rate is None else rate for rate in record.learning_rate])
    if (known := np.isfinite(rates)).any():
        columns = thin({"x": all_x[known], "rate": rates[known]}, MAX_POINTS)
        line = Line("learning rate", rounded(columns["x"]), rounded(columns["rate"]), CANDIDATE)
        charts["rate"] = Chart(f"Learning rate over {title}", title, [line], is_log_y=False)
    return charts


def _beside(comparison: ImportedComparison, logged: Line) -> Chart:
    """Return the means over windows, at the middle of each, over those of the reference."""
    middles, band = comparison.middles, comparison.band
    lines = [logged, *(_line("seed", middles, seed.values) for seed in comparison.seeds)]
    if band is not None:
        lines.append(Line("mean of the reference", rounded(middles), rounded(band.mean), MEAN, width=1.5, dash="5 4"))
    return Chart(
        label=f"Training loss of the candidate and of the reference, over {IMAGES}",
        x_title=IMAGES,
        lines=[*lines, _line("candidate", middles, comparison.curve.values)],
        areas=[] if band is None else [Area(rounded(middles), rounded(band.low), rounded(band.high))],
        marks=_left(comparison, comparison.curve.values),
        is_log_x=True,
    )


def _difference(comparison: ImportedComparison) -> Chart:
    """Return the same as a difference from the reference's mean, in percent."""
    middles, band = comparison.middles, comparison.band
    mean = np.exp(np.mean([np.log(seed.values) for seed in comparison.seeds], axis=0))

    def percent(values: Column) -> Column:
        return np.asarray(100 * (values / mean - 1))

    own = percent(comparison.curve.values)
    ends = [] if band is None else [Area(rounded(middles), rounded(percent(band.low)), rounded(percent(band.high)))]
    seeds = [_line("seed", middles, percent(seed.values)) for seed in comparison.seeds]
    return Chart(
        label=f"Training loss, difference from the reference's mean in percent, over {IMAGES}",
        x_title=IMAGES,
        lines=[*seeds, _line("candidate", middles, own)],
        areas=ends,
        marks=_left(comparison, own),
        is_log_x=True,
        is_log_y=False,
        unit="%",
    )


def _line(name: str, x: Column, y: Column) -> Line:
    is_candidate = name == "candidate"
    colour, width = (CANDIDATE, 3.0) if is_candidate else (SEED, 1.0)
    return Line(name, rounded(x), rounded(y), colour, width=width, has_dots=is_candidate, is_named=is_candidate)


def _left(comparison: ImportedComparison, heights: Column) -> list[Mark]:
    """Return the window in which the candidate left the band, if it did."""
    left_at = comparison.standings[0].left_at
    if left_at is None:
        return []
    window = int(np.searchsorted(comparison.curve.images, left_at))
    text = f"left the band by {left_at:,.0f}"
    return [Mark(float(comparison.middles[window]), text, rounded([heights[window]])[0])]


def _galleries(imported: ImportedFolder) -> list[Gallery]:
    """Return the pictures that can be read, by their tags, evenly chosen if there are many."""
    record, galleries = imported.record, []
    for tag in dict.fromkeys(one.tag for one in record.pictures):
        own = [one for one in record.pictures if one.tag == tag]
        shown = [
            (uri, f"step {count(one.step)}" + _images(record, one.step))
            for one in evenly(own, MAX_PICTURES)
            if (uri := data_uri(imported.folder / one.file, PICTURE_BYTES))
        ]
        if shown:
            galleries.append(Gallery(tag, shown, len(own)))
    return galleries


def _images(record: ImportedRecord, step: int) -> str:
    return "" if record.images_per_step is None else f" · {count(step * record.images_per_step)} images"


def _pairs(comparison: ImportedComparison) -> list[tuple[Shown, Shown]]:
    """Return pictures of the candidate, of its first tag with any, and previews of the reference's first run."""
    record, folder = comparison.candidate.record, comparison.candidate.folder
    assert record.images_per_step is not None
    ours = {
        one.step * record.images_per_step: folder / one.file
        for one in record.pictures
        if one.tag == record.pictures[0].tag
    }
    return picture_pairs(ours, previews_by_images(comparison.reference[0]))
