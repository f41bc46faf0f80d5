"""What benchmarks/make_references.py leaves in the package."""

import json
import subprocess
from pathlib import Path

import make_references
import pytest

from made_up_run import write_made_up_run
from openddpm.references import open_reference


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Made-up runs of two seeds, with weights, and absolute paths among their options."""
    folders = [tmp_path / "runs" / f"seed-{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        paths = {"output_dir": str(folder), "logging_dir": "logs", "cache_dir": str(tmp_path / "cache")}
        write_made_up_run(folder, steps=400, rows=20, previews=9, config={**paths, "seed": seed})
        record = json.loads((folder / "run.json").read_text("utf-8"))
        (folder / "run.json").write_text(json.dumps({**record, "seed": seed}), "utf-8")
        (folder / "unet").mkdir()
        (folder / "unet" / "weights.safetensors").write_bytes(b"weights")
        folder.with_name(f"{folder.name}.commit").write_text("0123abc")
    return folders


def test_the_record_is_published_without_weights_and_paths(folders: list[Path], tmp_path: Path) -> None:
    """A reference holds records with one preview each, no absolute path, a film strip, and replaces an older one."""
    target = tmp_path / "builtin" / "small"
    (target / "seed-7").mkdir(parents=True)
    make_references.publish("small", folders, target)
    reference = open_reference(str(target))
    assert [run.folder.name for run in reference.runs] == ["seed-0", "seed-1"]
    assert reference.about is not None and reference.about.commit == "0123abc"
    assert reference.film is not None
    for run, folder in zip(reference.runs, folders, strict=True):
        assert [run.run.config[name] for name in ("output_dir", "logging_dir", "cache_dir")] == [
            folder.name,
            "logs",
            "cache",
        ]
        assert [preview.shown.name for preview in run.previews] == ["step-00000400-ema.png"]
        assert (run.folder / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
        assert not list(run.folder.rglob("*.safetensors"))
    assert not [path for path in target.rglob("*.json*") if str(tmp_path) in path.read_text("utf-8")]
    assert [path.name for path in target.parent.iterdir()] == ["small"]


def test_a_record_that_takes_too_much_room_is_refused(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed above the limit ends the command, and leaves the reference that was there."""
    monkeypatch.setattr(make_references, "MAX_BYTES", 5_000)
    target = tmp_path / "builtin" / "small"
    (target / "seed-7").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"bytes, more than 5,000"):
        make_references.publish("small", folders, target)
    assert [path.name for path in target.iterdir()] == ["seed-7"]


def test_a_finished_seed_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run of the recipe is left alone, one cut off is resumed, one of another recipe refused."""
    commands: list[list[str]] = []

    def note(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        commands.append([f"{env['OMP_NUM_THREADS']} threads", *command])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", note)
    finished = write_made_up_run(tmp_path / "seed-0", steps=10, rows=1, previews=1)
    make_references.train("avatars-16", 0, finished)
    assert commands == []
    cut_off = write_made_up_run(tmp_path / "cut-off", steps=10, rows=1, previews=1, status="interrupted")
    make_references.train("avatars-16", 0, cut_off)
    assert commands[0][0] == "2 threads"
    assert commands[0][-3:] == ["--no-follow", "--resume_from_checkpoint", "latest"]
    with pytest.raises(SystemExit, match=r"another recipe; remove it: .*seed: 3, but 0 in the run"):
        make_references.train("avatars-16", 3, finished)
