"""What trackers get of a run: once, by the same names, without secrets, and at no danger to the run."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import tracking
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from made_up_run import a_row, a_run
from openddpm.analysis.verdict import judge
from openddpm.api import resume, train
from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.observers.tensorboard import TensorBoard
from openddpm.observers.trackers import AccelerateTracker, TrackersObserver, Trackio, WandB, build_trackers
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import RunRecord
from tiny import tiny_config, tiny_images, write_tiny_folder


def steps_in(events: Path) -> list[int]:
    """Return the steps of the training loss that TensorBoard shows."""
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars("train/train_loss")]


def write_events(logs: Path, run: RunRecord, folder: Path, steps: range) -> None:
    """Let an observer see `steps`."""
    observer = TrackersObserver([TensorBoard(logs)])
    observer.started(run, folder)
    for step in steps:
        observer.logged(a_row(step))
    observer.ended(run)


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    """After a resumption TensorBoard shows each step once, though steps after the checkpoint were logged before it."""
    folder = tmp_path / "run"
    write_events(tmp_path / "logs", a_run(folder), folder, range(1, 7))
    write_events(tmp_path / "logs", a_run(folder, step=4), folder, range(5, 9))
    assert steps_in(tmp_path / "logs" / "run") == list(range(1, 9))


def test_a_run_that_begins_again_has_its_own_events_alone(tmp_path: Path) -> None:
    """A run that begins again in the same folder leaves no events of the one before."""
    folder = tmp_path / "run"
    write_events(tmp_path / "logs", a_run(folder), folder, range(1, 7))
    write_events(tmp_path / "logs", a_run(folder), folder, range(1, 3))
    assert steps_in(tmp_path / "logs" / "run") == [1, 2]


def test_a_stranger_of_the_same_name_keeps_its_events(tmp_path: Path) -> None:
    """Events of a run of the same name in another folder, or of another program, are left as they are."""
    strange = tmp_path / "logs" / "run" / "events.out.tfevents.1.host.1.0"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"")
    for parent in ("one", "two"):
        folder = tmp_path / parent / "run"
        write_events(tmp_path / "logs", a_run(folder), folder, range(1, 3))
    assert strange.exists()
    assert steps_in(tmp_path / "logs" / "run-2") == steps_in(tmp_path / "logs" / "run-3") == [1, 2]


def test_logs_that_cannot_be_written_are_told_first(tmp_path: Path) -> None:
    """A logging folder that cannot be made is refused when the trackers are built, before anything is trained."""
    (tmp_path / "a-file").touch()
    with pytest.raises(UserError, match="--logging_dir"):
        build_trackers(TrainConfig(logging_dir=str(tmp_path / "a-file" / "logs")))


class Notes(GeneralTracker):
    """A tracker of Accelerate's kind that keeps what it is told, and the command line that it was started by."""

    name = "notes"
    requires_logging_directory = False
    told: list[tuple[str, Any, int | None]]
    """By all of its kind, as they come and go with the sessions of a run."""

    def __init__(self, project: str, **arguments: Any) -> None:
        super().__init__()
        self.project, self.arguments = project, arguments

    @property
    def tracker(self) -> "Notes":
        return self

    def start(self) -> None:
        self.told.append(("command line", list(sys.argv), None))

    def define_metric(self, name: str, step_metric: str) -> None:
        self.told.append((f"axis of {name}", step_metric, None))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(("config", values, None))

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.extend((name, value, step) for name, value in values.items())

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.extend((name, [picture.size for picture in pictures], step) for name, pictures in values.items())

    def finish(self) -> None:
        self.told.append(("finish", None, None))


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, int | None]]:
    """What the tracker `notes`, of which Accelerate knows for this test, is told."""
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "notes", Notes)
    monkeypatch.setattr(Notes, "told", [], raising=False)
    return Notes.told


def curves(told: list[tuple[str, Any, int | None]]) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) by the name of a curve."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, value, step in told:
        if isinstance(value, float) and step is not None:
            found.setdefault(name, []).append((step, value))
    return found


