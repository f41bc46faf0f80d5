"""What a comparison of a run with a reference says."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.made_up_run import made_up_session, write_made_up_run
from tests.support.made_up_seeds import another_seed

from openddpm.comparison.band import make_bands
from openddpm.comparison.compare import compare
from openddpm.comparison.explanations import SAME_NUMBERS, explain
from openddpm.comparison.following import Follower
from openddpm.comparison.same_run import Relation
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.record.schema import EvaluationRow, MetricsRow, Resumption


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a run without previews."""
    return read_run_folder(write_made_up_run(tmp_path_factory.mktemp("run"), previews=0, evaluations=16))


@pytest.fixture(scope="module")
def reference(run: RunFolder) -> list[RunFolder]:
    """Return six seeds of it."""
    return [another_seed(run, seed) for seed in range(6)]


def with_metrics(run: RunFolder, change: Callable[[MetricsRow], MetricsRow]) -> RunFolder:
    """Return `run` with every line of metrics.jsonl changed."""
    return replace(run, metrics=[change(row) for row in run.metrics])


def with_config(run: RunFolder, **options: object) -> RunFolder:
    """Return `run` with other options."""
    return replace(run, run=run.run.model_copy(update={"config": {**run.run.config, **options}}))


def times(factor: Callable[[int], float]) -> Callable[[MetricsRow], MetricsRow]:
    """Return a change that multiplies the training loss by a function of the step."""
    return lambda row: row.model_copy(update={"train_loss": row.train_loss * factor(row.step)})


def test_a_copy_has_the_same_bits(reference: list[RunFolder]) -> None:
    """A record with all numbers of a reference's run is the same run to the bit, whatever took how long."""
    slower = with_metrics(reference[2], lambda row: row.model_copy(update={"wall_seconds": 9 * row.wall_seconds}))
    answer = compare(slower, reference).answer()
    assert (answer["verdict"], answer["first_difference"], answer["explanations"]) == ("same_bits", None, [])


def test_differences_that_grow_as_rounding_does_are_the_same_run(reference: list[RunFolder]) -> None:
    """Losses 1e-7 apart at first, and ten times more every 30 steps up to 0.2 %, are the same run, rounding apart."""
    apart = with_metrics(reference[2], times(lambda step: 1 + min(2e-3, 1e-7 * 10 ** (step / 30))))
    answer = compare(apart, reference).answer()
    assert answer["verdict"] == "same_run"
    assert answer["first_difference"] == {"step": 10, "images_seen": 320, "field": "train_loss"}


@pytest.mark.parametrize("jump", [3e-4, 0.01, 0.3])
def test_a_jump_is_not_rounding(reference: list[RunFolder], jump: float) -> None:
    """Losses that are equal to the bit and then jump are not the same run; the step of the jump is named."""
    parted = with_metrics(reference[2], times(lambda step: 1 + jump * (step >= 300)))
    answer = compare(parted, reference).answer()
    assert answer["verdict"] == "outside"
    assert answer["first_difference"] == {"step": 300, "images_seen": 9600, "field": "train_loss"}
    assert "at step 300 the training loss differs by" in answer["sentence"]


def test_a_difference_counts_from_the_last_line_that_was_equal(reference: list[RunFolder]) -> None:
    """Rounding has grown when it first shows after a hundred steps without a line: what is a jump within ten is not."""

    def every_hundred(run: RunFolder) -> RunFolder:
        lines = [row for row in run.metrics if row.step % 100 == 0]
        return replace(run, metrics=lines, evaluations=[row for row in run.evaluations if row.step % 100 == 0])

    parted = with_metrics(reference[2], times(lambda step: 1 + 1e-3 * (step >= 300)))
    assert compare(parted, reference).verdict == "outside"
    assert compare(every_hundred(parted), [every_hundred(run) for run in reference]).verdict == "same_run"


