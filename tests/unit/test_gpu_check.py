"""What `make gpu-check` does around its measurements; and, among the slow tests, all of it with tiny UNets."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import case
import check
import kernels
import merge
import parts
import performance_page
import provenance
import psutil
import pytest
import real_run
from shares import seconds_by_kind

from made_up_run import made_up_session
from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, MetricsRow

REPOSITORY = Path(__file__).parents[2]
CHECK = REPOSITORY / "benchmarks" / "gpu" / "check.sh"


def _row(step: int, wall: float, rate: float = 16.0) -> MetricsRow:
    """Return a line of steps of 16 images."""
    others = {"epoch": 0.0, "train_loss": 1.0, "learning_rate": 0.0, "grad_norm": 1.0, "ema_decay": 0.0}
    return MetricsRow(step=step, images_seen=16 * step, wall_seconds=wall, images_per_second=rate, **others)


def test_the_script_shows_the_plan() -> None:
    """The header of check.sh holds the plan that the code has, line by line."""
    header = CHECK.read_text("utf-8")
    assert "".join(f"#   {line}\n" for line in parts.plan().splitlines()) in header


def test_without_a_gpu_and_for_an_unknown_step_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no GPU is, nothing is measured and the dry run is named; an unknown step is refused, and all are named."""
    monkeypatch.setattr(check, "device_name", lambda: None)
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert check.main() == 2
    assert "DRY=1" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["check.py", "batch-17"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == 2 and "batch-17" in (told := capsys.readouterr().err) and "batch-16" in told


def test_the_time_of_a_run_is_told_by_kind() -> None:
    """Pauses are the evaluation's as far as it took, and else the preview's or the save's between the two lines."""
    rows = [_row(5, 5.0), _row(10, 13.0), _row(15, 20.0), _row(20, 25.5)]  # a step takes a second
    spent = seconds_by_kind(rows, {7: 1.0}, [7], [10])
    told = (spent.wall, spent.steps, spent.evaluations, spent.previews, spent.saves, spent.other)
    assert told == (25.5, 20.0, 1.0, 2.0, 2.0, 0.5)
    assert sum(spent.shares().values()) == pytest.approx(1.0, abs=1e-3)


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that makes a check whose parts are not really measured, and the names of those that were."""

    def make(steps: list[str], deadline: float, broken: str = "", sources: str = "abc") -> tuple[Any, list[str]]:
        measured: list[str] = []

        def call(self: Any, part: Any, most: float) -> str:
            measured.append(part.name)
            if part.name == broken:
                raise RuntimeError("out of luck")
            rate = {"plain": 100.0, "max-16": 700.0}.get(part.name, 1.0)
            row = {"row": part.what, "batch_size": 16, "steps_images_per_second": rate, "preview_seconds": 1.0}
            row["row"] = {"max-16": "ours, --speed max"}.get(part.name, part.what)
            (self.logs / f"{part.name}.json").write_text(json.dumps(row))
            self.begun -= part.seconds  # as if it had taken so long
            return "done"

        monkeypatch.setattr(check.Check, "_call", call)
        monkeypatch.setattr(check.Check, "_write_inputs", lambda self: None)
        monkeypatch.setattr(check, "sources", lambda: sources)
        given = argparse.Namespace(
            steps=steps, work=tmp_path / "work", out=tmp_path, data=None, deadline=deadline, seconds_gone=0.0,
            run_seconds=150.0, dry_run=False,
        )  # fmt: skip
        return check.Check(given, "a GPU"), measured

    return make


def test_time_is_spent_in_order_and_the_rest_is_said(checked: Callable[..., Any], tmp_path: Path) -> None:
    """What does not fit into the time is not begun and stands in the results; a later call goes on from there."""
    first, measured = checked(["batch-16"], 250)
    assert first.run() == 0 and measured == ["plain", "max-16"]
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["parts"]["auto-16"] == {"status": "not reached in the time"}
    assert results["rows"]["plain loop"]["epoch_images_per_second"] == pytest.approx(7400 / 75, abs=0.01)
    assert results["ratios"]["ours, --speed max"]["steps"] == 7.0
    second, measured = checked(["batch-16", "batch-128"], 540)
    assert second.run() == 0 and measured == ["auto-16", "max-128"]
    assert set(json.loads((tmp_path / "gpu.json").read_text())["rows"]) >= {"plain loop", "ours, --speed max"}


def test_other_sources_are_measured_anew(checked: Callable[..., Any], tmp_path: Path) -> None:
    """Numbers of other sources never stand beside new ones."""
    checked(["batch-16"], 1000)[0].run()
    later, measured = checked(["batch-128"], 1000, sources="other")
    later.run()
    assert measured == ["max-128"] and "plain loop" not in json.loads((tmp_path / "gpu.json").read_text())["rows"]


def test_a_part_that_fails_leaves_the_others(checked: Callable[..., Any], tmp_path: Path) -> None:
    """The parts after one that fails are measured; exit status and results tell of it, and it is tried again."""
    one, measured = checked(["batch-16"], 1000, broken="max-16")
    assert one.run() == 1 and measured == ["plain", "max-16", "auto-16"]
    assert "out of luck" in json.loads((tmp_path / "gpu.json").read_text())["parts"]["max-16"]["status"]
    again, measured = checked(["batch-16"], 1000)
    assert again.run() == 0 and measured == ["max-16"]


def test_what_takes_too_long_is_ended_with_its_children(checked: Callable[..., Any]) -> None:
    """A process that is over its time is ended, and its log is kept; one that fails says its status."""
    one, _ = checked([], 100)
    child = "subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)"
    waits = f"import subprocess, sys; child = {child}; print(child.pid, flush=True); child.wait()"
    assert "ended after" in one.spawn("waits", ["-c", waits], 2)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int((one.logs / "waits.log").read_text())).wait(30)
    assert one.spawn("fails", ["-c", "raise SystemExit(3)"], 60) == "failed: exit status 3; see fails.log"
    assert one.spawn("works", ["-c", "print(1)"], 60) == "done"


def test_the_run_of_minutes_fits_into_its_time() -> None:
    """Its steps are those of the rate that was measured, and fewer where less time is left."""
    rows = {"ours, --speed max, batch 128": {"steps_images_per_second": 1280.0}}
    given = argparse.Namespace(dry_run=False, run_seconds=150.0)
    looked_at = SimpleNamespace(given=given, results=lambda: {"rows": rows})
    assert real_run.run_size(looked_at, 400)["steps"] == 1500
    assert real_run.run_size(looked_at, 195)["steps"] == 1000


def test_a_note_of_other_sources_is_not_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without git the commit is that of the note, if it was made of the same sources; else it is unknown."""
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    monkeypatch.setattr(provenance, "NOTE", tmp_path / "commit.json")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "one.py").write_text("one")
    assert provenance.commit() == "unknown"
    (tmp_path / "commit.json").write_text(json.dumps({"sources": provenance.sources(), "commit": "abc"}))
    assert provenance.commit() == "abc"
    (tmp_path / "benchmarks" / "one.py").write_text("two")
    assert provenance.commit() == "unknown"


