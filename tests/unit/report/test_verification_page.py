"""The page of a verification."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from made_up_run import write_made_up_run
from openddpm.analysis.verification import TITLES, conclusion
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.record.verification import Rung, RungName, RungStatus, VerificationRecord
from openddpm.report.facts import MARKS
from openddpm.report.verification import (
    FROM_CHECKPOINT,
    FROM_SEED,
    NOT_REPLAYED,
    RUNG_TERMS,
    ladder,
    ladder_label,
    render_verification,
    steps_chart,
    verification_badge,
    write_verification,
)
from report_page import BUILT, HOSTILE, Page
from verifications import CLIMBED, a_verification


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of 400 steps."""
    return read_run_folder(write_made_up_run(tmp_path_factory.mktemp("run"), steps=400, rows=40, previews=1))


def page_of(found: VerificationRecord, run: RunFolder | None = None) -> Page:
    """Return the page, parsed."""
    return Page(render_verification(found, BUILT, run))


@pytest.mark.parametrize(
    ("statuses", "tone"),
    [(CLIMBED, "good"), ({**CLIMBED, "previews": "failed"}, "bad"), ({"files": "exact"}, "warning")],
)
def test_the_conclusion_has_its_badge(statuses: dict[RungName, RungStatus], tone: str) -> None:
    """The sentence of the terminal is on the page, in the colour and with the mark of what was found."""
    found = a_verification(statuses)
    page, badge = page_of(found), verification_badge(found)
    assert badge.tone == tone
    assert f"{MARKS[tone]} {badge.words}" in page.text
    assert conclusion(found) in page.text
    assert [a["class"] for _, a in page.elements if a.get("id") == "verdict"] == [f"verdict panel tone-{tone}"]


def test_the_ladder_has_every_rung_the_lowest_last() -> None:
    """Eight planks, from the whole run at the top to the files; one that was not asked for says so."""
    planks = ladder(a_verification({**CLIMBED, "data": "failed"}))
    assert [plank.title for plank in planks] == [*reversed(TITLES.values())]
    assert [plank.status for plank in planks] == [
        *("not_asked", "not_checked", "rounding", "rounding", "exact", "exact", "failed", "exact")
    ]
    assert all(upper.y < lower.y for upper, lower in pairwise(planks))
    label = ladder_label(a_verification())
    assert label.startswith("The ladder from its lowest rung: files exact, data exact,")
    assert label.endswith("segments not checked, whole run not asked for")


def test_each_result_is_told_by_shape_mark_and_words() -> None:
    """A failed rung is broken in two, one that was not asked for dashed, and each has its mark and its words."""
    page = page_of(a_verification({**CLIMBED, "data": "failed"}))
    classes = [(tag, a.get("class") or "") for tag, a in page.elements]
    planks = [name for tag, name in classes if name.startswith("plank plank-")]
    assert len(planks) == len(TITLES) and planks[0] == "plank plank-not_asked"
    assert planks.count("plank plank-failed") == sum(tag == "path" for tag, _ in classes) == 1
    for words in ("✓ exact", "≈ equal to rounding", "✕ failed", "? not checked", "\N{EN DASH} not asked for"):
        assert words in page.text


def test_every_rung_is_explained() -> None:
    """Each rung of the ladder has an explanation, under the name that it has everywhere."""
    assert {name: term.name for name, term in RUNG_TERMS.items()} == dict(TITLES)


def test_bars_show_which_steps_were_computed_again(run: RunFolder) -> None:
    """Stretches from the seed are in one row, those from checkpoints in another; bars begin where a step does."""
    chart = steps_chart(a_verification(replayed=[(1, 60), (201, 240), (41, 80)]), run)
    assert [(span.row, span.first, span.last, span.colour) for span in chart.spans] == [
        (0, 0, 400, NOT_REPLAYED),
        (0, 0, 60, FROM_SEED),
        (1, 0, 400, NOT_REPLAYED),
        (1, 200, 240, FROM_CHECKPOINT),
        (1, 40, 80, FROM_CHECKPOINT),
    ]
    assert [line.name for line in chart.lines] == ["training loss", "held-out loss"]
    assert chart.label.endswith("from the seed: 1 to 60; from a checkpoint: 201 to 240, 41 to 80")


