import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_up_run import write_made_up_run
from openddpm.record.data_record import ImageFinding
from openddpm.record.reader import read_run_folder
from openddpm.report import write_report
from openddpm.report.series import metrics_columns, smooth

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def drawn(page: Any, plot: str = "plot-loss") -> list[dict[str, Any]]:
    """Return name, x, y and colour of the traces of a plot."""
    traces = "document.getElementById(id).data"
    script = f"id => {traces}.map(({{name, x, y, line}}) => ({{name, x: [...x], y: [...y], colour: line.color}}))"
    return page.evaluate(script, plot)


def choose(page: Any, name: str, value: str) -> None:
    """Click a choice."""
    page.locator(f"label:has(input[name='{name}'][value='{value}'])").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_offline_without_a_complaint(visit: Any, report: Path, scheme: str) -> None:
    """The report draws all its plots offline, without an error, a warning or a request beyond the file itself."""
    page = visit.open(report, scheme=scheme)
    assert page.locator(".plot").count() == 7
    assert visit.complaints == []
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data"}


@pytest.mark.parametrize(
    "state",
    [
        {"steps": 0, "rows": 0, "previews": 0, "sample_of_training_data": False},
        {"steps": 10, "rows": 1, "previews": 1},
        {"steps": 10, "rows": 1, "previews": 0},
        {"steps": 10, "rows": 0, "previews": 1},
        {"steps": 100, "rows": 10, "previews": 3, "use_ema": False},
        {"steps": 100, "rows": 10, "previews": 3, "more_averages": ("ema-0.050", "ema-0.1")},
        {"steps": 100, "rows": 10, "previews": 3, "baselines": False},
        {"steps": 100, "rows": 10, "previews": 3, "num_heldout": 0},
    ],
)
def test_a_run_with_little_in_it_opens_without_a_complaint(visit: Any, tmp_path: Path, state: dict[str, Any]) -> None:
    """Reports of runs that have hardly begun run their scripts without an error and fit a phone."""
    path = write_report(write_made_up_run(tmp_path, status="running", total_steps=2400, **state))
    page = visit.open(path, width=390)
    assert visit.complaints == []
    assert page.evaluate(OVERFLOW) == 0


def test_a_script_that_slips_in_does_not_run(visit: Any, report: Path, tmp_path: Path) -> None:
    """Should markup get past the escaping, the page's policy still keeps its script from running."""
    page = visit.open_with_a_script(report, tmp_path)
    assert page.evaluate("() => window.slipped") is None
    assert any("Content Security Policy" in complaint for complaint in visit.complaints)


def test_slider_and_arrow_keys_change_pictures_and_label(visit: Any, report: Path) -> None:
    """The slider starts at the last preview; an arrow key goes one back, Home to the first, with picture and loss."""
    page = visit.open(report)
    look = "() => ['film-ema', 'film-raw'].map(id => document.getElementById(id).src)"
    label, loss = page.locator("#film-label"), page.locator("#film-loss-ema")
    seen = [(label.text_content(), loss.text_content(), *page.evaluate(look))]
    page.locator("#film-slider").focus()
    for key in ("ArrowLeft", "Home"):
        page.keyboard.press(key)
        seen.append((label.text_content(), loss.text_content(), *page.evaluate(look)))
    assert [entry[0].split(" · ")[0] for entry in seen] == ["step 2,400", "step 1,920", "step 480"]
    assert all(len(set(column)) == 3 for column in zip(*seen, strict=True))


def test_play_runs_from_the_first_preview_to_the_last(visit: Any, report: Path) -> None:
    """The play button shows every preview from the first and stops at the last."""
    page = visit.open(report)
    page.evaluate(
        """() => {
            window.labels = [];
            const label = document.getElementById('film-label');
            const note = () => labels.push(label.textContent.split(' · ')[0]);
            new MutationObserver(note).observe(label, {childList: true});
        }"""
    )
    page.locator("#film-play").click()
    page.wait_for_function("() => window.labels.length >= 5 && !document.querySelector('.playing')")
    assert page.evaluate("() => labels") == [f"step {count}" for count in ("480", "960", "1,440", "1,920", "2,400")]


def test_terms_are_explained_on_hover_and_focus(visit: Any, report: Path) -> None:
    """Hovering or focusing a term shows its explanation within the window; leaving it or Escape hides it."""
    page = visit.open(report, width=390)
    tip, term = page.locator("#tip"), page.locator(".picture-ema .term")
    assert not tip.is_visible()
    term.hover()
    assert "running average of the weights" in tip.text_content()
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    term.focus()
    assert tip.is_visible()
    assert term.get_attribute("aria-describedby") == "tip"
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_log_toggle_changes_the_axis_type(visit: Any, report: Path) -> None:
    """The loss over training starts with a log axis and turns linear, and only that does."""
    page = visit.open(report)
    axes = "() => ['loss', 'noise', 'skill'].map(id => document.getElementById(`plot-${id}`).layout.yaxis.type)"
    assert page.evaluate(axes) == ["log", "log", "linear"]
    choose(page, "y-scale", "linear")
    assert page.evaluate(axes) == ["linear", "log", "linear"]


