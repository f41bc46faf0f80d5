"""When a run is evaluated and previewed."""

from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest

from openddpm.config import TrainConfig
from openddpm.record.schema import RunRecord
from openddpm.training.timetable import (
    FILM_STRIP,
    FIXED_SAMPLE_COUNTS,
    FORWARD_COST,
    FORWARD_COST_MIXED,
    MAX_SHARE_OF_A_FILM_STRIP,
    MAX_SHARE_OF_PREVIEWS,
    MAX_SHARE_OF_TIME,
    Timetable,
    _increasingly_spaced,
    make_timetable,
)

CHEAP = {"eval_batch_size": 1, "num_inference_steps": 1}
COSTS = {"preview_images": 100.0, "fixed_sample_images": 1.0}


def evaluations(timetable: Timetable) -> list[int]:
    """Return the steps after which a run is evaluated."""
    return [step for step in range(1, timetable.total_steps + 1) if timetable.is_evaluation(step)]


def previews(timetable: Timetable) -> list[int]:
    """Return the steps after which a run is previewed."""
    return [step for step in range(1, timetable.total_steps + 1) if timetable.is_preview(step)]


@pytest.mark.parametrize("total_steps", [1_500, 3_700, 20_000, 100_000])
@pytest.mark.parametrize("num_processes", [1, 4])
def test_evaluation_keeps_within_its_share(total_steps: int, num_processes: int) -> None:
    """However long the run, evaluating costs no more images' worth of time than the share it may take.

    Processes share an evaluation as they share a batch.
    """
    config = TrainConfig(train_batch_size=16)
    timetable = make_timetable(config, total_steps, num_train=5400, num_processes=num_processes)
    forwards = len(evaluations(timetable)) * timetable.num_fixed_samples * 4
    assert forwards * FORWARD_COST <= MAX_SHARE_OF_TIME * total_steps * 16 * num_processes


def test_a_longer_run_is_measured_on_more() -> None:
    """What a long run can afford goes into more tuples first, then into more evaluations."""
    config = TrainConfig(train_batch_size=16)
    tables = [make_timetable(config, steps, num_train=5400, num_processes=1) for steps in (3_700, 30_000, 300_000)]
    assert [table.num_fixed_samples for table in tables] == [
        FIXED_SAMPLE_COUNTS[0],
        FIXED_SAMPLE_COUNTS[-1],
        FIXED_SAMPLE_COUNTS[-1],
    ]
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
            1000, 16, images_per_preview, evaluation_steps=100, early_steps=(12, 25, 50), num_fixed_samples=48, **COSTS
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
    for steps, expected in ((10, [10]), (75, [75]), (80, [10, 20, 40, 80])):  # 5 evaluations of 48 cost 0.3 of 80 steps
        assert evaluations(make_timetable(TrainConfig(), steps, num_train=100_000, num_processes=1)) == expected


def test_previews_come_as_epochs_end() -> None:
    """A preview is due at the first step that ends every second epoch, and at the last step."""
    timetable = Timetable(20, 16, 2 * 50, evaluation_steps=100, early_steps=(12, 25, 50), num_fixed_samples=48, **COSTS)
    assert previews(timetable) == [7, 13, 19, 20]


