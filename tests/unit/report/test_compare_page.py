"""The page of a comparison."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from compared_runs import NUM_SEEDS, compared, made_up_reference
from openddpm.comparison.compare import Comparison, ComparisonVerdict, compare
from openddpm.comparison.explanations import Explanation
from openddpm.comparison.same_run import Difference, Relation
from openddpm.record.reader import read_run_folder
from openddpm.report.compare import comparison_badge, preview_pairs, render_comparison, write_comparison
from openddpm.report.compared_curves import apart_chart, difference_chart, loss_chart
from openddpm.report.facts import MARKS
from report_page import BUILT, HOSTILE, Page


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Five seeds."""
    return made_up_reference(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory, reference: SimpleNamespace) -> Comparison:
    """A candidate whose losses are 12 % above the reference's."""
    return compared(tmp_path_factory.mktemp("worse"), reference, loss_factor=1.12)


def page_of(comparison: Comparison, reference: SimpleNamespace) -> Page:
    """Return the page, parsed."""
    return Page(render_comparison(comparison, reference, BUILT))


def charts_in(page: Page) -> set[str]:
    """Return the names of the charts that have data, which must be those that have a place."""
    places = {
        attributes["id"] for _, attributes in page.elements if (attributes.get("class") or "").startswith("chart ")
    }
    names = set(json.loads(page.scripts[0])["charts"])
    assert places == {f"chart-{name}" for name in names}
    return names


@pytest.mark.parametrize("verdict", get_args(ComparisonVerdict))
def test_every_verdict_has_its_words_and_colour(
    verdict: ComparisonVerdict, worse: Comparison, reference: SimpleNamespace
) -> None:
    """Each verdict is shown with its sentence, the mark and the colour of its tone."""
    comparison = dataclasses.replace(worse, verdict=verdict, sentence="It is so.")
    page, badge = page_of(comparison, reference), comparison_badge(comparison)
    assert f"{MARKS[badge.tone]} {badge.words}" in page.text
    assert "It is so." in page.text
    assert [a["class"] for _, a in page.elements if a.get("id") == "verdict"] == [f"verdict panel tone-{badge.tone}"]


def test_a_lower_loss_is_no_alarm_unless_the_same_seed_parted(
    tmp_path: Path, reference: SimpleNamespace, worse: Comparison
) -> None:
    """Outside is red for a higher loss and blue for a lower one, but red again if the run should be the same."""
    better = compared(tmp_path, reference, loss_factor=0.88)
    assert (better.verdict, worse.verdict) == ("outside", "outside")
    assert [comparison_badge(one).tone for one in (worse, better)] == ["bad", "note"]
    parted = dataclasses.replace(better, relation=a_relation(reference))
    assert comparison_badge(parted).tone == "bad"


def test_loss_chart_has_everyone(worse: Comparison) -> None:
    """The chart of the loss has the band, its mean, all seeds, the candidate last, and a dot where it left the band."""
    standing, band = worse.standings[0], worse.bands[0]
    chart = loss_chart(worse, standing)
    assert [line.name for line in chart.lines] == [
        *(f"seed {seed}" for seed in range(1, NUM_SEEDS + 1)),
        "mean of the reference",
        "candidate",
    ]
    assert chart.areas[0].low == pytest.approx(band.low, rel=1e-4)
    assert chart.areas[0].high == pytest.approx(band.high, rel=1e-4)
    rows = [row for row in worse.candidate.evaluations if row.weights == "ema"]
    assert chart.lines[-1].x == [row.images_seen for row in rows]
    assert chart.lines[-1].y == pytest.approx([row.heldout_loss for row in rows], rel=1e-4)
    assert [mark.x for mark in chart.marks] == [standing.left_at]
    assert chart.marks[0].y == chart.lines[-1].y[chart.lines[-1].x.index(standing.left_at)]


def test_difference_chart_is_in_percent_of_the_mean(worse: Comparison) -> None:
    """A candidate whose losses are 12 % higher runs along 12 %, and the band has 0 inside."""
    chart = difference_chart(worse, worse.standings[0], worse.bands[0])
    assert chart.lines[-1].y == pytest.approx([12.0] * len(chart.lines[-1].y), abs=4)
    assert all(low < 0 < high for low, high in zip(chart.areas[0].low, chart.areas[0].high, strict=True))