def test_every_tracker_is_told_the_same(tmp_path: Path, notes: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has the same curves and pictures in TensorBoard as in a tracker of Accelerate, and no token there."""
    token = "hf_token_of_this_test"
    monkeypatch.setattr(sys, "argv", ["openddpm", "--hub_token", token, f"--hub_token={token}"])
    config = tiny_config(
        tmp_path, report_to="tensorboard,notes", hub_token=token, max_train_steps=8, save_images_epochs=1
    )
    train(config, dataset=tiny_images())
    events = EventAccumulator(str(tmp_path / "logs" / "run"))
    events.Reload()
    told = curves(notes)
    hyper_parameters = {"hparam/epochs"}  # TensorBoard's own
    assert set(told) == set(events.Tags()["scalars"]) - hyper_parameters
    assert {"train/train_loss", "evaluation_ema/skill", "samples_raw/brightness", "verdict/skill"} <= set(told)
    for name, points in told.items():
        assert points == [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)], name
    pictures = [(name, step) for name, value, step in notes if isinstance(value, list) and step is not None]
    shown = [(name, event.step) for name in events.Tags()["images"] for event in events.Images(name)]
    assert sorted(pictures) == sorted(shown) and pictures
    assert notes[0] == ("command line", ["openddpm", "--hub_token", "...", "--hub_token=..."], None)
    assert notes[1][1]["learning_rate"] == 1e-3 and notes[-1][0] == "finish"
    assert token not in str(notes)
    assert sys.argv[2] == token


def test_no_step_is_told_twice(tmp_path: Path, notes: list[Any]) -> None:
    """A run that goes on from a checkpoint before its last steps sends a tracker only what it has not got yet."""
    write_tiny_folder(tmp_path / "images")
    config = tiny_config(tmp_path, dataset=str(tmp_path / "images"), report_to="notes", checkpointing_steps=4)

    train(config)
    once = curves(notes)
    back = str(tmp_path / "run" / "checkpoints" / "step-00000008")
    resume(tmp_path / "run", resume_from_checkpoint=back, max_train_steps=14, accept_changes=True)
    again = curves(notes)
    assert [step for step, _ in again["train/train_loss"]] == list(range(1, 15))
    assert again["train/train_loss"][:12] == once["train/train_loss"]
    assert all(len({step for step, _ in points}) == len(points) for points in again.values())
    assert [step for step, _ in again["evaluation_ema/skill"]][-1] == 14
    told = json.loads((tmp_path / "run" / "trackers.json").read_text("utf-8"))
    assert told["notes"]["train"] == 14
    notes.clear()
    train(config.model_copy(update={"overwrite_output_dir": True}))
    assert [step for step, _ in curves(notes)["train/train_loss"]] == list(range(1, 13))


def test_steps_that_are_not_told_again_are_named(tmp_path: Path, notes: list[Any]) -> None:
    """A run that goes on from before what a tracker has got says which steps stay there as they were."""
    folder, output = tmp_path / "run", io.StringIO()
    run = a_run(folder, step=4)
    (folder / "trackers.json").write_text(json.dumps({"notes": {"train": 6}}))
    config = TrainConfig(report_to="notes,tensorboard", logging_dir=str(tmp_path / "logs"))
    observer = TrackersObserver(build_trackers(config), Console(file=output))
    observer.started(run, folder)
    assert output.getvalue().count("keeps steps") == 1
    assert "notes keeps steps 5 to 6 as they were sent before" in output.getvalue()


class Failing(Notes):
    """A tracker that raises at every call."""

    def _fail(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("503 from the server")

    start = store_init_configuration = log = log_images = finish = _fail


class FailingLater(Notes):
    """A tracker that raises at each call."""

    log = log_images = finish = Failing._fail


@pytest.mark.parametrize("kind", [Failing, FailingLater])
def test_a_tracker_that_fails_ends_no_run(
    kind: type[Notes],
    tmp_path: Path,
    notes: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A tracker that raises at every call is named once and left out, and the others get all."""
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "failing", kind)
    config = tiny_config(tmp_path, report_to="failing,notes,tensorboard", max_train_steps=4)
    assert train(config, dataset=tiny_images()).status == "finished"
    printed = capsys.readouterr().err
    assert printed.count("failing failed, and gets no more of this run: RuntimeError: 503 from the server") == 1
    assert [step for step, _ in curves(notes)["train/train_loss"]] == [1, 2, 3, 4]
    assert steps_in(tmp_path / "logs" / "run") == [1, 2, 3, 4]


