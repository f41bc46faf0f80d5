"""The lines of a record against each other: much of what they say is a function of the options and of other lines."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openddpm.analysis.text import listed
from openddpm.comparison.same_run import OF_A_FORMULA
from openddpm.config import TrainConfig, average_names, recorded_config
from openddpm.record.bands import BANDS
from openddpm.record.reader import RunFolder
from openddpm.record.schema import (
    RAW,
    BaselinesRecord,
    CheckpointRow,
    EvaluationRow,
    MetricsRow,
    RunRecord,
    SamplesRow,
)
from openddpm.training.ema import decay_schedule
from openddpm.training.optimizer import learning_rate_schedule
from openddpm.training.timetable import Timetable, make_timetable

OF_A_SUM = 1e-6  # relative; assumed: rounding of a sum over fixed samples
MOST_MISSING = 100_000  # steps without a line that are looked for
SHOWN = 4  # steps named in one sentence


@dataclass(frozen=True)
class Lines:
    """What the lines of a record say about each other."""

    num_numbers: int
    """Numbers that were computed again."""
    problems: list[str]
    """What does not fit, a sentence each."""
    since: int
    """Step of the last change of options; earlier lines were made with options that the record does not keep."""


def changed_at(run: RunRecord) -> int:
    """Return the step at which options or images changed last; 0 if one config made the whole run.

    Another number of processes with as many images a step is no change.
    """
    changed = [
        entry.step
        for entry in run.resumptions
        if any(not line.startswith("number of processes:") for line in entry.changes)
    ]
    return max(changed, default=0)


def recorded_timetable(run: RunRecord) -> Timetable:
    """Return when a run was evaluated, previewed and saved."""
    config = recorded_config(run.config)
    planned = make_timetable(config, run.total_steps, run.dataset.num_train, run.session.num_processes)
    return planned.keeping(run)


def check_lines(record: RunFolder) -> Lines:
    """Compute again what of a record's lines follows from its options and from other lines."""
    run, checker = record.run, _Checker()
    config, since = recorded_config(run.config), changed_at(run)
    table = recorded_timetable(run)
    checker.run(run, config, since)
    _check_metrics(checker, record, config, since)
    _check_evaluations(checker, record, table, since)
    _check_samples(checker, record, table, since)
    _check_checkpoints(checker, record, since)
    return Lines(checker.num_numbers, checker.problems, since)


