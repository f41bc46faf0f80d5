"""Import of TensorBoard events: what was written comes back, and what was changed or cannot be used is said."""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard import SummaryWriter

from event_logs import example_log, plain_log
from made_up_run import a_run
from openddpm.errors import UserError
from openddpm.importing import import_tensorboard
from openddpm.observers.tensorboard import TensorBoard
from openddpm.record.imported import ImportedRecord, read_imported_folder

LOSSES = {step: 1 / step for step in range(1, 21)}


def record_of(logdir: Path, batch_size: int | None = None, tag: str | None = None) -> ImportedRecord:
    """Import a log beside it; return the record as it was read back."""
    out = logdir.parent / "out"
    written = import_tensorboard(logdir, out, batch_size, tag).record
    assert read_imported_folder(out).record == written
    return written


def float32(values: Any) -> list[float]:
    """Return numbers as an event file holds them."""
    return [float(np.float32(value)) for value in values]


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.integers(1, 2**53 - 2),
        st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(0, 1, width=32)),
        min_size=1,
        max_size=30,
    )
)
def test_what_was_written_comes_back(rows: dict[int, tuple[float, float]]) -> None:
    """Steps, losses, learning rates and times of any log with increasing steps are those of the record."""
    rows = dict(sorted(rows.items()))
    with tempfile.TemporaryDirectory() as folder:
        losses, rates = {s: row[0] for s, row in rows.items()}, {s: row[1] for s, row in list(rows.items())[::2]}
        plain_log(Path(folder) / "logs", losses, rates=rates)
        record = record_of(Path(folder) / "logs", 16)
    assert (record.step, record.train_loss) == (list(losses), list(losses.values()))
    assert record.learning_rate == [rates.get(step) for step in losses]
    assert [second - record.wall_seconds[0] for second in record.wall_seconds] == pytest.approx(range(len(losses)))
    assert (record.images_per_step, record.not_finite_steps, record.notes) == (16, [], [])


@pytest.mark.parametrize("config", [None, {"learning_rate": 1e-4, "epochs": 3}])
def test_the_example_of_diffusers_is_imported(config: dict[str, Any] | None, tmp_path: Path) -> None:
    """Its loss is found, with or without hyper-parameters; pictures, whose step is the epoch, lie at its end."""
    example_log(tmp_path / "logs", epochs=3, steps_per_epoch=5, config=config)
    record = record_of(tmp_path / "logs")
    assert (record.source, record.tags.train_loss) == ("logs/train_unconditional", "loss")
    assert record.step == list(range(1, 16))
    assert record.train_loss == float32(1 / step for step in record.step)
    assert record.learning_rate == float32([1e-4] * 15)
    assert [(one.step, one.tag) for one in record.pictures] == [(5 * n, "test_samples") for n in (1, 2, 3)]
    assert record.ignored_tags == ["ema_decay", "step"]
    with Image.open(tmp_path / "out" / "samples" / "step-00000005.png") as picture:
        assert picture.size == (32, 8)


def test_losses_of_a_step_are_averaged(tmp_path: Path) -> None:
    """With gradient accumulation a step is logged several times, from 0 on: each has the mean, counted from 1."""
    example_log(tmp_path / "logs", epochs=1, steps_per_epoch=3, accumulation=2)
    record = record_of(tmp_path / "logs")
    assert record.step == [1, 2, 3, 4]
    assert record.train_loss == pytest.approx([1, (1 / 2 + 1 / 3) / 2, (1 / 4 + 1 / 5) / 2, 1 / 6])
    assert record.pictures[0].step == 4
    assert any("from 0" in note for note in record.notes)
    assert any("2 steps with several losses" in note for note in record.notes)


