import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from made_up_run import write_made_up_run
from openddpm.errors import UserError
from openddpm.record.data_record import ImageFinding
from openddpm.report import write_report
from openddpm.report.page import json_for_html
from report_page import HOSTILE, NUM_SCRIPTS, page_of


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Markup in run names, sources, file names, options and environments becomes text, never elements."""
    findings = [ImageFinding(path=HOSTILE, reason=HOSTILE, action="refused")]
    write_made_up_run(
        tmp_path, name=HOSTILE, source=HOSTILE, findings=findings, config={"dataset": HOSTILE, "output_dir": HOSTILE}
    )
    record = json.loads((tmp_path / "run.json").read_text())
    record["sessions"][0]["environment"] |= {"device": HOSTILE, "packages": {HOSTILE: HOSTILE}}
    record["config"][HOSTILE] = HOSTILE
    record["resumptions"] = [{"step": 1, "time": HOSTILE, "skipped_checkpoints": [HOSTILE]}]
    (tmp_path / "run.json").write_text(json.dumps(record))
    page = page_of(tmp_path)
    assert len(page.scripts) == NUM_SCRIPTS
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert page.text.count(HOSTILE) >= 10


def test_report_names_no_outside_resource(tmp_path: Path) -> None:
    """Nothing that the report shows comes from elsewhere, and its links lead to places within it."""
    page = page_of(write_made_up_run(tmp_path))
    targets = [a.get(name) for _, a in page.elements for name in ("src", "href", "srcset", "action", "poster")]
    held = [target for target in targets if target is not None and not target.startswith("#")]
    assert len(held) == 3  # EMA, raw, training data
    assert all(target.startswith("data:image/png;base64,") for target in held)
    assert "link" not in [tag for tag, _ in page.elements]
    style = (Path(sys.modules["openddpm.report"].__file__ or "").parent / "report.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_policy_allows_exactly_the_scripts_of_the_page(tmp_path: Path) -> None:
    """The content security policy lists the hashes of the page's own scripts and no looser source."""
    page = page_of(write_made_up_run(tmp_path))
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy") or ""
    directives = {part.split()[0]: part.split()[1:] for part in policy.split(";")}
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts[1:]]
    assert directives["script-src"] == [f"'sha256-{digest}'" for digest in hashes]
    assert directives["default-src"] == ["'none'"]
    assert directives["img-src"] == ["data:"]


def test_json_cannot_end_its_script_element() -> None:
    """Data with a closing script tag reads back the same and holds no `<`."""
    value = {"a": "</script><!--", "b": [1, None]}
    assert "<" not in json_for_html(value)
    assert json.loads(json_for_html(value)) == value


@pytest.mark.parametrize(
    "state",
    [
        {"steps": 0, "rows": 0, "previews": 0, "sample_of_training_data": False},
        {"steps": 10, "rows": 1, "previews": 0},
        {"steps": 10, "rows": 1, "previews": 1},
        {"steps": 10, "rows": 0, "previews": 1},
        {"steps": 40, "rows": 4, "previews": 2, "evaluations": 0, "use_ema": False},
    ],
)
def test_a_run_with_little_in_it_renders(tmp_path: Path, state: dict[str, int]) -> None:
    """A run without previews, evaluations or metrics gives a page that says what will come."""
    page = page_of(write_made_up_run(tmp_path, status="running", total_steps=2400, **state))
    num_evaluations = state.get("evaluations", state["previews"])
    assert ("The first one comes after" in page.text) == (state["previews"] == 0)
    assert ("No step has been logged yet" in page.text) == (state["rows"] == 0 and state["previews"] == 0)
    assert ("No held-out loss yet" in page.text) == (state["rows"] > 0 and num_evaluations == 0)


def test_every_average_stands_on_the_page(tmp_path: Path) -> None:
    """A curve of each kind, its picture and its name for each set of weights; the first average is on top."""
    page = page_of(write_made_up_run(tmp_path, previews=2, more_averages=("ema-0.050",)))
    curves = [attrs["data-curve"] for _, attrs in page.elements if "data-curve" in attrs]
    for kind in ("noise", "skill", "heldout", "fixed"):
        assert [curve for curve in curves if curve and curve.startswith(f"{kind}_")] == [
            f"{kind}_{name}" for name in ("ema", "ema-0.050", "raw")
        ]
    assert {"film-ema", "film-ema-0.050", "film-raw"} <= {attrs.get("id") for _, attrs in page.elements}
    assert "EMA-0.050 weights" in page.text


def test_a_live_run_says_that_it_grows_and_when_it_was_rebuilt(tmp_path: Path) -> None:
    """Only the report of a running run says that it is still growing; each says when it was built."""
    live = page_of(write_made_up_run(tmp_path / "live", status="running", steps=100, total_steps=200)).text
    done = page_of(write_made_up_run(tmp_path / "done")).text
    assert "Still running" in live
    assert "left" in live
    assert "Still running" not in done
    assert all("2026-03-14 10:30 UTC" in text for text in (live, done))


def test_report_stands_in_the_run_folder(tmp_path: Path) -> None:
    """write_report returns the path of a complete page in the run folder and leaves nothing else behind."""
    before = set(write_made_up_run(tmp_path).iterdir())
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text("utf-8").rstrip().endswith("</html>")
    assert set(tmp_path.iterdir()) - before == {path}


def test_report_of_no_run_is_a_user_error(tmp_path: Path) -> None:
    """A folder without a run is refused, by name."""
    with pytest.raises(UserError, match="no run in"):
        write_report(tmp_path)


def test_demo_sized_report_can_be_mailed(tmp_path: Path) -> None:
    """A report with more previews than it can hold stays within 6 MB."""
    write_made_up_run(tmp_path, steps=200, rows=200, previews=14, resolution=64)
    assert write_report(tmp_path).stat().st_size <= 6_000_000


def test_importing_the_report_imports_no_torch() -> None:
    """The report is built without torch, and without matplotlib, which only the model card's picture needs."""
    code = "import sys, openddpm.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