def test_a_record_that_differs_is_marked_where_it_does(run: RunFolder) -> None:
    """The mark is at the first step that differs, on the curve that was logged; without the run it has no height."""
    found = a_verification({**CLIMBED, "first_steps": "failed"}, first_divergent_step=40)
    loss = next(row.train_loss for row in run.metrics if row.step == 40)
    (mark,) = steps_chart(found, run).marks
    assert (mark.x, mark.text, mark.y) == (40, "step 40 differs", pytest.approx(loss, rel=1e-4))
    assert steps_chart(found, None).marks[0].y is None
    assert steps_chart(a_verification(), run).marks == []


def test_without_the_run_and_without_replays_a_bar_is_left(run: RunFolder) -> None:
    """A statement alone has its bars, and one of nothing that was computed again an empty one, with its legend."""
    chart = steps_chart(a_verification(), None)
    assert chart.lines == [] and len(chart.spans) == 2
    page = page_of(a_verification(replayed=[]), run)
    assert len(json.loads(page.scripts[0])["charts"]["steps"]["spans"]) == 1
    assert "not trained again" in page.text and "trained again from" not in page.text


def test_rungs_have_their_text_their_details_and_their_time() -> None:
    """A first detail that the text already says is not repeated; more than three fold away; short times are not 0."""
    said = "line 3 is wrong; and 1 more problem"
    few = Rung(name="files", status="failed", text=said, details=["line 3 is wrong", "line 4, too"], seconds=0.2)
    many = Rung(name="data", status="failed", text="much", details=[f"detail {one}" for one in range(5)], seconds=61)
    page = page_of(a_verification(rungs=[few, many]))
    assert page.text.count("line 3 is wrong") == page.text.count("line 4, too") == 1
    assert "2 more" in page.text and "detail 4" in page.text
    assert "< 1 s" in page.text and "1 min 1 s" in page.text


def test_digests_are_whole_in_the_page(run: RunFolder) -> None:
    """Each file has its whole sha256; files that a published statement leaves out are named."""
    found = a_verification()
    assert all(sha256 in page_of(found).text for sha256 in found.files.values())
    assert "not among them" not in page_of(found).text
    assert (
        "run.json and data.json are not among them" in page_of(a_verification(files={"metrics.jsonl": "b" * 64})).text
    )


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    """Markup in names, texts, details, files, devices and versions adds no element, and no script."""
    folder = write_made_up_run(tmp_path, steps=40, rows=4, previews=1, name=HOSTILE, source=HOSTILE)
    rungs = [Rung(name="files", status="failed", text=HOSTILE, details=[HOSTILE, "b"])]
    pages = []
    for text in ("plain", HOSTILE):
        base = a_verification()
        assert base.environment is not None
        here = base.environment.model_copy(
            update={"device": text, "platform": text, "python": text, "packages": {text: text}}
        )
        names = {"name": text, "source": f"{text}!", "run_id": text, "time": text, "trained_on": text}
        shown = [one.model_copy(update={"text": text, "details": [text, "b"]}) for one in rungs]
        files = {text: text}
        pages.append(
            page_of(a_verification(**names, environment=here, rungs=shown, files=files), read_run_folder(folder))
        )
    assert [tag for tag, _ in pages[0].elements] == [tag for tag, _ in pages[1].elements]
    assert [sorted(a) for _, a in pages[0].elements] == [sorted(a) for _, a in pages[1].elements]
    assert HOSTILE in pages[1].text
    assert len(pages[1].scripts) == 3


def test_a_page_of_nothing_that_was_computed(tmp_path: Path) -> None:
    """A statement without a machine and of a run without rows has a page, too."""
    folder = write_made_up_run(tmp_path / "run", steps=0, rows=0, previews=0, status="running")
    found = a_verification({"files": "exact"}, environment=None, replayed=[], files={})
    path = write_verification(tmp_path / "verify.html", found, read_run_folder(folder))
    assert "nothing was computed" in path.read_text("utf-8")
