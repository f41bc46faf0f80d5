"""One page of many runs: their loss curves over each other, and a table to sort."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from openddpm.analysis.text import count, duration, listed, number_of, signed, utc_text
from openddpm.analysis.verdict import judge
from openddpm.comparison.compare import what_prevents
from openddpm.comparison.curves import QUANTITIES, Curve, curve_of
from openddpm.config import NEUTRAL_OPTIONS, TrainConfig
from openddpm.names import as_text
from openddpm.record.reader import RunFolder
from openddpm.report.build import REPORT_FILE
from openddpm.report.charts import Chart, Line, rounded
from openddpm.report.compared_curves import IMAGES
from openddpm.report.facts import MARKS, Badge, rate_text, training_rate, verdict_badge
from openddpm.report.page import asset, render_page, write_page
from openddpm.report.pictures import data_uri, is_pixel_art
from openddpm.report.series import thin
from openddpm.report.tables import value_text
from openddpm.report.terms import TERMS, term_links

SCRIPTS = ("page.js", "charts.js", "pixels.js", "index.js")
NUM_TICKED = 8  # runs whose curves are shown at first, and colours in report.css
DASHES = ("", "7 4", "2 4")  # of further runs, which have the same colours again
MOST_NAMES = 8  # of runs, in a sentence
MAX_POINTS = 200  # of a curve: many runs share one page
PICTURE_BYTES = 16_000  # of one run, as text in the page
SPARKLINE = (88, 26)  # px
INDEX_TERMS = ("verdict", "skill", "heldout_loss", "fixed_train_loss", "images", "images_per_second")


@dataclass(frozen=True)
class Cell:
    """A value of a run: as text, and as a number or text to sort by; None sorts last."""

    text: str
    order: float | str | None


@dataclass(frozen=True)
class Row:
    """A run in the table."""

    key: str
    name: str
    place: str
    """Its folder, relative to the page; empty if the name alone tells the runs apart."""
    link: str | None
    """Address of its report, relative to the page; None without one."""
    picture: str | None
    is_pixel_art: bool
    badge: Badge
    sentence: str
    skill: Cell
    sparkline: str
    """Points of the loss for an SVG polyline, on logarithmic axes; empty with less than two."""
    cells: list[Cell]
    """In the order of the table's columns."""
    colour: str
    dash: str
    has_curve: bool
    is_ticked: bool

    @property
    def label(self) -> str:
        """The name, with the place of the run if others have the same name."""
        return f"{self.name} ({self.place})" if self.place else self.name


@dataclass(frozen=True)
class Column:
    """A column of the table; `values` has a cell for each run."""

    name: str
    values: list[Cell] = field(repr=False)
    is_number: bool = True
    term: str = ""


def write_index(path: Path, runs: Sequence[RunFolder], unreadable: Sequence[str] = ()) -> Path:
    """Write the page of `runs`, as `write_page` does; return `path`. The runs' folders are left alone.

    Args:
        unreadable: why further folders could not be read, for each a text that names it.
    """
    write_page(path, render_index(path, runs, unreadable, datetime.now(UTC)))
    return path


def render_index(path: Path, runs: Sequence[RunFolder], unreadable: Sequence[str], built: datetime) -> str:
    """Return the page at `path`, to which its links are relative; `built` is the time of building that it shows."""
    base = path.resolve().parent
    columns = _columns(runs)
    has_heldout = [run.run.dataset.num_heldout > 0 for run in runs]
    loss = "heldout_loss" if any(has_heldout) or not runs else "fixed_train_loss"
    quantity = next(one for one in QUANTITIES if one.field == loss)
    curves = [curve_of(run, quantity) for run in runs]
    rows = _rows(base, runs, curves, columns, loss)
    return render_page(
        "index.html.j2",
        scripts=[asset(name) for name in SCRIPTS],
        data={"charts": {"loss": _chart(rows, curves, quantity.name).spec()} if runs else {}},
        terms={key: TERMS[key] for key in INDEX_TERMS},
        links={key: link for key, link in term_links().items() if key in INDEX_TERMS},
        rows=rows,
        columns=columns,
        num_runs=number_of(len(runs), "run"),
        folder=as_text(base.name) if all(run.folder.resolve().parent == base for run in runs) else "",
        loss=loss,
        loss_name=quantity.name,
        num_without=number_of(without, "run") if any(has_heldout) and (without := has_heldout.count(False)) else "",
        obstacles=_obstacles([(row.label, run) for row, run in zip(rows, runs, strict=True) if run.evaluations]),
        unreadable=unreadable,
        marks=MARKS,
        size=SPARKLINE,
        built=utc_text(built.isoformat()),
    )