def test_a_replay_counts_from_where_it_began(reference: list[RunFolder]) -> None:
    """A replay from step 290 has to have the numbers of step 300 but for the rounding of ten steps."""
    parted = with_metrics(reference[2], times(lambda step: 1 + 1e-3)).metrics
    row = next(row for row in parted if row.step == 300)
    for since, kind in ((290, "parted"), (100, "rounding")):
        relation = Relation(reference[2], since=since)
        relation.row_before = 290
        relation.add(row)
        assert relation.kind == kind


def test_a_learning_rate_is_a_function_of_the_step(reference: list[RunFolder]) -> None:
    """A learning rate that is off by a millionth is no rounding, though the loss is the same."""

    def change(row: MetricsRow) -> MetricsRow:
        factor = 1 + 1e-6 * (row.step > 500)
        return row.model_copy(update={"learning_rate": row.learning_rate * factor})

    answer = compare(with_metrics(reference[0], change), reference).answer()
    assert (answer["verdict"], answer["first_difference"]["step"]) == ("outside", 510)
    assert answer["first_difference"]["field"] == "learning_rate"


def test_other_random_numbers_from_the_start_are_another_seed(reference: list[RunFolder]) -> None:
    """A run with the seed of the reference that differs from the first line on is held against the band."""
    seed = another_seed(reference[0], 0, spread=0.001)
    other = with_metrics(
        seed, lambda row: row.model_copy(update={"train_loss": 1.2 * row.train_loss, "grad_norm": 0.1 * row.epoch})
    )
    answer = compare(other, reference).answer()
    assert answer["verdict"] == "inside"
    assert "other" in answer["sentence"] and "from the start" in answer["sentence"]


def every_seventh_step(run: RunFolder) -> RunFolder:
    """Return the run that makes up `run`, logged every 7 steps: its training losses are other means."""
    rows = [
        row.model_copy(update={"step": step, "images_seen": 32 * step, "train_loss": 1.1 * row.train_loss})
        for step, row in zip(range(7, 7 * len(run.metrics), 7), run.metrics, strict=False)
    ]
    shared = {row.step: row for row in run.metrics}
    same = ("epoch", "learning_rate", "grad_norm", "ema_decay")
    rows = [
        row.model_copy(update={name: getattr(shared[row.step], name) for name in same}) if row.step in shared else row
        for row in rows
    ]
    return with_config(replace(run, metrics=rows), logging_steps=7)


def test_a_run_that_logs_at_other_steps_is_the_same_run(reference: list[RunFolder]) -> None:
    """Means of the training loss over other steps are no difference: the run is the same to the bit, followed, too."""
    candidate = every_seventh_step(reference[2])
    comparison = compare(candidate, reference)
    assert comparison.verdict == "same_bits"
    assert comparison.relation is not None and isinstance(comparison.relation.last, EvaluationRow)
    again = replace(candidate, run=candidate.run.model_copy(update={"run_id": "ab" * 8}))
    assert Follower("it", reference, again).following().state == "same_bits"


def test_equal_evaluations_show_the_same_random_numbers(reference: list[RunFolder]) -> None:
    """A first training loss that is 20 % off parts a run from the one whose evaluations it has to the bit."""
    edited = with_metrics(reference[2], times(lambda step: 1.2 if step == 10 else 1.0))
    only_evaluations = replace(edited, metrics=edited.metrics[:1])
    for one in (edited, only_evaluations):
        comparison = compare(one, reference)
        assert comparison.verdict == "outside"
        assert "though seed and options are: at step 10 the training loss differs by 17 %" in comparison.sentence


def test_another_seed_is_inside_and_told_what_would_have_shown(run: RunFolder, reference: list[RunFolder]) -> None:
    """Inside comes with the smallest difference that could have been seen, in each quantity."""
    answer = compare(another_seed(run, 50), reference).answer()
    assert (answer["verdict"], answer["left_band_at"]) == ("inside", None)
    assert 0.02 < answer["detectable"]["heldout_loss"] < 0.3
    assert f"{100 * answer['detectable']['heldout_loss']:.0f} % off at this point" in answer["sentence"]


