"""The lines of a record against each other: much of what they say is a function of the options and of other lines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openddpm import __version__
from openddpm.analysis.text import listed
from openddpm.analysis.verdict import judge
from openddpm.comparison.same_run import OF_A_FORMULA
from openddpm.config import TrainConfig, average_names, recorded_config
from openddpm.diffusion.unet import SIZES, unet_config
from openddpm.record.reader import RunFolder
from openddpm.record.schema import (
    RAW,
    CheckpointRow,
    EvaluationRow,
    MetricsRow,
    RunRecord,
    SamplesRow,
    Session,
    exported_weights,
)
from openddpm.training.checkpoint import weights_files
from openddpm.training.ema import decay_schedule
from openddpm.training.optimizer import learning_rate_schedule
from openddpm.training.timetable import FIXED_SAMPLE_COUNTS, Timetable, make_timetable
from openddpm.verification.checker import Checker
from openddpm.verification.scores import OF_A_SUM, check_baselines, check_scores

MOST_STEPS = 5_000_000  # assumed: of a run; an untrusted record may state any number


@dataclass(frozen=True)
class Lines:
    """What the lines of a record say about each other."""

    num_numbers: int
    """Numbers that were computed again."""
    problems: list[str]
    """What does not fit, a sentence each."""
    since: int
    """Step of the last change of options; earlier lines were made with options that the record does not keep."""
    left_out: str
    """What was not checked, as a sentence; empty if all was."""


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
    run, checker = record.run, Checker()
    config, since = recorded_config(run.config), changed_at(run)
    table = recorded_timetable(run)
    _check_run(checker, run, config, since)
    if not since:
        _check_plan(checker, run, config)
        is_from = (run.model.init_from is None) == (config.init_from is None)
        checker.holds(is_from, "run.json: weights to start from and --init_from do not fit")
    _check_metrics(checker, record, config, since)
    _check_evaluations(checker, record, table, since)
    _check_samples(checker, record, table, config, since)
    _check_checkpoints(checker, record, since)
    _check_verdict(checker, record)
    other = next((one for one in (run.sessions[0], run.session) if not _is_of_this_version(one)), None)
    left_out = ""
    if other is not None:
        version = other.environment.packages.get("openddpm", "an unknown version")
        left_out = f"plan and verdict, made by openddpm {version}, were not checked by {__version__}"
    return Lines(checker.num_numbers, checker.problems, since, left_out)


def _check_run(checker: Checker, run: RunRecord, config: TrainConfig, since: int) -> None:
    """Check run.json in itself."""
    dataset, file = run.dataset, "run.json"
    checker.holds(run.seed == config.seed, f"{file}: seed {run.seed}, but {config.seed} among the options")
    same_seed = run.evaluation_seed == config.evaluation_seed
    checker.holds(same_seed, f"{file}: evaluation_seed {run.evaluation_seed}, {config.evaluation_seed} in the options")
    checker.holds(
        dataset.num_train + dataset.num_heldout == dataset.num_images,
        f"{file}: {dataset.num_train} training and {dataset.num_heldout} held-out of {dataset.num_images} images",
    )
    images = config.num_epochs * dataset.num_train
    total = -(-images // run.global_batch_size) if config.max_train_steps is None else config.max_train_steps
    checker.holds(run.total_steps <= MOST_STEPS, f"{file}: {run.total_steps:,} steps, more than anybody trains")
    checker.holds(since > 0 or run.total_steps == total, f"{file}: {run.total_steps} steps, {total} by the options")
    is_over = run.status != "finished" or run.progress.step == run.total_steps
    checker.holds(is_over, f"{file}: finished at step {run.progress.step} of {run.total_steps}")
    starts = [session.first_step for session in run.sessions]
    checker.holds(
        starts == [0, *(entry.step for entry in run.resumptions)],
        f"{file}: sessions start at {_listed(starts)}, resumptions at "
        f"{_listed([entry.step for entry in run.resumptions])}",
    )


def _check_metrics(checker: Checker, record: RunFolder, config: TrainConfig, since: int) -> None:
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


def _check_evaluations(checker: Checker, record: RunFolder, table: Timetable, since: int) -> None:
    rows = [row for row in record.evaluations if row.step > since]
    _check_due(checker, record, "evaluations.jsonl", rows, table.is_evaluation, since)
    if check_baselines(checker, record) and record.baselines:
        for row in rows:
            check_scores(checker, row, record.baselines, record.run.dataset.num_heldout > 0)


def _check_samples(checker: Checker, record: RunFolder, table: Timetable, config: TrainConfig, since: int) -> None:
    rows = [row for row in record.samples if row.step > since]
    _check_due(checker, record, "samples.jsonl", rows, table.is_preview, since)
    for row in rows:
        checker.same("num_samples of samples.jsonl", row.step, row.num_samples, config.eval_batch_size)


def _check_due(
    checker: Checker,
    record: RunFolder,
    file: str,
    rows: Sequence[EvaluationRow | SamplesRow],
    is_due: Callable[[int], bool],
    since: int,
) -> None:
    """Check that each set of weights has a line of each step at which one is due."""
    reached = _reached(record.run, [row.step for row in rows])
    due = [step for step in range(since + 1, reached + 1) if is_due(step)]
    names = (*average_names(record.run.config), RAW)
    others = {row.weights for row in rows} - {*names}
    checker.holds(not others, f"{file}: {', '.join(sorted(others))}: weights that these options do not give")
    for name in names:
        found = [row.step for row in rows if row.weights == name]
        checker.steps(f"{file}, {name}", found, _without_a_due_end(record.run, due, found))
    _check_positions(checker, record, file, rows)


def _check_checkpoints(checker: Checker, record: RunFolder, since: int) -> None:
    run, rows = record.run, [row for row in record.checkpoints if row.step > since]
    steps = [row.step for row in rows]
    checker.holds(steps == sorted(set(steps)), "checkpoints.jsonl: its steps are not in increasing order")
    checker.holds(all(step <= run.total_steps for step in steps), "checkpoints.jsonl: a step after the end of the run")
    if run.status == "finished":
        is_there = bool(record.checkpoints) and record.checkpoints[-1].step == run.total_steps
        checker.holds(is_there, f"checkpoints.jsonl: no line of the last step, {run.total_steps:,}")
    _check_positions(checker, record, "checkpoints.jsonl", rows)
    for row in record.checkpoints:
        files = weights_files(row.sha256)
        exported = row.sha256[files[exported_weights(files)]] if files else None
        is_exported = row.exported_sha256 == exported
        checker.holds(is_exported, f"checkpoints.jsonl: exported_sha256 of step {row.step:,} is of no file of its own")


def _check_positions(
    checker: Checker, record: RunFolder, file: str, rows: Sequence[EvaluationRow | SamplesRow | CheckpointRow]
) -> None:
    """Check the images seen of lines in a run whose batch never changed."""
    if not changed_at(record.run):
        for row in rows:
            checker.same(f"images_seen of {file}", row.step, row.images_seen, row.step * record.run.global_batch_size)


def _check_plan(checker: Checker, run: RunRecord, config: TrainConfig) -> None:
    """Check the plan of a run whose options never changed, if this version of openddpm made it, and the UNet."""
    if _is_of_this_version(run.sessions[0]):
        planned = make_timetable(config, run.total_steps, run.dataset.num_train, run.sessions[0].num_processes)
        count = run.evaluation.num_fixed_samples  # that of the reference, if the run follows one
        checker.holds(count in FIXED_SAMPLE_COUNTS, f"run.json: {count} fixed samples of each kind, which no run has")
        evaluation = planned.plan().model_copy(update={"num_fixed_samples": count})
        checker.holds(run.evaluation == evaluation, "run.json: other evaluations are planned than its options give")
        is_planned = run.previews == planned.plan_of_previews()
        checker.holds(is_planned, "run.json: other previews are planned than its options give")
    if config.model in SIZES and config.init_from is None and "unet" not in run.user_supplied:
        asked = unet_config(config.model, config.resolution, config.num_train_timesteps)
        other = [name for name, value in asked.items() if _plain(run.model.config.get(name)) != _plain(value)]
        checker.holds(not other, f"run.json: {', '.join(other)} of its UNet are not those of --model {config.model}")


def _check_verdict(checker: Checker, record: RunFolder) -> None:
    """Judge a run that has ended again, if this version of openddpm judged it."""
    found, run = record.verdict, record.run
    if found is None or run.status == "running" or not _is_of_this_version(run.session):
        return
    verdict = judge(run, record.metrics, record.evaluations, record.baselines, record.samples)
    for name in ("code", "sentence", "step", "images_seen", "weights"):
        is_same = getattr(found, name) == getattr(verdict, name)
        checker.holds(is_same, f"verdict.json: its {name} is not what the record gives: {getattr(verdict, name)}")
    checker.same("skill of verdict.json", verdict.step, found.skill, verdict.skill, OF_A_SUM)


def _is_of_this_version(session: Session) -> bool:
    return session.environment.packages.get("openddpm") == __version__


def _plain(value: object) -> object:
    """Return lists for tuples, as JSON has them."""
    return list(value) if isinstance(value, tuple) else value


def _reached(run: RunRecord, steps: Sequence[int]) -> int:
    """Return the last step that a run's lines have to reach."""
    said = run.total_steps if run.status == "finished" else max(run.progress.step, *steps, 0)
    return min(said, MOST_STEPS)


def _without_a_due_end(run: RunRecord, due: list[int], found: Sequence[int]) -> list[int]:
    """Return the steps that have to be there: the last of a run that was stopped may still be due."""
    return due if run.status == "finished" or not due or due[-1] in found else due[:-1]


def _listed(steps: Sequence[int]) -> str:
    return listed([f"{step:,}" for step in steps]) if steps else "none"