def test_a_restart_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    """Rows and pictures of the first file from the second's first step on are replaced, which the notes say."""
    plain_log(tmp_path / "logs", LOSSES, start=1e9, pictures=[9, 15])
    plain_log(tmp_path / "logs", dict.fromkeys(range(11, 31), 7.0), start=2e9, pictures=[12])
    record = record_of(tmp_path / "logs")
    assert record.step == list(range(1, 31))
    assert record.train_loss == float32([1 / step for step in range(1, 11)] + [7.0] * 20)
    assert [one.step for one in record.pictures] == [9, 12]
    assert any("10 rows, from step 11 on" in note for note in record.notes)
    assert any("1 picture of replaced steps" in note for note in record.notes)


def test_a_run_that_began_anew_has_its_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second file begins at the first step, nothing of the first is left, its times neither."""
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 1e9)
        plain_log(tmp_path / "logs", LOSSES)
    plain_log(tmp_path / "logs", dict.fromkeys(range(1, 6), 7.0))
    record = record_of(tmp_path / "logs")
    assert (record.step, record.train_loss) == ([1, 2, 3, 4, 5], [7.0] * 5)
    assert record.wall_seconds[-1] < 60


def test_a_converted_log_has_the_times_of_its_run(tmp_path: Path) -> None:
    """Where the events are older than the file, as another tracker's that were converted, the run began with them."""
    plain_log(tmp_path / "logs", LOSSES, start=1e9)
    record = record_of(tmp_path / "logs")
    assert record.created == "2001-09-09T01:46:40+00:00"
    assert record.wall_seconds == [float(number) for number in range(len(LOSSES))]


@pytest.mark.parametrize("damage", ["torn", "flipped", "foreign"])
def test_what_precedes_damage_is_kept(damage: str, tmp_path: Path) -> None:
    """A file that is torn, flipped in a byte or overgrown by something else is read up to there, and that is said."""
    path = plain_log(tmp_path / "logs", LOSSES)
    content = bytearray(path.read_bytes())
    if damage == "torn":
        content = content[:-5]
    elif damage == "flipped":
        content[-5] ^= 1
    else:
        content += b"no event" * 10
    path.write_bytes(content)
    record = record_of(tmp_path / "logs")
    kept = LOSSES if damage == "foreign" else list(LOSSES)[:-1]
    assert record.step == list(kept)
    assert any("cannot be read" in note and path.name in note for note in record.notes)


def test_losses_that_are_not_finite_leave_the_curve(tmp_path: Path) -> None:
    """NaN and infinite losses are not in the curve; their steps are recorded, and counted in the notes."""
    plain_log(tmp_path / "logs", {**LOSSES, 3: math.nan, 19: math.inf})
    record = record_of(tmp_path / "logs")
    assert record.not_finite_steps == [3, 19]
    assert record.step == [step for step in LOSSES if step not in (3, 19)]
    assert any("not finite at 2 steps" in note for note in record.notes)


@pytest.mark.parametrize(
    "tag", ["loss", "train_loss", "train/loss", "loss/train", "Loss/train", "training_loss", "train_loss_step"]
)
def test_usual_names_of_the_loss_are_known(tag: str, tmp_path: Path) -> None:
    """The training loss is found by the names that scripts give it, among others that it is not."""
    plain_log(tmp_path / "logs", LOSSES, tag=tag)
    plain_log(tmp_path / "logs", LOSSES, tag="val_loss")
    record = record_of(tmp_path / "logs")
    assert record.tags.train_loss == tag
    assert record.ignored_tags == ["val_loss"]


def test_a_loss_that_is_not_clear_is_asked_for(tmp_path: Path) -> None:
    """No known tag, or several, is an error that names the tags; --loss_tag chooses, and is checked."""
    for tag in ("mse", "vlb"):
        plain_log(tmp_path / "logs", LOSSES, tag=tag)
    with pytest.raises(UserError, match=r"mse, vlb\nName the training loss by --loss_tag"):
        record_of(tmp_path / "logs")
    with pytest.raises(UserError, match=r"(?s)no numbers with the tag 'vbl'.*did you mean 'vlb'"):
        record_of(tmp_path / "logs", tag="vbl")
    assert record_of(tmp_path / "logs", tag="vlb").tags.train_loss == "vlb"
    for tag in ("loss", "train/loss"):
        plain_log(tmp_path / "two", LOSSES, tag=tag)
    with pytest.raises(UserError, match="several tags of 'two' may be the training loss: loss, train/loss"):
        record_of(tmp_path / "two")


