"""Whatever of a record follows from its options or its other lines is checked: each number, changed alone, is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tampering import write_rows

from openddpm.record.files import read_json_lines
from openddpm.record.reader import read_run_folder
from openddpm.references import open_runs
from openddpm.verification.checker import Checker
from openddpm.verification.record_lines import check_lines
from openddpm.verification.scores import check_scores

Value = dict[str, Any]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Return a copy of the record of a published run: a line every 10 steps, without weights."""
    return Path(shutil.copytree(open_runs("digits-8")[0].folder, tmp_path / "run"))


def problems(folder: Path) -> list[str]:
    """Return what does not fit in a record."""
    return check_lines(read_run_folder(folder)).problems


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file, or the rows of a JSON Lines file."""
    if path.suffix == ".json":
        value = json.loads(path.read_text("utf-8"))
        change(value)
        path.write_text(json.dumps(value), "utf-8")
    else:
        rows = read_json_lines(path)
        change(rows)
        write_rows(path, rows)


def holder(value: Any, keys: str) -> tuple[Any, Any]:
    """Return what holds the entry that `keys` name, separated by dots, and its key."""
    *path, last = (int(key) if key.lstrip("-").isdigit() else key for key in keys.split("."))
    for key in path:
        value = value[key]
    return value, last


def increase(value: Any, keys: str) -> None:
    """Make a number larger by a thousandth, or by 1 if it is whole."""
    held, key = holder(value, keys)
    held[key] = held[key] + 1 if isinstance(held[key], int) else held[key] * 1.001


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        *(("metrics.jsonl", f"20.{name}") for name in ("step", "images_seen", "epoch", "learning_rate", "ema_decay")),
        *(
            ("evaluations.jsonl", f"3.{name}")
            for name in ("step", "images_seen", "heldout_loss", "skill", "train_skill")
        ),
        *(("evaluations.jsonl", f"3.bands.shape.{name}") for name in ("loss", "linear", "memorizing", "skill")),
        *(("evaluations.jsonl", f"3.by_timestep.{index}") for index in (0, -1)),
        *(("samples.jsonl", f"1.{name}") for name in ("step", "images_seen")),
        *(("checkpoints.jsonl", f"-1.{name}") for name in ("step", "images_seen")),
        *(("baselines.json", f"{name}.-1") for name in ("linear", "linear_train", "memorizing_train", "shares")),
        *(("run.json", name) for name in ("seed", "evaluation_seed", "total_steps", "progress.step")),
        *(("run.json", f"dataset.{name}") for name in ("num_train", "num_heldout", "num_images")),
        *(("run.json", f"evaluation.{name}") for name in ("num_fixed_samples", "evaluation_steps", "early_steps.1")),
        *(("run.json", f"config.{name}") for name in ("max_train_steps", "train_batch_size", "learning_rate")),
        *(("run.json", f"config.{name}") for name in ("logging_steps", "ema_power", "lr_warmup_steps")),
        *(
            ("run.json", name)
            for name in ("previews.steps.0", "sessions.0.first_step", "model.config.layers_per_block")
        ),
        *(("verdict.json", name) for name in ("step", "images_seen", "skill")),
    ],
)
def test_each_number_that_follows_from_others_is_checked(record: Path, file: str, keys: str) -> None:
    """A number that is off by a thousandth, or by 1, does not fit."""
    assert problems(record) == []
    edit(record / file, lambda value: increase(value, keys))
    assert problems(record)


@pytest.mark.parametrize("name", ["code", "sentence", "weights"])
def test_the_words_of_a_verdict_are_checked(record: Path, name: str) -> None:
    """Another verdict than the record gives does not fit."""
    others = {"code": "plateaued", "sentence": "It learns.", "weights": "ema"}
    edit(record / "verdict.json", lambda verdict: verdict.update({name: others[name]}))
    assert len(problems(record)) == 1


@pytest.mark.parametrize("file", ["metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "checkpoints.jsonl"])
@pytest.mark.parametrize("what", ["removed", "twice", "swapped"])
def test_lines_are_neither_missing_nor_out_of_order(record: Path, file: str, what: str) -> None:
    """A line that is missing at the end, there twice, or before the one that comes first does not fit."""

    def change(rows: list[Value]) -> None:
        if what == "removed":
            del rows[-1]
        elif what == "twice":
            rows.append(rows[-1])
        else:
            rows[0], rows[-1] = rows[-1], rows[0]

    edit(record / file, change)
    assert problems(record)


@pytest.mark.parametrize("keys", ["by_timestep.2", "heldout_loss", "skill", "train_skill", "bands.detail.loss"])
def test_a_score_that_is_left_out_is_missed(record: Path, keys: str) -> None:
    """A loss or a skill that is null where there are losses to compute it from does not fit."""

    def change(rows: list[Value]) -> None:
        held, key = holder(rows[3], keys)
        held[key] = None

    edit(record / "evaluations.jsonl", change)
    assert problems(record)


def test_a_band_that_is_left_out_is_missed(record: Path) -> None:
    """Each evaluation has all bands."""
    edit(record / "evaluations.jsonl", lambda rows: rows[2]["bands"].pop("layout"))
    assert problems(record)


def test_weights_that_are_not_finite_have_no_scores(record: Path) -> None:
    """Where weights are not finite, no loss of all timesteps is right."""

    def lost(rows: list[Value]) -> None:
        row = rows[2]
        row["by_timestep"] = [None] * len(row["by_timestep"])
        for name in ("heldout_loss", "fixed_train_loss", "skill", "train_skill", "skill_error"):
            row[name] = None
        for band in row["bands"].values():
            band |= {"loss": None, "skill": None}

    edit(record / "evaluations.jsonl", lost)
    assert not [text for text in problems(record) if "evaluations.jsonl" in text]
    edit(record / "evaluations.jsonl", lambda rows: rows[2].update(skill=0.5))
    assert [text for text in problems(record) if "skill of evaluations.jsonl" in text]


def test_time_never_goes_back(record: Path) -> None:
    """A line that says it was written before the one above it does not fit."""
    edit(record / "metrics.jsonl", lambda rows: rows[5].update(wall_seconds=rows[4]["wall_seconds"] - 1e-3))
    assert problems(record) == ["metrics.jsonl: wall_seconds decreases at step 60"]


@pytest.mark.parametrize(("name", "value"), [("status", "running"), ("status", "interrupted")])
def test_a_run_that_stopped_need_not_have_its_last_lines(record: Path, name: str, value: str) -> None:
    """Of a run that did not finish, lines have to be there up to its progress alone, but for what is due at its end."""
    step = 400

    def cut(rows: list[Value]) -> None:
        rows[:] = [row for row in rows if row["step"] <= step]

    for file in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "checkpoints.jsonl"):
        edit(record / file, cut)
    edit(record / "run.json", lambda run: run.update({name: value}) or run["progress"].update(step=step))
    (record / "verdict.json").unlink()
    assert problems(record) == []


def score_problems(record: Path, **changes: Any) -> list[str]:
    """Return what does not fit in an evaluation of a run without held-out images, changed as asked."""
    run, checker = read_run_folder(record), Checker()
    assert run.baselines is not None
    row = run.evaluations[3]
    shares, losses = run.baselines.shares, [loss or 0.0 for loss in row.by_timestep]
    total = sum(share * loss for share, loss in zip(shares, losses, strict=True)) / sum(shares)
    floor = sum(share * loss for share, loss in zip(shares, run.baselines.linear_train, strict=True)) / sum(shares)
    scores = {"heldout_loss": None, "skill": None, "fixed_train_loss": total, "train_skill": 1 - total / floor}
    check_scores(checker, row.model_copy(update=scores | changes), run.baselines, has_heldout=False)
    return checker.problems


def test_scores_without_held_out_images_are_those_of_training_images(record: Path) -> None:
    """The loss of all timesteps is then that of the training images, and there is none of held-out ones."""
    assert score_problems(record) == []
    assert len(score_problems(record, heldout_loss=0.1)) == 1
    assert len(score_problems(record, skill=0.1)) == 1
    assert len(score_problems(record, fixed_train_loss=0.9)) == 2  # and its skill


def test_an_evaluation_has_all_groups_of_timesteps(record: Path) -> None:
    """A group less than baselines.json has cannot be compared with it."""
    found = score_problems(record, by_timestep=[0.1, 0.2])
    assert len(found) == 1 and "2 groups of timesteps" in found[0]


def test_a_problem_names_what_it_is_about(record: Path) -> None:
    """The first line that does not fit is told with what was found and what was expected; more of its kind are not."""

    def halve(rows: list[Value]) -> None:
        for row in rows[4:]:
            row["learning_rate"] *= 0.5

    edit(record / "metrics.jsonl", halve)
    assert problems(record) == ["learning_rate of metrics.jsonl: 0.00392 at step 50, 0.00784 expected"]


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("linear", lambda values: values[:-1], "different lengths"),
        ("linear_train", lambda values: [0.0, *values[1:]], "not positive"),
        ("shares", lambda values: [*values[:-1], -1.0], "not positive"),
    ],
)
def test_baselines_that_nothing_can_be_compared_with_are_told(
    record: Path, name: str, change: Callable[[list[float]], list[float]], problem: str
) -> None:
    """Lists of other lengths, or numbers that cannot be divided by, are told, and no score is computed from them."""
    edit(record / "baselines.json", lambda value: value.update({name: change(value[name])}))
    (record / "verdict.json").unlink()
    found = problems(record)
    assert len(found) == 1 and problem in found[0]


def test_lines_that_are_missing_or_too_many_are_named(record: Path) -> None:
    """The first few steps are named, and the number of the others."""

    def move(rows: list[Value]) -> None:
        for row in rows[10:16]:
            row["step"] += 1

    edit(record / "metrics.jsonl", move)
    found = problems(record)
    assert "metrics.jsonl: no line of steps 110, 120, 130 and 140 and 2 more" in found
    assert any(text.startswith("metrics.jsonl: a line of steps 111, 121, 131 and 141 and 2 more, at") for text in found)


def test_one_line_that_is_missing_is_named(record: Path) -> None:
    """A single step is named alone."""
    edit(record / "metrics.jsonl", lambda rows: rows.pop(3))
    assert problems(record) == ["metrics.jsonl: no line of step 40"]


def test_all_numbers_are_counted(record: Path) -> None:
    """Each number that is computed again counts: five at least of each of 80 logged lines."""
    whole = check_lines(read_run_folder(record)).num_numbers
    edit(record / "metrics.jsonl", lambda rows: rows[-1].update(wall_seconds=0.0))  # a problem counts as one
    assert check_lines(read_run_folder(record)).num_numbers == whole + 1 > 5 * 80


def test_the_number_of_steps_follows_from_the_epochs(record: Path) -> None:
    """Without --max_train_steps, it is that of the epochs, the last step being a whole one."""
    run = json.loads((record / "run.json").read_text("utf-8"))
    batch = run["config"]["train_batch_size"]

    def by_epochs(value: Value) -> None:
        value["config"] |= {"max_train_steps": None, "num_epochs": 3}
        value["total_steps"] = value["progress"]["step"] = -(-3 * value["dataset"]["num_train"] // batch)

    edit(record / "run.json", by_epochs)
    assert not any("by the options" in text for text in problems(record))
    edit(record / "run.json", lambda value: value.update(total_steps=value["total_steps"] - 1))
    assert any("by the options" in text for text in problems(record))


@pytest.mark.parametrize(
    ("changes", "since"),
    [
        ([], 0),
        (["number of processes: 2, but 1 in the run"], 0),
        (["number of processes: 2, but 1 in the run", "images per step: 64, but 32 in the run"], 400),
        (["learning_rate: 0.1, but 0.2 in the run"], 400),
    ],
)
def test_lines_before_a_change_of_options_are_not_checked(record: Path, changes: list[str], since: int) -> None:
    """The record keeps only the options after a change; more processes with the same batch are no change."""
    session = json.loads((record / "run.json").read_text("utf-8"))["sessions"][0] | {"first_step": 400}
    entry = {"step": 400, "time": session["time"], "changes": changes}

    def resumed(run: Value) -> None:
        run["resumptions"] = [entry]
        run["sessions"].append(session)

    edit(record / "run.json", resumed)
    assert check_lines(read_run_folder(record)).since == since and problems(record) == []
    edit(record / "metrics.jsonl", lambda rows: rows[5].update(learning_rate=0.1))
    assert len(problems(record)) == (since == 0)


def test_baselines_are_there_with_evaluations(record: Path) -> None:
    """Every run that was evaluated has baselines, and none of held-out images where there are none."""
    (record / "verdict.json").unlink()
    (record / "baselines.json").unlink()
    assert problems(record) == ["baselines.json is missing, which every run writes"]


def test_baselines_of_held_out_images_need_such_images(record: Path) -> None:
    """A run without held-out images has no losses of the memorizing denoiser on them."""

    def without(run: Value) -> None:
        run["dataset"] |= {"num_train": run["dataset"]["num_images"], "num_heldout": 0}

    edit(record / "run.json", without)
    assert "baselines.json: held-out losses without held-out images" in problems(record)
    edit(record / "baselines.json", lambda value: value.update(memorizing_heldout=[]))
    assert not any(text.startswith("baselines.json") for text in problems(record))
