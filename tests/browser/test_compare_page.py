from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compared_runs import NUM_SEEDS, compared, made_up_reference
from openddpm.report.compare import write_comparison

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Five seeds."""
    return made_up_reference(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory, reference: SimpleNamespace) -> Path:
    """The page of a candidate outside the band."""
    folder = tmp_path_factory.mktemp("worse")
    return write_comparison(folder / "compare.html", compared(folder, reference, loss_factor=1.12), reference)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_page_opens_offline_without_a_complaint(visit: Any, page_path: Path, width: int, scheme: str) -> None:
    """Every chart is drawn, offline, without an error or a request beyond the file itself, and fits the window."""
    page = visit.open(page_path, width=width, scheme=scheme)
    charts = page.locator(".chart")
    assert charts.count() == 7
    assert all(chart.locator("[data-line=candidate] path").count() == 1 for chart in charts.all())
    assert page.evaluate(OVERFLOW) == 0
    assert visit.complaints == []
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data"}


def test_chart_shows_band_seeds_and_where_the_candidate_left(visit: Any, page_path: Path) -> None:
    """The loss has one area, a line a seed, and a dot that lies on the candidate's line."""
    page = visit.open(page_path)
    chart = page.locator("#chart-loss")
    assert chart.locator(".chart-area").count() == 1
    assert chart.locator("[data-line^=seed]").count() == NUM_SEEDS
    assert "left the band at 7,680" in chart.text_content()
    dot = chart.locator(".chart-dot")
    start = chart.locator("[data-line=candidate] path").get_attribute("d")[1:].split("L")[0].split()
    assert [float(dot.get_attribute(name)) for name in ("cx", "cy")] == pytest.approx(list(map(float, start)), abs=0.1)


def test_words_of_a_mark_stay_inside_their_chart(visit: Any, tmp_path: Path, reference: SimpleNamespace) -> None:
    """In the narrow charts of a phone, too, the words at the place where the candidate left are seen whole."""
    comparison = compared(tmp_path, reference, loss_factor=1.12)
    in_the_middle = [replace(one, left_at=36_000.0) for one in comparison.standings]
    write_comparison(tmp_path / "compare.html", replace(comparison, standings=in_the_middle), reference)
    page = visit.open(tmp_path / "compare.html", width=360)
    assert page.locator(".chart-words").count() == 7
    for chart in page.locator(".chart").all():
        frame, words = (chart.locator(name).bounding_box() for name in ("svg", ".chart-words"))
        assert frame["x"] <= words["x"]
        assert words["x"] + words["width"] <= frame["x"] + frame["width"]


def test_pointer_shows_the_values_of_a_point(visit: Any, page_path: Path) -> None:
    """Over the chart the nearest evaluation is named with its values; away from it nothing is."""
    page = visit.open(page_path)
    box = page.locator("#chart-loss").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 14, box["y"] + box["height"] / 2)
    tip = page.locator(".chart-tip")
    assert "76,800 images" in tip.text_content()
    assert "candidate 0.0" in tip.text_content()
    page.mouse.move(box["x"] + 50, box["y"] - 60)
    assert tip.count() == 0


def test_charts_follow_the_width(visit: Any, page_path: Path) -> None:
    """A chart is drawn again as wide as its panel when the window becomes narrower."""
    page = visit.open(page_path)
    page.set_viewport_size({"width": 500, "height": 900})
    page.wait_for_function("() => document.querySelector('#chart-loss svg').clientWidth < 500")
    assert page.evaluate(OVERFLOW) == 0


def test_one_pair_of_previews_stands_side_by_side(visit: Any, tmp_path: Path, reference: SimpleNamespace) -> None:
    """A candidate with a single preview is shown beside the reference, at the same height, and fits a phone."""
    comparison = compared(tmp_path, reference, previews=1)
    page = visit.open(write_comparison(tmp_path / "compare.html", comparison, reference), width=390)
    left, right = (image.bounding_box() for image in page.locator(".strip img").all())
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    assert page.evaluate(OVERFLOW) == 0


def test_a_script_that_slips_in_does_not_run(visit: Any, page_path: Path, tmp_path: Path) -> None:
    """Should markup get past the escaping, the page's policy still keeps its script from running."""
    page = visit.open_with_a_script(page_path, tmp_path)
    assert page.evaluate("() => window.slipped") is None
