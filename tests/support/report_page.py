"""The report of a run, parsed."""

from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path

from openddpm.record.reader import read_run_folder
from openddpm.report.build import render_report

BUILT = datetime(2026, 3, 14, 10, 30, tzinfo=timezone.utc)
HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='alert(3)"
NUM_SCRIPTS = 6  # the data, plotly and four of ours


class Page(HTMLParser):
    """The elements of a page, its scripts and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.text += data


def page_of(folder: Path) -> Page:
    """Return the report of a run, parsed."""
    return Page(render_report(read_run_folder(folder), BUILT))