def test_mark_lies_on_the_curve_between_evaluations(tmp_path: Path, reference: SimpleNamespace) -> None:
    """A candidate evaluated at other numbers of images has its mark on the line between them."""
    comparison = compared(tmp_path, reference, loss_factor=1.12, evaluations=7)
    standing, band = comparison.standings[0], comparison.bands[0]
    for chart in (loss_chart(comparison, standing), difference_chart(comparison, standing, band)):
        curve, mark = chart.lines[-1], chart.marks[0]
        assert mark.x not in curve.x
        right = next(index for index, images in enumerate(curve.x) if images > mark.x)
        low, high = sorted(curve.y[right - 1 : right + 1])
        assert low < mark.y < high


def test_every_loss_with_a_band_has_a_chart(worse: Comparison, reference: SimpleNamespace) -> None:
    """The first loss is drawn as it is, and each with a band as a difference."""
    assert charts_in(page_of(worse, reference)) == {"loss", *(band.quantity.field for band in worse.bands)}


def test_two_runs_give_no_band_but_their_curves(tmp_path: Path) -> None:
    """With too few runs for a band the losses are still drawn, and the table says why there is none."""
    reference = made_up_reference(tmp_path / "reference", num_seeds=2)
    page = page_of(compared(tmp_path / "run", reference), reference)
    assert charts_in(page) == {"loss"}
    assert "too few runs" in page.text


def test_losses_that_cannot_be_compared_are_not_drawn(tmp_path: Path, reference: SimpleNamespace) -> None:
    """With other held-out images there are no curves and no numbers, but the reason and what differs."""
    comparison = compared(tmp_path, reference, num_heldout=100)
    page = page_of(comparison, reference)
    assert charts_in(page) == set()
    assert comparison.sentence in page.text
    assert "Where it stands" not in page.text


def test_previews_are_paired_by_the_images_seen(tmp_path: Path, reference: SimpleNamespace) -> None:
    """Each pair has the nearest numbers of images; with one preview on one side there is one pair."""
    candidate = compared(tmp_path, reference, previews=3).candidate
    other = reference.runs[0]
    images = [(left.images, right.images) for left, right in preview_pairs(candidate, other)]
    assert images == [(25600, 23040), (51200, 53760), (76800, 76800)]
    assert [(right, left) for left, right in images] == [
        (left.images, right.images) for left, right in preview_pairs(other, candidate)
    ]
    last = dataclasses.replace(other, previews=other.previews[-1:])
    assert [(left.images, right.images) for left, right in preview_pairs(candidate, last)] == [(76800, 76800)]
    assert preview_pairs(candidate, dataclasses.replace(other, previews=[])) == []


def a_relation(reference: SimpleNamespace) -> Relation:
    """Return a relation to the first seed, parted at step 600."""
    relation = Relation(reference.runs[0])
    relation._has_met = True
    relation.first = Difference(60, 1920, "train_loss", 1e-7)
    relation.parted = Difference(600, 19200, "train_loss", 0.3)
    return relation


def test_the_same_seed_is_drawn_by_how_far_it_is_apart(reference: SimpleNamespace, worse: Comparison) -> None:
    """The chart has the relative differences at steps that both logged, gaps where there is none, and both marks."""
    other = reference.runs[0]
    factors = [1.0, 0.9, 1.1]
    rows = [
        row.model_copy(update={"train_loss": row.train_loss * factor})
        for row, factor in zip(other.metrics[:3], factors, strict=True)
    ]
    assert rows[2].grad_norm
    rows[1] = rows[1].model_copy(update={"grad_norm": None})
    rows[2] = rows[2].model_copy(update={"grad_norm": 2 * rows[2].grad_norm})
    unknown = rows[0].model_copy(update={"step": 1})
    chart = apart_chart(a_relation(reference), dataclasses.replace(worse.candidate, metrics=[unknown, *rows]))
    norm, loss = chart.lines
    assert norm.x == loss.x == [60, 120, 180]
    assert loss.y == [None, pytest.approx(0.1), pytest.approx(0.1 / 1.1, rel=1e-4)]
    assert norm.y == [None, None, pytest.approx(0.5)]
    assert [mark.x for mark in chart.marks] == [60, 600]
    page = page_of(dataclasses.replace(worse, relation=a_relation(reference)), reference)
    assert "apart" in charts_in(page)
    same = dataclasses.replace(worse, relation=a_relation(reference), candidate=other)
    assert "apart" not in charts_in(page_of(same, reference))  # the difference is in an evaluation


