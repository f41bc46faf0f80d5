import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from made_up_run import made_up_baselines, made_up_samples, made_up_session, write_made_up_run
from openddpm.errors import UserError
from openddpm.record import writer as writer_module
from openddpm.record.data_record import DataRecord, ImageFinding
from openddpm.record.reader import Preview, RunFolder, list_previews, read_run_folder, read_run_record
from openddpm.record.schema import (
    SCHEMA_VERSION,
    BandScore,
    CheckpointRow,
    DatasetRecord,
    EvaluationPlan,
    EvaluationRow,
    InitialWeightsRecord,
    MetricsRow,
    ModelRecord,
    Progress,
    Resumption,
    RunRecord,
    Verdict,
    exported_weights,
)
from openddpm.record.writer import RUN_FILES, TRAINING_DATA_PICTURE, RunWriter

RUN = RunRecord(
    run_id="3f6c",
    name="faces",
    status="running",
    created="2026-03-14T09:26:53+00:00",
    seed=7,
    evaluation_seed=0,
    total_steps=100,
    config={"learning_rate": 1e-4, "image_column": None},
    dataset=DatasetRecord(
        source="Grüße",
        revision=None,
        split="train",
        num_images=100,
        num_train=90,
        num_heldout=10,
        image_shape=(3, 16, 16),
        label_names=["cat", "dog"],
        sha256="ab",
        num_near_duplicates=0,
        num_compared=10,
    ),
    model=ModelRecord(
        num_parameters=5,
        gflops_per_image=0.2,
        config={"sample_size": 16},
        signal_left=0.0064,
        initial_weights=InitialWeightsRecord(sha256="0" * 64, norm=1.0),
    ),
    progress=Progress(step=30, images_seen=960, epoch=10.5),
    sessions=[made_up_session(2, 0, 20), made_up_session(1, 20, 30, cpu_threads=1)],
    resumptions=[Resumption(step=20, time="2026-03-14T10:00:00+00:00", skipped_checkpoints=["step-30: torn"])],
    chosen_options=["learning_rate"],
    evaluation=EvaluationPlan(num_fixed_samples=16, evaluation_steps=10, early_steps=[]),
)
DATA = DataRecord(
    num_images=99,
    counts={"refused": 1},
    images=[ImageFinding(path="a/b.png", reason="empty file", action="refused")],
)


def metrics(step: int) -> MetricsRow:
    """Return the row of one step."""
    return MetricsRow(
        step=step,
        images_seen=step * 32,
        epoch=step / 3,
        wall_seconds=1.5,
        train_loss=0.1 + 0.2,
        learning_rate=1e-4,
        grad_norm=None,
        ema_decay=0.99,
        images_per_second=80.0,
    )


def evaluation(step: int, weights: Any = "ema") -> EvaluationRow:
    """Return the row of one step, with and without numbers."""
    bands = {"detail": BandScore(loss=0.3, linear=0.4, memorizing=0.1, skill=0.25), "shape": BandScore(loss=None)}
    return EvaluationRow(
        step=step,
        images_seen=step * 32,
        weights=weights,
        heldout_loss=0.1,
        fixed_train_loss=None,
        skill=-0.5,
        bands=bands,
        by_timestep=[0.1, None],
        seconds=0.5,
    )


def checkpoint(step: int) -> CheckpointRow:
    """Return the row of the checkpoint of one step."""
    sha256 = {"ema.safetensors": f"{step:064x}", "unet.safetensors": "ab" * 32}
    return CheckpointRow(step=step, images_seen=step * 32, sha256=sha256, exported_sha256=f"{step:064x}")


