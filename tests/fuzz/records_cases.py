"""Damaged run folders through every reader of one: it works, or it is a UserError that a terminal can show."""

import contextlib
import copy
import hashlib
import io
import json
import math
import os
import random
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from images_cases import with_png_checksums
from mutations import mutate_bytes
from safetensors.numpy import save_file

from made_up_run import write_made_up_run
from made_up_seeds import another_seed
from openddpm.analysis.verdict import judge
from openddpm.cli.main import main
from openddpm.comparison.compare import compare
from openddpm.comparison.following import Follower
from openddpm.config import recorded_config
from openddpm.errors import UserError
from openddpm.record.data_record import ImageFinding
from openddpm.record.manifest import check_manifest, read_manifest, write_manifest
from openddpm.record.public import published_names
from openddpm.record.reader import RunFolder, read_checkpoint_rows, read_run_folder, read_run_record
from openddpm.record.writer import (
    BASELINES_FILE,
    CHECKPOINTS_FILE,
    DATA_FILE,
    EVALUATIONS_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    REFERENCE_BAND_FILE,
    RUN_FILE,
    SAMPLES_FILE,
    VERDICT_FILE,
)
from openddpm.report import build, curves
from openddpm.training.checkpoint import load_checkpoint

RECORD_FILES = (
    RUN_FILE,
    METRICS_FILE,
    EVALUATIONS_FILE,
    SAMPLES_FILE,
    CHECKPOINTS_FILE,
    BASELINES_FILE,
    DATA_FILE,
    VERDICT_FILE,
    REFERENCE_BAND_FILE,
    MANIFEST_FILE,
)
CHECKPOINT = "checkpoints/step-00000060"
KEEP_EVERY = 60
CHECKPOINT_FILES = ("state.json", "manifest.json", "unet.safetensors")
STAND_INS = {"<deep>": "[" * 100_000 + "]" * 100_000, "<deeper objects>": '{"a":' * 900 + "1" + "}" * 900}
"""Texts that stand for JSON that json.dumps cannot write."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400, -(10**400)),
    *(math.nan, math.inf, -math.inf, 1e308, -1e308, 1e-308, 5e-324, 1e16, "", "text", "12", "1e5", "nan", [], {}),
    *(
        [1, 2],
        [[]],
        {"a": {"b": None}},
        [None],
        "\x1b]0;title\x07\x1b[31mred\x9b2J\r\b",
        "\ud800",
        "\u202e\u2028",
        "\0",
    ),
    *("x" * 100_000, "</script><script>alert(1)</script>", "../../../etc/passwd", "/dev/zero", "/", "{{ 7 * 7 }}"),
    *STAND_INS,
)
MAX_MESSAGE = 3000  # characters, a dozen wrong options among them
NAMES = ("training-data.png", f"step-{9 * 10**30}-ema.png", "step-\u0663-raw.png", "step-00000007-raw.png")
Path_ = tuple[Any, ...]


def cases() -> Callable[[random.Random], str]:
    """Return what runs one case and says what was wrong with it; "" if nothing was."""
    scratch = Path(tempfile.mkdtemp(prefix="openddpm-fuzz-"))
    build.get_plotlyjs = lambda: ""  # 5 MB a page, the same in each
    drawn = curves.curves_png
    wholes = [_whole_run(scratch / f"whole-{index}", **state) for index, state in enumerate(_STATES)]
    seeds = _seeds(read_run_folder(wholes[0]))

    def run(rng: random.Random) -> str:
        folder = scratch / "run"
        shutil.copytree(rng.choice(wholes), folder)
        try:
            damaged = _damage(folder, rng)
            curves.curves_png = drawn if damaged & {METRICS_FILE, EVALUATIONS_FILE} else lambda run: b""  # it is slow
            return _fault_of(folder, seeds)
        finally:
            shutil.rmtree(folder)

    return run


_STATES: tuple[dict[str, Any], ...] = (
    {"status": "finished"},
    {"status": "running", "total_steps": 240},
    {"status": "running", "num_heldout": 0, "total_steps": 240},
    {"status": "failed", "use_ema": False},
    {"status": "interrupted", "baselines": False},
)


def _whole_run(folder: Path, **state: Any) -> Path:
    findings = [ImageFinding(path="a.png", reason="cannot be decoded", action="refused")]
    write_made_up_run(
        folder, **{"steps": 60, "rows": 40, "previews": 2, "evaluations": 10, "findings": findings, **state}
    )
    checkpoint = folder / CHECKPOINT
    checkpoint.mkdir(parents=True)
    for stem in ("unet", "optimizer"):
        save_file({"conv.weight": np.zeros((2, 3), np.float32)}, checkpoint / f"{stem}.safetensors")
    state_json = {"images_seen": 1920, "step": 60, "wall_seconds": 1.5, "loss_sums": [0.5], "steps_since_log": 0}
    run_id = json.loads((folder / RUN_FILE).read_text("utf-8"))["run_id"]
    (checkpoint / "state.json").write_text(json.dumps({**state_json, "scaler": None, "run_id": run_id}))
    _sign(checkpoint)
    verdict = read_run_folder(folder)
    words = judge(verdict.run, verdict.metrics, verdict.evaluations, verdict.baselines, verdict.samples)
    follower = Follower("seeds", _seeds(verdict), verdict)
    following = {"following": follower.following()}
    (folder / VERDICT_FILE).write_text(words.model_copy(update=following).model_dump_json())
    (folder / REFERENCE_BAND_FILE).write_text(follower.band_record().model_dump_json())
    write_manifest(folder, published_names(folder, read_checkpoint_rows(folder), KEEP_EVERY))
    return folder


def _seeds(run: RunFolder) -> list[RunFolder]:
    return [another_seed(run, seed) for seed in range(3)]


def _sign(checkpoint: Path) -> None:
    """Write the manifest that fits the files as they are."""
    paths = [path for path in sorted(checkpoint.iterdir()) if path.name != "manifest.json"]
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in paths
    }
    (checkpoint / "manifest.json").write_text(json.dumps({"files": files}))


def _damage(folder: Path, rng: random.Random) -> set[str]:
    """Change one file, sometimes two, and return their names; a checkpoint's manifest may then be made to fit."""
    pictures = sorted(f"samples/{path.name}" for path in (folder / "samples").iterdir())
    names = [*RECORD_FILES, f"{CHECKPOINT}/{rng.choice(CHECKPOINT_FILES)}", rng.choice(pictures)]
    chosen = rng.sample([name for name in names if (folder / name).exists()], rng.choice((1, 1, 1, 2)))
    for name in chosen:
        path = folder / name
        content = path.read_bytes()
        others = [file.read_bytes() for file in (folder / RUN_FILE, folder / METRICS_FILE)]
        if path.suffix == ".png":
            content = with_png_checksums(mutate_bytes(content, [content], rng))
            path = path.rename(path.with_name(rng.choice((*NAMES, path.name, path.name))))
        elif path.suffix == ".safetensors" or rng.random() < 0.25:
            content = mutate_bytes(content, others, rng)
        elif path.suffix == ".jsonl":
            content = _mutate_lines(content, rng)
        else:
            content = _as_bytes(_mutate_tree(json.loads(content), rng))
        path.write_bytes(content)
        if name.startswith(CHECKPOINT) and path.name != "manifest.json" and rng.random() < 0.7:
            _sign(folder / CHECKPOINT)
    return set(chosen)


