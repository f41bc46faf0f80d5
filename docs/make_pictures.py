"""Makes the README's pictures from a run: `python docs/make_pictures.py RUN FOLDER`.

The film strip needs nothing but the run; the picture of the report needs Chromium and playwright.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from openddpm.record.reader import read_run_folder
from openddpm.report.film_strip import film_strip

PAGE_PIXELS = 1200
CHROMIUM_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def write_report_picture(report: Path, path: Path) -> None:
    """Write a screenshot of report.html as a desktop browser shows it, from the verdict to the samples."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_ARGUMENTS)
        page = browser.new_page(viewport={"width": PAGE_PIXELS, "height": 900}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.wait_for_selector("#plot-skill .main-svg")
        samples = page.locator("#film").bounding_box()
        assert samples
        height = samples["y"] + samples["height"] + 24
        page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": PAGE_PIXELS, "height": height})
        browser.close()


if __name__ == "__main__":
    folder, pictures = Path(sys.argv[1]), Path(sys.argv[2])
    pictures.mkdir(parents=True, exist_ok=True)
    film_strip(read_run_folder(folder)).save(pictures / "film-strip.png", optimize=True)
    write_report_picture(folder / "report.html", pictures / "report.png")