def write_run(folder: Path, steps: int = 0) -> RunWriter:
    """Write a run with rows and previews at every step."""
    writer = RunWriter(folder)
    writer.write(RUN)
    for step in range(1, steps + 1):
        writer.append(metrics(step))
        writer.append(evaluation(step, "ema"))
        writer.append(evaluation(step, "raw"))
        writer.append_checkpoint(checkpoint(step))
        for weights in ("ema", "raw"):
            writer.append(made_up_samples(step, weights))
            (folder / "samples" / f"step-{step:08d}-{weights}.png").touch()
    return writer


def steps_in(run: RunFolder) -> tuple[list[int], list[tuple[int, str]], list[int]]:
    """Return the steps of metrics, evaluations and previews."""
    return (
        [row.step for row in run.metrics],
        [(row.step, row.weights) for row in run.evaluations],
        [preview.step for preview in run.previews],
    )


@pytest.mark.parametrize(
    "record",
    [RUN, DATA, metrics(3), evaluation(3), made_up_samples(3, "ema"), checkpoint(3)],
    ids=lambda record: type(record).__name__,
)
def test_records_survive_the_way_through_json(record: BaseModel) -> None:
    """Every record comes back from JSON equal, to the last bit of its numbers."""
    assert type(record).model_validate(json.loads(json.dumps(record.model_dump(), allow_nan=False))) == record


def test_a_run_folder_gives_back_what_was_written(tmp_path: Path) -> None:
    """Run, rows, data record and previews are read as they were written."""
    writer = write_run(tmp_path, steps=2)
    writer.write(DATA)
    writer.write(made_up_baselines())
    run = read_run_folder(tmp_path)
    assert (run.folder, run.run, run.data, run.baselines) == (tmp_path, RUN, DATA, made_up_baselines())
    assert run.metrics == [metrics(1), metrics(2)]
    assert run.evaluations == [evaluation(step, weights) for step in (1, 2) for weights in ("ema", "raw")]
    assert run.checkpoints == [checkpoint(1), checkpoint(2)]
    assert run.run.session == RUN.sessions[1]
    samples = tmp_path / "samples"
    pictures = {"ema": samples / "step-00000002-ema.png", "raw": samples / "step-00000002-raw.png"}
    assert run.previews[1] == Preview(2, pictures)


