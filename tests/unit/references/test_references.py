import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from made_up_run import write_made_up_run
from openddpm import references
from openddpm.errors import UserError
from openddpm.record.reader import log_spaced
from openddpm.references import builtin_names, open_reference, open_runs, sources

MAX_BYTES = 150_000  # of a seed, and of a film strip
ABOUT = {
    **{"name": "small", "text": "Made up.", "made": "2026-11-28", "device": "a CPU", "cpu_threads": 2},
    **{"version": "0.1.0", "commit": "0123abc"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up run, which no test changes."""
    return write_made_up_run(tmp_path_factory.mktemp("runs") / "run", steps=40, rows=4, previews=2, resolution=8)


def copy_of(run: Path, folder: Path, **changes: Any) -> Path:
    """Copy a run with changes to run.json: of its options, its own fields, or deeper ones as section__field."""
    shutil.copytree(run, folder)
    record = json.loads((folder / "run.json").read_text("utf-8"))
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        holder = record[section] if section else record if name in ("status", "resumptions") else record["config"]
        holder[field] = value
    record["seed"] = record["config"]["seed"]
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    return folder


def test_a_source_is_a_run_folder_or_a_folder_of_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run folder is one run, a folder of run folders all of them by name; other folders and files are ignored."""
    for name in ("b", "a"):
        copy_of(run, tmp_path / "runs" / name)
    (tmp_path / "runs" / "logs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("x", "utf-8")
    assert [one.folder.name for one in open_runs(str(tmp_path / "runs"))] == ["a", "b"]
    assert [one.folder for one in open_runs(str(tmp_path / "runs" / "b"))] == [tmp_path / "runs" / "b"]
    monkeypatch.chdir(tmp_path)  # runs/a could be a name on the Hub, too
    assert [one.folder for one in open_runs("runs/a")] == [Path("runs/a")]


def test_what_is_no_source_is_the_users_error(run: Path, tmp_path: Path) -> None:
    """A file, a folder without runs, a name that is none and a damaged run are each told as what they are."""
    (tmp_path / "empty" / "one").mkdir(parents=True)
    (tmp_path / "empty" / "two").mkdir()
    damaged = copy_of(run, tmp_path / "damaged")
    (damaged / "metrics.jsonl").write_text("{\n", "utf-8")
    for source, message in {
        str(run / "run.json"): "is a file, not a folder",
        str(tmp_path / "empty"): "none of its 2 sub-folders has one",
        str(tmp_path / "missing"): "is neither a folder, nor a built-in reference, nor a name on the Hub",
        "..": "no run in '..'",
        "": "is neither a folder",
        "~nobody-of-this-name/run": "is neither a folder",
        str(damaged): "line 1 of .*metrics.jsonl' is damaged",
    }.items():
        with pytest.raises(UserError, match=message):
            open_runs(source)


def test_a_folder_that_is_not_there_is_not_the_hubs_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to nothing is called so; what may be a folder or a name on the Hub has a hint for both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to("gone")
    with pytest.raises(UserError, match="'runs/mine' is a link to 'gone', where nothing is"):
        open_reference("runs/mine")

    def fetch(source: str, whole: bool) -> None:
        raise UserError("could not fetch it", "Check the connection.")

    monkeypatch.setattr("openddpm.publishing.fetch.fetch_record", fetch)
    with pytest.raises(UserError) as error:
        open_reference("runs/yours")
    assert error.value.hint == "If you mean a folder, check its path; if a run on the Hub: Check the connection."


def test_a_reference_is_its_runs_in_the_order_of_their_seeds(run: Path, tmp_path: Path) -> None:
    """Runs that differ in their seeds, and in options that change no number, are one reference."""
    for seed, name in ((10, "a"), (2, "b"), (0, "c")):
        copy_of(run, tmp_path / "set" / name, seed=seed, output_dir=f"elsewhere/{name}", checkpointing_steps=seed + 1)
    (tmp_path / "set" / "reference.json").write_text(json.dumps(ABOUT), "utf-8")
    (tmp_path / "set" / "film.png").write_bytes(b"a picture")
    reference = open_reference(str(tmp_path / "set"))
    assert (reference.name, [one.run.seed for one in reference.runs]) == ("set", [0, 2, 10])
    assert reference.about is not None and reference.about.commit == "0123abc"
    assert (reference.film, reference.notes) == (tmp_path / "set" / "film.png", [])
    single = open_reference(str(run))
    assert (single.name, len(single.runs), single.about, single.film) == ("run", 1, None, None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 0.5}, "learning_rate: .* and 0.5"),
        ({"evaluation_seed": 7}, "evaluation_seed: 0 and 7"),
        ({"dataset__sha256": "ab" * 32}, "sha256 of the images: 9f9f9f9f9f9f and abababababab"),
        ({"model__config": {"block_out_channels": [8]}}, r"block_out_channels of the UNet: 32 64 64 and 8"),
        ({"gradient_accumulation_steps": 2}, "images per step: 32 and 64"),
        ({"evaluation__num_fixed_samples": 48}, "fixed samples: 2048 and 48"),
        ({"dataset__num_heldout": 9}, "held-out images: 512 and 9"),
        ({"an_option_of_later": True}, "an_option_of_later: none and yes"),
    ],
)
def test_runs_that_differ_in_more_are_refused(changes: dict[str, Any], told: str, run: Path, tmp_path: Path) -> None:
    """Runs with another option, image, evaluation, UNet or batch are no reference, and what differs is told."""
    copy_of(run, tmp_path / "first", seed=0)
    copy_of(run, tmp_path / "other", seed=1, **changes)
    with pytest.raises(UserError, match=rf"first and other differ in\n  {told}"):
        open_reference(str(tmp_path))