def _rows(
    base: Path, runs: Sequence[RunFolder], curves: Sequence[Curve], columns: Sequence[Column], loss: str
) -> list[Row]:
    names = [run.run.name for run in runs]
    has_curve = [len(curve.images) > 0 for curve in curves]
    rows = []
    for index, (run, curve) in enumerate(zip(runs, curves, strict=True)):
        verdict = judge(run.run, run.metrics, run.evaluations, run.baselines, run.samples)
        report = run.folder / REPORT_FILE
        rows.append(
            Row(
                key=f"run-{index}",
                name=run.run.name,
                place=as_text(_relative(run.folder, base)) if names.count(run.run.name) > 1 else "",
                link=quote(os.fsencode(_relative(report, base))) if report.is_file() else None,
                picture=data_uri(run.previews[-1].shown, PICTURE_BYTES) if run.previews else None,
                is_pixel_art=is_pixel_art(run),
                badge=verdict_badge(verdict),
                sentence=verdict.sentence,
                skill=_skill(verdict.skill, loss == "heldout_loss" and not run.run.dataset.num_heldout),
                sparkline=_sparkline(curve),
                cells=[column.values[index] for column in columns],
                colour=f"--run-{index % NUM_TICKED + 1}",
                dash=DASHES[index // NUM_TICKED % len(DASHES)],
                has_curve=has_curve[index],
                is_ticked=has_curve[index] and sum(has_curve[:index]) < NUM_TICKED,
            )
        )
    return rows


def _skill(skill: float | None, is_odd: bool) -> Cell:
    """Return the skill; one on training images beside others on held-out ones says so, and is sorted with none."""
    if skill is None:
        return Cell("none", None)
    return Cell(f"{signed(skill)} on training images", None) if is_odd else Cell(signed(skill), skill)


def _obstacles(runs: Sequence[tuple[str, RunFolder]]) -> list[str]:
    """Return why losses of some runs cannot be compared with those of the most; a line for each group of them.

    Args:
        runs: each with its name on the page.
    """
    groups: list[list[tuple[str, RunFolder]]] = []
    for name, run in runs:
        group = next((group for group in groups if not what_prevents(group[0][1], run)), None)
        if group is None:
            groups.append([(name, run)])
        else:
            group.append((name, run))
    groups.sort(key=len, reverse=True)
    return [
        f"{_names(group)} beside {_names(groups[0])}: {what_prevents(group[0][1], groups[0][0][1])}"
        for group in groups[1:]
    ]


def _names(runs: Sequence[tuple[str, RunFolder]]) -> str:
    shown = [name for name, _ in runs[:MOST_NAMES]]
    return listed([*shown, f"{len(runs) - len(shown)} more"] if len(runs) > len(shown) else shown)


def _columns(runs: Sequence[RunFolder]) -> list[Column]:
    """Return images seen, time, speed, device, and whatever options and data differ."""
    seconds = [run.metrics[-1].wall_seconds if run.metrics else 0.0 for run in runs]
    rates = [training_rate(run) for run in runs]
    sources = [run.run.dataset.source for run in runs]
    columns = [
        Column("images seen", [_counted(run.run.progress.images_seen) for run in runs], term="images"),
        Column("time", [Cell(duration(one), one) for one in seconds]),
        Column("images/s", [Cell(rate_text(rate), rate) for rate in rates], term="images_per_second"),
        Column("device", [_named(run.run.session.environment.device) for run in runs], is_number=False),
    ]
    if len({run.run.dataset.sha256 for run in runs}) > 1:
        columns.append(Column("data", [_named(source) for source in sources], is_number=False))
    return columns + _differing_options(runs)


def _differing_options(runs: Sequence[RunFolder]) -> list[Column]:
    """Return a column for each option that changes numbers and differs; an option not in a record is its default."""
    columns = []
    for name, option in TrainConfig.model_fields.items():
        if name in NEUTRAL_OPTIONS or option.exclude:
            continue
        values = [run.run.config.get(name, option.get_default()) for run in runs]
        cells = [Cell(value_text(value), _order(value)) for value in values]
        if len({cell.text for cell in cells}) > 1:
            are_numbers = all(isinstance(cell.order, float | None) for cell in cells)
            columns.append(Column(name, cells, is_number=are_numbers))
    return columns


def _order(value: Any) -> float | str | None:
    if value is None:
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value_text(value)


def _counted(number: int) -> Cell:
    return Cell(count(number), float(number))


def _named(name: str) -> Cell:
    return Cell(as_text(name), as_text(name))


def _chart(rows: Sequence[Row], curves: Sequence[Curve], loss: str) -> Chart:
    lines = []
    for row, curve in zip(rows, curves, strict=True):
        columns = thin({"x": curve.images, "y": curve.values}, MAX_POINTS)
        x, y = rounded(columns["x"]), rounded(columns["y"])
        lines.append(Line(as_text(row.label), x, y, row.colour, dash=row.dash, has_dots=len(x) < 40, key=row.key))
    return Chart(f"{loss.capitalize()} of the runs that are ticked in the table, over {IMAGES}", IMAGES, lines)


def _sparkline(curve: Curve) -> str:
    if len(curve.images) < 2:
        return ""
    width, height = SPARKLINE
    places = [_scaled(np.log(column)) for column in (curve.images, curve.values)]
    return " ".join(f"{2 + x * (width - 4):.1f},{2 + (1 - y) * (height - 4):.1f}" for x, y in zip(*places, strict=True))


def _scaled(values: np.ndarray) -> np.ndarray:
    """Return values scaled to 0..1."""
    return (values - values.min()) / (np.ptp(values) or 1.0)


def _relative(path: Path, base: Path) -> str:
    """Return a path relative to `base`, with forward slashes; on another drive as it is."""
    try:
        return Path(os.path.relpath(path.resolve(), base)).as_posix()
    except ValueError:
        return path.resolve().as_posix()