def test_several_runs_are_listed(tmp_path: Path) -> None:
    """Of several folders with a loss one has to be named; a folder that has none is no run."""
    for name in ("one", "two"):
        plain_log(tmp_path / "logs" / name, LOSSES)
    plain_log(tmp_path / "logs" / "evaluation", LOSSES, tag="fid")
    with pytest.raises(UserError, match=r"(?s)several runs:\n  .*logs/one\n  .*logs/two\nName one") as caught:
        record_of(tmp_path / "logs")
    assert "evaluation" not in str(caught.value)
    assert record_of(tmp_path / "logs" / "two").source == "two"


@pytest.mark.parametrize(
    ("steps", "said"),
    [([1, 2, 3, 1, 2, 3], "as if counted in each epoch"), ([0, 0, 0], "all 3 values of 'loss' have the same step")],
)
def test_steps_that_count_nothing_are_refused(steps: list[int], said: str, tmp_path: Path) -> None:
    """Steps counted anew in each epoch, or none at all, would make another curve than that of the run."""
    with SummaryWriter(str(tmp_path / "logs")) as writer:
        for step in steps:
            writer.add_scalar("loss", 0.5, step)
    with pytest.raises(UserError, match=said):
        record_of(tmp_path / "logs")


def test_impossible_steps_are_left_out(tmp_path: Path) -> None:
    """Rows with negative steps are left out and counted."""
    plain_log(tmp_path / "logs", {-2: 9.0, -1: 9.0, **LOSSES})
    record = record_of(tmp_path / "logs")
    assert record.step == list(LOSSES)
    assert "Left out: 2 rows with a negative or too large step." in record.notes


def test_numbers_and_pictures_of_tensorflow_are_read(tmp_path: Path) -> None:
    """TensorFlow 2 writes a number as a tensor without axes, pictures as one of strings; other tensors are neither."""
    writer = EventFileWriter(str(tmp_path / "logs"))
    png = (Path(__file__).parents[3] / "docs" / "pictures" / "sampling.png").read_bytes()
    for step, loss in LOSSES.items():
        values = [
            Summary.Value(tag="loss", tensor=make_tensor_proto(np.float32(loss))),
            Summary.Value(tag="weights", tensor=make_tensor_proto(np.ones(1, np.float32))),
            Summary.Value(tag="words", tensor=make_tensor_proto("a text")),
            Summary.Value(tag="drawn", tensor=make_tensor_proto([b"8", b"8", png, png])),
        ]
        writer.add_event(Event(wall_time=1e9 + step, step=step, summary=Summary(value=values)))
    writer.close()
    record = record_of(tmp_path / "logs")
    assert (record.step, record.train_loss) == (list(LOSSES), float32(LOSSES.values()))
    assert record.ignored_tags == []
    assert [picture.tag for picture in record.pictures] == ["drawn", "drawn"] * len(LOSSES)


def test_broken_pictures_are_left_out(tmp_path: Path) -> None:
    """A picture that is no PNG, or a damaged one, is left out and counted; several at a step are all kept."""
    writer = EventFileWriter(str(tmp_path / "logs"))
    good = (Path(__file__).parents[3] / "docs" / "pictures" / "rulers.png").read_bytes()
    values = [Summary.Value(tag="loss", simple_value=0.5)]
    values += [
        Summary.Value(tag="samples", image=Summary.Image(encoded_image_string=content))
        for content in (good, b"no picture", good[:3000], good)
    ]
    writer.add_event(Event(wall_time=1e9, step=1, summary=Summary(value=values)))
    writer.close()
    record = record_of(tmp_path / "logs")
    assert [one.file for one in record.pictures] == ["samples/step-00000001.png", "samples/step-00000001-2.png"]
    assert all((tmp_path / "out" / one.file).read_bytes() == good for one in record.pictures)
    assert "2 pictures that cannot be read as PNG were left out." in record.notes


