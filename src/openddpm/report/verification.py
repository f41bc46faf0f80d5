"""The page of a verification: the ladder as a picture, the steps that were computed again, and each rung in words."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from openddpm.analysis.text import count, duration, number_of, utc_text
from openddpm.analysis.verification import TITLES, WORDS, conclusion, steps_text
from openddpm.record.reader import RunFolder
from openddpm.record.schema import exported_weights
from openddpm.record.verification import RungName, RungStatus, VerificationRecord, num_steps_in
from openddpm.record.writer import DATA_FILE, RUN_FILE
from openddpm.report.charts import Chart, Line, Mark, Span, rounded
from openddpm.report.facts import MARKS, Badge, Fact
from openddpm.report.page import asset, render_page, write_page
from openddpm.report.series import MAX_POINTS, evaluation_columns, thin
from openddpm.report.tables import Row
from openddpm.report.terms import REPOSITORY_URL, TERMS, Term

SCRIPTS = ("page.js", "charts.js")
SHOWN_DETAILS = 3  # more fold away
FEW_ROWS = 60  # curves with fewer points show them as dots
FROM_SEED, FROM_CHECKPOINT, NOT_REPLAYED = "--accent", "--raw", "--sunken"
BARS = {
    "trained again from the seed": FROM_SEED,
    "trained again from a checkpoint": FROM_CHECKPOINT,
    "not trained again": NOT_REPLAYED,
}
"""Words and colour of each kind of bar under the curves."""

ShownStatus = Literal["exact", "rounding", "failed", "not_checked", "not_asked"]

STATUS_WORDS: dict[str, str] = {**{str(status): word for status, word in WORDS.items()}, "not_asked": "not asked for"}
STATUS_MARKS: dict[ShownStatus, str] = {
    "exact": "\N{CHECK MARK}",
    "rounding": "\N{ALMOST EQUAL TO}",
    "failed": "\N{MULTIPLICATION X}",
    "not_checked": "?",
    "not_asked": "\N{EN DASH}",
}
"""Characters that show a result without colour."""

RUNG_TERMS: dict[RungName, Term] = {
    "files": Term(
        "files",
        "Numbers of the record that follow from its options or from its other lines, such as images seen and learning "
        "rates, are computed again; files of weights are held against their sha256 in the record.",
    ),
    "data": Term("data", "The images are decoded again: their digest, number, split and duplicates."),
    "initial_weights": Term(
        "initial weights",
        "The weights that the seed gives are made again, and their digest is held against the record.",
    ),
    "first_steps": Term(
        "first steps", "Training starts again from the seed: every logged number, and every checkpoint on the way."
    ),
    "segments": Term(
        "segments",
        "Training goes on from a checkpoint of the run to the next one; which come first is drawn by chance when it is "
        "verified.",
    ),
    "evaluation": Term(
        "evaluation", "The weights that are there and the baselines are measured again on the fixed samples."
    ),
    "previews": Term("previews", "Previews are drawn again from the weights that are there: every pixel."),
    "whole": Term("whole run", "All steps are trained again, if --whole asks for it."),
}
TERMS_HERE = {
    **{f"rung_{name}": term for name, term in RUNG_TERMS.items()},
    **{key: TERMS[key] for key in ("train_loss", "heldout_loss", "step")},
    "exact": Term("exact", "All numbers or bits that were compared are equal."),
    "rounding": Term(
        "equal to rounding",
        "Numbers differ, but by no more than another processor or library makes them differ by rounding.",
    ),
}

PLANK_WIDTH, PLANK_HEIGHT, PLANK_EVERY = 344, 34, 46  # of the picture of the ladder, whose width is 360


@dataclass(frozen=True)
class Plank:
    """A rung as it is drawn; `y` is its upper edge."""

    title: str
    status: ShownStatus
    y: int


@dataclass(frozen=True)
class RungShown:
    """A rung in words."""

    name: RungName
    status: RungStatus
    text: str
    details: list[str]
    seconds: str


def write_verification(path: Path, found: VerificationRecord, run: RunFolder | None = None) -> Path:
    """Write the page of a verification, as `write_page` does; return `path`.

    Args:
        run: for its curves.
    """
    write_page(path, render_verification(found, datetime.now(UTC), run))
    return path


def render_verification(found: VerificationRecord, built: datetime, run: RunFolder | None = None) -> str:
    """Return the page; `built` is the time of building that it shows."""
    chart = steps_chart(found, run)
    planks = ladder(found)
    return render_page(
        "verification.html.j2",
        scripts=[asset(name) for name in SCRIPTS],
        data={"charts": {"steps": chart.spec()}},
        terms=TERMS_HERE,
        links={},
        found=found,
        badge=verification_badge(found),
        conclusion=conclusion(found),
        marks=MARKS,
        planks=planks,
        plank=(PLANK_WIDTH, PLANK_HEIGHT),
        ladder_height=PLANK_EVERY * len(planks) + PLANK_EVERY - PLANK_HEIGHT,
        ladder_label=ladder_label(found),
        status_words=STATUS_WORDS,
        status_marks=STATUS_MARKS,
        chart=chart,
        bars={words: colour for words, colour in BARS.items() if any(span.colour == colour for span in chart.spans)},
        steps=steps_text(found),
        rungs=[_shown(found, name) for name in TITLES if any(rung.name == name for rung in found.rungs)],
        shown_details=SHOWN_DETAILS,
        facts=_facts(found),
        source=_source(found),
        not_listed=[name for name in (RUN_FILE, DATA_FILE) if name not in found.files],
        time=utc_text(found.time),
        machine=_machine(found),
        docs=f"{REPOSITORY_URL}/docs/verify.md" if REPOSITORY_URL else "",
        built=utc_text(built.isoformat()),
    )


def verification_badge(found: VerificationRecord) -> Badge:
    """Return the conclusion in two words and its tone."""
    if found.is_failed:
        return Badge("not verified", "bad")
    return Badge("verified", "good") if found.is_verified else Badge("too little checked", "warning")


def shown_statuses(found: VerificationRecord) -> dict[RungName, ShownStatus]:
    """Return what became of each rung, the lowest first."""
    statuses: dict[RungName, ShownStatus] = {rung.name: rung.status for rung in found.rungs}
    return {name: statuses.get(name, "not_asked") for name in TITLES}


def ladder(found: VerificationRecord) -> list[Plank]:
    """Return the rungs as they are drawn, the highest first."""
    top_down = [*reversed(shown_statuses(found).items())]
    gap = PLANK_EVERY - PLANK_HEIGHT
    return [Plank(TITLES[name], status, gap + PLANK_EVERY * index) for index, (name, status) in enumerate(top_down)]


def ladder_label(found: VerificationRecord) -> str:
    """Return the picture of the ladder in words."""
    words = ", ".join(f"{TITLES[name]} {STATUS_WORDS[status]}" for name, status in shown_statuses(found).items())
    return f"The ladder from its lowest rung: {words}"


def steps_chart(found: VerificationRecord, run: RunFolder | None) -> Chart:
    """Return the losses that were logged, above the steps that were computed again."""
    last = max([found.total_steps, *(end for _, end in found.replayed)])
    from_seed = [(first, end) for first, end in found.replayed if first == 1]
    later = [(first, end) for first, end in found.replayed if first > 1]
    spans = [] if found.replayed else [Span(0, last, 0, NOT_REPLAYED)]
    rows = [one for one in ((FROM_SEED, from_seed), (FROM_CHECKPOINT, later)) if one[1]]
    for row, (colour, stretches) in enumerate(rows):
        spans.append(Span(0, last, row, NOT_REPLAYED))
        spans += [Span(first - 1, end, row, colour) for first, end in stretches]
    at, marks = found.first_divergent_step, []
    if at is not None:
        marks = [Mark(at, f"step {count(at)} differs", None if run is None else _loss_at(run, at))]
    parts = [
        f"{words}: " + (", ".join(f"{count(first)} to {count(end)}" for first, end in stretches) or "none")
        for words, stretches in (("from the seed", from_seed), ("from a checkpoint", later))
    ]
    lines = [] if run is None else _losses(run)
    above = f"{' and '.join(line.name for line in lines)} by step, and the " if lines else "The "
    return Chart(
        label=f"{above[:1].upper()}{above[1:]}steps that were computed again, {'; '.join(parts)}",
        x_title="step",
        lines=lines,
        marks=marks,
        spans=spans,
    )


def _losses(run: RunFolder) -> list[Line]:
    columns = thin(
        {
            "step": np.array([row.step for row in run.metrics], dtype=np.float64),
            "loss": np.array([row.train_loss for row in run.metrics], dtype=np.float64),
        },
        MAX_POINTS,
    )
    has_dots = len(columns["step"]) < FEW_ROWS
    training = rounded(columns["step"]), rounded(columns["loss"])
    lines = [Line("training loss", *training, "--training", width=1.5, has_dots=has_dots)]
    heldout = evaluation_columns(run, exported_weights(row.weights for row in run.evaluations))
    measured = rounded(heldout["step"]), rounded(heldout["heldout_loss"])
    lines.append(Line("held-out loss", *measured, "--ink", width=2, has_dots=len(measured[0]) < FEW_ROWS))
    return [line for line in lines if any(value is not None for value in line.y)]


def _loss_at(run: RunFolder, step: int) -> float | None:
    return next((rounded([row.train_loss])[0] for row in run.metrics if row.step == step), None)


def _shown(found: VerificationRecord, name: RungName) -> RungShown:
    rung = next(one for one in found.rungs if one.name == name)
    is_said = bool(rung.details) and rung.details[0] in rung.text
    details = rung.details[1:] if is_said else rung.details
    return RungShown(name, rung.status, rung.text, details, _time(rung.seconds))


def _time(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else "< 1 s"


def _facts(found: VerificationRecord) -> list[Fact]:
    steps = num_steps_in(found.replayed)
    checked = sum(rung.status in ("exact", "rounding") for rung in found.rungs)
    here = found.environment
    return [
        Fact("rungs that hold", str(checked), f"of {len(found.rungs)}"),
        Fact("steps computed again", count(steps), f"of {count(found.total_steps)}", "step"),
        Fact("time", _time(sum(rung.seconds for rung in found.rungs)), "of all rungs"),
        Fact("verified on", "nothing was computed" if here is None else here.device, utc_text(found.time)),
        Fact("trained on", found.trained_on),
    ]


def _source(found: VerificationRecord) -> list[Row]:
    rows = [Row("source", found.source, "What was given to openddpm verify.")]
    if found.name != found.source:
        rows.append(Row("name of the run", found.name))
    return [
        *rows,
        Row("run id", found.run_id, "Drawn by chance when the run began."),
    ]


def _machine(found: VerificationRecord) -> list[Row]:
    rows = [Row("when", utc_text(found.time)), Row("budget", f"{found.budget_minutes:g} min", _budget_help())]
    here = found.environment
    if here is None:
        return rows
    threads = number_of(here.cpu_threads, "CPU thread")
    return [
        *rows,
        Row("device", f"{here.device} ({here.device_type}, {threads})"),
        Row("platform", here.platform),
        Row("Python", here.python),
        *(Row(name, version) for name, version in here.packages.items()),
    ]


def _budget_help() -> str:
    return "Of the time for training parts of the run again and drawing previews; the other rungs take what they need."
