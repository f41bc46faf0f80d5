"""What a run keeps for good: the weights of milestones, and whole checkpoints."""

import os
import shutil
from pathlib import Path

import pytest

from openddpm.api import resume, train
from openddpm.errors import UserError
from openddpm.record.files import file_sha256
from openddpm.record.kept import kept_steps, list_milestones, milestone_name, milestones_among, nearest_milestone
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import CheckpointRow
from openddpm.training import setup
from openddpm.training.checkpoint import checkpoint_row, checkpoint_step, list_checkpoints
from openddpm.training.milestones import keep_milestone, milestone_steps
from openddpm.training.run_folder import remove_earlier_run
from tiny import tiny_config, write_tiny_folder


@pytest.mark.parametrize(
    ("count", "total_steps", "steps"),
    [
        (0, 1500, ()),
        (1, 1500, (1500,)),
        (2, 1500, (15, 1500)),
        (5, 1500, (15, 47, 150, 474, 1500)),
        (4, 60, (1, 3, 13, 60)),
        (4, 3, (1, 2, 3)),
        (5, 6, (1, 2, 3, 4, 6)),
        (3, 1, (1,)),
    ],
)
def test_steps_of_milestones(count: int, total_steps: int, steps: tuple[int, ...]) -> None:
    """Milestones are different steps, their ratios nearly equal, from a hundredth of the run to the last step."""
    assert milestone_steps(count, total_steps) == steps


@pytest.mark.parametrize(
    ("steps", "every", "kept"),
    [
        ([5, 10, 15, 20], None, set()),
        ([5, 10, 15, 20, 25, 30], 10, {10, 20, 30}),
        ([5, 15, 18, 32, 33], 10, {15, 32}),  # 10, 20 and 30 could not be saved in time
        ([1, 2, 3], 1, {1, 2, 3}),
    ],
)
def test_checkpoints_that_are_kept(steps: list[int], every: int | None, kept: set[int]) -> None:
    """--keep_every keeps the checkpoint at each multiple, or else the first after it."""
    assert kept_steps(steps, every) == kept


def row(step: int) -> CheckpointRow:
    """Return the row of a step of a run with 32 images a step."""
    return CheckpointRow(step=step, images_seen=32 * step, sha256={}, exported_sha256=f"{step:064x}")


def test_the_nearest_milestone() -> None:
    """The milestone with the nearest number of images is found, the earlier of two; one without a row is none."""
    rows = [row(step) for step in (1, 2, 3, 4, 10)]
    for images, step in ((0, 2), (64, 2), (96, 2), (97, 4), (9999, 10)):
        found = nearest_milestone(rows, {2, 4, 10, 11}, images)
        assert found is not None and found.step == step
    assert nearest_milestone(rows, {11}, 5) is None


def test_names_of_milestones() -> None:
    """Only files of the name that a milestone gets are taken for one."""
    others = ["milestones/step-1.safetensors", "milestones/step-00000001.bin", "step-00000001.safetensors"]
    others += ["milestones/backup/step-00000001.safetensors", "unet/step-00000001.safetensors"]
    assert milestones_among([milestone_name(123456789), *others, milestone_name(7)]) == {
        7: "milestones/step-00000007.safetensors",
        123456789: "milestones/step-123456789.safetensors",
    }


def made_up_checkpoint(folder: Path, step: int) -> Path:
    """Write what keeping a milestone needs of a checkpoint."""
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "ema.safetensors").write_text(f"averaged {step}")
    (checkpoint / "unet.safetensors").write_text(f"raw {step}")
    return checkpoint


