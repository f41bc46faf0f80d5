"""Builds report.html from the record, the templates and the assets: one page that needs nothing else."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from plotly.offline import get_plotlyjs

from openddpm.analysis.samples import latest_samples
from openddpm.analysis.verdict import judge
from openddpm.record.bands import BANDS_AS_DECIDED
from openddpm.record.files import write_atomically
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.report.facts import MARKS, header_facts, verdict_badge
from openddpm.report.gauges import band_gauges, last_evaluation
from openddpm.report.page import asset, render_page
from openddpm.report.pictures import embed_pictures
from openddpm.report.samples import compared_samples
from openddpm.report.series import band_edges, evaluation_columns, metrics_columns, noise_columns, reference_columns
from openddpm.report.tables import all_tables
from openddpm.report.terms import TERMS, term_links
from openddpm.report.weights import drawn_weights

REPORT_FILE = "report.html"
MAX_FINDINGS = 1000  # more stay in data.json
SCRIPTS = ("page.js", "pixels.js", "film.js", "plots.js")


def write_report(folder: Path, run: RunFolder | None = None) -> Path:
    """Write `folder`/report.html from the record in it, complete or still growing; return its path.

    Args:
        run: that record, if it has been read already.

    Raises:
        UserError: no run there, or a record that is damaged or of another version.
    """
    path = folder / REPORT_FILE
    write_atomically(path, render_report(run or read_run_folder(folder), datetime.now(UTC)))
    return path


def render_report(run: RunFolder, built: datetime) -> str:
    """Return the page for `run`; `built` is the time of building that it shows."""
    pictures = embed_pictures(run)
    verdict = judge(run.run, run.metrics, run.evaluations, run.baselines, run.samples)
    measured = last_evaluation(run.evaluations, verdict.weights)
    weights = drawn_weights([*(row.weights for row in run.evaluations), *pictures.weights])
    data = {
        "frames": [asdict(frame) for frame in pictures.frames],
        "weights": [asdict(one) for one in weights],
        "metrics": metrics_columns(run),
        "evaluations": {one.name: evaluation_columns(run, one.name) for one in weights},
        "reference": reference_columns(run),
        "noise": noise_columns(run),
        "bands": band_edges(),
        "measured": measured.weights if measured else None,
    }
    return render_page(
        "report.html.j2",
        scripts=[get_plotlyjs(), *map(asset, SCRIPTS)],
        data=data,
        terms={**TERMS, **{one.name: one.term for one in weights}},
        weights=weights,
        links=term_links(),
        run=run.run,
        has=_presence(run),
        verdict=verdict,
        following=run.verdict.following if run.verdict else None,
        badge=verdict_badge(verdict),
        marks=MARKS,
        measured=measured,
        gauges=band_gauges(measured),
        bands=BANDS_AS_DECIDED,
        header=header_facts(run, built),
        pictures=pictures,
        compared=compared_samples(latest_samples(run.samples, verdict.weights)),
        tables=all_tables(run),
        findings=run.data,
        max_findings=MAX_FINDINGS,
    )


def _presence(run: RunFolder) -> dict[str, bool]:
    """Return which parts of the page have something to show."""
    rows = run.evaluations
    return {
        "metrics": bool(run.metrics),
        "evaluations": bool(rows),
        "heldout": run.run.dataset.num_heldout > 0,
        "skill": any(skill is not None for row in rows for skill in (row.skill, row.train_skill)),
        "noise": run.baselines is not None and any(row.by_timestep for row in rows),
        "ema_decay": any(row.ema_decay is not None for row in run.metrics),
    }
