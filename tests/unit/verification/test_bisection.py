"""Where two runs of the same seed part is found from their checkpoints' digests and one short replay."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bugs import Bug, train_with

from openddpm.errors import UserError
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.training.run import Training
from openddpm.verification.bisection import Parting, find_parting
from tiny import tiny_config, write_tiny_folder

STEPS, EVERY = 40, 8


def _wrong_batch_at(step: int) -> Bug:
    @contextmanager
    def planted(training: Training) -> Iterator[None]:
        images_of, start = training.stream.image_indices, (step - 1) * training.global_batch_size
        training.stream.image_indices = lambda at, count: images_of(at + 400 * (at == start), count)
        yield

    return Bug("wrong-batch", "one wrong batch", planted)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images."""
    folder = tmp_path_factory.mktemp("bisection")
    write_tiny_folder(folder / "images")
    return folder


def trained(place: Path, name: str, bug_at: int | None, **options: Any) -> RunFolder:
    """Train a run whose checkpoints are all kept, with one wrong batch."""
    values = {"max_train_steps": STEPS, "checkpointing_steps": EVERY, "checkpoints_total_limit": 100, **options}
    config = tiny_config(place, name, dataset=str(place / "images"), report_to="none", **values)
    train_with(config, [] if bug_at is None else [_wrong_batch_at(bug_at)])
    return read_run_folder(Path(config.output_dir))


@pytest.fixture(scope="module")
def right(place: Path) -> RunFolder:
    """Return a run without a bug."""
    return trained(place, "right", None)


def parting(record: RunFolder, other: RunFolder) -> Parting:
    """Return where two runs part."""
    return find_parting(record, other, (record.folder.name, other.folder.name), None, lambda step: None)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("step", [5, 20, 33])
def test_the_step_of_a_wrong_batch_is_found_by_a_short_replay(
    place: Path, right: RunFolder, step: int, is_first: bool
) -> None:
    """With a line each step, the step of one wrong batch is found, the run that has it is named, whichever is given
    first, and no more steps are computed than lie between two checkpoints."""
    wrong = trained(place, f"wrong-{step}-{is_first}", step)
    found = parting(wrong, right) if is_first else parting(right, wrong)
    assert found.step == step
    assert found.text.startswith(f"'{wrong.folder.name}' parts") and "; 'right' does not" in found.text
    assert 0 < found.replayed_steps <= EVERY


def test_lines_every_few_steps_tell_between_which_steps_it_was(place: Path, right: RunFolder) -> None:
    """With a line every four steps, the steps are named among which the wrong batch was."""
    one, other = trained(place, "every-four", None, logging_steps=4), trained(place, "late", 18, logging_steps=4)
    found = parting(other, one)
    assert found.step == 20 and "within steps 17 to 20" in found.text


def test_without_checkpoints_the_replay_begins_at_the_seed(place: Path, right: RunFolder) -> None:
    """Without checkpoints in either folder, the lines tell where to look, and the replay begins at the seed."""
    options = {"checkpointing_steps": 1000, "checkpoints_total_limit": 1}
    one, other = trained(place, "bare", None, **options), trained(place, "bare-wrong", 12, **options)
    found = parting(other, one)
    assert found.step == 12 and found.replayed_steps == 12


def test_equal_runs_do_not_part(place: Path, right: RunFolder) -> None:
    """Two runs that are the same to the bit do not part, and nothing is computed."""
    found = parting(right, trained(place, "again", None))
    assert found.step is None and found.replayed_steps == 0


def test_runs_of_other_seeds_are_refused(place: Path, right: RunFolder) -> None:
    """Two runs with different seeds have no step at which they part."""
    with pytest.raises(UserError, match="differ in seed"):
        parting(right, trained(place, "seeded", None, seed=1))
