"""When a run is evaluated and previewed."""

import pytest

from openddpm.config import TrainConfig
from openddpm.training.timetable import FORWARD_COST, MAX_SHARE_OF_TIME, TUPLE_COUNTS, Timetable, make_timetable


def evaluations(timetable: Timetable) -> list[int]:
    """Return the steps after which a run is evaluated."""
    return [step for step in range(1, timetable.total_steps + 1) if timetable.is_evaluation(step)]


def previews(timetable: Timetable) -> list[int]:
    """Return the steps after which a run is previewed."""
    return [step for step in range(1, timetable.total_steps + 1) if timetable.is_preview(step)]


@pytest.mark.parametrize("total_steps", [1_500, 3_700, 20_000, 100_000])
@pytest.mark.parametrize("num_processes", [1, 4])
def test_evaluation_keeps_within_its_share(total_steps: int, num_processes: int) -> None:
    """However long the run, evaluating costs no more images' worth of time than the share it may take."""
    config = TrainConfig(train_batch_size=16)
    timetable = make_timetable(config, total_steps, num_train=5400, num_processes=num_processes)
    forwards = len(evaluations(timetable)) * timetable.num_tuples * 4 * num_processes
    assert forwards * FORWARD_COST <= MAX_SHARE_OF_TIME * total_steps * 16 * num_processes


def test_a_longer_run_is_measured_on_more() -> None:
    """What a long run can afford goes into more tuples first, then into more evaluations."""
    config = TrainConfig(train_batch_size=16)
    tables = [make_timetable(config, steps, num_train=5400, num_processes=1) for steps in (3_700, 30_000, 300_000)]
    assert [table.num_tuples for table in tables] == [TUPLE_COUNTS[0], TUPLE_COUNTS[-1], TUPLE_COUNTS[-1]]
    counts = [len(evaluations(table)) for table in tables]
    assert counts[0] >= 20 and counts[2] > counts[1]


def test_half_precision_is_evaluated_less() -> None:
    """Evaluation stays in float32, so that where training does not, it takes a larger share of the time."""
    tables = [
        make_timetable(TrainConfig(mixed_precision=precision), 300_000, num_train=10**9, num_processes=1)
        for precision in ("no", "bf16")
    ]
    assert tables[1].evaluation_steps == pytest.approx(3 * tables[0].evaluation_steps, rel=0.1)


def test_every_stretch_has_one_evaluation_at_its_first_preview_if_it_has_one() -> None:
    """Previews that come seldom are all evaluated, those that come often only once a stretch."""
    for images_per_preview in (160, 800, 1600, 3333, 5000, 100_000):
        timetable = Timetable(
            1000, 16, images_per_preview, evaluation_steps=100, early_steps=(12, 25, 50), num_tuples=48
        )
        seen, made = evaluations(timetable), previews(timetable)
        for start in range(100, 1000, 100):  # the first stretch has the early ones too
            stretch = range(start + 1, start + 101)
            inside = [step for step in made if step in stretch and step != 1000]
            expected = {inside[0] if inside else stretch[-1]} | ({1000} & set(stretch))
            assert expected == {step for step in seen if step in stretch}, images_per_preview


def test_there_is_something_to_see_early() -> None:
    """The first evaluation comes after an eighth of the first stretch."""
    timetable = make_timetable(TrainConfig(), 10_000, num_train=10**6, num_processes=1)
    stretch = timetable.evaluation_steps
    assert evaluations(timetable)[:5] == [stretch // 8, stretch // 4, stretch // 2, stretch, 2 * stretch]


def test_a_run_too_short_for_its_share_still_has_enough_for_a_trend() -> None:
    """A run of a minute is evaluated four times, its end included; one of seconds at its end only."""
    timetable = make_timetable(TrainConfig(), 100, num_train=100_000, num_processes=1)
    assert evaluations(timetable) == [12, 25, 50, 100]
    assert evaluations(make_timetable(TrainConfig(), 10, num_train=100_000, num_processes=1)) == [10]


def test_previews_come_as_epochs_end() -> None:
    """A preview is due at the first step that ends every second epoch, and at the last step."""
    timetable = Timetable(20, 16, 2 * 50, evaluation_steps=100, early_steps=(12, 25, 50), num_tuples=48)
    assert previews(timetable) == [7, 13, 19, 20]
