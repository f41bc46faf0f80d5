"""Makes pictures of README and docs from runs: `python docs/make_pictures.py RUN COMPARED FOLDER`.

RUN has been verified: it has a verify.html. COMPARED has been compared with a reference: it has a compare.html. The
film strip needs nothing but the run; the pictures of pages need Chromium and playwright.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from openddpm.record.reader import read_run_folder
from openddpm.report.film_strip import film_strip

PAGE_PIXELS = 1200
CHROMIUM_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def write_page_picture(page_file: Path, path: Path, drawn: str, last: str) -> None:
    """Write a screenshot of a page as a desktop browser shows it, from its top to the element `last`.

    Args:
        drawn: selector of something that is there once the charts are drawn.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_ARGUMENTS)
        page = browser.new_page(viewport={"width": PAGE_PIXELS, "height": 900}, color_scheme="light")
        page.goto(page_file.resolve().as_uri())
        page.wait_for_selector(drawn)
        end = page.locator(last).first.bounding_box()
        assert end
        height = end["y"] + end["height"] + 24
        page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": PAGE_PIXELS, "height": height})
        browser.close()


if __name__ == "__main__":
    folder, compared, pictures = (Path(argument) for argument in sys.argv[1:])
    pictures.mkdir(parents=True, exist_ok=True)
    film_strip(read_run_folder(folder)).save(pictures / "film-strip.png", optimize=True)
    write_page_picture(folder / "report.html", pictures / "report.png", "#plot-skill .main-svg", "#film")
    write_page_picture(folder / "verify.html", pictures / "verify.png", "#chart-steps svg", "#steps")
    write_page_picture(compared / "compare.html", pictures / "compare.png", "#chart-loss svg", "#chart-heldout_loss")