def planned(num_train: int, num_processes: int = 1, **options: Any) -> Timetable:
    """Return the timetable of a run."""
    config = TrainConfig(**options)
    batch = config.train_batch_size * config.gradient_accumulation_steps * num_processes
    total_steps = config.max_train_steps or -(-config.num_epochs * num_train // batch)
    return make_timetable(config, total_steps, num_train, num_processes)


def previews_share(timetable: Timetable, forwards: int, forward_cost: float) -> float:
    """Return the time of all previews, of so many forward passes of an image each, as a share of training."""
    return len(previews(timetable)) * forwards * forward_cost / (timetable.total_steps * timetable.global_batch_size)


@pytest.mark.parametrize("num_train", [1, 90, 750, 5488, 99_488])
@pytest.mark.parametrize("total_steps", [1, 20, 1_000, 20_000])
def test_previews_keep_within_their_share(num_train: int, total_steps: int) -> None:
    """However short epochs are, previews take a twentieth of the time, or a fifth if there are no more than a few; of
    a run too short for that there is the last one."""
    for options, forwards, cost in (
        ({}, 2 * 16 * 50, FORWARD_COST),
        ({"use_ema": False}, 16 * 50, FORWARD_COST),
        ({"num_inference_steps": 15, "eval_batch_size": 4}, 2 * 4 * 15, FORWARD_COST),
        ({"mixed_precision": "bf16"}, 2 * 16 * 50, FORWARD_COST_MIXED),
    ):
        timetable = planned(num_train, max_train_steps=total_steps, **options)  # type: ignore[arg-type]
        count, share = len(previews(timetable)), previews_share(timetable, forwards, cost)
        allowed = MAX_SHARE_OF_A_FILM_STRIP if count <= FILM_STRIP else MAX_SHARE_OF_PREVIEWS
        assert count == 1 or share <= allowed, options
        assert timetable.is_preview(total_steps)


def test_other_processes_wait_for_previews() -> None:
    """Four processes, of which three wait, make a quarter of the previews in as many steps of as many images each."""
    alone, together = planned(750, max_train_steps=20_000), planned(750, 4, max_train_steps=20_000)
    assert len(previews(together)) == len(previews(alone))
    assert previews_share(together, 2 * 16 * 50 * 4, FORWARD_COST) == pytest.approx(MAX_SHARE_OF_PREVIEWS, rel=0.1)


def test_previews_are_close_together_at_first() -> None:
    """400 epochs of 750 images are previewed as epochs end, the first of them within 3, further and further apart."""
    steps = previews(planned(750, num_epochs=400))
    ends = [-(-epoch * 750 // 16) for epoch in range(1, 401)]
    epochs = [ends.index(step) + 1 for step in steps]
    assert epochs[0] == 1 and epochs[1] <= 3 and epochs[-1] == 400
    gaps = [later - earlier for earlier, later in pairwise(epochs)]
    assert all(later >= earlier - 1 for earlier, later in pairwise(gaps))  # but for rounding to ends of epochs
    assert gaps[-1] > 10 * gaps[0]


@pytest.mark.parametrize("num_train", [1, 5_488, 10**9])
@pytest.mark.parametrize("total_steps", [10**9, 10**12])
def test_a_run_without_end_is_planned_as_others_are(num_train: int, total_steps: int) -> None:
    """A run that is to go on until it is stopped has a plan at once, of no more previews than can be listed."""
    timetable = planned(num_train, max_train_steps=total_steps)
    steps = timetable.preview_steps
    assert FILM_STRIP < len(steps) + 1 <= 1000
    assert steps[-1] >= 0.9 * total_steps


@pytest.mark.parametrize("num_train", [1, 90])
@pytest.mark.parametrize("total_steps", [5, 50, 1000])
def test_a_batch_may_be_many_epochs(num_train: int, total_steps: int) -> None:
    """A batch far larger than the data set, with previews that cost little, has a plan like any other."""
    cheap = {"train_batch_size": 512, "eval_batch_size": 4, "num_inference_steps": 2}
    timetable = planned(num_train, max_train_steps=total_steps, **cheap)
    steps = timetable.preview_steps
    assert 0 < len(steps) < total_steps and list(steps) == sorted(set(steps))
    assert previews_share(timetable, 2 * 4 * 2, FORWARD_COST) <= MAX_SHARE_OF_A_FILM_STRIP


@pytest.mark.parametrize(
    ("run", "options", "expected"),
    [
        (  # 6,000 of 200,000 fixed samples in the time of training: 27 evaluations of 192 and 4 more; 25 previews
            (20_000, 5_488, 1),
            {},
            Timetable(
                *(20_000, 16, None, 741, (92, 185, 370), 192, 640.0, 1.6),
                preview_steps=(
                    *(343, 686, 1029, 1372, 1715, 2058, 2401, 2744, 3087, 3430, 3773, 4459),
                    *(5488, 6174, 7203, 8232, 9261, 10290, 11662, 12691, 14063, 15435, 16807, 18522),
                ),
            ),
        ),
        (  # 600 of 20,000: 8 of 48 and 4 more; 2 previews are a twentieth of the time, 8 a fifth
            (2_000, 99_488, 1),
            {},
            Timetable(
                *(2_000, 16, None, 250, (31, 62, 125), 48, 640.0, 1.6),
                preview_steps=(31, 125, 250, 500, 750, 1250, 1500),
            ),
        ),
        (  # as many epochs as a film strip has previews before its end
            (2_000, 4_000, 1),
            {},
            Timetable(*(2_000, 16, None, 250, (31, 62, 125), 48, 640.0, 1.6), preview_steps=(*range(250, 1751, 250),)),
        ),
        (  # one fewer
            (2_000, 5_000, 1),
            {},
            Timetable(
                *(2_000, 16, None, 250, (31, 62, 125), 48, 640.0, 1.6),
                preview_steps=(31, 125, 250, 500, 750, 1250, 1500),
            ),
        ),
        (  # 24 previews are affordable, but there are 8 epochs
            (20_000, 38_000, 1),
            {},
            Timetable(
                *(20_000, 16, None, 741, (92, 185, 370), 192, 640.0, 1.6), preview_steps=(*range(2375, 19_001, 2375),)
            ),
        ),
        (  # 3 epochs: a film strip
            (20_000, 99_488, 1),
            {},
            Timetable(
                *(20_000, 16, None, 741, (92, 185, 370), 192, 640.0, 1.6),
                preview_steps=(370, 1482, 2964, 5187, 8151, 11115, 15561),
            ),
        ),
        (  # 2,400 of 80,000 are too few for 96
            (8_000, 10**9, 4),
            {"train_batch_size": 4, "save_images_epochs": 1},
            Timetable(8_000, 16, 10**9, 174, (21, 43, 87), 48, 2560.0, 1.6),
        ),
        (  # 5 previews are a fifth of the time
            (1_000, 99_488, 1),
            {},
            Timetable(*(1_000, 16, None, 500, (62, 125, 250), 48, 640.0, 1.6), preview_steps=(62, 125, 250, 500)),
        ),
        (  # 2,688 of 89,600: 24 of 96 and 4 more
            (8_960, 10**9, 4),
            {"train_batch_size": 4, "save_images_epochs": 1},
            Timetable(8_960, 16, 10**9, 374, (46, 93, 187), 96, 2560.0, 1.6),
        ),
        ((700, 10**9, 1), {}, Timetable(700, 16, None, 700, (87, 175, 350), 48, 640.0, 1.6, (87, 350))),
        ((100, 750, 1), {}, Timetable(100, 16, None, 100, (12, 25, 50), 48, 640.0, 1.6)),
        (  # previews that cost little: at the ends of 3 epochs, as there are no more evaluations
            (100, 500, 1),
            CHEAP,
            Timetable(100, 16, None, 100, (12, 25, 50), 48, 0.8, 1.6, (32, 63, 94)),
        ),
        (  # no epoch ends; an early evaluation after 0 steps is none
            (5, 10**6, 1),
            {**CHEAP, "train_batch_size": 512},
            Timetable(5, 512, None, 5, (0, 1, 2), 48, 0.8, 1.6, (1, 2)),
        ),
        (  # each step is an epoch
            (8, 16, 1),
            {**CHEAP, "use_ema": False},
            Timetable(8, 16, None, 8, (), 48, 0.4, 0.8, (1, 2, 3, 4, 5, 6, 7)),
        ),
        (  # 640,000 of 21,333,333: 3,329 of 192 and 4 more
            (100_000, 99_488, 4),
            {"train_batch_size": 128, "use_ema": False, "mixed_precision": "bf16", "save_images_epochs": 10},
            Timetable(100_000, 512, 994_880, 31, (3, 7, 15), 192, 3840.0, 2.4),
        ),
    ],
)
def test_plans_are_these(run: tuple[int, int, int], options: dict[str, Any], expected: Timetable) -> None:
    """Runs long and short have the plans that follow from the shares of time, written out."""
    found = make_timetable(TrainConfig(**options), *run)
    costs = {name: pytest.approx(getattr(expected, name)) for name in ("preview_images", "fixed_sample_images")}
    assert asdict(found) == {**asdict(expected), **costs, "checkpoint_intervals": (500,)}


def test_every_epoch_is_previewed_where_epochs_are_long() -> None:
    """A hundred epochs of 99,488 images have a preview each; the plan is what --save_images_epochs 1 makes."""
    options = {"num_epochs": 100, "train_batch_size": 128}
    assert previews(planned(99_488, **options)) == previews(planned(99_488, save_images_epochs=1, **options))


@pytest.mark.parametrize("num_train", [5_488, 99_488, 10**7])
def test_few_epochs_are_previewed_between_their_ends(num_train: int) -> None:
    """A run that ends few epochs, or none, has a film strip all the same, at steps that are evaluated in any case."""
    timetable = planned(num_train, max_train_steps=2_000)
    assert len(previews(timetable)) == FILM_STRIP
    assert previews(timetable)[0] <= 2_000 / 16
    seldom = planned(num_train, max_train_steps=2_000, save_images_epochs=10**6)
    assert evaluations(timetable) == evaluations(seldom)
    assert set(previews(timetable)) <= set(evaluations(timetable))


@pytest.mark.parametrize("every", [1, 3])
def test_previews_that_are_asked_for_are_made_to_the_letter(every: int) -> None:
    """--save_images_epochs makes a preview every so many epochs, whatever it costs, and nothing is planned."""
    timetable = planned(10, max_train_steps=30, save_images_epochs=every)
    ends = {-(-epoch * 10 // 16) for epoch in range(every, 49, every)}
    assert previews(timetable) == sorted({*ends, 30} & set(range(31)))
    assert timetable.plan_of_previews() is None


def begun(timetable: Timetable) -> RunRecord:
    """Return what run.json says of a run with this timetable, as far as that matters here."""
    return RunRecord.model_construct(
        total_steps=timetable.total_steps, evaluation=timetable.plan(), previews=timetable.plan_of_previews()
    )


def test_a_run_keeps_its_previews() -> None:
    """A run gone on with under other options has the previews that it began with; a longer one has more after them."""
    old = planned(750, num_epochs=100)
    other = {"num_inference_steps": 5, "mixed_precision": "bf16"}
    assert planned(750, num_epochs=100, **other).preview_steps != old.preview_steps
    assert planned(750, num_epochs=100, **other).keeping(begun(old)).preview_steps == old.preview_steps
    new = planned(750, num_epochs=200, **other)
    longer = new.keeping(begun(old))
    assert longer.preview_steps[: len(old.preview_steps)] == old.preview_steps
    added = longer.preview_steps[len(old.preview_steps) :]
    assert added == tuple(step for step in new.preview_steps if step > old.total_steps) != ()
    assert longer.keeping(begun(longer)) == longer
    shorter = planned(750, num_epochs=50).keeping(begun(old))
    assert set(previews(shorter)) - {shorter.total_steps} < set(old.preview_steps)


@pytest.mark.parametrize(
    ("total_steps", "planned_anew", "expected"),
    [(300, (40, 200), (25, 60)), (1000, (40, 900), (25, 60, 300)), (2000, (40, 1000, 1500), (25, 60, 300, 1500))],
)
def test_a_run_keeps_what_was_planned(
    total_steps: int, planned_anew: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """All of it, up to the new end; at its old end a run had a preview in any case."""
    old = Timetable(1000, 16, None, 100, (12, 25, 50), 48, **COSTS, preview_steps=(25, 60, 300))
    other = Timetable(total_steps, 16, None, 70, (3,), 96, **COSTS, preview_steps=planned_anew)
    assert other.keeping(begun(old)) == replace(old, total_steps=total_steps, preview_steps=expected)


def test_previews_asked_for_later_replace_the_plan() -> None:
    """--save_images_epochs, given to a run that began with a plan, says when from then on; and the other way round."""
    asked, plan = planned(750, num_epochs=100, save_images_epochs=7), planned(750, num_epochs=100)
    assert previews(asked.keeping(begun(plan))) == previews(asked)
    assert previews(plan.keeping(begun(asked))) == previews(plan)


def test_a_planned_preview_is_evaluated_once_a_stretch() -> None:
    """Evaluations are at the first planned preview of a stretch, not counting one that an early evaluation has."""
    timetable = Timetable(
        1000, 16, None, 100, (12, 25, 50), num_fixed_samples=48, **COSTS, preview_steps=(25, 60, 70, 230, 240, 300, 501)
    )
    assert evaluations(timetable) == [12, 25, 50, 60, 200, 230, 400, 500, 501, 700, 800, 900, 1000]
    assert evaluations(replace(timetable, preview_steps=()))[:5] == [12, 25, 50, 100, 200]


def test_pauses_are_counted_in_steps() -> None:
    """Previews and evaluations, those at the end included, in the time of so many steps of 16 images."""
    timetable = Timetable(1000, 16, None, 150, (18, 37, 75), 48, 100.0, 0.5, preview_steps=(25, 60))
    assert timetable.pauses_in_steps == (3 * 100 + 10 * 24) / 16
    assert replace(timetable, images_per_preview=1700).pauses_in_steps == (10 * 100 + 10 * 24) / 16


@pytest.mark.parametrize(
    ("rising", "expected"),
    [
        (range(1, 101), [4, 16, 36, 64]),
        (range(10, 101, 10), [10, 20, 40, 60]),
        ([1, 10, 22, 36, 64], [1, 22, 36, 64]),  # 16 lies halfway between two: the later one
        ([1, 2, 3, 4, 5], [2, 3, 4, 5]),  # which lie far before the end
        ([4, 16, 36, 50, 64], [4, 16, 36, 64]),
        ([7, 8, 9, 50], [7, 8, 9, 50]),
    ],
)
def test_previews_lie_at_the_squares(rising: Any, expected: Any) -> None:
    """Of 4 the n-th is nearest to 100 (n / 5)^2, but for what is taken and what the others need; 4 are all taken."""
    assert _increasingly_spaced(rising, 100, 4) == expected
