"""The page of an imported record: what it shows, what it says is missing, and that nothing in a log harms it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from event_logs import imported
from made_up_run import write_made_up_run
from openddpm.comparison.imported import compare_imported
from openddpm.record.imported import MISSING, ImportedPicture, ImportedTags
from openddpm.record.reader import read_run_folder
from openddpm.references import open_reference
from openddpm.report.imported import render_imported
from report_page import BUILT, HOSTILE, Page

LOSSES = {step: 1 / step for step in range(1, 101)}
PICTURE = Path(__file__).parents[3] / "docs" / "pictures" / "rulers.png"


def with_pictures(folder: Path, steps: list[int]) -> list[ImportedPicture]:
    """Put a picture of each step into a folder, and return their records."""
    (folder / "samples").mkdir(parents=True)
    pictures = [ImportedPicture(step=step, tag="samples", file=f"samples/step-{step:08d}.png") for step in steps]
    for one in pictures:
        (folder / one.file).write_bytes(PICTURE.read_bytes())
    return pictures


def charts_of(page: Page) -> Any:
    """Return the charts of a page by name."""
    return json.loads(page.scripts[0])["charts"]


def test_a_record_alone(tmp_path: Path) -> None:
    """Loss, learning rate and pictures are shown, all that is missing is listed, and there is no verdict."""
    rates = [1e-4, None] * 50
    pictures = with_pictures(tmp_path, [10, 100])
    tags = ImportedTags(train_loss="loss", learning_rate="lr")
    notes = ["Pictures are placed by their time."]
    record = imported(LOSSES, 32, tmp_path, learning_rate=rates, pictures=pictures, tags=tags, notes=notes)
    page = Page(render_imported(record, BUILT))
    charts = charts_of(page)
    assert charts.keys() == {"loss", "rate"}
    assert charts["rate"]["lines"][0]["x"] == [32 * step for step in range(1, 101, 2)]  # a gap hides it
    assert {*charts["rate"]["lines"][0]["y"]} == {1e-4}
    assert charts["loss"]["lines"][0]["x"] == [32 * step for step in LOSSES]
    assert charts["loss"]["lines"][0]["y"][:4] == [1.0, 0.5, 0.33333, 0.25]
    assert [one["src"][:11] for tag, one in page.elements if tag == "img" and one["src"]] == ["data:image/"] * 2
    assert all(text in page.text for text in (*MISSING, *notes, "step 100 · 3,200 images", "no verdict", "loss alone"))


def test_without_images_per_step_the_axis_has_steps() -> None:
    """No number of images is made up where it is not known."""
    page = Page(render_imported(imported(LOSSES, None), BUILT))
    chart = charts_of(page)["loss"]
    assert (chart["x_title"], chart["lines"][0]["x"][-1]) == ("step", 100)
    assert "no --batch_size was given" in page.text


def test_beside_a_reference(tmp_path: Path) -> None:
    """The window means lie on the band and the mean of the reference, whose previews are below the candidate's."""
    reference = open_reference("digits-8")
    losses = {row.step: 1.5 * row.train_loss for row in reference.runs[0].metrics}
    record = imported(losses, 32, tmp_path, pictures=with_pictures(tmp_path, [400, 790]))
    found = compare_imported(record, reference.runs)
    page = Page(render_imported(record, BUILT, found, reference))
    charts = charts_of(page)
    assert charts.keys() == {"loss", "difference"}
    assert [line["name"] for line in charts["loss"]["lines"]] == [
        "as logged",
        *["seed"] * len(reference.runs),
        "mean of the reference",
        "candidate",
    ]
    assert len(charts["loss"]["areas"]) == len(charts["difference"]["areas"]) == 1
    assert min(charts["difference"]["lines"][-1]["y"]) > 40
    assert "left the band by" in str(charts["loss"]["marks"])
    badge = next(one for tag, one in page.elements if one.get("data-code"))
    assert badge["data-code"] == "outside"
    captions = [one["alt"] for tag, one in page.elements if tag == "img"]
    assert captions[0] == "Pictures of the candidate after 25,280 images"
    assert captions[1] == "Pictures of the reference after 25,600 images"
    assert "By training loss alone" in page.text


def test_two_seeds_have_no_band(tmp_path: Path) -> None:
    """Beside too few runs the curves are drawn, without a band or a mean of it."""
    runs = [
        read_run_folder(write_made_up_run(tmp_path / str(seed), seed=seed, previews=0, evaluations=6))
        for seed in (1, 2)
    ]
    record = imported(dict.fromkeys(range(1, 2401), 0.1), 32, tmp_path)
    reference = open_reference(str(tmp_path))
    charts = charts_of(Page(render_imported(record, BUILT, compare_imported(record, runs), reference)))
    assert charts["loss"]["areas"] == charts["difference"]["areas"] == []
    assert [line["name"] for line in charts["difference"]["lines"]] == ["seed", "seed", "candidate"]


def test_pictures_that_are_gone_are_left_out(tmp_path: Path) -> None:
    """A picture that was removed, or damaged since, is not shown, and the page is there all the same."""
    pictures = with_pictures(tmp_path, [10, 20, 30])
    (tmp_path / pictures[0].file).unlink()
    (tmp_path / pictures[1].file).write_bytes(b"no picture")
    page = Page(render_imported(imported(LOSSES, 32, tmp_path, pictures=pictures), datetime.now(UTC)))
    assert [one["alt"] for tag, one in page.elements if tag == "img"] == ["Picture at step 30 · 960 images"]


@pytest.mark.parametrize("losses", [{1: 0.5}, {1: -1.0, 2: 0.0}, dict.fromkeys(range(1, 5001), 1e30)])
def test_odd_curves_are_drawn(losses: dict[int, float]) -> None:
    """One point, losses that no logarithm has, and more points than a screen shows make a page."""
    chart = charts_of(Page(render_imported(imported(losses), BUILT)))["loss"]
    assert 1 <= len(chart["lines"][0]["x"]) <= 2000
    assert chart["is_log_y"] == (losses[1] > 0)


def test_nothing_in_a_log_harms_the_page(tmp_path: Path) -> None:
    """Markup in names, tags and notes is text."""
    tags = ImportedTags(train_loss=HOSTILE, learning_rate=HOSTILE)
    pictures = [one.model_copy(update={"tag": HOSTILE}) for one in with_pictures(tmp_path, [10])]
    texts = {"name": HOSTILE, "source": HOSTILE, "notes": [HOSTILE], "ignored_tags": [HOSTILE]}
    plain = Page(render_imported(imported(LOSSES, 32, tmp_path, pictures=pictures), BUILT))
    html = render_imported(imported(LOSSES, 32, tmp_path, tags=tags, pictures=pictures, **texts), BUILT)
    page = Page(html)
    assert len(page.scripts) == len(plain.scripts)
    assert not [one for tag, one in page.elements if "onerror" in one or "onload" in one]
    assert page.text.count(HOSTILE) >= 6