def test_many_differences_are_cut_short(run: Path, tmp_path: Path) -> None:
    """Of many differences the first five are listed, and how many more there are."""
    copy_of(run, tmp_path / "first")
    others = {"train_batch_size": 7, "learning_rate": 1.0, "adam_beta1": 0.1, "adam_beta2": 0.2, "lr_warmup_steps": 9}
    copy_of(run, tmp_path / "other", seed=1, **others)  # and so the images per step
    with pytest.raises(UserError) as error:
        open_reference(str(tmp_path))
    assert len(error.value.found.splitlines()) == 7
    assert error.value.found.endswith("\n  and 1 more")


def test_of_one_seed_the_run_that_got_furthest_is_kept(run: Path, tmp_path: Path) -> None:
    """Of several runs with one seed the one with the most images stays, and a note says which were left out."""
    for name, images in (("a", 320), ("b", 1280), ("c", 640)):
        copy_of(run, tmp_path / name, progress__images_seen=images)
    reference = open_reference(str(tmp_path))
    assert [one.folder.name for one in reference.runs] == ["b"]
    assert reference.notes == [
        "of 3 runs with seed 0, b is taken, at 1,280 images; left out: c (at 640), a (at 320)",
    ]


def test_runs_in_training_are_left_out_of_many(run: Path, tmp_path: Path) -> None:
    """Beside three finished runs one in training is left out, which would cut the band; beside two it is taken."""
    for seed in range(4):
        copy_of(run, tmp_path / f"seed-{seed}", seed=seed, status="running" if seed == 1 else "finished")
    reference = open_reference(str(tmp_path))
    assert [one.run.seed for one in reference.runs] == [0, 2, 3]
    assert reference.notes == ["left out, since they have not finished: seed-1"]
    two = open_reference(*(str(tmp_path / f"seed-{seed}") for seed in range(3)))
    assert ([one.run.seed for one in two.runs], two.notes) == ([0, 1, 2], [])


def test_a_run_without_its_evaluations_is_named(run: Path, tmp_path: Path) -> None:
    """A finished run whose evaluations.jsonl is cut is left out with a note, or named if too few runs remain."""
    for seed in range(4):
        copy_of(run, tmp_path / f"seed-{seed}", seed=seed)
    file = tmp_path / "seed-2" / "evaluations.jsonl"
    lines = file.read_text("utf-8").splitlines(keepends=True)
    for content in ("".join(lines[:1]), ""):
        file.write_text(content, "utf-8")
        reference = open_reference(str(tmp_path))
        assert [one.run.seed for one in reference.runs] == [0, 1, 3]
        assert reference.notes == ["left out, since evaluations.jsonl has no end: seed-2"]
    shutil.rmtree(tmp_path / "seed-0")
    with pytest.raises(UserError, match=r"seed-2.evaluations\.jsonl' has no line, though the run is finished"):
        open_reference(str(tmp_path))


