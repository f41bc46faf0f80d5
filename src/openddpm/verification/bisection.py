"""Where two runs with the same seed and options part: by the digests of their checkpoints, then by a replay."""

from dataclasses import dataclass

from openddpm.comparison.compare import same_seed
from openddpm.comparison.same_run import Difference, Relation, computes_coarsely, related
from openddpm.errors import UserError
from openddpm.record.kept import step_name
from openddpm.record.reader import RunFolder
from openddpm.verification.materials import empty_cache
from openddpm.verification.replay import Replayed, Stretch, Tell, replay
from openddpm.verification.replays import check_trainable, what_stands_at


@dataclass(frozen=True)
class Parting:
    """Where two runs part."""

    step: int | None
    """The first logged step that only one of them has as training gives it; None if they never part."""
    text: str
    replayed_steps: int = 0


def find_parting(
    record: RunFolder, other: RunFolder, names: tuple[str, str], dataset: str | None, tell: Tell
) -> Parting:
    """Return where two runs with the same seed and options part, and with which of them a replay agrees.

    The digests of their checkpoints tell between which two that is; the steps between are trained again from the last
    checkpoint that both share, or from the seed if neither folder has it.

    Args:
        names: what the two are called in the answer.

    Raises:
        UserError: the runs differ in seed or options.
        NotHere: their steps cannot be trained here.
    """
    if same_seed(record, [other]) is None:
        found = f"'{names[0]}' and '{names[1]}' differ in seed, options or images"
        raise UserError(found, "Give two runs of one config; `openddpm compare` tells how others differ.")
    shared, unequal = _by_digests(record, other)
    by_lines = related(record, other).parted
    ends = [by_lines.step] if by_lines else []
    if shared and unequal is not None:  # on another machine all digests differ
        ends.append(unequal)
    end = min(ends, default=None)
    if end is None:
        return Parting(None, "the two records do not part: what both have is the same, or apart as rounding is")
    check_trainable(record.run)
    trained, beside, stretch = _stretch(record, other, shared, end)
    relation = Relation(beside, computes_coarsely(beside), stretch.first if shared else 0)
    with empty_cache():
        replayed = replay(trained, stretch, dataset, tell, other=relation)
    return _told(trained, beside, names if trained is record else names[::-1], replayed, relation)


def _by_digests(record: RunFolder, other: RunFolder) -> tuple[list[int], int | None]:
    """Return the steps at which both had the same checkpoint, and the first after them at which they had not."""
    theirs = {row.step: row.sha256.get("unet.safetensors") for row in other.checkpoints}
    steps = [row for row in record.checkpoints if row.step in theirs]
    same = [row.step for row in steps if row.sha256.get("unet.safetensors") == theirs[row.step]]
    unequal = next((row.step for row in steps if row.step not in same and row.step > max(same, default=0)), None)
    return same, unequal


def _stretch(record: RunFolder, other: RunFolder, shared: list[int], end: int) -> tuple[RunFolder, RunFolder, Stretch]:
    """Return which run to train again, the other one, and which of its steps."""
    found = Stretch(0, end)
    pair = (record, other)
    for one, another in ((record, other), (other, record)):
        for row in one.checkpoints:
            folder = one.folder / "checkpoints" / step_name(row.step)
            is_common = row.step in shared or not shared
            if found.first < row.step < end and is_common and folder.is_dir():
                found, pair = Stretch(row.step, end, folder), (one, another)
    return *pair, found


def _first_difference(relation: Relation, other: Relation) -> Difference | None:
    """Return the first number in which a record is not what a replay gave: none, if that is rounding.

    Where the replay has the other record's bits, nothing is rounding: both records had the same bits at its start.
    """
    return relation.parted or (relation.first if other.num_numbers and other.first is None else None)


def _told(
    trained: RunFolder, beside: RunFolder, names: tuple[str, str], found: Replayed, relation: Relation
) -> Parting:
    """Return what a replay of one run says of both."""
    ours, theirs = _first_difference(found.relation, relation), _first_difference(relation, found.relation)
    start = "the seed" if found.stretch.checkpoint is None else f"the checkpoint of step {found.stretch.first:,}"
    how = f"{found.steps:,} steps trained again from {start}"
    if found.not_finite is not None:
        return Parting(found.reached + 1, f"{found.not_finite} ({how}), and both records go on", found.steps)
    if ours is not None and theirs is not None:
        step = min(ours.step, theirs.step)
        return Parting(step, f"neither record has what training gives at step {step:,} ({how})", found.steps)
    for parted, (wrong, right), run in ((ours, names, trained), (theirs, names[::-1], beside)):
        if parted is not None:
            earlier = max((row.step for row in run.metrics if row.step < parted.step), default=0)
            is_exact = earlier + 1 == parted.step
            before = f"at step {parted.step:,}" if is_exact else f"within steps {earlier + 1:,} to {parted.step:,}"
            text = f"'{wrong}' parts from what training gives {before}: {parted.how_far}; '{right}' does not ({how}). "
            return Parting(parted.step, text + f"In '{wrong}', {what_stands_at(run.run, parted.step)}.", found.steps)
    text = (
        f"both are what training gives, or apart from it as rounding is, and from each other by more at step "
        f"{found.reached:,}: in a number or in their weights; which is right cannot be told here"
    )
    return Parting(found.reached, f"{text} ({how})", found.steps)