def test_a_case_writes_each_number_when_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rate stands in the file before the preview, that before the table of kernels, with which the case ends."""
    monkeypatch.setattr(case, "Profile", lambda: SimpleNamespace(stop=lambda table, steps: {"kernels": 7}))
    watch = case.Watch(case.Results(tmp_path / "case.json", "ours", 16), case.Plan(), float("inf"), tmp_path / "table")

    def written() -> dict[str, Any]:
        return json.loads((tmp_path / "case.json").read_text())

    run = SimpleNamespace(
        session=made_up_session(),
        config={"mixed_precision": "no"},
        model=SimpleNamespace(gflops_per_image=2.0),
    )
    watch.started(run, tmp_path)
    for step in range(5, 45, 5):
        watch.logged(_row(step, step))
    assert written()["steps_images_per_second"] == 16 and "preview_seconds" not in written()
    score = EvaluationRow(
        step=42,
        images_seen=672,
        weights="raw",
        heldout_loss=1,
        fixed_train_loss=1,
        bands={},
        by_timestep=[],
        seconds=0.5,
    )
    watch.evaluated(score), watch.evaluated(score.model_copy(update={"weights": "ema"}))
    watch.previewed(Preview(42, {}))
    watch.logged(_row(45, 49.0)), watch.logged(_row(50, 54.0)), watch.logged(_row(55, 59.0))
    (tmp_path / "checkpoints" / "step-00000055").mkdir(parents=True)
    watch.logged(_row(60, 66.0, 12.0)), watch.logged(_row(65, 71.0))
    told = written()
    assert told["preview_seconds"] == 3.0 and told["evaluation_seconds"] == 1.0 and told["checkpoint_seconds"] == 7.0
    assert told["images_per_second_while_saving"] == 12.0
    assert told["save_stall_seconds"] == pytest.approx(0.333, abs=1e-3)
    assert "profile" not in told
    with pytest.raises(case.Done):
        watch.logged(_row(70, 80.0))
    assert written()["profile"] == {"kernels": 7}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<__nv_bfloat16>", "change of layout"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolution"),
        ("pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "matrix products"),
        ("triton_red_fused_native_group_norm_12", "written by the compiler"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel", "optimizer and EMA"),
        ("void at::native::vectorized_elementwise_kernel<4>", "elementwise"),
    ],
)
def test_kernels_are_told_by_kind(name: str, kind: str) -> None:
    """A kernel's name tells what it is for."""
    assert kernels.kind_of(name) == kind


