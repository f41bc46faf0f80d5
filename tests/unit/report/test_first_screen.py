"""The top of the report: the verdict, the gauges, and what stands there while there is nothing to show."""

from pathlib import Path
from typing import Any, get_args

import pytest

from made_up_run import write_made_up_run
from openddpm.record.schema import Evidence, Forecast, Verdict, VerdictCode
from openddpm.report import build, terms
from openddpm.report.facts import MARKS, verdict_badge
from report_page import HOSTILE, NUM_SCRIPTS, Page, page_of


def page_with(monkeypatch: pytest.MonkeyPatch, folder: Path, **verdict: Any) -> Page:
    """Return the report of a run on which this verdict falls."""
    fields = {"code": "learning", "sentence": "It learns.", "evidence": [], "step": 2400, "images_seen": 76800}
    monkeypatch.setattr(build, "judge", lambda *record: Verdict(**{**fields, **verdict}))
    return page_of(folder)


@pytest.mark.parametrize("code", get_args(VerdictCode))
def test_every_verdict_has_a_badge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: VerdictCode) -> None:
    """Each code is shown in plain words, with the mark and the colour of its tone."""
    page = page_with(monkeypatch, write_made_up_run(tmp_path, previews=1), code=code, skill=0.2)
    badge = verdict_badge(Verdict(code=code, sentence="", evidence=[], step=0, images_seen=0, skill=0.2))
    assert f"{MARKS[badge.tone]} {badge.words}" in page.text
    assert [a["class"] for tag, a in page.elements if a.get("id") == "verdict"] == [f"verdict panel tone-{badge.tone}"]
    style = (Path(build.__file__).parent / "report.css").read_text("utf-8")
    assert f".tone-{badge.tone} {{" in style


def test_a_run_that_finished_without_learning_is_no_good_news() -> None:
    """Finishing is marked as good with a skill above 0 and as a warning with none."""
    verdicts = [
        Verdict(code="finished", sentence="", evidence=[], step=1, images_seen=1, skill=skill)
        for skill in (0.2, -0.2, None)
    ]
    assert [verdict_badge(verdict).tone for verdict in verdicts] == ["good", "warning", "warning"]


def test_verdict_shows_sentence_evidence_and_forecast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The sentence, each piece of evidence by its kind, and the forecast stand in the page, above the facts."""
    evidence = [Evidence(name=kind, kind=kind, text=f"Of kind {kind}.") for kind in ("good", "note", "warning")]
    forecast = Forecast(images_low=1, images_high=2, hours_low=1, hours_high=2, text="Flat in an hour or two.")
    page = page_with(monkeypatch, write_made_up_run(tmp_path, previews=1), evidence=evidence, forecast=forecast)
    texts = ["It learns.", "Of kind good.", "Of kind note.", "Of kind warning.", "Flat in an hour or two."]
    places = [page.text.index(text) for text in [*texts, "Where it stands"]]
    assert places == sorted(places)
    assert [a["class"] for tag, a in page.elements if tag == "li"] == ["tone-good", "tone-note", "tone-warning"]


def test_markup_in_a_verdict_stays_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Markup in sentence, evidence and forecast of a verdict becomes text, never elements."""
    page = page_with(
        monkeypatch,
        write_made_up_run(tmp_path, previews=1),
        sentence=HOSTILE,
        evidence=[Evidence(name=HOSTILE, kind="note", text=HOSTILE)],
        forecast=Forecast(images_low=1, images_high=2, hours_low=1, hours_high=2, text=HOSTILE),
    )
    assert page.text.count(HOSTILE) == 3
    assert len(page.scripts) == NUM_SCRIPTS
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]


def test_gauges_are_of_the_weights_that_the_verdict_rests_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A verdict on the raw weights shows their losses in the gauges."""
    folder = write_made_up_run(tmp_path, previews=2)
    texts = [page_with(monkeypatch, folder, weights=weights).text for weights in ("ema", "raw")]
    gauges = [[line for line in text.splitlines() if line.startswith("loss 0.")] for text in texts]
    assert [len(found) for found in gauges] == [3, 3]
    assert gauges[0] != gauges[1]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"steps": 0, "rows": 0, "previews": 0, "status": "running"}, "The first evaluation comes early in training"),
        ({"previews": 0}, "This run ended before its first evaluation"),
        ({"baselines": False}, "This record has no baselines"),
        ({"previews": 1, "num_heldout": 0}, "training images, as none are held out"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, state: dict[str, Any], said: str) -> None:
    """A run without evaluations, without baselines or without held-out images gets a page that says so."""
    text = page_of(write_made_up_run(tmp_path, total_steps=2400, **state)).text
    assert said in text
    assert ("as it trains" in text) == (state.get("num_heldout") == 0)


def test_terms_lead_to_the_glossary_or_the_documentation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Words of the baselines lead to their entry in the page, to docs/baselines.md once that has an address."""
    folder = write_made_up_run(tmp_path, previews=1)
    page = page_of(folder)
    links = {a["href"] for tag, a in page.elements if tag == "a"}
    assert {"#word-zero", "#word-linear", "#word-memorizing", "#word-skill", "#word-verdict", "#word-shape"} <= links
    assert links <= {f"#{a['id']}" for _, a in page.elements if a.get("id")}
    monkeypatch.setattr(terms, "REPOSITORY_URL", "https://code.example/openddpm")
    assert terms.term_links()["shape"] == "https://code.example/openddpm/docs/baselines.md#bands"
    links = {a["href"] for tag, a in page_of(folder).elements if tag == "a"}
    assert links <= {"#film", *terms.term_links().values()}