def _mutate_tree(tree: Any, rng: random.Random) -> Any:
    """Return JSON with one to three of its values replaced, removed, resized or doubled."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return tree
        holder, key = rng.choice(places)
        _change(holder, key, rng)
    return tree


def _change(holder: Any, key: Any, rng: random.Random) -> None:
    value = holder[key]
    kind = rng.choice(("replace", "replace", "replace", "remove", "scale", "resize", "rename"))
    if kind == "remove":
        del holder[key]
    elif kind == "scale" and isinstance(value, (int, float)):
        holder[key] = value * rng.choice((-1, 2, 1000, 0.5, 1e-30, 1e30) if abs(value) < 1e99 else (-1, 2))
    elif kind == "resize" and isinstance(value, list):
        holder[key] = value[: rng.randrange(len(value) + 1)] * rng.choice((1, 1, 2))
    elif kind == "rename" and isinstance(holder, dict):
        holder[str(rng.choice(VALUES))] = value
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))  # or what changes it next would change it for all cases


def _mutate_lines(content: bytes, rng: random.Random) -> bytes:
    """Return JSON Lines with lines damaged, out of order, or one value changed in all of them."""
    rows = [json.loads(line) for line in content.splitlines()]
    kind = rng.choice(("row", "row", "order", "double", "drop", "column", "column"))
    if kind == "order":
        rng.shuffle(rows)
    elif kind == "double":
        rows = [row for row in rows for _ in range(rng.choice((1, 2)))]
    elif kind == "drop":
        rows = rng.sample(rows, rng.randrange(len(rows)))
    elif kind == "column":
        keys, value = list(_keys(rows[0])), copy.deepcopy(rng.choice(VALUES))
        path, factor = rng.choice(keys), rng.choice((None, None, -1, 0, 1e-30, 1e30))
        for row in rows[rng.choice((0, 0, len(rows) // 2)) :]:
            _change_at(row, path, value, factor)
    else:
        _mutate_tree(rows[rng.randrange(len(rows))], rng)
    return b"".join(_as_bytes(row) + b"\n" for row in rows)


def _change_at(row: Any, path: Path_, value: Any, factor: float | None) -> None:
    for key in path[:-1]:
        row = row[key]
    old = row[path[-1]]
    row[path[-1]] = value if factor is None or not isinstance(old, (int, float)) else old * factor


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container with each of its keys or indices, whatever the depth."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield tree, key
        yield from _places(value)


def _keys(tree: Any, before: Path_ = ()) -> Iterator[Path_]:
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        yield (*before, key)
        yield from _keys(value, (*before, key))


def _as_bytes(tree: Any) -> bytes:
    text = json.dumps(tree)
    for stand_in, deep in STAND_INS.items():
        text = text.replace(json.dumps(stand_in), deep)
    return text.encode()


def _fault_of(folder: Path, seeds: list[RunFolder]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return (
            _fault_of_manifest(folder)
            or _fault_of_report(folder)
            or _fault_of_comparison(folder, seeds)
            or _fault_of_resumption(folder)
        )


def _fault_of_manifest(folder: Path) -> str:
    """Compare the files with the manifest, before the report renews it; a name in it leads out of no folder."""
    try:
        manifest = read_manifest(folder) or {}
        check_manifest(folder, manifest, published_names(folder, read_checkpoint_rows(folder), KEEP_EVERY))
        return "".join(f"a name leads elsewhere: {name!r}" for name in manifest if ".." in Path(name).parts)
    except UserError as error:
        return _unfit(str(error))
    except BaseException as error:
        return f"manifest: {_told(error)}"


def _fault_of_comparison(folder: Path, seeds: list[RunFolder]) -> str:
    """Compare the run with others, and others with it."""
    try:
        run = read_run_folder(folder)
        for answer in (compare(run, seeds).answer(), compare(seeds[0], [run, *seeds[1:]]).answer()):
            json.dumps(answer, allow_nan=False)
            if not answer["sentence"].isprintable():
                return f"unprintable comparison: {answer['sentence']!r}"
    except UserError as error:
        return _unfit(str(error))
    except BaseException as error:
        return f"compare: {_told(error)}"
    return ""


def _fault_of_report(folder: Path) -> str:
    """Judge, and build report and card as the command does."""
    err = io.StringIO()
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            status = main(["report", str(folder)])
        if status not in (0, 2) or (status == 2) != bool(err.getvalue()):
            return f"exit status {status} and {err.getvalue()!r}"
        if status == 0:
            run = read_run_folder(folder)
            verdict = judge(run.run, run.metrics, run.evaluations, run.baselines, run.samples)
            texts = [verdict.sentence, *(item.text for item in verdict.evidence)]
            return "".join(f"unprintable verdict: {text!r}" for text in texts if not text.isprintable())
    except BaseException as error:
        return f"report: {_told(error)}"
    return _unfit(err.getvalue())


def _fault_of_resumption(folder: Path) -> str:
    """Read what a resumption reads first."""
    try:
        record = read_run_record(folder)
        recorded_config(record.config, output_dir=str(folder))
        load_checkpoint(folder, record.run_id, "latest")
    except UserError as error:
        return _unfit(str(error))
    except BaseException as error:
        return f"resume: {_told(error)}"
    return ""


def _unfit(message: str) -> str:
    if len(message) > MAX_MESSAGE:
        return f"a message of {len(message)} characters: {message[:200]!r}"
    return "" if message.replace("\n", "").isprintable() else f"unprintable message: {message!r}"


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in frames
        if f"{os.sep}openddpm{os.sep}" in frame.filename
    ]
    return f"{type(error).__name__}: {str(error)[:200]} at {' '.join(ours[-2:])}"