def test_runs_that_were_changed_on_the_way_are_named(run: Path, tmp_path: Path) -> None:
    """A reference's run that was resumed with other options is taken, with a note."""
    change = {"step": 9, "time": "2026-03-14T09:29:40+00:00", "changes": ["learning_rate: 0.1, but 0.2 in the run"]}
    copy_of(run, tmp_path / "changed", resumptions=[change])
    assert open_reference(str(tmp_path)).notes == [
        "changed was changed or rolled back on the way: its run.json has what and when"
    ]


def test_built_in_references_open_by_name(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A built-in reference is opened by its name alone, wins over a folder of that name, and says so."""
    for seed in (0, 1):
        copy_of(run, tmp_path / "builtin" / "small" / f"seed-{seed}", seed=seed)
    (tmp_path / "builtin" / "small" / "reference.json").write_text(json.dumps(ABOUT), "utf-8")
    for module in (references, sources):
        monkeypatch.setattr(module, "BUILT_IN", tmp_path / "builtin")
    monkeypatch.chdir(tmp_path)
    assert builtin_names() == ["small"]
    assert open_reference("small").notes == []
    copy_of(run, tmp_path / "small", learning_rate=0.5)
    reference = open_reference("small")
    assert (reference.name, [one.run.seed for one in reference.runs]) == ("small", [0, 1])
    assert "the folder of that name here is ./small" in reference.notes[0]
    assert open_reference("./small").runs[0].run.config["learning_rate"] == 0.5
    with pytest.raises(UserError, match="neither a folder") as error:
        open_reference("smal")
    assert "did you mean 'small'" in error.value.hint


def test_many_sources_are_one_reference(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of folders is named together; without one, it is said what may be given."""
    monkeypatch.chdir(tmp_path)
    names = [f"a-run-with-the-seed-{seed}" for seed in range(12)]
    for seed, name in enumerate(names):
        copy_of(run, tmp_path / name, seed=seed)
    reference = open_reference(*names)
    assert (reference.name, len(reference.runs), reference.about) == (" ".join(names), 12, None)
    with pytest.raises(UserError, match="no reference is given"):
        open_reference()


def test_a_damaged_reference_file_is_the_users_error(run: Path, tmp_path: Path) -> None:
    """A reference.json without its fields is named, with what is wrong."""
    copy_of(run, tmp_path / "a")
    (tmp_path / "reference.json").write_text("{}", "utf-8")
    with pytest.raises(UserError, match=r"reference.json' is damaged: name"):
        open_reference(str(tmp_path))


@pytest.mark.parametrize("name", builtin_names())
def test_the_references_that_ship_are_whole_and_small(name: str) -> None:
    """Each built-in reference opens, is finished, tells no path of the machine it was made on, and is small."""
    reference = open_reference(name)
    assert reference.about is not None and reference.about.name == name
    assert reference.film is not None and reference.film.stat().st_size <= MAX_BYTES
    for one in reference.runs:
        files = [path for path in one.folder.rglob("*") if path.is_file()]
        assert one.run.status == "finished" and len(one.previews) == 1 and one.verdict is not None
        assert {path.suffix for path in files} == {".json", ".jsonl", ".png"}
        assert sum(path.stat().st_size for path in files) <= MAX_BYTES
        texts = [value for value in one.run.config.values() if isinstance(value, str)]
        assert not [text for text in texts if Path(text).is_absolute()]


def test_steps_are_spread_over_their_logarithm() -> None:
    """A choice of steps holds the first and the last, is dense early, and has no step twice."""
    assert log_spaced(range(1, 1001), 4) == [1, 10, 100, 1000]
    assert log_spaced([5, 3, 9, 3], 8) == [3, 5, 9]
    assert log_spaced([0, 98, 99, 100], 3) == [0, 98, 100]
    assert log_spaced([], 3) == []