@pytest.mark.parametrize("has_links", [True, False])
def test_which_checkpoints_become_milestones(has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first checkpoint at or after each planned step is kept, by its own step, with or without hard links."""

    def no_links(*paths: object) -> None:
        raise OSError("no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    for step in (2, 3, 7, 9, 20):  # 4 and 6 could not be saved
        keep_milestone(tmp_path, made_up_checkpoint(tmp_path, step), (3, 4, 6, 20))
    kept = list_milestones(tmp_path)
    assert {step: path.read_text() for step, path in kept.items()} == {step: f"averaged {step}" for step in (3, 7, 20)}
    links = {path.stat().st_nlink for path in kept.values()}
    assert links == ({2} if has_links else {1})
    assert len(list((tmp_path / "milestones").iterdir())) == 3


def assert_exact(run: Path, steps: list[int]) -> None:
    """Check that a run has milestones of exactly these steps, with the exported weights of their rows."""
    rows = {row.step: row.exported_sha256 for row in read_run_folder(run).checkpoints}
    kept = list_milestones(run)
    assert {step: file_sha256(path) for step, path in kept.items()} == {step: rows[step] for step in steps}


def test_a_run_keeps_milestones_and_checkpoints(tmp_path: Path) -> None:
    """Both are exact and never pruned; the limit counts only the other checkpoints; another run removes them."""
    images = str(write_tiny_folder(tmp_path / "images"))
    options = {"max_train_steps": 25, "checkpointing_steps": 6, "milestones": 4, "keep_every": 10}
    train(tiny_config(tmp_path, dataset=images, checkpoints_total_limit=2, **options))
    run = tmp_path / "run"
    assert_exact(run, [1, 2, 5, 25])
    assert [checkpoint_step(path) for path in list_checkpoints(run)] == [10, 20, 24, 25]
    (run / "milestones" / "notes.txt").touch()
    remove_earlier_run(run)
    assert [path.name for path in run.iterdir() if path.name != ".lock"] == ["milestones"]
    assert [path.name for path in (run / "milestones").iterdir()] == ["notes.txt"]


def test_a_folder_with_milestones_and_no_run_is_left_alone(tmp_path: Path) -> None:
    """A new run refuses a folder in which there are milestones of another."""
    (tmp_path / "run" / "milestones").mkdir(parents=True)
    (tmp_path / "run" / "milestones" / "step-00000001.safetensors").touch()
    images = str(write_tiny_folder(tmp_path / "images"))
    with pytest.raises(UserError, match="has milestones, which a run would overwrite"):
        train(tiny_config(tmp_path, dataset=images, milestones=1, max_train_steps=2))


class Killed(BaseException):
    """Ends a process at a place that a test chooses."""


def test_killed_between_checkpoint_and_milestone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The milestone of a checkpoint that was published is made by the resumption, and later ones as planned."""
    images = str(write_tiny_folder(tmp_path / "images"))

    def kill(folder: Path, checkpoint: Path, planned: tuple[int, ...]) -> None:
        if checkpoint_step(checkpoint) == 3:
            raise Killed
        keep_milestone(folder, checkpoint, planned)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(setup, "keep_milestone", kill)
        train(tiny_config(tmp_path, dataset=images, max_train_steps=12, milestones=4, checkpointing_steps=99))
    assert_exact(tmp_path / "run", [1, 2])
    assert checkpoint_step(list_checkpoints(tmp_path / "run")[-1]) == 3
    resume(tmp_path / "run")
    assert_exact(tmp_path / "run", [1, 2, 3, 12])


def test_resumed_from_before_a_milestone(tmp_path: Path) -> None:
    """Milestones after the checkpoint that a run goes back to are removed, and made again as the run gets there."""
    images = str(write_tiny_folder(tmp_path / "images"))
    options = {"max_train_steps": 12, "milestones": 4, "checkpointing_steps": 2, "checkpoints_total_limit": 99}
    train(tiny_config(tmp_path, dataset=images, **options))
    run = tmp_path / "run"
    assert_exact(run, [1, 2, 3, 12])
    seen = []
    monkey = setup.begin_folder

    def looked_at(*arguments: object) -> object:
        writer = monkey(*arguments)  # type: ignore[arg-type]
        seen.extend(list_milestones(run))
        return writer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "begin_folder", looked_at)
        resume(run, resume_from_checkpoint="step-00000002", learning_rate=5e-4, accept_changes=True)
    assert seen == [1, 2]
    assert_exact(run, [1, 2, 3, 12])


def test_a_longer_run_gets_further_milestones(tmp_path: Path) -> None:
    """A run that is extended keeps its milestones, and adds those of its new length that are still ahead."""
    images = str(write_tiny_folder(tmp_path / "images"))
    train(tiny_config(tmp_path, dataset=images, max_train_steps=12, milestones=3))
    resume(tmp_path / "run", max_train_steps=20, milestones=3, accept_changes=True)
    assert_exact(tmp_path / "run", [1, 2, 12, 20])


def test_a_full_disk_at_a_milestone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that could not be kept are kept with the next checkpoint that can be saved, by its step."""
    images = str(write_tiny_folder(tmp_path / "images"))
    failures = iter([OSError(28, "No space left on device")])

    def full(folder: Path, checkpoint: Path, planned: tuple[int, ...]) -> None:
        if checkpoint_step(checkpoint) >= 3 and (error := next(failures, None)):
            raise error
        keep_milestone(folder, checkpoint, planned)

    monkeypatch.setattr(setup, "keep_milestone", full)
    train(tiny_config(tmp_path, dataset=images, max_train_steps=12, milestones=4, checkpointing_steps=5))
    assert_exact(tmp_path / "run", [1, 2, 5, 12])


def test_rows_are_those_of_the_checkpoints(tmp_path: Path) -> None:
    """A milestone outlives its checkpoint, with the sha256 that the record has of it."""
    images = str(write_tiny_folder(tmp_path / "images"))
    train(tiny_config(tmp_path, dataset=images, max_train_steps=6, milestones=2, checkpoints_total_limit=1))
    run = tmp_path / "run"
    (last,) = list_checkpoints(run)
    assert checkpoint_row(last).exported_sha256 == read_run_folder(run).checkpoints[-1].exported_sha256
    shutil.rmtree(run / "checkpoints")
    assert_exact(run, [1, 6])