def test_x_axis_can_be_images_steps_or_hours(visit: Any, report: Path) -> None:
    """All curves over training end at the run's images, steps or hours, whichever is chosen."""
    page = visit.open(report)
    for choice, end in (("step", 2400), ("hours", 300 / 3600), ("images_seen", 76800)):
        choose(page, "x-axis", choice)
        ends = {trace["x"][-1] for plot in ("plot-loss", "plot-skill", "plot-ema_decay") for trace in drawn(page, plot)}
        assert list(ends) == [pytest.approx(end)]


def test_smoothing_is_the_same_as_in_python(visit: Any, report: Path) -> None:
    """The thick training curve is the running mean that series.smooth computes; off leaves the values alone."""
    page = visit.open(report)
    values = np.array(metrics_columns(read_run_folder(report.parent))["train_loss"], dtype=np.float64)
    for choice, share in (("medium", 0.02), ("strong", 0.06)):
        choose(page, "smoothing", choice)
        raw, smoothed = (trace["y"] for trace in drawn(page) if trace["name"] == "training loss")
        assert raw == pytest.approx(values)
        assert smoothed == pytest.approx(smooth(values, share * len(values)))
    choose(page, "smoothing", "off")
    assert [trace["name"] for trace in drawn(page)].count("training loss") == 1


def test_curves_can_be_switched_off_and_on(visit: Any, report: Path) -> None:
    """Pressing a curve's name takes it out of the plot, and pressing it again puts it back."""
    page = visit.open(report)
    button = page.locator("[data-curve='heldout_ema']")
    for pressed in ("false", "true"):
        button.click()
        assert button.get_attribute("aria-pressed") == pressed
        assert ("held-out, EMA" in [trace["name"] for trace in drawn(page)]) == (pressed == "true")


def test_each_set_of_weights_has_its_curve_and_its_pictures(visit: Any, tmp_path: Path) -> None:
    """However many averages a run keeps, each is drawn in a colour of its own, and the film strip shows its samples."""
    averages = ("ema-0.050", "ema-0.1")
    path = write_report(write_made_up_run(tmp_path, steps=100, rows=10, previews=3, more_averages=averages))
    page = visit.open(path)
    colours = {trace["name"]: trace["colour"] for trace in drawn(page)}
    labels = ["EMA", "EMA-0.050", "EMA-0.1", "raw"]
    assert len({colours[f"held-out, {label}"] for label in labels}) == 4
    assert all(page.locator(f"[id='film-{name}']").is_visible() for name in ("ema", *averages, "raw"))
    assert visit.complaints == []


def test_plots_follow_the_colour_scheme(visit: Any, report: Path) -> None:
    """When the system turns dark, the plots' colours change with the page's."""
    page = visit.open(report)
    colours = "() => [getComputedStyle(document.body).color, document.getElementById('plot-loss').layout.font.color]"
    before = page.evaluate(colours)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("before => document.getElementById('plot-loss').layout.font.color !== before", arg=before[1])
    assert page.evaluate(colours)[0] != before[0]


@pytest.mark.parametrize("width", [390, 768])
def test_page_fits_a_phone(visit: Any, tmp_path: Path, width: int) -> None:
    """At 390 pixels nothing makes the page scroll sideways, even with long names and every fold-out open."""
    long = "a_very_long_name_without_any_space_" * 5
    path = write_report(write_made_up_run(tmp_path, name=long, source=long, previews=3, config={"dataset": long}))
    page = visit.open(path, width=width)
    page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate(OVERFLOW) == 0


def test_first_screen_of_a_desktop(visit: Any, report: Path) -> None:
    """At 1200 x 900 verdict and gauges are wholly in view without scrolling, and the first plots begin there."""
    page = visit.open(report, width=1200)
    for selector in ("#verdict", ".gauges"):
        box = page.locator(selector).bounding_box()
        assert box["y"] + box["height"] <= 900
    assert page.locator("#plot-noise").bounding_box()["y"] < 860


def test_needles_stand_where_the_gauges_say(visit: Any, report: Path) -> None:
    """Each needle stands on its scale, right of the middle where the words say better, its label within the scale."""
    page = visit.open(report, width=390)
    for gauge in page.locator(".gauge").all():
        scale, needle, label = (gauge.locator(part).bounding_box() for part in (".scale", ".needle", ".needle span"))
        place = (needle["x"] + needle["width"] / 2 - scale["x"]) / scale["width"]
        assert (place > 0.5) == ("better" in gauge.locator(".gauge-words").text_content())
        assert scale["x"] <= label["x"] + 4
        assert label["x"] + label["width"] <= scale["x"] + scale["width"] + 4


