"""When runs are evaluated, as their records tell, and what is said if that is never after equal numbers of images."""

from dataclasses import replace
from typing import Any

import pytest
from tests.support.made_up_run import write_made_up_run
from tests.support.made_up_seeds import another_seed

from openddpm.comparison.compare import compare
from openddpm.comparison.following import Follower
from openddpm.comparison.planned import planned_evaluations
from openddpm.config import TrainConfig
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.training.timetable import make_timetable


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a run without previews."""
    return read_run_folder(write_made_up_run(tmp_path_factory.mktemp("run"), previews=0, evaluations=16))


def planned(run: RunFolder, **options: Any) -> RunFolder:
    """Return `run`, not begun, with the timetable that options give it."""
    table = make_timetable(TrainConfig(**options), options["max_train_steps"], run.run.dataset.num_train, 1)
    changes = {
        "config": {**run.run.config, **options},
        "total_steps": table.total_steps,
        "evaluation": table.plan().model_copy(update={"num_fixed_samples": run.run.evaluation.num_fixed_samples}),
        "previews": table.plan_of_previews(),
        "run_id": "ab" * 8,
    }
    return replace(run, run=run.run.model_copy(update=changes), metrics=[], evaluations=[])


@pytest.mark.parametrize("length", [3, 60, 2_345])
@pytest.mark.parametrize("epochs", [None, 1, 7])
@pytest.mark.parametrize("batch", [16, 300])
def test_the_record_tells_when_a_run_is_evaluated(run: RunFolder, length: int, epochs: int | None, batch: int) -> None:
    """The steps derived from a record are those of the timetable that trains."""
    options = {"max_train_steps": length, "train_batch_size": batch, "save_images_epochs": epochs}
    table = make_timetable(TrainConfig(**options), length, run.run.dataset.num_train, 1)  # type: ignore[arg-type]
    expected = [step for step in range(1, length + 1) if table.is_evaluation(step)]
    assert planned_evaluations(planned(run, **options).run) == expected


def test_evaluations_that_never_meet_are_told_at_the_start(run: RunFolder) -> None:
    """A run that is never evaluated where its reference was hears so before its first step, with what to change."""
    reference = [another_seed(run, seed) for seed in range(4)]
    never = planned(run, max_train_steps=20, train_batch_size=7)
    following = Follower("it", reference, never).following()
    assert following.state == "not_comparable"
    assert "the reference after 4,800, 9,600, 14,400 and 13 more" in following.text
    assert "train with those of the reference" in following.text
    begun = replace(never, metrics=run.metrics[:1])
    assert following.text.partition(": ")[2] in compare(begun, reference).sentence
    meets = planned(run, max_train_steps=2400, train_batch_size=32)
    assert Follower("it", reference, meets).following().state == "too_early"
