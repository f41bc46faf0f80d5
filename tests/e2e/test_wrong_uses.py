"""What people get wrong: one message that says what to do, exit status 2, and nothing touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Cli = Callable[..., Any]
Flags = Callable[..., list[str]]
Snapshot = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="module")
def wrong_inputs(workshop: Path) -> Path:
    """A folder with an empty folder, a file in the place of a folder, and a table without images."""
    folder = workshop / "wrong"
    (folder / "empty").mkdir(parents=True)
    (folder / "a-file").write_text("a file, no folder", encoding="utf-8")
    pq.write_table(pa.table({"caption": ["a dog"], "number": [1]}), folder / "captions.parquet")
    return folder


WRONG_USES: dict[str, tuple[dict[str, str], list[str]]] = {
    "missing folder": ({"dataset": "./no/such/folder"}, ["no/such/folder", "--dataset"]),
    "folder without images": ({"dataset": "WRONG/empty"}, ["no images", "empty", ".png"]),
    "no image column": ({"dataset": "WRONG/captions.parquet"}, ["caption, number", "--image_column"]),
    "resolution": ({"resolution": "50", "model": "default"}, ["50", "48 or 56"]),
    "fp16 on a CPU": ({"mixed_precision": "fp16"}, ["fp16", "--mixed_precision no"]),
    "unreadable Hub id": ({"dataset": "no/such"}, ["'no/such' is no local file or folder", "HF_HUB_OFFLINE"]),
    "impossible Hub id": ({"dataset": "no such/data/set"}, ["no such/data/set", "huggan/pokemon"]),
    "negative batch": ({"train_batch_size": "-4"}, ["train_batch_size", "-4", "greater"]),
    "two at once": ({"train_batch_size": "0", "num_epochs": "-1"}, ["train_batch_size", "num_epochs"]),
    "no number": ({"learning_rate": "fast"}, ["--learning_rate", "fast", "--help"]),
    "unknown recipe": ({"recipe": "avatar-16"}, ["avatar-16", "did you mean 'avatars-16'"]),
    "unknown model": ({"model": "unet-46"}, ["unet-46", "unet-64"]),
    "unwritable folder": ({"output_dir": "WRONG/a-file/run"}, ["a-file/run", "--output_dir"]),
    "unwritable logs": ({"logging_dir": "WRONG/a-file/logs"}, ["a-file/logs", "--logging_dir"]),
    "unwritable cache": ({"cache_dir": "WRONG/a-file/cache"}, ["a-file/cache", "--cache_dir"]),
    "unknown colour": ({"background": "nocolour"}, ["nocolour", "#ffcc00"]),
    "unknown tracker": ({"report_to": "wanbd"}, ["wanbd", "did you mean 'wandb'", "trackio"]),
    "tracker that is not there": ({"report_to": "aim"}, ["not installed: aim", "pip install 'openddpm[aim]'"]),
    "unknown option": ({"learning_rat": "1"}, ["--learning_rat", "--learning_rate"]),
}


@pytest.mark.parametrize("name", WRONG_USES)
def test_wrong_uses(
    name: str, cli: Cli, flags: Flags, wrong_inputs: Path, tmp_path: Path, snapshot: Snapshot, monkeypatch: Any
) -> None:
    """Each wrong use ends with exit status 2 and one message that says what to do, and leaves the folder as it was."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # fp16 is right where there is a GPU
    output_dir = tmp_path / "run"
    output_dir.mkdir()
    (output_dir / "notes.txt").write_text("mine", encoding="utf-8")
    changes, words = WRONG_USES[name]
    changes = {option: value.replace("WRONG", str(wrong_inputs)) for option, value in changes.items()}
    outcome = cli("train", *flags(**{"output_dir": output_dir, **changes}))
    assert_one_message(outcome, words)
    assert snapshot(output_dir).keys() - {".lock"} == {"notes.txt"}


def assert_one_message(outcome: Any, words: list[str]) -> None:
    """Check that a command ended with exit status 2 and one message with `words` and what to do."""
    assert outcome.status == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.count("openddpm: ") + outcome.err.count("╭─") == 1, outcome.err
    assert "  -> " in outcome.err or "--help" in outcome.err
    assert [word for word in words if word not in outcome.err] == [], outcome.err


def test_another_config_in_the_folder(cli: Cli, flags: Flags, finished_run: Path, snapshot: Snapshot) -> None:
    """A folder with a run of another config is refused with the difference, and keeps every byte."""
    before = snapshot(finished_run)
    outcome = cli("train", *flags(output_dir=finished_run, learning_rate=3e-4))
    assert_one_message(outcome, ["learning_rate: 0.0003, but 0.0001 in the run", "--overwrite_output_dir"])
    assert snapshot(finished_run) == before


def test_the_same_run_again(cli: Cli, flags: Flags, finished_run: Path, snapshot: Snapshot) -> None:
    """A folder with this very run is refused with the command that goes on with it, and keeps every byte."""
    before = snapshot(finished_run)
    outcome = cli("train", *flags(output_dir=finished_run))
    assert_one_message(outcome, ["already holds this run", "openddpm resume", "--overwrite_output_dir"])
    assert snapshot(finished_run) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["trian", "did you mean 'train'"]),
        (["train"], ["no data set", "--recipe avatars-16"]),
        (["resume", "nowhere"], ["nowhere", "--output_dir"]),
        (["sample", "nowhere"], ["nowhere", "--output_dir"]),
        (["report", "nowhere"], ["nowhere", "--output_dir"]),
        (["push", "nowhere"], ["nowhere", "--output_dir"]),
        (["sample"], ["RUN", "--help"]),
    ],
    ids=" ".join,
)
def test_wrong_commands(cli: Cli, arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """A wrong command, or one on a folder without a run, says what is expected."""
    monkeypatch.chdir(tmp_path)
    assert_one_message(cli(*arguments), words)
    assert list(tmp_path.iterdir()) == []


def test_more_preview_steps_than_timesteps(cli: Cli, flags: Flags, tmp_path: Path) -> None:
    """Previews of more steps than there are timesteps are refused at the start."""
    options = {"num_train_timesteps": 30, "num_inference_steps": 31, "max_train_steps": 1}
    outcome = cli("train", *flags(output_dir=tmp_path / "run", **options))
    assert_one_message(outcome, ["num_inference_steps", "num_train_timesteps"])