@pytest.mark.parametrize(("factor", "word"), [(1.5, "behind"), (0.6, "ahead")])
def test_outside_on_either_side(run: RunFolder, reference: list[RunFolder], factor: float, word: str) -> None:
    """A loss that is too high is behind, one that is too low is ahead; both are outside, from where they began."""
    answer = compare(another_seed(run, 50, factor=factor, since=30_000), reference).answer()
    assert answer["verdict"] == "outside" and f"is {word}" in answer["sentence"]
    assert answer["left_band_at"] == min(row.images_seen for row in run.evaluations if row.images_seen > 30_000)


def test_rounding_does_not_excuse_a_run_that_leaves_the_band(run: RunFolder, reference: list[RunFolder]) -> None:
    """A run that begins as one of the reference's and ends far from all is outside."""
    began = with_metrics(reference[2], times(lambda step: 1 + min(2e-3, 1e-7 * 10 ** (step / 30))))
    far = another_seed(run, 50, spread=0.0, factor=2.0, since=30_000).evaluations
    evaluations = [row if row.images_seen <= 30_000 else late for row, late in zip(began.evaluations, far, strict=True)]
    scaled = replace(began, evaluations=evaluations)
    assert compare(scaled, reference).verdict == "outside"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("sha256", "0" * 64, "other images"), ("num_heldout", 100, "number of held-out images differs (100 and 512)")],
)
def test_other_images_cannot_be_compared(reference: list[RunFolder], field: str, value: object, reason: str) -> None:
    """Losses on other images, or on other held-out ones, are not compared; it says why."""
    dataset = reference[0].run.dataset.model_copy(update={field: value})
    candidate = replace(reference[0], run=reference[0].run.model_copy(update={"dataset": dataset}))
    answer = compare(candidate, reference).answer()
    assert answer["verdict"] == "not_comparable" and reason in answer["sentence"]


def test_other_noises_cannot_be_compared(reference: list[RunFolder]) -> None:
    """The loss of predicting no noise shows whether the fixed noises are the same."""
    assert reference[0].baselines is not None
    baselines = reference[0].baselines.model_copy(update={"zero": [1.01] * 20})
    answer = compare(replace(reference[0], baselines=baselines), reference).answer()
    assert answer["verdict"] == "not_comparable" and "other noises" in answer["sentence"]


def test_one_run_gives_no_band(run: RunFolder, reference: list[RunFolder]) -> None:
    """With another seed as the only reference the difference is told, but not judged."""
    answer = compare(another_seed(run, 50, factor=1.5), reference[:1]).answer()
    assert answer["verdict"] == "not_comparable"
    assert "% higher, but 1 run cannot show how much seeds differ" in answer["sentence"]


def test_what_differs_is_listed_the_likeliest_first(run: RunFolder, reference: list[RunFolder]) -> None:
    """Options come in the order of their measured effects, before software and hardware."""
    candidate = with_config(another_seed(run, 50, factor=1.5), adam_epsilon=1e-3, lr_warmup_steps=50, seed=50)
    session = made_up_session(device="Intel Xeon", packages={"openddpm": "0.2.0"})
    candidate = replace(candidate, run=candidate.run.model_copy(update={"sessions": [session]}))
    found = [one["name"] for one in compare(candidate, reference).answer()["explanations"]]
    options = [name for name in found if name in ("adam_epsilon", "lr_warmup_steps", "device", "openddpm")]
    assert options == ["adam_epsilon", "lr_warmup_steps", "device", "openddpm"]
    assert "seed" not in found


def test_another_schedule_from_the_same_options_is_named_first(run: RunFolder, reference: list[RunFolder]) -> None:
    """A learning rate in the lines that is not the reference's, though no option of it differs, is told before all."""

    def change(row: MetricsRow) -> MetricsRow:
        return row.model_copy(update={"learning_rate": row.learning_rate * (1 + (row.step > 40))})

    candidate = with_metrics(with_config(another_seed(run, 50, factor=1.5), adam_weight_decay=0.3), change)
    first, *_ = compare(candidate, reference).answer()["explanations"]
    assert first["name"] == "logged_learning_rate" and first["candidate"].endswith("at step 50")
    with_option = with_config(candidate, learning_rate=5e-3)
    names = [one["name"] for one in compare(with_option, reference).answer()["explanations"]]
    assert "logged_learning_rate" not in names and "learning_rate" in names


