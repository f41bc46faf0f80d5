"""The page of many runs."""

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
import pytest
from PIL import Image

from made_up_run import write_made_up_run
from openddpm.record.reader import read_run_folder
from openddpm.report.index import NUM_TICKED, render_index, write_index
from report_page import BUILT, HOSTILE, Page

SMALL: dict[str, Any] = {"steps": 40, "rows": 4, "previews": 2}


def page_of(folder: Path, *names: str, unreadable: tuple[str, ...] = ()) -> Page:
    """Return the page of these runs in `folder`, parsed."""
    runs = [read_run_folder(folder / name) for name in names]
    return Page(render_index(folder / "index.html", runs, unreadable, BUILT))


def lines(page: Page) -> list[dict[str, Any]]:
    """Return the curves."""
    return json.loads(page.scripts[0])["charts"]["loss"]["lines"]


def test_options_have_a_column_only_if_they_differ_and_change_numbers(tmp_path: Path) -> None:
    """Options that are equal, or say only where a run is kept, have no column."""
    write_made_up_run(tmp_path / "a", config={"learning_rate": 1e-3, "output_dir": "a"}, **SMALL)
    write_made_up_run(tmp_path / "b", config={"learning_rate": 2e-3, "output_dir": "b"}, seed=1, **SMALL)
    html = render_index(tmp_path / "x.html", [read_run_folder(tmp_path / name) for name in "ab"], (), BUILT)
    assert 'data-order="0.001"><bdi>0.001</bdi>' in html
    found = [name for name in ("learning_rate", "seed", "output_dir", "resolution") if f"<bdi>{name}</bdi>" in html]
    assert found == ["learning_rate", "seed"]


def test_an_option_that_an_older_record_lacks_is_its_default(tmp_path: Path) -> None:
    """A run recorded before an option existed does not differ in it from one that has its default."""
    for name in "ab":
        write_made_up_run(tmp_path / name, **SMALL)
    record = json.loads((tmp_path / "a" / "run.json").read_text("utf-8"))
    del record["config"]["adam_epsilon"]
    (tmp_path / "a" / "run.json").write_text(json.dumps(record), "utf-8")
    assert "adam_epsilon" not in page_of(tmp_path, "a", "b").text


@pytest.mark.parametrize("name", ["plain", "with space #1?", "javascript:alert(1)", "100%"])
def test_links_lead_from_the_page_to_the_reports(tmp_path: Path, name: str) -> None:
    """A run's name links to its report relative to the page, whatever the folder is called, and only if it exists."""
    write_made_up_run(tmp_path / "runs" / name, **SMALL)
    write_made_up_run(tmp_path / "runs" / "other", **SMALL)
    (tmp_path / "runs" / name / "report.html").write_text("", "utf-8")
    runs = [read_run_folder(tmp_path / "runs" / one) for one in (name, "other")]
    page = Page(render_index(tmp_path / "pages" / "index.html", runs, (), BUILT))
    links = [a["href"] for tag, a in page.elements if tag == "a" and a["href"] and not a["href"].startswith("#")]
    assert len(links) == 1
    base = (tmp_path / "pages" / "index.html").as_uri()
    address = urlsplit(urljoin(base, links[0]))
    assert address.scheme == "file"
    assert unquote(address.path).endswith(f"/runs/{name}/report.html")
    assert address.fragment == address.query == ""


def test_the_first_eight_runs_with_a_curve_are_ticked(tmp_path: Path) -> None:
    """A run without an evaluation cannot be ticked and takes no one's place."""
    names = ["begun", *(f"run-{index}" for index in range(NUM_TICKED + 2))]
    for name in names:
        write_made_up_run(tmp_path / name, name=name, **(SMALL if name != "begun" else {**SMALL, "steps": 0}))
    page = page_of(tmp_path, *names)
    boxes = [a for tag, a in page.elements if tag == "input" and a["type"] == "checkbox"]
    assert ["checked" in box for box in boxes] == [False, *[True] * NUM_TICKED, False, False]
    assert ["disabled" in box for box in boxes] == [True, *[False] * (NUM_TICKED + 2)]
    assert [line["key"] for line in lines(page)] == [box["data-curve"] for box in boxes]


def test_curves_and_sparklines_are_the_held_out_loss(tmp_path: Path) -> None:
    """A run's curve is the held-out loss of its exported weights; its sparkline falls from left to right with it."""
    write_made_up_run(tmp_path / "a", steps=400, rows=4, previews=5)
    page = page_of(tmp_path, "a")
    rows = [row for row in read_run_folder(tmp_path / "a").evaluations if row.weights == "ema"]
    assert lines(page)[0]["x"] == [row.images_seen for row in rows]
    assert lines(page)[0]["y"] == pytest.approx([row.heldout_loss for row in rows], rel=1e-4)
    points = next(a["points"] for tag, a in page.elements if tag == "polyline")
    x, y = zip(*(map(float, point.split(",")) for point in (points or "").split()), strict=True)
    assert list(x) == sorted(x)
    assert list(y) == sorted(y)  # down is larger in SVG


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    """Only where names repeat the folder is beside the name."""
    for name in ("one", "two", "three"):
        write_made_up_run(tmp_path / name, name="same" if name != "three" else "other", **SMALL)
    names = [line["name"] for line in lines(page_of(tmp_path, "one", "two", "three"))]
    assert names == ["same (one)", "same (two)", "other"]


