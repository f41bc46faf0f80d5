"""Sound records of what cannot be: the analysis says what it can, and never stumbles."""

import dataclasses
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from made_up_run import write_made_up_run
from openddpm.analysis.verdict import judge
from openddpm.comparison.band import MIN_RUNS
from openddpm.comparison.compare import compare
from openddpm.record.reader import read_run_folder
from openddpm.report.build import render_report
from openddpm.report.compare import render_comparison
from openddpm.report.index import render_index
from report_page import BUILT

Change = Callable[[dict[str, Any]], object]
ODD_ROWS: dict[str, tuple[str, Change]] = {
    "no loss": ("evaluations.jsonl", lambda row: row.update(heldout_loss=0.0, fixed_train_loss=0.0)),
    "always the same images": ("evaluations.jsonl", lambda row: row.update(images_seen=7)),
    "no images": ("evaluations.jsonl", lambda row: row.update(images_seen=0)),
    "negative baselines": (
        "evaluations.jsonl",
        lambda row: [band.update(linear=-1.0) for band in row["bands"].values()],
    ),
    "step 0": ("evaluations.jsonl", lambda row: row.update(step=0)),
    "huge numbers": ("evaluations.jsonl", lambda row: row.update(heldout_loss=1e308, skill=-1e308, train_skill=1e308)),
    "no groups": ("evaluations.jsonl", lambda row: row.update(by_timestep=row["by_timestep"][:3])),
    "no statistics": ("samples.jsonl", lambda row: row.update(statistics={})),
    "huge statistics": (
        "samples.jsonl",
        lambda row: [one.update(samples=1e308, data=-1e308, error=5e-324) for one in row["statistics"].values()],
    ),
    "no time": ("metrics.jsonl", lambda row: row.update(wall_seconds=0.0, images_per_second=0.0)),
    "huge losses": ("metrics.jsonl", lambda row: row.update(train_loss=1e308, grad_norm=1e308)),
}


@pytest.mark.parametrize("name", ODD_ROWS)
def test_odd_rows_are_judged_and_shown(name: str, tmp_path: Path) -> None:
    """Rows that no run leaves, such as a loss of 0 or time that stands still, have a verdict and a report."""
    folder = write_made_up_run(tmp_path, steps=400, rows=40, previews=1, evaluations=12, status="running")
    file, change = ODD_ROWS[name]
    rows = [json.loads(line) for line in (folder / file).read_text("utf-8").splitlines()]
    for row in rows:
        change(row)
    (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run = read_run_folder(folder)
    assert judge(run.run, run.metrics, run.evaluations, run.baselines, run.samples).sentence.isprintable()
    assert "</html>" in render_report(run, BUILT)
    assert "</html>" in render_index(tmp_path / "index.html", [run, run], (), BUILT)
    reference = SimpleNamespace(name="itself", about=None, notes=[])
    seeds = [dataclasses.replace(run, run=run.run.model_copy(update={"seed": 1 + one})) for one in range(MIN_RUNS)]
    for others in (seeds[:1], seeds):
        assert "</html>" in render_comparison(compare(run, others), reference, BUILT)


def huge_png() -> bytes:
    """Return a PNG whose header promises 10^12 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 10**6, 10**6, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 4) + b"IDAT" + bytes(8)


@pytest.mark.parametrize("content", [huge_png(), huge_png()[:20], b"", b"<svg onload='alert(1)'/>"])
def test_pictures_that_are_none_are_left_out(content: bytes, tmp_path: Path) -> None:
    """A preview that is too large, torn or no PNG is left out of the report, which stands without it."""
    folder = write_made_up_run(tmp_path, steps=10, rows=2, previews=2, use_ema=False)
    (folder / "samples" / "step-00000010-raw.png").write_bytes(content)
    (folder / "samples" / "training-data.png").write_bytes(content)
    page = render_report(read_run_folder(folder), BUILT)
    assert page.count('"label":"step 5 ') == 1
    assert '"label":"step 10 ' not in page
    assert "Some of the training images" not in page