@pytest.mark.parametrize("factor", [1.5, 0.6])
def test_what_works_to_the_other_side_is_no_likely_explanation(
    run: RunFolder, reference: list[RunFolder], factor: float
) -> None:
    """A run that is ahead is not explained by what made runs worse; that this is so is told."""
    candidate = with_config(another_seed(run, 50, factor=factor), use_ema=False, adam_weight_decay=0.3)
    found = compare(candidate, reference).answer()["explanations"]
    assert [one["name"] for one in found] == ["use_ema", "adam_weight_decay"][:: 1 if factor > 1 else -1]
    reason = next(one["reason"] for one in found if one["name"] == "use_ema")
    assert reason.endswith("; so this alone would put the candidate behind") == (factor < 1)


def test_larger_steps_in_the_learning_rate_count_more(run: RunFolder, reference: list[RunFolder]) -> None:
    """A learning rate 32 times as high comes before another optimizer, one 1.1 times as high after it."""
    orders = []
    for factor in (32.0, 1.1):
        rate = factor * run.run.config["learning_rate"]
        candidate = with_config(another_seed(run, 50), learning_rate=rate, optimizer="adamw")
        names = [one["name"] for one in compare(candidate, reference).answer()["explanations"]]
        orders.append([name for name in names if name in ("learning_rate", "optimizer")])
    assert orders == [["learning_rate", "optimizer"], ["optimizer", "learning_rate"]]


def test_following_says_at_each_row_what_comparing_says_at_the_end(run: RunFolder, reference: list[RunFolder]) -> None:
    """A run that is followed from its first row on has the states that it should have, and ends as compare says."""
    candidate = another_seed(run, 50, factor=1.5, since=30_000)
    growing = replace(candidate, metrics=[], evaluations=[])
    follower = Follower("avatars-16", reference, growing)
    states = [follower.following().state]
    for row in sorted([*candidate.metrics, *candidate.evaluations], key=lambda row: row.step):  # type: ignore[attr-defined]
        (growing.metrics if isinstance(row, MetricsRow) else growing.evaluations).append(row)  # type: ignore[arg-type]
        follower.add(row)  # type: ignore[arg-type]
        if follower.following().state != states[-1]:
            states.append(follower.following().state)
    assert states == ["too_early", "another_seed", "behind"]
    assert follower.following().since_images == compare(candidate, reference).answer()["left_band_at"]


def test_following_the_same_seed(reference: list[RunFolder]) -> None:
    """A run that repeats one of the reference's is followed to the bit, from its first logged step on."""
    again = reference[3].run.model_copy(update={"run_id": "ab" * 8})
    growing = replace(reference[3], run=again, metrics=[], evaluations=[])
    follower = Follower("avatars-16", reference, growing)
    assert follower.following().state == "too_early"
    growing.metrics.append(reference[3].metrics[0])
    follower.add(reference[3].metrics[0])
    assert follower.following().text == "The same bits as seed 3 of avatars-16, in all 6 numbers so far."
    resumed = Follower("avatars-16", reference, replace(reference[3], run=again))
    assert resumed.following().state == "same_bits"


def test_records_without_a_common_row_have_no_bits_in_common(reference: list[RunFolder]) -> None:
    """A run of the same seed that shares no row with the reference's is not called the same run."""
    base = replace(reference[2], metrics=[], evaluations=reference[2].evaluations[16:])
    early = replace(reference[2], metrics=[], evaluations=reference[2].evaluations[:16])
    assert compare(early, [base]).relation is None


def test_the_same_bits_say_nothing_of_what_came_after(run: RunFolder, reference: list[RunFolder]) -> None:
    """A run that leaves the band after its twin's record has ended is outside, and behind while it is followed."""
    twin = replace(reference[2], metrics=reference[2].metrics[:40], evaluations=reference[2].evaluations[:10])
    late = another_seed(reference[2], 2, spread=0.0, factor=2.0, since=30_000)
    candidate = replace(late, metrics=reference[2].metrics)
    others = [*reference[:2], twin, *reference[3:]]
    answer = compare(candidate, others).answer()
    assert (answer["verdict"], answer["first_difference"]) == ("outside", None)
    assert Follower("it", others, candidate).following().state == "behind"