def test_baselines_and_skill_are_drawn(visit: Any, report: Path) -> None:
    """At first the noise plot has the EMA weights and three baselines, the skill plot both weights."""
    page = visit.open(report)
    assert [one["name"] for one in drawn(page, "plot-noise")] == ["knows nothing", "linear filter", "memorizes", "EMA"]
    assert [one["name"] for one in drawn(page, "plot-skill")] == ["raw", "EMA"]
    for curve in ("noise_raw", "memorizing_heldout", "layout"):
        page.locator(f"[data-curve='{curve}']").click()
    assert len(drawn(page, "plot-noise")) == 6
    assert [one["name"] for one in drawn(page, "plot-skill")] == ["layout", "raw", "EMA"]


def test_skill_far_below_zero_is_still_in_sight(visit: Any, tmp_path: Path) -> None:
    """Of a run that has hardly begun, the skill's best point is within the axis, however bad it is."""
    path = write_report(write_made_up_run(tmp_path, steps=60, rows=6, previews=2, total_steps=2400))
    page = visit.open(path)
    low, high = page.evaluate("() => document.getElementById('plot-skill').layout.yaxis.range")
    best = max(value for one in drawn(page, "plot-skill") for value in one["y"])
    assert best < -1
    assert low < best < 0 < high


def test_a_term_leads_to_its_explanation(visit: Any, report: Path) -> None:
    """Clicking a word of the baselines unfolds the glossary at that word; a finger's first tap only explains it."""
    page = visit.open(report)
    entry = page.locator("#word-linear")
    assert not entry.is_visible()
    page.locator(".gauge .term[href='#word-linear']").first.click()
    page.wait_for_function("() => document.querySelector('#glossary details').open")
    assert entry.is_visible()

    phone = visit.open(report, width=390, has_touch=True)
    word = phone.locator(".gauge .term[href='#word-linear']").first
    word.tap()
    assert "covariance" in phone.locator("#tip").text_content()
    assert "#" not in phone.url
    word.tap()
    assert phone.url.endswith("#word-linear")


PAYLOAD = "".join(
    text.replace("HIT", "window.hit = true")
    for text in (
        "safe <script>HIT</script></title></style></script><script>HIT</script><img src=x onerror='HIT'>",
        '"><svg onload="HIT"><a href="javascript:HIT">link</a>]]>-->',
        '<iframe srcdoc="<script>parent.HIT</script>"></iframe>',
        "'\"`\u2028HIT\u2029//${HIT}{{ 7 * 7 }}",
    )
)


def test_markup_from_a_record_is_shown_as_text(visit: Any, tmp_path: Path) -> None:
    """Markup in any name, path, option or fact of a run is text on the page: nothing runs, is fetched or is logged."""
    payload, option = PAYLOAD, "".join(character for character in PAYLOAD if character.isprintable())
    findings = [ImageFinding(path=payload, reason=payload, action="refused")]
    write_made_up_run(tmp_path, name=payload, source=payload, previews=2, findings=findings)
    record = json.loads((tmp_path / "run.json").read_text("utf-8"))
    record["run_id"] = record["created"] = record["dataset"]["revision"] = record["dataset"]["split"] = payload
    record["sessions"][-1]["environment"] |= {"device": payload, "packages": {payload: payload}}
    record["model"]["config"] = {payload: [payload]}
    record["config"] |= {"dataset": payload, "hub_model_id": payload, option: payload}
    record["user_supplied"] = [payload]
    record["resumptions"] = [{"step": 1, "time": payload, "skipped_checkpoints": [payload]}]
    (tmp_path / "run.json").write_text(json.dumps(record), "utf-8")
    page = visit.open(write_report(tmp_path))
    page.evaluate("() => document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("() => window.hit") is None
    assert visit.complaints == []
    assert {url.split(":")[0] for url in visit.requests} <= {"file", "data"}
    assert page.locator("iframe, svg[onload], img[src=x], a[href^='javascript']").count() == 0
    assert page.title().startswith("safe <script>")
    assert (
        page.locator("bdi").evaluate_all("(all, text) => all.filter(one => one.textContent === text).length", payload)
        > 10
    )


def test_policy_lets_no_connection_out(visit: Any, report: Path) -> None:
    """Even a script of the page could send nothing anywhere: its content security policy refuses the connection."""
    page = visit.open(report)
    page.evaluate("() => fetch('https://example.invalid/').catch(() => null)")
    assert any("Content Security Policy" in complaint and "connect" in complaint for complaint in visit.complaints)
