"""Makes the README's pictures from a run: `python docs/make_pictures.py RUN FOLDER`.

The film strip needs nothing but the run; the picture of the report needs Chromium and playwright.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

from openddpm.record.reader import RunFolder, read_run_folder

FRAMES = 6
FRAME_PIXELS = 260
PAGE_PIXELS = 1200
CHROMIUM_ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def write_film_strip(run: RunFolder, path: Path) -> None:
    """Write a row of previews, spread evenly over the logarithm of their steps, with the images seen below each."""
    previews = [preview for preview in run.previews if "ema" in preview.pictures]
    places = np.unique(np.round(np.geomspace(1, len(previews), FRAMES)).astype(int) - 1)
    images_per_step = run.run.progress.images_seen / run.run.progress.step
    strip = Image.new("RGB", (len(places) * (FRAME_PIXELS + 8) - 8, FRAME_PIXELS + 30), "white")
    draw = ImageDraw.Draw(strip)
    for index, place in enumerate(places):
        preview = previews[place]
        left = index * (FRAME_PIXELS + 8)
        frame = (
            Image.open(preview.pictures["ema"])
            .convert("RGB")
            .resize((FRAME_PIXELS, FRAME_PIXELS), Image.Resampling.BOX)
        )
        strip.paste(frame, (left, 0))
        label = f"{preview.step * images_per_step:,.0f} images"
        draw.text((left, FRAME_PIXELS + 6), label, fill="#555", font=ImageFont.load_default(size=16))
    strip.save(path, optimize=True)


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
    write_film_strip(read_run_folder(folder), pictures / "film-strip.png")
    write_report_picture(folder / "report.html", pictures / "report.png")