def test_hidden_packages_are_as_if_not_installed() -> None:
    """Named packages cannot be found, others can; without names nothing is changed."""
    code = "import importlib.util as u; print(u.find_spec('numpy') is None, u.find_spec('PIL') is None)"
    site = str(REPOSITORY / "benchmarks" / "gpu" / "site")
    for hidden, expected in (("numpy", "True False"), ("", "False False")):
        environment = {**os.environ, "PYTHONPATH": site, "HIDE_PACKAGES": hidden}
        found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert found.stdout.strip() == expected, found.stderr


def test_the_page_shows_what_a_gpu_has_told(tmp_path: Path) -> None:
    """Ratios, ceilings, rates, costs, tests and what is missing stand on the page; a dry run is called one."""
    logs = tmp_path / "logs"
    logs.mkdir()
    plain = {"row": "plain loop", "batch_size": 16, "steps_images_per_second": 100.0, "preview_seconds": 1.0}
    ours = {
        **{"row": "ours, --speed max", "batch_size": 16, "steps_images_per_second": 700.0, "preview_seconds": 0.5},
        **{"gflops_per_image": 270.0, "speed": {"compile_mode": "default", "compile_seconds": 80.0}},
        **{
            "save_stall_seconds": 0.2,
            "profile": {"kernels": 900, "milliseconds": 21.7, "shares": {"convolution": 0.6}},
            "start_seconds": 99.0,
        },
    }
    peaks = {"matmul_bf16_tflops": 800.0, "matmul_tf32_tflops": 400.0, "copy_tb_per_second": 4.1}
    tests = {"tests": {"test_one": {"outcome": "passed"}, "test_two": {"outcome": "failed"}}}
    for name, value in {"plain": plain, "max-16": ours, "ceilings": peaks, "tests": tests}.items():
        (logs / f"{name}.json").write_text(json.dumps(value))
    states = {"plain": {"status": "done"}, "near": {"status": "not reached in the time"}}
    results = merge.merged(logs, merge.Device("a GPU", "x", "abc", dry_run=False), states)
    assert results["rows"]["ours, --speed max"]["share_of_matmul_peak"] == pytest.approx(0.23625, abs=1e-4)
    for dry_run in (False, True):
        (tmp_path / "gpu.json").write_text(json.dumps({**results, "dry_run": dry_run}))
        page = performance_page.make_page(tmp_path)
        assert "trains 7.00 × as many" in page and "800 TFLOP/s" in page and "a GPU" in page  # noqa: RUF001
        assert "1 passed, 1 failed, 0 skipped: test_two" in page and "near (not reached in the time)" in page
        assert (
            "| ours, --speed max | 16 | 700.0 |" in page and "21.7 ms: convolution 60.0 %" in page and "0.20 s" in page
        )
        assert ("A dry run" in page) == dry_run


def test_the_kept_results_make_the_kept_page() -> None:
    """docs/performance.md is what the results in benchmarks/results give."""
    made = performance_page.make_page(REPOSITORY / "benchmarks" / "results")
    assert (REPOSITORY / "docs" / "performance.md").read_text("utf-8") == made


@pytest.mark.slow
def test_the_whole_check_runs_without_a_gpu(tmp_path: Path) -> None:
    """Each part of the plan leaves what it should, with tiny UNets; the record of the run is kept without weights."""
    environment = {**os.environ, "DRY": "1", "OUT": str(tmp_path), "PYTHON": sys.executable, "DEADLINE": "3600"}
    environment |= {"WORK": str(tmp_path / "work"), "DATA": str(tmp_path / "work" / "inputs" / "images")}
    ended = subprocess.run(["bash", str(CHECK)], env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-3000:]
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {state["status"] for state in results["parts"].values()} == {"done"}
    assert set(results["parts"]) == {part.name for part in parts.PARTS}
    rows = results["rows"]
    cases = {one.row for one in case.CASES.values()}
    ladder = {part.what for part in parts.PARTS if part.step == "ladder" and "compile" not in part.measures}
    assert set(rows) == cases | ladder | {"plain loop", "plain loop: workers and bf16"}
    assert all(row["steps_images_per_second"] > 0 for row in rows.values())
    assert all(rows[name]["preview_seconds"] > 0 for name in ("plain loop", *cases))
    for name in cases:
        assert rows[name]["evaluation_seconds"] > 0 and rows[name]["checkpoint_seconds"] > 0 and rows[name]["profile"]
    assert results["run"]["status"] == "finished" and results["run"]["previews"] > 0
    assert sum(results["run"]["shares"].values()) == pytest.approx(1.0, abs=1e-3)
    assert {test["outcome"] for test in results["tests"].values()} <= {"passed", "skipped"}
    assert results["tests"]["test_exact_resumes"]["outcome"] == "passed"
    with tarfile.open(tmp_path / "run.tar.gz") as archive:
        names = archive.getnames()
    assert {"run/run.json", "run/metrics.jsonl", "run/report.html"} <= set(names)
    assert not any(name.split("/")[1:2] in (["checkpoints"], ["unet"]) for name in names)
