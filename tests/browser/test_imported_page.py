from pathlib import Path
from typing import Any

import pytest

from event_logs import PIXELS, imported
from openddpm.comparison.imported import compare_imported
from openddpm.pictures import image_grid
from openddpm.record.imported import ImportedPicture, ImportedTags
from openddpm.references import open_reference
from openddpm.report.imported import write_imported_comparison, write_imported_report

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The page of an imported record alone, and beside digits-8."""
    folder, reference = tmp_path_factory.mktemp("imported"), open_reference("digits-8")
    pictures = [ImportedPicture(step=step, tag="samples", file=f"samples/step-{step:08d}.png") for step in (400, 800)]
    (folder / "samples").mkdir()
    for one in pictures:
        image_grid(PIXELS).save(folder / one.file)
    rows = reference.runs[0].metrics
    losses = {step: 1.5 * rows[(step - 1) // 10].train_loss for step in range(1, 801)}
    rates = [1e-4, *[None] * 39] * 20
    tags = ImportedTags(train_loss="loss", learning_rate="lr")
    record = imported(losses, 32, folder, pictures=pictures, tags=tags, learning_rate=rates)
    comparison = compare_imported(record, reference.runs)
    return [
        write_imported_report(record),
        write_imported_comparison(folder / "compare.html", comparison, reference),
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_pages_open_offline_without_a_complaint(visit: Any, pages: list[Path], width: int, scheme: str) -> None:
    """Every chart and picture is drawn, offline, without an error or another request, and fits the window."""
    for path, charts, last in zip(pages, (2, 3), ("moving average", "candidate"), strict=True):
        page = visit.open(path, width=width, scheme=scheme)
        assert page.locator(".chart svg").count() == charts
        assert all(page.locator(".chart").nth(number).locator("path[d^=M]").count() for number in range(charts))
        assert page.locator(f"#chart-loss [data-line='{last}'] path[d^=M]").count() == 1
        assert page.evaluate("() => [...document.images].every((one) => one.naturalWidth > 0)")
        assert page.evaluate(OVERFLOW) == 0
    assert visit.complaints == []
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data"}


def test_ticks_of_two_powers_of_ten_are_powers(visit: Any, pages: list[Path]) -> None:
    """A logarithmic axis of two powers of ten has ticks at 1 and 3 of each, which do not crowd at its end."""
    page = visit.open(pages[1])
    texts = page.locator("#chart-loss svg text").all_text_contents()
    assert {"1k", "3k", "10k"} <= set(texts)
    assert "15k" not in texts
