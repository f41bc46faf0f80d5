"""The page of a verification in a real browser."""

from pathlib import Path
from typing import Any

import pytest

from made_up_run import write_made_up_run
from openddpm.record.reader import read_run_folder
from openddpm.record.verification import RungName, RungStatus
from openddpm.report.verification import write_verification
from verifications import CLIMBED, a_verification

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
STATUSES: dict[RungName, RungStatus] = {**CLIMBED, "first_steps": "failed"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The page of a record that fails at step 200, with the curves of its run and without them."""
    folder = tmp_path_factory.mktemp("verified")
    run = read_run_folder(write_made_up_run(folder / "run", steps=400, rows=40, previews=1))
    found = a_verification(STATUSES, replayed=[(1, 200), (301, 400)], first_divergent_step=200)
    return [
        write_verification(folder / "verify.html", found, run),
        write_verification(folder / "alone.html", found),
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_page_opens_offline_without_a_complaint(visit: Any, pages: list[Path], width: int, scheme: str) -> None:
    """Ladder, curves and bars are drawn, offline, without an error or another request, and fit the window."""
    for path, num_lines in zip(pages, (2, 0), strict=True):
        page = visit.open(path, width=width, scheme=scheme)
        assert page.locator(".ladder .plank").count() == 8
        assert page.locator("#chart-steps .chart-line").count() == num_lines
        assert page.locator("#chart-steps .chart-span").count() == 4
        assert page.evaluate(OVERFLOW) == 0
    assert visit.complaints == []
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data"}


@pytest.mark.parametrize("width", [1280, 360])
def test_words_stay_on_their_rungs_and_can_be_read(visit: Any, pages: list[Path], width: int) -> None:
    """On a phone, too, name and result of a rung lie inside it, beside each other, in letters of 12 pixels or more."""
    page = visit.open(pages[0], width=width)
    for plank in page.locator(".plank").all():
        shape = plank.locator("rect, path").bounding_box()
        title, result = (text.bounding_box() for text in plank.locator("text").all())
        assert shape["x"] < title["x"] and title["x"] + title["width"] < result["x"]
        assert result["x"] + result["width"] < shape["x"] + shape["width"]
        assert shape["y"] < min(title["y"], result["y"]) + 4
    scale = page.locator(".ladder").bounding_box()["width"] / 360
    assert 15 * scale >= 12


def test_bars_lie_below_the_curve_at_their_steps(visit: Any, pages: list[Path]) -> None:
    """The bar from the seed ends at the mark of the first step that differs, where the dot lies on the curve."""
    for path in pages:
        page = visit.open(path)
        spans = page.locator("#chart-steps .chart-span").all()
        (row, seed), (_, later) = ((one.bounding_box() for one in spans[index : index + 2]) for index in (0, 2))
        mark = float(page.locator(".chart-mark").get_attribute("x1"))
        left = page.locator("#chart-steps svg").bounding_box()["x"]
        assert seed["x"] + seed["width"] == pytest.approx(left + mark, abs=1.5)
        assert later["x"] - row["x"] == pytest.approx(0.75 * row["width"], rel=0.02)
        assert later["y"] > seed["y"] + seed["height"]
        if path == pages[0]:
            curve = page.locator("[data-line='training loss'] path").bounding_box()
            assert curve["y"] + curve["height"] < seed["y"]


def test_pointer_shows_losses_and_is_silent_without_a_curve(visit: Any, pages: list[Path], tmp_path: Path) -> None:
    """Over the curve the nearest logged step is named; without one that can be drawn there is none, and no error."""
    run = read_run_folder(write_made_up_run(tmp_path / "run", steps=400, rows=40, previews=1, loss_factor=0.0))
    nothing_to_draw = write_verification(tmp_path / "verify.html", a_verification(), run)
    for path, num_tips in zip([*pages, nothing_to_draw], (1, 0, 0), strict=True):
        page = visit.open(path)
        box = page.locator("#chart-steps").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
        assert page.locator(".chart-tip").count() == num_tips
    assert visit.complaints == []


def test_a_digest_is_shown_and_copied_whole(visit: Any, pages: list[Path]) -> None:
    """A digest can be compared with what sha256sum prints: it is whole, over several lines on a narrow screen."""
    page = visit.open(pages[0], width=390)
    digest = page.locator(".digest").first
    box, width = digest.bounding_box(), page.evaluate("() => document.documentElement.clientWidth")
    assert box["height"] > 30 and box["x"] + box["width"] <= width
    selected = "one => { getSelection().selectAllChildren(one); return getSelection().toString(); }"
    assert digest.evaluate(selected) == "a" * 64


def test_a_script_that_slips_in_does_not_run(visit: Any, pages: list[Path], tmp_path: Path) -> None:
    """Should markup get past the escaping, the page's policy still keeps its script from running."""
    page = visit.open_with_a_script(pages[0], tmp_path)
    assert page.evaluate("() => window.slipped") is None
