"""Record files that no run wrote: each is told apart from a sound one by a message that a terminal can show."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from made_up_run import write_made_up_run
from openddpm.errors import UserError
from openddpm.record.reader import read_run_folder, read_run_record

RECORDS = (
    "run.json",
    "metrics.jsonl",
    "evaluations.jsonl",
    "samples.jsonl",
    "checkpoints.jsonl",
    "baselines.json",
    "data.json",
)
NOT_JSON = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep in an object": b'{"step": ' + b"[" * 900 + b"]" * 900 + b"}",
    "NaN": b'{"step": NaN}',
    "infinity": b'{"step": -Infinity}',
    "half a character": b'{"step": "\\ud800"}',
    "no UTF-8": b'{"step": "\xff"}',
    "many digits": b'{"step": 1' + b"0" * 5000 + b"}",
    "control characters": b'{"step": "\x1b[2J"}',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with all its records."""
    return write_made_up_run(tmp_path / "run", steps=20, rows=4, previews=1, evaluations=4, findings=[])


def change(path: Path, place: tuple[Any, ...], value: Any) -> None:
    """Put `value` in a record, in the last line of several."""
    *before, text = path.read_text("utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
    record = inner = json.loads(text)
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text("\n".join([*before, json.dumps(record)]) + "\n", "utf-8")


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize("name", RECORDS)
def test_what_json_may_not_hold_is_the_users_error(name: str, content: bytes, folder: Path) -> None:
    """Nesting without end, numbers that are none and broken text are a UserError that names the file, in any record."""
    (folder / name).write_bytes(content + b"\n")
    with pytest.raises(UserError, match=f"{name}' is damaged: ") as error:
        read_run_folder(folder)
    assert str(error.value).replace("\n", "").isprintable()
    assert len(error.value.found) < 500


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [
        ("run.json", ("progress", "step"), -1, "progress.step: Input should be greater than or equal to 0"),
        ("run.json", ("dataset", "num_train"), 10**400, "dataset.num_train: Input should be less than or equal to 9"),
        ("run.json", ("sessions",), [], "sessions: List should have at least 1 item"),
        ("run.json", ("sessions", 0, "environment", "cpu_threads"), 0, "sessions.0.environment.cpu_threads: Input"),
        ("checkpoints.jsonl", ("sha256",), {"\x1b[2J": 1}, "sha256.'\\x1b[2J': Input should be"),
        ("run.json", ("total_steps",), "many", "total_steps: Input should be a valid integer"),
        ("run.json", ("config", "learning_rate"), "0.1", "learning_rate: found '0.1'"),
        ("run.json", ("config", "max_grad_norm"), [1], "max_grad_norm: found"),
        ("run.json", ("config", "dataset"), 7 * [100_000 * "x"], "dataset: found"),
        ("run.json", ("config", "\x1b[2J"), 1, r"'\x1b[2J' is not the name of an option"),
        ("run.json", ("config", 1001 * "x"), 1, "config: 'xxx"),
        ("metrics.jsonl", ("images_seen",), 2**53 + 1, "line 4 of "),
        ("metrics.jsonl", ("train_loss",), None, "train_loss: Input should be a valid number"),
        ("evaluations.jsonl", ("by_timestep", 3), -1e999, "line 8 of "),
        ("evaluations.jsonl", ("bands", "\x1b[2J"), {}, "bands.'\\x1b[2J'.[key]: Input should be"),
        ("samples.jsonl", ("statistics", "colour"), 3, "statistics.colour: Input should be"),
        ("samples.jsonl", ("statistics", "\x1b[2J"), {}, "statistics.'\\x1b[2J'.[key]: Input should be"),
        ("baselines.json", ("shares", 0), 1e999, "shares.0: Input should be"),
        ("data.json", ("counts",), {"upscaled": -3}, "counts.upscaled: Input should be greater than or equal to 0"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(("json", "jsonl")) else "",
)
def test_values_that_no_run_has_are_named(name: str, place: Any, value: Any, words: str, folder: Path) -> None:
    """A value of another kind, below zero, beyond counting or infinite is told in one short line, with its place."""
    text = {1e999: "1e999", -1e999: "-1e999"}.get(value, "") if isinstance(value, float) else ""
    change(folder / name, place, "STAND-IN" if text else value)
    if text:
        content = (folder / name).read_text("utf-8")
        (folder / name).write_text(content.replace('"STAND-IN"', text), "utf-8")
        words = "Input should be a finite number"
    with pytest.raises(UserError, match=f"{name}' is damaged: ") as error:
        read_run_folder(folder)
    assert words in error.value.found
    assert error.value.found.isprintable()
    assert len(error.value.found) < 1500


def test_a_large_seed_and_strange_options_are_read(folder: Path) -> None:
    """A seed may be any number, and options of another openddpm hold whatever they like."""
    change(folder / "run.json", ("seed",), 2**70)
    change(folder / "run.json", ("config", "seed"), 2**70)
    change(folder / "run.json", ("config", "newer_option"), [{"a": -1}])
    change(folder / "run.json", ("config", "recipe"), "of-another-openddpm")
    change(folder / "run.json", ("config", 1000 * "x"), 1)
    record = read_run_record(folder)
    assert (record.seed, record.config["seed"], record.config["newer_option"]) == (2**70, 2**70, [{"a": -1}])
    assert record.config["recipe"] == "of-another-openddpm"


@pytest.mark.parametrize("length", [1000, 1001])
def test_a_reason_is_cut_where_it_is_too_long(length: int, folder: Path) -> None:
    """A thousand characters of what a record holds are shown, and no more."""
    reason = "config: '\\n{}' is not the name of an option"
    name = (length - len(reason) + 2) * "x"
    change(folder / "run.json", ("config", "\n" + name), 1)
    with pytest.raises(UserError) as error:
        read_run_record(folder)
    shown = reason.format(name)[:1000] + " ..." * (length > 1000)
    assert error.value.found == f"'{folder / 'run.json'}' is damaged: {shown}"


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(name: str, kind: str, folder: Path) -> None:
    """A folder or a pipe in place of a record is a UserError at once."""
    (folder / name).unlink()
    {"folder": Path.mkdir, "pipe": os.mkfifo}[kind](folder / name)
    with pytest.raises(UserError, match=f"{name}' is not a file"):
        read_run_folder(folder)


def test_a_record_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that the system will not hand out is a UserError with its reason."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"run\.json' cannot be read: Permission denied"):
        read_run_folder(folder)