def test_speed_is_of_the_whole_run(reference: SimpleNamespace, worse: Comparison) -> None:
    """Images a second are all images by all of the time, for the candidate and from the slowest seed to the fastest."""
    metrics = [row.model_copy(update={"wall_seconds": 2 * row.wall_seconds}) for row in worse.candidate.metrics]
    slower = dataclasses.replace(worse, candidate=dataclasses.replace(worse.candidate, metrics=metrics))
    text = " ".join(page_of(slower, reference).text.split())
    assert "candidate128AMD EPYC 7B13 reference256AMD EPYC 7B13" in text


def test_differences_and_their_reasons_are_listed(reference: SimpleNamespace, worse: Comparison) -> None:
    """All differences are on the page in their order; without any it says so."""
    found = [Explanation(f"option_{index}", "1", "2", f"reason {index}", 0.1) for index in range(20)]
    text = page_of(dataclasses.replace(worse, explanations=found), reference).text
    places = [text.index(f"reason {index}") for index in range(20)]
    assert places == sorted(places)
    assert "are the same" in page_of(dataclasses.replace(worse, explanations=[]), reference).text


def test_page_says_what_inside_means_with_the_number(reference: SimpleNamespace, worse: Comparison) -> None:
    """The footer names the smallest change of the held-out loss that would have been found."""
    assert f"({100 * worse.standings[0].detectable:.1f} % of the held-out loss)" in page_of(worse, reference).text


def test_names_are_text(tmp_path: Path) -> None:
    """Markup in names, devices, notes and differences is shown as text, and adds no element and no script."""
    plain = made_up_reference(tmp_path / "reference", num_seeds=3, name="plain", device="plain")
    reference = SimpleNamespace(**{**vars(plain), "name": HOSTILE, "notes": [HOSTILE]})
    reference.about = SimpleNamespace(made=plain.about.made, device=HOSTILE)
    comparison = compared(tmp_path / "run", reference, name=HOSTILE)
    found = [Explanation(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0)]
    page = page_of(dataclasses.replace(comparison, sentence=HOSTILE, explanations=found), reference)
    assert page.text.count(HOSTILE) >= 10
    assert len(page.scripts) == 4
    assert not any("onerror" in attributes or "onload" in attributes for _, attributes in page.elements)


def test_page_is_written_and_needs_nothing_else(tmp_path: Path, reference: SimpleNamespace, worse: Comparison) -> None:
    """The page is below a megabyte, has a policy that lets nothing in or out, and names no other file."""
    path = write_comparison(tmp_path / "new" / "compare.html", worse, reference)
    page = Page(path.read_text("utf-8"))
    assert path.stat().st_size < 1_000_000
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.elements)
    addresses = [attributes.get("src") or attributes.get("href") or "#" for _, attributes in page.elements]
    assert {address.split(":")[0] for address in addresses if not address.startswith("#")} == {"data"}


def test_a_candidate_that_has_only_begun_has_a_page(tmp_path: Path, reference: SimpleNamespace) -> None:
    """A run without a logged step, a preview or an evaluation is shown as what it is."""
    page = page_of(compared(tmp_path, reference, steps=0, rows=0, previews=0), reference)
    assert "has not logged a step yet" in page.text


def test_damaged_previews_are_left_out(tmp_path: Path, reference: SimpleNamespace) -> None:
    """A pair of which one preview is no picture is not shown."""
    comparison = compared(tmp_path, reference, previews=2)
    comparison.candidate.previews[0].shown.write_bytes(b"<svg onload='alert(1)'/>")
    pairs = preview_pairs(read_run_folder(tmp_path), reference.runs[0])
    assert [left.images for left, _ in pairs] == [76800]


def test_a_candidate_that_is_known_between_its_evaluations_alone(worse: Comparison, reference: SimpleNamespace) -> None:
    """A page is made of a run that left the band, though none of its evaluations lies within the band's ends."""
    last = worse.candidate.evaluations[-2:]  # of both sets of weights
    around = [row.model_copy(update={"images_seen": row.images_seen + by}) for row in last for by in (-800, 800)]
    candidate = dataclasses.replace(worse.candidate, evaluations=around)
    comparison = compare(
        candidate, [dataclasses.replace(run, evaluations=run.evaluations[-2:]) for run in reference.runs]
    )
    assert comparison.verdict == "outside"
    assert "Difference from the reference" in page_of(comparison, reference).text
