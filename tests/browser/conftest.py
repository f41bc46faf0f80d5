import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from made_up_run import write_made_up_run
from openddpm.report import write_report

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DRAWN = "() => [...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a finished run."""
    return write_report(write_made_up_run(tmp_path_factory.mktemp("run"), previews=5))


class Visit:
    """Opens pages offline and notes every complaint and every request."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def open(self, path: Path, *, width: int = 1280, scheme: str = "light", has_touch: bool = False) -> Page:
        """Open a report and wait until its plots are drawn."""
        context = self._browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,  # type: ignore[arg-type]
            has_touch=has_touch,
            offline=True,
        )
        page = context.new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_function(DRAWN)
        return page

    def open_with_a_script(self, path: Path, folder: Path) -> Page:
        """Open a copy in `folder` of a page, into which scripts that set window.slipped have found their way."""
        changed = folder / "changed.html"
        injected = "<script>window.slipped = true</script><img src=x onerror='window.slipped = true'></main>"
        changed.write_text(path.read_text("utf-8").replace("</main>", injected), "utf-8")
        return self.open(changed)

    def close(self) -> None:
        """Close all that was opened."""
        for context in self._browser.contexts:
            context.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A fresh visitor."""
    visit = Visit(browser)
    yield visit
    visit.close()
