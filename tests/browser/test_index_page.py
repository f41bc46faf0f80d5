from pathlib import Path
from typing import Any

import pytest

from made_up_run import write_made_up_run
from openddpm.record.reader import read_run_folder
from openddpm.report.index import write_index

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
RUNS: dict[str, dict[str, Any]] = {
    "a": {"loss_factor": 1.1, "config": {"learning_rate": 2e-3}},
    "b": {"loss_factor": 0.9, "config": {"learning_rate": 1e-4}},
    "begun": {"steps": 0, "rows": 0, "previews": 0},
    "c": {"loss_factor": 1.0, "config": {"learning_rate": 1e-2}, "steps": 600},
}


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of four runs, one of which has no evaluation yet."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in RUNS.items():
        write_made_up_run(folder / name, name=name, **{"steps": 2400, "rows": 24, "previews": 5, **options})
    return write_index(folder / "index.html", [read_run_folder(folder / name) for name in RUNS])


def order(page: Any) -> list[str]:
    """Return the runs' names from top to bottom."""
    return page.locator("#runs tbody th").all_text_contents()


def curves(page: Any) -> int:
    """Return the number of curves drawn."""
    return page.locator("#chart-loss .chart-line").count()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_page_opens_offline_without_a_complaint(visit: Any, page_path: Path, width: int, scheme: str) -> None:
    """Curves and table are drawn, offline, without an error or a request beyond the file itself, and fit the window."""
    page = visit.open(page_path, width=width, scheme=scheme)
    assert (curves(page), len(order(page))) == (3, 4)
    assert page.evaluate(OVERFLOW) == 0
    assert visit.complaints == []
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data"}


def test_headers_sort_both_ways_and_say_so(visit: Any, page_path: Path) -> None:
    """A header sorts by its numbers, again the other way round; what is missing stays last; only it has aria-sort."""
    page = visit.open(page_path)
    assert order(page) == ["a", "b", "begun", "c"]
    skill = page.get_by_role("button", name="skill")
    skill.click()
    assert order(page) == ["b", "a", "c", "begun"]
    skill.focus()
    page.keyboard.press("Enter")
    assert order(page) == ["c", "a", "b", "begun"]
    page.get_by_role("button", name="learning_rate").click()
    rates = page.locator("#runs tbody tr td:last-child").all_text_contents()
    assert rates == ["0.01", "0.008", "0.002", "0.0001"]
    sorted_by = page.locator("#runs th:not([aria-sort=none])[aria-sort]")
    assert sorted_by.all_text_contents() == ["learning_rate"]
    assert sorted_by.get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="run", exact=True).click()
    assert order(page) == ["a", "b", "begun", "c"]


def test_ticking_a_run_off_removes_its_curve(visit: Any, page_path: Path) -> None:
    """A run that is ticked off has no curve, ticked on again it has; without any the chart says so."""
    page = visit.open(page_path)
    box = page.get_by_label("Curve of b", exact=True)
    box.uncheck()
    drawn = page.locator("#chart-loss .chart-line")
    assert drawn.evaluate_all("all => all.map(one => one.dataset.line)") == ["run-0", "run-3"]
    box.focus()
    page.keyboard.press("Space")
    assert curves(page) == 3
    assert page.get_by_label("Curve of begun").is_disabled()
    for name in "abc":
        page.get_by_label(f"Curve of {name}", exact=True).uncheck()
    assert curves(page) == 0
    assert "no curve to show" in page.locator("#chart-loss").text_content()


def test_pointer_compares_runs_at_the_same_images(visit: Any, page_path: Path) -> None:
    """Each curve is read off at the same number of images, in between its own evaluations too, and only where it is."""
    page = visit.open(page_path)
    box = page.locator("#chart-loss").bounding_box()
    tip = page.locator(".chart-tip")
    page.mouse.move(box["x"] + box["width"] / 4.5, box["y"] + 50)
    assert "15,360 images" in tip.text_content()
    assert [row[:1] for row in tip.locator("p").all_text_contents()[1:]] == ["a", "b", "c"]
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 50)
    assert "76,800 images" in tip.text_content()
    assert [row[:1] for row in tip.locator("p").all_text_contents()[1:]] == ["a", "b"]


def test_loss_axis_can_be_linear(visit: Any, page_path: Path) -> None:
    """The choice of a linear axis draws the same curves elsewhere."""
    page = visit.open(page_path)
    path = page.locator("#chart-loss .chart-line path").first
    before = path.get_attribute("d")
    page.locator("label:has(input[value='linear'])").click()
    assert path.get_attribute("d") != before
    assert curves(page) == 3


def test_verdict_sentence_is_shown_on_focus(visit: Any, page_path: Path) -> None:
    """The short verdict has its sentence as an explanation."""
    page = visit.open(page_path)
    page.locator(".short-verdict").first.focus()
    assert "linear filter" in page.locator("#tip").text_content()


def test_name_leads_to_the_report(visit: Any, tmp_path: Path) -> None:
    """A click on the name of a run, in a folder with odd characters, opens its report."""
    folder = write_made_up_run(tmp_path / "a #1?" / "run", steps=40, rows=4, previews=1, name="mine")
    (folder / "report.html").write_text("<title>the report</title>", "utf-8")
    page = visit.open(write_index(tmp_path / "index.html", [read_run_folder(folder)]))
    page.get_by_role("link", name="mine").click()
    assert page.title() == "the report"


def test_a_script_that_slips_in_does_not_run(visit: Any, page_path: Path, tmp_path: Path) -> None:
    """Should markup get past the escaping, the page's policy still keeps its script from running."""
    page = visit.open_with_a_script(page_path, tmp_path)
    assert page.evaluate("() => window.slipped") is None