def test_a_tracker_that_is_not_installed_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said before anything is trained, with the command that installs it."""
    monkeypatch.setattr("openddpm.observers.trackers.get_available_trackers", lambda: ["tensorboard"])
    config = tiny_config(tmp_path, report_to="tensorboard,wandb,trackio")
    with pytest.raises(UserError, match="not installed: wandb, trackio") as refused:
        train(config, dataset=tiny_images())
    assert "pip install 'openddpm[wandb,trackio]'" in refused.value.hint
    assert not (tmp_path / "run").exists() and not (tmp_path / "logs").exists()


def test_an_unknown_tracker_is_told_first(tmp_path: Path) -> None:
    """A name that Accelerate has no tracker of is answered with the nearest, and with all that are known."""
    with pytest.raises(UserError, match="unknown tracker 'wanbd'") as refused:
        train(tiny_config(tmp_path, report_to="wanbd"), dataset=tiny_images())
    assert all(name in refused.value.hint for name in ("did you mean 'wandb'", *LOGGER_TYPE_TO_CLASS))


def test_none_leaves_nothing(tmp_path: Path) -> None:
    """With --report_to none there are no events, and no note of what trackers were told."""
    train(tiny_config(tmp_path, report_to="none", max_train_steps=2), dataset=tiny_images())
    assert not (tmp_path / "logs").exists() and not (tmp_path / "run" / "trackers.json").exists()


def test_a_resumed_run_is_the_same_run_to_its_tracker(tmp_path: Path) -> None:
    """W&B knows a run by its id, trackio by a name that no other run has; both continue it where it is there."""
    config, run = TrainConfig(), a_run(tmp_path / "run")
    arguments = WandB("wandb", config).arguments(run)
    assert (arguments["id"], arguments["resume"], arguments["name"]) == (run.run_id, "allow", run.name)
    other = run.model_copy(update={"run_id": "0123456789abcdef"})
    names = [Trackio("trackio", config).arguments(one)["name"] for one in (run, run, other)]
    assert names[0] == names[1] != names[2] and names[0].startswith(run.name)


@pytest.mark.parametrize(("kind", "names_step"), [(WandB, True), (Trackio, False)])
def test_pictures_and_texts_have_their_step(
    kind: type[AccelerateTracker],
    names_step: bool,
    tmp_path: Path,
    notes: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W&B is told the step as a value, which may be any, trackio as its own; a verdict is told again at the end."""
    name = kind.__name__.lower()
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, Notes)
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(Image=lambda picture: picture.size))
    folder = tmp_path / "run"
    run, recorded = a_run(folder), read_run_folder(folder)
    verdict = judge(recorded.run, recorded.metrics, recorded.evaluations, recorded.baselines)
    observer = TrackersObserver([kind(name, TrainConfig())])
    observer.started(run, folder)
    del notes[:]
    observer.logged(a_row(3))
    observer.previewed(recorded.previews[-1])
    observer.evaluated(recorded.evaluations[-1])
    for _ in range(2):
        observer.judged(verdict)
    observer.judged(verdict.model_copy(update={"step": verdict.step - 1}))
    expected = {"train/train_loss": 3, "samples/ema": recorded.previews[-1].step, "verdict": verdict.step}
    if names_step:
        assert {step for _, _, step in notes} == {None}
        steps = [value for what, value, _ in notes if what == "step"]
        assert set(steps) == {3, recorded.previews[-1].step, recorded.evaluations[-1].step, verdict.step}
    else:
        assert expected == {what: step for what, _, step in notes if what in expected}
    assert sum(what == "verdict" for what, _, _ in notes) == 2
    assert sum(what == "verdict/skill" for what, _, _ in notes) == 1


def test_each_tracker_but_tensorboard_is_an_extra() -> None:
    """Whatever of Accelerate's trackers is missing can be installed by the command that is told."""
    import tomllib

    settings = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = settings["project"]["optional-dependencies"]
    assert set(tracking.LoggerType.list()) - {"all", "tensorboard"} <= set(extras)