def test_events_of_openddpm_are_read(tmp_path: Path) -> None:
    """A run of ours that was resumed is imported from its own events: the steps after the checkpoint once."""
    run = a_run(tmp_path / "run")
    for first in (1, 4):
        board = TensorBoard(tmp_path / "logs")
        progress = run.progress.model_copy(update={"step": first - 1})
        board.start(run.model_copy(update={"progress": progress}), tmp_path / "run", {"seed": 0})
        for step in range(first, first + 5):
            board.scalars({"train/train_loss": float(first), "train/learning_rate": 0.5, "train/epoch": 1.0}, step)
            board.scalars({"evaluation_ema/train_loss": 9.0}, step)
        board.finish(run)
    record = record_of(tmp_path / "logs")
    assert (record.step, record.train_loss) == (list(range(1, 9)), [1.0] * 3 + [4.0] * 5)
    assert (record.tags.learning_rate, record.learning_rate) == ("train/learning_rate", [0.5] * 8)


def test_several_learning_rates_are_left_out(tmp_path: Path) -> None:
    """Where a script logs a learning rate for each group of weights, none is taken, and that is said."""
    plain_log(tmp_path / "logs", LOSSES)
    for tag in ("lr-AdamW/pg1", "lr-AdamW/pg2"):
        plain_log(tmp_path / "logs", LOSSES, tag=tag)
    record = record_of(tmp_path / "logs")
    assert record.tags.learning_rate is None
    assert {*record.learning_rate} == {None}
    assert "The learning rate is left out, as there are several: lr-AdamW/pg1 and lr-AdamW/pg2." in record.notes


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda logs: None, "does not exist"),
        (lambda logs: logs.write_text("a file"), "is a file"),
        (lambda logs: logs.mkdir(), "no TensorBoard events"),
        (lambda logs: [logs.mkdir(), (logs / "x.tfevents.1").write_bytes(b"")], "no numbers that can be read"),
        (lambda logs: [logs.mkdir(), (logs / "x.tfevents.1").write_bytes(bytes(range(256)))], "no numbers"),
        (lambda logs: plain_log(logs, {1: math.nan, 2: math.inf}), "no loss of the tag 'loss' in 'logs' is finite"),
        (lambda logs: plain_log(logs, {-1: 0.5}), "negative or too large"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, said: str, tmp_path: Path) -> None:
    """Input without a curve is an error with what to do, and leaves nothing behind."""
    make(tmp_path / "logs")
    with pytest.raises(UserError, match=said) as caught:
        record_of(tmp_path / "logs")
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_only_an_imported_record_is_replaced(tmp_path: Path) -> None:
    """A second import replaces the first with its pictures and pages; a folder that holds more is left alone."""
    plain_log(tmp_path / "logs", LOSSES, pictures=[5, 10])
    out = tmp_path / "out"
    record_of(tmp_path / "logs")
    (out / "report.html").write_text("old")
    plain_log(tmp_path / "new" / "logs", LOSSES, pictures=[7])
    import_tensorboard(tmp_path / "new" / "logs", out, None, None)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*")) == [
        "imported.json",
        "samples",
        "samples/step-00000007.png",
    ]
    (out / "samples" / "mine.png").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"holds more than an imported record: samples/mine\.png"):
        record_of(tmp_path / "logs")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.html").write_text("precious")
    with pytest.raises(UserError, match=r"holds more than an imported record: report\.html"):
        import_tensorboard(tmp_path / "logs", tmp_path / "run", None, None)
    assert (out / "samples" / "mine.png").exists()