def test_a_run_does_not_follow_its_own_record_from_before(run: RunFolder, reference: list[RunFolder]) -> None:
    """A resumed run that lies in the folder that it follows is held against the other runs there alone."""
    own = another_seed(run, 50, factor=1.5, since=30_000)
    follower = Follower("runs", [*reference, replace(own, evaluations=own.evaluations[:10])], own)
    assert follower.following().state == "behind"
    assert follower.band_record().seeds == [0, 1, 2, 3, 4, 5]


def test_the_same_bits_come_with_the_last_step_that_both_have(reference: list[RunFolder]) -> None:
    """A run of which the reference has a shorter record is told up to where it is the same."""
    sentence = compare(
        reference[2], [replace(reference[2], metrics=reference[2].metrics[:40], evaluations=[])]
    ).sentence
    assert "all 240 numbers that both records have, up to step 400, are equal" in sentence
    assert sentence.endswith("The reference holds this very run.")


def test_another_learning_rate_from_the_start_is_no_random_number(reference: list[RunFolder]) -> None:
    """With other learning rates from the first line on it is another run, not one with other random numbers."""

    def change(row: MetricsRow) -> MetricsRow:
        return row.model_copy(update={"learning_rate": 2 * row.learning_rate, "train_loss": 1.1 * row.train_loss})

    answer = compare(with_metrics(reference[2], change), reference).answer()
    assert answer["verdict"] == "outside" and "at step 10 the learning rate differs by 50 %" in answer["sentence"]


def test_a_number_that_one_record_lacks_is_a_difference(reference: list[RunFolder]) -> None:
    """A gradient norm that only one of the two runs has parts them, and no percentage is told."""
    lacking = with_metrics(
        reference[2], lambda row: row.model_copy(update={"grad_norm": None}) if row.step == 300 else row
    )
    assert "at step 300 one of the two has no gradient norm" in compare(lacking, reference).sentence


@pytest.mark.parametrize(("option", "value"), [("beta_schedule", "squaredcos_cap_v2"), ("num_train_timesteps", 500)])
def test_other_noise_levels_cannot_be_compared(reference: list[RunFolder], option: str, value: object) -> None:
    """Another noise schedule gives other noise levels at the same timesteps, so losses are not compared."""
    answer = compare(with_config(reference[0], **{option: value}), reference).answer()
    assert answer["verdict"] == "not_comparable" and f"--{option} differs ({value} and" in answer["sentence"]


def test_weights_that_are_not_finite_are_outside(run: RunFolder, reference: list[RunFolder]) -> None:
    """A run whose weights become NaN leaves the band there, though no loss is recorded from then on."""
    candidate = another_seed(run, 50)
    nothing = {"heldout_loss": None, "fixed_train_loss": None, "bands": {}}
    rows = [row if row.images_seen < 30_000 else row.model_copy(update=nothing) for row in candidate.evaluations]
    broken = replace(candidate, evaluations=rows)
    answer = compare(broken, reference).answer()
    assert (answer["verdict"], answer["left_band_at"]) == ("outside", 33_600)
    assert "its held-out loss is not finite, the reference's" in answer["sentence"]
    assert "held-out loss not finite" in Follower("it", reference, broken).following().text
    assert "held-out loss is not finite, but 1 run" in compare(broken, reference[:1]).sentence


def test_a_run_that_is_inside_again_is_not_called_behind(run: RunFolder, reference: list[RunFolder]) -> None:
    """A loss that left the band for a while makes the run outside; that it came back is told."""
    candidate = another_seed(run, 50)
    late = another_seed(run, 50, factor=2.0)
    rows = [
        one if 20_000 < one.images_seen < 40_000 else other
        for one, other in zip(late.evaluations, candidate.evaluations, strict=True)
    ]
    for_a_while = replace(candidate, evaluations=rows)
    comparison = compare(for_a_while, reference)
    assert comparison.verdict == "outside" and "and was behind, but is inside again." in comparison.sentence
    following = Follower("it", reference, for_a_while).following()
    assert following.text.startswith("Inside again, after it was behind it since 24,000 images: held-out loss")
    others = [row.model_copy(update={"fixed_train_loss": 9.0}) for row in rows]
    still_outside = replace(candidate, evaluations=others)
    assert (
        "and was behind since 24,000, but is inside again in its held-out" in compare(still_outside, reference).sentence
    )
    assert Follower("it", reference, still_outside).following().text.startswith("Inside again in its held-out loss,")


