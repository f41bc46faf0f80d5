"""HTML page of an inspection: self-contained, without scripts, for phones and desktops, light and dark."""

import re
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from openddpm.analysis.text import utc_text
from openddpm.inspection import words
from openddpm.inspection.survey import Inspection
from openddpm.record.files import write_atomically

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLES = ("report/report.css", "inspection/inspection.css")  # the second adds to those of the report


def write_page(path: Path, inspection: Inspection) -> None:
    """Write the page of `inspection`, replacing any file at `path`.

    Raises:
        OSError: it cannot be written there.
    """
    write_atomically(path, render_page(inspection, datetime.now(UTC)))


def render_page(inspection: Inspection, built: datetime) -> str:
    """Return the page; `built` is the time that it states."""
    environment = Environment(
        loader=PackageLoader("openddpm.inspection"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_options"] = _with_options
    return environment.get_template("inspection.html.j2").render(
        policy=POLICY,
        style=Markup("".join(files("openddpm").joinpath(name).read_text("utf-8") for name in STYLES)),
        inspection=inspection,
        sections=words.ordered_sections(inspection),
        words=words,
        built=utc_text(built.isoformat()),
    )


def _with_options(text: str) -> Markup:
    """Return escaped text with options marked up as code."""
    return Markup(re.sub(r"--\w[\w-]*", r"<code>\g<0></code>", str(escape(text))))