def test_runs_that_cannot_be_compared_are_announced(tmp_path: Path) -> None:
    """Each group of runs with other held-out images than the most is named, in the order of the numbers; a run that
    has only begun is not."""
    for name, number in {"a": 512, "b": 100, "c": 512, "d": 100, "e": 50, "f": 512}.items():
        write_made_up_run(tmp_path / name, name="same", num_heldout=number, **SMALL)
    write_made_up_run(tmp_path / "begun", steps=0, rows=0, previews=0)
    text = page_of(tmp_path, *"abcdef").text
    most = "same (a), same (c) and same (f)"
    assert f"same (b) and same (d) beside {most}: they were evaluated on other samples" in text
    assert "number of held-out images differs (100 and 512)" in text
    assert f"same (e) beside {most}: they" in text and "(50 and 512)" in text
    assert "cannot be compared" not in page_of(tmp_path, "a", "c", "begun").text


def test_runs_without_held_out_images_are_not_mixed_with_others(tmp_path: Path) -> None:
    """Alone they are drawn by their loss on training images; beside others their skill says what it is of."""
    for name, number in {"a": 0, "b": 0, "c": 512}.items():
        write_made_up_run(tmp_path / name, name=name, num_heldout=number, **SMALL)
    alone = page_of(tmp_path, "a", "b")
    assert "Held-out loss" not in alone.text and "so losses and skills are of training images" in alone.text
    assert all(line["y"] for line in lines(alone))
    mixed = page_of(tmp_path, "a", "b", "c").text
    assert "No curve here: 2 runs without held-out images." in mixed
    assert "a and b beside c" in mixed or "c beside a and b" in mixed
    assert mixed.count("on training images") == 2


def test_folders_that_could_not_be_read_are_listed(tmp_path: Path) -> None:
    """Each reason is on the page, as text, and the other runs are too; with no run at all the page says so."""
    write_made_up_run(tmp_path / "a", name="good", **SMALL)
    page = page_of(tmp_path, "a", unreadable=("no run in 'b'", HOSTILE))
    assert "no run in 'b'" in page.text
    assert HOSTILE in page.text
    assert "good" in page.text
    assert "No run here can be read" in page_of(tmp_path, unreadable=("no run in 'b'",)).text


def test_names_are_text(tmp_path: Path) -> None:
    """Markup in a run's name, device, source or options is shown as text, and adds no element and no script."""
    write_made_up_run(tmp_path / "a", name=HOSTILE, source=HOSTILE, **SMALL)
    write_made_up_run(tmp_path / "b", **SMALL)
    record = json.loads((tmp_path / "a" / "run.json").read_text("utf-8"))
    record["sessions"][-1]["environment"]["device"] = HOSTILE
    record["dataset"]["sha256"] = "00" * 32
    record["config"]["model"] = HOSTILE
    (tmp_path / "a" / "run.json").write_text(json.dumps(record), "utf-8")
    page = page_of(tmp_path, "a", "b")
    assert page.text.count(HOSTILE) >= 3
    assert len(page.scripts) == 5
    assert not any("onerror" in attributes or "onload" in attributes for _, attributes in page.elements)


def test_twelve_runs_with_large_pictures_stay_below_1500_kb(tmp_path: Path) -> None:
    """Previews are shrunk and long curves thinned: 12 runs are less than 1.5 MB."""
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    names = [f"run-{index}" for index in range(12)]
    write_made_up_run(tmp_path / "run-0", steps=2000, rows=10, previews=1, evaluations=1000)
    Image.fromarray(noise).save(tmp_path / "run-0" / "samples" / "step-00002000-ema.png")
    run = read_run_folder(tmp_path / "run-0")
    path = write_index(tmp_path / "index.html", [run] * len(names))
    assert path.stat().st_size < 1_500_000
    assert path.read_text("utf-8").count("data:image/") == 12


def test_runs_are_left_alone(tmp_path: Path) -> None:
    """Writing the page changes and adds nothing in the runs' folders."""

    def state() -> dict[str, str]:
        files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    write_made_up_run(tmp_path / "a", **SMALL)
    before = state()
    write_index(tmp_path / "index.html", [read_run_folder(tmp_path / "a")])
    assert state() == before