def test_a_run_that_was_ahead_first_is_behind_since_it_is(run: RunFolder, reference: list[RunFolder]) -> None:
    """A loss that leaves the band to both sides, and is inside in between, is behind since it is so without a break."""
    factors = {0: 0.5, 10_000: 2.0, 15_000: 1.0, 20_000: 2.0}
    seeds = {begin: another_seed(run, 50, factor=factor) for begin, factor in factors.items()}
    rows = [
        seeds[max(begin for begin in factors if begin < row.images_seen)].evaluations[number]
        for number, row in enumerate(run.evaluations)
    ]
    candidate = replace(seeds[0], evaluations=rows)
    comparison = compare(candidate, reference)
    assert comparison.answer()["left_band_at"] == 4800
    assert "by all losses, and is behind since 24,000. After" in comparison.sentence
    following = Follower("it", reference, candidate).following()
    assert (following.state, following.since_images) == ("behind", 24_000)
    high = [row.model_copy(update={"fixed_train_loss": 9.0}) for row in candidate.evaluations]
    assert Follower("it", reference, replace(candidate, evaluations=high)).following().since_images == 24_000


def test_runs_of_other_lengths_are_compared_where_all_are_known(run: RunFolder, reference: list[RunFolder]) -> None:
    """Without a band, too, the last number of images counts that the candidate and all runs have."""
    short = replace(reference[1], evaluations=reference[1].evaluations[:12])
    comparison = compare(another_seed(run, 50), [reference[0], short])
    assert [one.images for one in comparison.standings] == [6 * 4800] * 6
    assert "nan" not in comparison.sentence


