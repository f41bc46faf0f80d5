"""The page of `openddpm inspect` in a real browser."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openddpm.config import DataOptions
from openddpm.inspection import inspect_images
from openddpm.inspection.page import render_page
from tiny import write_tiny_folder

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
HOSTILE = (
    "<img src=x onerror=window.slipped=1>.png",
    "\"'><b onmouseover='window.slipped=1'>.png",
    "&lt;i&gt;&amp;.png",
    f"{'a_very_long_name_without_any_space_' * 6}.png",
)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a folder with bad, converted, small and repeated images, its names full of markup."""
    tmp_path = tmp_path_factory.mktemp("inspection")
    folder = write_tiny_folder(tmp_path / "<script>window.slipped=1<" / "script>", 12)
    for index, name in enumerate(HOSTILE):
        Image.new("RGBA", (5, 6 + index), (200, 40 * index, 0, 100)).save(folder / name)
        (folder / f"copy of {name}"[:250]).write_bytes((folder / name).read_bytes())
        (folder / f"empty {name}"[:250]).write_bytes(b"")
    Image.new("L", (9, 9)).save(folder / "gray.png")
    inspection = inspect_images(DataOptions(dataset=str(folder), resolution=8))
    path = tmp_path / "inspection.html"
    path.write_text(render_page(inspection, datetime(2026, 3, 14, tzinfo=timezone.utc)), "utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_offline_without_a_complaint(visit: Any, page_path: Path, scheme: str) -> None:
    """Every picture on the page is drawn, without an error, a warning or a request beyond the file itself."""
    page = visit.open(page_path, scheme=scheme)
    broken = "() => [...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert page.locator("img").count() > 40
    assert page.evaluate(broken) == 0
    assert visit.complaints == []
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data"}


def test_names_are_shown_as_text(visit: Any, page_path: Path) -> None:
    """Markup, quotes and entities in names are read on the page as they stand on the disk, and none of it runs."""
    page = visit.open(page_path)
    shown = set(page.locator(".name").all_text_contents())
    assert set(HOSTILE) <= shown
    assert "<script>window.slipped=1</script>" in page.locator("h1").text_content()
    assert "<script>window.slipped=1</script>" in page.title()
    page.locator(".tile").last.hover()
    assert page.evaluate("() => window.slipped") is None


def test_a_script_that_slips_in_does_not_run(visit: Any, page_path: Path, tmp_path: Path) -> None:
    """Should markup get past the escaping, the page's policy still keeps its script from running."""
    page = visit.open_with_a_script(page_path, tmp_path)
    assert page.evaluate("() => window.slipped") is None
    assert any("Content Security Policy" in complaint for complaint in visit.complaints)


@pytest.mark.parametrize("width", [390, 768])
def test_page_fits_a_phone(visit: Any, page_path: Path, width: int) -> None:
    """At 390 pixels nothing makes the page scroll sideways, and before and after stand side by side."""
    page = visit.open(page_path, width=width)
    assert page.evaluate(OVERFLOW) == 0
    for views in page.locator(".views:has(.view-original):has(.picture-decoded)").all():
        before, after = (view.bounding_box() for view in views.locator(".view").all())
        assert before["x"] + before["width"] <= after["x"]
        assert abs(before["y"] - after["y"]) < 2


def test_each_finding_is_reached_from_the_top(visit: Any, page_path: Path) -> None:
    """The names of all sections stand on top, and each leads to its own."""
    page = visit.open(page_path)
    links = page.locator(".sections a")
    titles = page.locator("section[id^=section] h2").all_text_contents()
    assert [" ".join(text.split()) for text in links.all_text_contents()] == [" ".join(t.split()) for t in titles]
    assert [title.split()[0] for title in titles] == ["Refused", "Cut", "Exact", "Alpha", "Upscaled", "Gray"]
    links.last.click()
    assert page.url.endswith(f"#section-{len(titles)}")
    assert page.locator(f"#section-{len(titles)} h2").is_visible()