class _Checker:
    """Collects what does not fit."""

    def __init__(self) -> None:
        self.num_numbers = 0
        self.problems: list[str] = []
        self._wrong: set[str] = set()

    def same(self, what: str, step: int, found: float | None, expected: float | None, relative: float = 0.0) -> None:
        """Note a number that is not what it has to be."""
        self.num_numbers += 1
        if found is None or expected is None:
            fits = found is expected
        else:
            fits = math.isclose(found, expected, rel_tol=relative, abs_tol=relative * 1e-3)
        if not fits:
            if what not in self._wrong:  # the first tells enough
                self.problems.append(f"{what}: {_shown(found)} at step {step:,}, {_shown(expected)} expected")
            self._wrong.add(what)

    def steps(self, file: str, found: Sequence[int], expected: Sequence[int]) -> None:
        """Note lines that are missing, out of order, or of steps that have none."""
        self.num_numbers += len(expected)
        if list(found) != sorted(set(found)):
            self.problems.append(f"{file}: its steps are not in increasing order")
        missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        if missing:
            self.problems.append(f"{file}: no line of {_steps(missing)}")
        if extra:
            self.problems.append(f"{file}: a line of {_steps(extra)}, at which a run with these options writes none")

    def holds(self, condition: bool, problem: str) -> None:
        """Note `problem` unless the condition holds."""
        self.num_numbers += 1
        if not condition:
            self.problems.append(problem)

    def run(self, run: RunRecord, config: TrainConfig, since: int) -> None:
        """Check run.json in itself."""
        dataset, file = run.dataset, "run.json"
        self.holds(run.seed == config.seed, f"{file}: seed {run.seed}, but {config.seed} among the options")
        same_seed = run.evaluation_seed == config.evaluation_seed
        self.holds(same_seed, f"{file}: evaluation_seed {run.evaluation_seed}, {config.evaluation_seed} in the options")
        self.holds(
            dataset.num_train + dataset.num_heldout == dataset.num_images,
            f"{file}: {dataset.num_train} training and {dataset.num_heldout} held-out of {dataset.num_images} images",
        )
        images = config.num_epochs * dataset.num_train
        total = -(-images // run.global_batch_size) if config.max_train_steps is None else config.max_train_steps
        self.holds(since > 0 or run.total_steps == total, f"{file}: {run.total_steps} steps, {total} by the options")
        is_over = run.status != "finished" or run.progress.step == run.total_steps
        self.holds(is_over, f"{file}: finished at step {run.progress.step} of {run.total_steps}")
        starts = [session.first_step for session in run.sessions]
        self.holds(
            starts == [0, *(entry.step for entry in run.resumptions)],
            f"{file}: sessions start at {_listed(starts)}, resumptions at "
            f"{_listed([entry.step for entry in run.resumptions])}",
        )


def _check_metrics(checker: _Checker, record: RunFolder, config: TrainConfig, since: int) -> None:
    run, rows = record.run, [row for row in record.metrics if row.step > since]
    end = _reached(run, [row.step for row in rows])
    every = config.logging_steps
    expected = [*range(since - since % every + every, end + 1, every)]
    if end == run.total_steps and (run.status == "finished" or (rows and rows[-1].step == end)) and end % every:
        expected.append(end)
    checker.steps("metrics.jsonl", [row.step for row in rows], expected)
    learning_rate_at = learning_rate_schedule(config, run.total_steps, run.resumptions)
    decay_at = decay_schedule(config)
    anchor = (0, 0) if not since else next(((row.step, row.images_seen) for row in rows), (0, 0))
    before: MetricsRow | None = None
    for row in rows:
        step = row.step
        images = anchor[1] + (step - anchor[0]) * run.global_batch_size
        checker.same("images_seen of metrics.jsonl", step, row.images_seen, images)
        checker.same("epoch of metrics.jsonl", step, row.epoch, row.images_seen / run.dataset.num_train, OF_A_FORMULA)
        rate = learning_rate_at(step - 1)
        checker.same("learning_rate of metrics.jsonl", step, row.learning_rate, rate, OF_A_FORMULA)
        decay = decay_at(step) if config.use_ema else None
        checker.same("ema_decay of metrics.jsonl", step, row.ema_decay, decay, OF_A_FORMULA)
        if before is not None and row.wall_seconds < before.wall_seconds:
            checker.holds(False, f"metrics.jsonl: wall_seconds decreases at step {step:,}")
        before = row


def _check_evaluations(checker: _Checker, record: RunFolder, table: Timetable, since: int) -> None:
    rows = [row for row in record.evaluations if row.step > since]
    _check_due(checker, record, "evaluations.jsonl", rows, table.is_evaluation, since)
    if record.baselines is not None:
        for row in rows:
            _check_scores(checker, row, record.baselines)


def _check_samples(checker: _Checker, record: RunFolder, table: Timetable, since: int) -> None:
    rows = [row for row in record.samples if row.step > since]
    _check_due(checker, record, "samples.jsonl", rows, table.is_preview, since)


def _check_due(
    checker: _Checker,
    record: RunFolder,
    file: str,
    rows: Sequence[EvaluationRow | SamplesRow],
    is_due: Callable[[int], bool],
    since: int,
) -> None:
    """Check that each set of weights has a line of each step at which one is due."""
    reached = _reached(record.run, [row.step for row in rows])
    due = [step for step in range(since + 1, reached + 1) if is_due(step)]
    for name in (*average_names(record.run.config), RAW):
        found = [row.step for row in rows if row.weights == name]
        checker.steps(f"{file}, {name}", found, _without_a_due_end(record.run, due, found))
    _check_positions(checker, record, file, rows)


def _check_checkpoints(checker: _Checker, record: RunFolder, since: int) -> None:
    run, rows = record.run, [row for row in record.checkpoints if row.step > since]
    steps = [row.step for row in rows]
    checker.holds(steps == sorted(set(steps)), "checkpoints.jsonl: its steps are not in increasing order")
    checker.holds(all(step <= run.total_steps for step in steps), "checkpoints.jsonl: a step after the end of the run")
    if run.status == "finished":
        is_there = bool(record.checkpoints) and record.checkpoints[-1].step == run.total_steps
        checker.holds(is_there, f"checkpoints.jsonl: no line of the last step, {run.total_steps:,}")
    _check_positions(checker, record, "checkpoints.jsonl", rows)


def _check_positions(
    checker: _Checker, record: RunFolder, file: str, rows: Sequence[EvaluationRow | SamplesRow | CheckpointRow]
) -> None:
    """Check the images seen of lines in a run whose batch never changed."""
    if not changed_at(record.run):
        for row in rows:
            checker.same(f"images_seen of {file}", row.step, row.images_seen, row.step * record.run.global_batch_size)


def _check_scores(checker: _Checker, row: EvaluationRow, baselines: BaselinesRecord) -> None:
    """Check the losses and skills of an evaluation against its losses by timestep and the baselines."""
    file, shares, by_timestep = "evaluations.jsonl", baselines.shares, row.by_timestep
    if len(by_timestep) != len(shares) or None in by_timestep:
        checker.holds(None in by_timestep, f"{file}: {len(by_timestep)} groups of timesteps, {len(shares)} expected")
        return
    losses = [loss for loss in by_timestep if loss is not None]
    is_scored_on_heldout = row.heldout_loss is not None
    total = row.heldout_loss if is_scored_on_heldout else row.fixed_train_loss
    name = "heldout_loss" if is_scored_on_heldout else "fixed_train_loss"
    checker.same(f"{name} of {file}", row.step, total, _mean(losses, shares), OF_A_SUM)
    linear = _mean(baselines.linear, shares)
    if row.heldout_loss is not None:
        checker.same(f"skill of {file}", row.step, row.skill, 1 - row.heldout_loss / linear, OF_A_SUM)
    if row.fixed_train_loss is not None:
        skill = 1 - row.fixed_train_loss / _mean(baselines.linear_train, shares)
        checker.same(f"train_skill of {file}", row.step, row.train_skill, skill, OF_A_SUM)
    for band, (low, high) in BANDS.items():
        inside = [index for index, snr in enumerate(baselines.snr) if low <= snr < high]
        if inside and band in row.bands:
            weights = [shares[index] for index in inside]
            score = row.bands[band]
            loss = _mean([losses[index] for index in inside], weights)
            floor = _mean([baselines.linear[index] for index in inside], weights)
            memorizing = _mean([baselines.memorizing_train[index] for index in inside], weights)
            checker.same(f"loss of the {band} band in {file}", row.step, score.loss, loss, OF_A_SUM)
            checker.same(f"linear of the {band} band in {file}", row.step, score.linear, floor, OF_A_SUM)
            checker.same(f"memorizing of the {band} band in {file}", row.step, score.memorizing, memorizing, OF_A_SUM)
            checker.same(f"skill of the {band} band in {file}", row.step, score.skill, 1 - loss / floor, OF_A_SUM)


def _reached(run: RunRecord, steps: Sequence[int]) -> int:
    """Return the last step that a run's lines have to reach, but no more than a little beyond those that are there: an
    untrusted record may state any number."""
    last = max(steps, default=0)
    said = run.total_steps if run.status == "finished" else max(run.progress.step, last)
    return min(said, last + MOST_MISSING)


def _without_a_due_end(run: RunRecord, due: list[int], found: Sequence[int]) -> list[int]:
    """Return the steps that have to be there: the last of a run that was stopped may still be due."""
    return due if run.status == "finished" or not due or due[-1] in found else due[:-1]


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(value * weight for value, weight in zip(values, weights, strict=True)) / math.fsum(weights)


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.10g}"


def _steps(steps: Sequence[int]) -> str:
    more = f" and {len(steps) - SHOWN:,} more" if len(steps) > SHOWN else ""
    return f"step{'s' * (len(steps) > 1)} " + listed([f"{step:,}" for step in steps[:SHOWN]]) + more


def _listed(steps: Sequence[int]) -> str:
    return listed([f"{step:,}" for step in steps]) if steps else "none"