def test_what_a_run_leaves_has_its_names() -> None:
    """The names that others read by, and that a run folder is known by: docs/run-record.md has them."""
    assert set(RUN_FILES) == {
        *("run.json", "metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "data.json", "baselines.json"),
        *("verdict.json", "samples", "checkpoints", "generated", "model_index.json", "unet", "scheduler"),
        *("report.html", "README.md", "curves.png", "checkpoints.jsonl", "trackers.json", "milestones"),
        *("reference_band.json", "compare.html", "manifest.json", "verification.json", "verify.html"),
    }
    assert TRAINING_DATA_PICTURE == "samples/training-data.png"


def test_a_run_that_has_just_started_is_empty(tmp_path: Path) -> None:
    """Files that a run has not written yet count as empty."""
    write_run(tmp_path)
    run = read_run_folder(tmp_path)
    assert (run.metrics, run.evaluations, run.data, run.previews) == ([], [], None, [])


def test_a_row_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    """A reader that meets half a row takes the rows before it."""
    write_run(tmp_path, steps=2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "ima')
    assert [row.step for row in read_run_folder(tmp_path).metrics] == [1, 2]


def test_unknown_fields_are_passed_over(tmp_path: Path) -> None:
    """Fields that another openddpm of the same schema added, at any depth, do no harm."""
    write_run(tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    content["mood"] = content["dataset"]["mood"] = "fine"
    (tmp_path / "run.json").write_text(json.dumps(content))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**metrics(1).model_dump(), "mood": "fine"}) + "\n")
    assert read_run_record(tmp_path) == RUN
    assert read_run_folder(tmp_path).metrics == [metrics(1)]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A record of a newer schema is refused by its version, even where nothing else of it could be understood."""
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(UserError, match=f"version {SCHEMA_VERSION + 1}; this openddpm reads version 2") as error:
        read_run_record(tmp_path)
    assert "Upgrade" in error.value.hint


@pytest.mark.parametrize(
    ("content", "has"),
    [('{"schema_version": 1}', "schema version 1"), ("{}", "no schema version"), ('{"schema_version": null}', "no")],
)
def test_an_older_schema_is_refused(content: str, has: str, tmp_path: Path) -> None:
    """A record of schema 1, or of none, is refused by its version, with what to do about it."""
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=rf"run\.json' has {has}.*; this openddpm reads version 2") as error:
        read_run_record(tmp_path)
    assert "Train again" in error.value.hint and "--overwrite_output_dir" in error.value.hint


@pytest.mark.parametrize(
    "content", [b"", b'{"schema_ver', b"[]", b"3", b"\xff", b'{"schema_version": "new"}', b'{"schema_version": 2}']
)
def test_a_damaged_run_is_the_users_error(content: bytes, tmp_path: Path) -> None:
    """A run.json that is torn, of another kind or incomplete is a UserError that names it."""
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json' is damaged") as error:
        read_run_record(tmp_path)
    assert error.value.hint
    assert content != b"[]" or "damaged: it: Input should be" in error.value.found


@pytest.mark.parametrize(
    ("name", "field"),
    [("evaluations.jsonl", "heldout_loss"), ("evaluations.jsonl", "fixed_train_loss"), ("metrics.jsonl", "train_loss")],
)
def test_a_loss_below_zero_is_damage(name: str, field: str, tmp_path: Path) -> None:
    """A mean squared error is never negative: a line with such a loss is named."""
    folder = write_made_up_run(tmp_path, rows=4, previews=0, evaluations=6)
    lines = (folder / name).read_text("utf-8").splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), field: -0.1})
    (folder / name).write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(UserError, match=rf"line 2 of '.*{name}' is damaged: {field}: .* greater than or equal to 0"):
        read_run_folder(folder)


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "checkpoints.jsonl", "data.json"]
)
@pytest.mark.parametrize("content", ['{"step": "many"}\n', '{"st\n{}\n'])
def test_damage_in_any_file_is_named(name: str, content: str, tmp_path: Path) -> None:
    """A damaged file of the record is a UserError that names that very file."""
    write_run(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}' is damaged"):
        read_run_folder(tmp_path)


def test_a_folder_without_a_run_is_the_users_error(tmp_path: Path) -> None:
    """A folder that is no run is a UserError that says what is missing."""
    with pytest.raises(UserError, match=r"no run in .*: it has no run\.json"):
        read_run_folder(tmp_path)


@pytest.mark.parametrize("step", [0, 2, 3, 9])
def test_forgetting_keeps_each_step_once(step: int, tmp_path: Path) -> None:
    """After a return to a step and the way forward again, each step stands once in rows and previews."""
    writer = write_run(tmp_path, steps=3)
    writer.forget_after(step)
    kept = list(range(1, min(step, 3) + 1))
    both = [(number, weights) for number in kept for weights in ("ema", "raw")]
    run = read_run_folder(tmp_path)
    assert steps_in(run) == (kept, both, kept)
    assert [(row.step, row.weights) for row in run.samples] == both
    assert [row.step for row in run.checkpoints] == kept
    for number in range(step + 1, 4):
        writer.append(metrics(number))
    assert [row.step for row in read_run_folder(tmp_path).metrics] == [1, 2, 3]


def test_what_is_looked_at_again_is_forgotten(tmp_path: Path) -> None:
    """A checkpoint saved before its evaluation and previews were made leaves those of its own step to be made anew."""
    write_run(tmp_path, steps=3).forget_after(2, evaluation_due=True)
    run = read_run_folder(tmp_path)
    assert [row.step for row in run.metrics] == [1, 2]
    assert {row.step for row in run.evaluations} == {row.step for row in run.samples} == {1}
    assert [row.step for row in run.checkpoints] == [1, 2]


def test_a_checkpoint_has_one_line(tmp_path: Path) -> None:
    """A checkpoint that is noted again, by the same writer or by the one after a kill, keeps its one line."""
    writer = write_run(tmp_path, steps=2)
    for again in (writer, RunWriter(tmp_path)):
        again.append_checkpoint(checkpoint(2))
    again.append_checkpoint(checkpoint(3))
    assert read_run_folder(tmp_path).checkpoints == [checkpoint(1), checkpoint(2), checkpoint(3)]


def test_a_line_without_room_is_written_once_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of a checkpoint that met a full disk is there, once, after the next sync; noting it again adds none."""
    writer = write_run(tmp_path, steps=1)

    def refuse(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as full:
        full.setattr("openddpm.record.writer.append_whole", refuse)
        with pytest.raises(OSError, match="No space"):
            writer.append_checkpoint(checkpoint(2))
        writer.append_checkpoint(checkpoint(2))
    writer.sync_rows()
    writer.append_checkpoint(checkpoint(2))
    assert read_run_folder(tmp_path).checkpoints == [checkpoint(1), checkpoint(2)]


@pytest.mark.parametrize(("step", "is_kept"), [(2, False), (3, True)])
def test_a_verdict_on_what_is_forgotten_goes(step: int, is_kept: bool, tmp_path: Path) -> None:
    """It rests on the rows: after a return to an earlier step it goes with them, and stays where none goes."""
    writer = write_run(tmp_path, steps=3)
    writer.write(Verdict(code="learning", sentence="Learning.", evidence=[], step=3, images_seen=96))
    writer.forget_after(step)
    assert (read_run_folder(tmp_path).verdict is not None) == is_kept


@pytest.mark.parametrize("line", ["{}\n", '{"step": "many"}\n'])
def test_a_line_without_a_step_is_not_forgotten(line: str, tmp_path: Path) -> None:
    """It is no row of any step: it stays, for whoever reads the rows to name it."""
    writer = write_run(tmp_path, steps=1)
    (tmp_path / "metrics.jsonl").write_text(line)
    writer.forget_after(0)
    assert (tmp_path / "metrics.jsonl").read_text() == line


def test_forgetting_mends_a_torn_line(tmp_path: Path) -> None:
    """A row cut off by a crash goes, so that the next one starts on a line of its own; the others stay to the byte."""
    writer = write_run(tmp_path, steps=2)
    path = tmp_path / "metrics.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + b'{"step": 3, "ima')
    writer.forget_after(3)
    assert path.read_bytes() == before
    writer.append(metrics(3))
    assert [row.step for row in read_run_folder(tmp_path).metrics] == [1, 2, 3]


def test_rows_that_could_not_be_written_come_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk a row waits: it is written before the next one, or by the next sync, once, in its order."""
    writer = write_run(tmp_path, steps=1)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(writer_module, "append_whole", refuse)
        for append, row in ((writer.append, metrics(2)), (writer.append, evaluation(2))):
            with pytest.raises(OSError, match="No space"):
                append(row)
    writer.append(metrics(3))
    assert [row.step for row in read_run_folder(tmp_path).metrics] == [1, 2, 3]
    assert [row.step for row in read_run_folder(tmp_path).evaluations] == [1, 1]
    writer.sync_rows()
    writer.sync_rows()
    assert [row.step for row in read_run_folder(tmp_path).evaluations] == [1, 1, 2]


def test_rows_are_synced_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files of rows that there are survive a power loss after a sync, and no other is looked for."""
    synced: list[str] = []
    monkeypatch.setattr(writer_module, "sync_file", lambda path: synced.append(path.name))
    writer = RunWriter(tmp_path)
    writer.append(metrics(1))
    writer.sync_rows()
    assert synced == ["metrics.jsonl"]
    write_run(tmp_path, steps=1).sync_rows()
    assert sorted(synced[1:]) == ["checkpoints.jsonl", "evaluations.jsonl", "metrics.jsonl", "samples.jsonl"]


def test_other_pictures_are_left_alone(tmp_path: Path) -> None:
    """Pictures that are no previews, whatever their names, are neither listed nor removed."""
    writer = write_run(tmp_path, steps=1)
    names = [
        "step-final.png",
        "step-00000001-best.png",
        "step-1-2-3-ema.png",
        "training-data.png",
        "step-9-ema.png.bak",
    ]
    for name in names:
        (tmp_path / "samples" / name).touch()
    assert [preview.step for preview in list_previews(tmp_path)] == [1]
    writer.forget_after(0)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == sorted(names)


def test_previews_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    """Previews are sorted by step as numbers, and one kind of weights may be missing."""
    write_run(tmp_path)
    for name in ("step-00000010-ema.png", "step-100000000-ema.png", "step-00000009-raw.png"):
        (tmp_path / "samples" / name).touch()
    previews = list_previews(tmp_path)
    assert [preview.step for preview in previews] == [9, 10, 100_000_000]
    assert list(previews[0].pictures) == ["raw"] and previews[0].shown.name == "step-00000009-raw.png"


def test_weights_have_names_that_files_can_have(tmp_path: Path) -> None:
    """Averages come before the raw weights, by name; a name that leads elsewhere, or is another file's, is refused."""
    write_run(tmp_path, steps=1)
    (tmp_path / "samples" / "step-00000001-ema-0.050.png").touch()
    assert list(list_previews(tmp_path)[0].pictures) == ["ema", "ema-0.050", "raw"]
    assert exported_weights(["raw", "ema-0.1", "ema-0.050"]) == "ema-0.050" and exported_weights(["raw"]) == "raw"
    assert evaluation(1, "ema-0.050").weights == "ema-0.050"
    for name in ("", "unet", "ema-", "ema-../x", "ema/x", "EMA", "raw-1", "ema-1\n", "ema-" + "0" * 25):
        with pytest.raises(ValueError, match="weights"):
            evaluation(1, name)


def test_records_are_frozen() -> None:
    """A record cannot be changed in place: what is read is what stands in the file."""
    with pytest.raises(ValueError, match="frozen"):
        RUN.status = "finished"


def test_numbers_that_are_not_finite_are_never_written(tmp_path: Path) -> None:
    """A loss that is no number is refused, for it would make a line that no JSON reader takes."""
    writer = write_run(tmp_path, steps=1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.append(metrics(2).model_copy(update={"train_loss": float("nan")}))
    assert [row.step for row in read_run_folder(tmp_path).metrics] == [1]


def test_a_damaged_verdict_counts_as_none(tmp_path: Path) -> None:
    """It can be reached again from the rest, so that it stops neither a report nor a resumption."""
    folder = write_made_up_run(tmp_path / "run")
    (folder / "verdict.json").write_text('{"code": "lear')
    assert read_run_folder(folder).verdict is None


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        ((0.002, 0.4), "0 1"),
        ((-0.01, 1.03), "0 1"),
        ((-0.98, 0.93), "-1 1"),
        ((-1.04, 1.01), "-1 1"),
        ((-0.2, 0.3), "-0.2 0.3"),
        ((0.3, 251.7), "0 255"),
        ((-3.5, 257.2), "0 255"),
        ((0, 260), "0 511"),
        ((-7, 200), "-7 200"),
        ((-7.5, 783.5), "-7.5 783.5"),
        ((12.5, 40.5), "12.5 40.5"),
    ],
)
def test_usual_ranges_are_suggested(found: tuple[float, float], hint: str) -> None:
    """Numbers that nearly fill 0..1, -1..1 or 0..255 get that range suggested, and others their own."""
    data = DataRecord(num_images=1, counts={}, images=[], raw_min=found[0], raw_max=found[1])
    assert data.range_option == f"--pixel_range {hint}"