def test_what_only_the_candidate_has_does_not_count(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A quantity for which the reference has no band is in no table: losses of raw weights twice, without averages."""
    folder = write_made_up_run(tmp_path_factory.mktemp("bare"), previews=0, evaluations=8, use_ema=False)
    bare = read_run_folder(folder)
    comparison = compare(another_seed(bare, 50), [another_seed(bare, seed) for seed in range(4)])
    assert len(comparison.standings) == len(comparison.bands) == 5
    assert all(one.low is not None for one in comparison.standings)


def test_what_differs_is_told_without_paths(reference: list[RunFolder]) -> None:
    """Differences, which verdict.json publishes, name files by their last parts; other files of that name differ."""
    mine = with_config(reference[0], model="/home/me/small/config.json", init_from="~/weights")
    change = Resumption(step=9, time="", changes=["init_from: '/home/me/weights', but None in the run"])
    mine = replace(mine, run=mine.run.model_copy(update={"resumptions": [change], "run_id": "ab" * 8}))
    theirs = with_config(reference[0], model="/srv/config.json")
    told = Follower("it", [theirs], mine).following().differences
    assert "model: config.json, but config.json there" in told
    assert "init_from: weights, but none there" in told
    assert "changes: init_from: 'weights', but None in the run, but none there" in told
    assert not [line for line in told if "home" in line or "srv" in line or "~" in line]


def test_another_split_of_the_same_batch_explains_next_to_nothing(reference: list[RunFolder]) -> None:
    """Half the batch in twice the micro-batches comes with hardware; another global batch is one difference."""
    split = with_config(reference[0], train_batch_size=16, gradient_accumulation_steps=2)
    names = {one.name: one.effect for one in explain(split, reference[0])}
    assert names == {"train_batch_size": SAME_NUMBERS, "gradient_accumulation_steps": SAME_NUMBERS}
    larger = with_config(reference[0], train_batch_size=128)
    assert {one.name: one.effect for one in explain(larger, reference[0])} == {"global_batch_size": 0.16}


def test_a_rollback_is_a_difference(reference: list[RunFolder]) -> None:
    """A run that went back to a checkpoint has gone on with half the learning rate, which its options do not show."""
    entry = Resumption(step=300, time="", rolled_back_from=310, learning_rate_factor=0.5)
    back = replace(reference[0], run=reference[0].run.model_copy(update={"resumptions": [entry]}))
    found = {one.name: (one.candidate, one.reference) for one in explain(back, reference[0])}
    assert found == {"rollbacks": ("1", "0")}


def test_options_that_a_record_lacks_are_the_defaults(run: RunFolder, reference: list[RunFolder]) -> None:
    """A record without options, as another program may write it, is compared."""
    bare = replace(run, run=run.run.model_copy(update={"config": {}, "seed": 50, "run_id": "ab" * 8}))
    assert bare.run.global_batch_size == 16
    assert compare(bare, reference).verdict == "inside"


def test_a_run_with_few_evaluations_is_compared_at_these_alone(run: RunFolder, reference: list[RunFolder]) -> None:
    """Another seed that was evaluated rarely does not leave the band on the lines between its evaluations."""
    other = another_seed(run, 50)
    rare = replace(other, evaluations=other.evaluations[:2] + other.evaluations[-2:])
    comparison = compare(rare, reference)
    assert (comparison.verdict, comparison.standings[0].images) == ("inside", 76_800)


def test_a_run_that_failed_is_outside(run: RunFolder, reference: list[RunFolder]) -> None:
    """A run whose loss is not a number is not inside, however good it was before; it says that it failed."""
    candidate = another_seed(run, 50)
    failed = {"status": "failed", "failure": "loss_not_finite", "failure_text": "the loss is not finite at step 2,410"}
    answer = compare(replace(candidate, run=candidate.run.model_copy(update=failed)), reference).answer()
    assert answer["verdict"] == "outside"
    assert answer["sentence"].startswith("The run failed: the loss is not finite at step 2,410. Before that: Inside")


def test_how_previews_are_drawn_makes_no_other_run(reference: list[RunFolder]) -> None:
    """Options of previews and of logging change no number of training: the run is the same to the bit."""
    candidate = with_config(reference[2], eval_batch_size=64, preview_solver="ddpm", logging_steps=20)
    assert compare(candidate, reference).verdict == "same_bits"


def test_long_references_are_compared_at_some_of_their_evaluations(run: RunFolder) -> None:
    """A band has at most 64 points, the first and the last evaluation among them."""
    rows = [row for row in run.evaluations if row.weights == "ema"]
    many = [rows[0].model_copy(update={"step": step, "images_seen": 32 * step}) for step in range(1, 501)]
    band = make_bands([another_seed(replace(run, evaluations=many), seed) for seed in range(3)])[0]
    assert (len(band.images), band.images[0], band.images[-1]) == (64, 32, 32 * 500)


def test_losses_of_training_samples_are_not_called_held_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without held-out images every loss is of training samples, and is named so."""
    folder = write_made_up_run(tmp_path_factory.mktemp("all"), previews=0, evaluations=8, num_heldout=0)
    run = read_run_folder(folder)
    comparison = compare(another_seed(run, 50), [another_seed(run, seed) for seed in range(4)])
    names = [one.quantity.name for one in comparison.standings]
    assert len(names) == 4 and all(name.startswith("loss on fixed training samples") for name in names)


def test_a_loss_of_zero_is_below_any_band(run: RunFolder, reference: list[RunFolder]) -> None:
    """A held-out loss of 0 at the end is compared as it is, not passed over for the evaluation before."""
    rows = [
        row.model_copy(update={"heldout_loss": 0.0}) if row.step == run.evaluations[-1].step else row
        for row in another_seed(run, 50).evaluations
    ]
    comparison = compare(replace(another_seed(run, 50), evaluations=rows), reference)
    assert comparison.verdict == "outside" and comparison.standings[0].images == rows[-1].images_seen
    assert comparison.standings[0].candidate < 1e-6
