"""The rungs that train parts of a run again: its first steps, segments after checkpoints, all of it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from openddpm.analysis.text import number_of
from openddpm.comparison.same_run import Relation
from openddpm.errors import UserError
from openddpm.record.reader import RunFolder
from openddpm.record.schema import RunRecord
from openddpm.record.verification import Rung, RungName
from openddpm.training.checkpoint import (
    InvalidCheckpoint,
    checkpoint_step,
    verify_checkpoint,
)
from openddpm.training.new_record import package_versions
from openddpm.verification.materials import NotHere, device_of
from openddpm.verification.record_lines import changed_at
from openddpm.verification.replay import Replayed, Stretch, replay
from openddpm.verification.rungs import not_checked, rung
from openddpm.verification.states import StateCheck
from openddpm.verification.weights import checkpoints_here

ENOUGH_EQUAL = 5  # assumed: lines after a state that are equal to the bit, where rounding would have shown

Told = Callable[[RungName, int, int], None]
"""Called with the rung, the steps of a stretch that are done, and those that will be: as many as time allows."""


class Replays:
    """Trains parts of a run again, and remembers which and where the record first differed.

    Args:
        dataset: where the images are, if not where the record says.
        told: progress.
    """

    def __init__(self, record: RunFolder, dataset: str | None, told: Told) -> None:
        self.stretches: list[tuple[int, int]] = []
        """First and last step of each stretch that was trained again."""
        self.first_divergent_step: int | None = None
        self._record, self._dataset, self._told = record, dataset, told
        self._since = changed_at(record.run)
        self._all_of_it: Rung | None = None

    def first_steps(self, seconds: float) -> Rung:
        """Train the first steps again, from the seed."""
        return self._from_the_seed("first_steps", seconds)

    def whole(self) -> Rung:
        """Train the whole run again, unless the first steps were all of it, or differed."""
        if self._all_of_it is not None:
            return self._all_of_it.model_copy(update={"name": "whole"})
        return self._from_the_seed("whole", float("inf"))

    def segments(self, chosen: Sequence[Path], seconds: float) -> Rung:
        """Train on from checkpoints, as far as the time allows.

        Args:
            chosen: checkpoints in the order in which to do so, each followed by logged steps.
        """
        name: RungName = "segments"
        end = time.perf_counter() + seconds
        done: list[Replayed] = []
        problems: list[str] = []
        reason = "no logged step was reached within the budget: give more minutes by --budget"
        for checkpoint in chosen:
            if done and time.perf_counter() >= end:
                break
            stretch = self._segment(checkpoint)
            try:
                verify_checkpoint(checkpoint, self._record.run.run_id)
                done.append(self._replay(name, stretch, end))
            except InvalidCheckpoint as error:
                problems.append(f"{checkpoint.name} is not a whole checkpoint of this run: {error}")
            except NotHere as error:
                reason = str(error)
                break
            else:
                problems += self._problems(done[-1])
        if problems:
            return rung(name, "failed", problems[0], problems)
        if not any(one.has_compared for one in done):
            return not_checked(name, reason)
        stretches = ", ".join(f"{one.stretch.first + 1:,} to {one.reached:,}" for one in done)
        of = f" of {len(chosen)}" if len(done) < len(chosen) else ""
        text = f"{number_of(len(done), 'segment')}{of} trained again (steps {stretches})"
        return self._summary(name, text, done)

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that a segment can start from: made with the options in the record, steps after."""
        last = self._last_known()
        return [folder for folder in checkpoints_here(self._record) if self._since <= checkpoint_step(folder) < last]

    def _from_the_seed(self, name: RungName, seconds: float) -> Rung:
        if self._since:
            reason = f"options or images were changed at step {self._since:,}, and the record keeps only the new ones"
            return not_checked(name, reason)
        last = self._last_known()
        if not last:
            return not_checked(name, "the record has no steps")
        stretch = Stretch(0, last)
        try:
            found = self._replay(name, stretch, time.perf_counter() + seconds)
        except NotHere as error:
            return not_checked(name, str(error))
        checked = self._checked_from_the_seed(name, found)
        if found.reached == last or checked.status == "failed":
            self._all_of_it = checked
        return checked

    def _checked_from_the_seed(self, name: RungName, found: Replayed) -> Rung:
        problems = self._problems(found)
        if problems:
            return rung(name, "failed", problems[0], problems)
        if not found.has_compared:
            return not_checked(name, "no logged step was reached within the budget: give more minutes by --budget")
        total = self._record.run.total_steps
        what = f"all {total:,} steps"
        if found.reached < total:
            what = f"the first {found.reached:,} of {total:,} steps"
        how = "trained again from the seed"
        if self._record.run.failure is not None:
            how += " (that the run then failed was not checked)"
        return self._summary(name, f"{what} {how}", [found])

    def _summary(self, name: RungName, what: str, done: Sequence[Replayed]) -> Rung:
        numbers = sum(one.relation.num_numbers for one in done)
        digests = sum(len(one.states) for one in done)
        with_digests = f" and {number_of(digests, 'checkpoint')}" * bool(digests)
        altered = [state.step for one in done for state in one.states if state.altered]
        firsts = [one.relation.first.step for one in done if one.relation.first]
        if not altered and not firsts:
            return rung(name, "exact", f"{what}: the same {numbers:,} numbers{with_digests}, to the bit")
        text = f"{what}: the same {numbers:,} numbers"
        if firsts:
            largest = max(one.relation.largest for one in done)
            how_far = (
                f"losses {100 * largest:.2g} % apart at most" if largest else "in gradient norms or parts of losses"
            )
            text += f" but for rounding, {how_far} (from step {min(firsts):,} on)"
        if altered:
            text += (
                f"; other bits in the state of {number_of(len(altered), 'checkpoint')}, from step {min(altered):,} on"
            )
        return rung(name, "rounding", text)

    def _replay(self, name: RungName, stretch: Stretch, end: float) -> Replayed:
        """Train a stretch again.

        Raises:
            NotHere: the run cannot be trained here.
        """
        check_trainable(self._record.run)

        start, length = time.perf_counter(), stretch.last - stretch.first

        def tell(step: int) -> None:
            done, now = step - stretch.first, time.perf_counter()
            fitting = done * min((end - start) / (now - start), length)  # at the rate so far
            self._told(name, done, min(length, max(done, int(fitting))))

        checked = [row.step for row in self._record.checkpoints if stretch.first < row.step <= stretch.last]
        try:
            found = replay(self._record, stretch, self._dataset, tell, end, checked)
        except UserError as error:
            raise NotHere(error.found) from error
        if found.steps:
            self.stretches.append((found.stretch.first + 1, found.reached))
        return found

    def _problems(self, found: Replayed) -> list[str]:
        """Return how a replay differs from the record, the first step first."""
        relation, first = found.relation, found.stretch.first
        origin = "the seed" if found.stretch.checkpoint is None else f"the checkpoint of step {first:,}"
        if relation.parted is not None:
            at = relation.parted
            self.first_divergent_step = min(at.step, self.first_divergent_step or at.step)
            where = f"trained again from {origin}, step {at.step:,} is not the record's: {at.text}"
            return [f"{where}; {what_stands_at(self._record.run, at.step)}{_other_versions(self._record.run)}"]
        if found.not_finite is not None:
            self.first_divergent_step = found.reached + 1
            return [f"trained again from {origin}, {found.not_finite}; the record goes on"]
        foreign = [text for state in found.states for text in self._foreign_digest(state, found.states, relation)]
        return [*(text for state in found.states for text in state.far), *foreign]

    def _foreign_digest(self, state: StateCheck, states: Sequence[StateCheck], relation: Relation) -> list[str]:
        """Return that a digest is of another state, where that cannot be rounding, since a later state, or all later
        numbers, are equal to the bit."""
        later = [row for row in self._record.metrics if row.step > state.step]
        last = relation.last.step if relation.last else 0
        num_equal = sum(row.step <= last for row in later) if relation.first is None else 0
        leads_to_an_equal_one = any(one.step > state.step and not one.altered for one in states)
        is_equal = leads_to_an_equal_one or num_equal >= ENOUGH_EQUAL
        if not state.altered or not is_equal or _other_versions(self._record.run, ["safetensors"]):
            return []
        what = " and ".join(state.altered)
        return [f"checkpoints.jsonl has a digest of {what} at step {state.step:,} that is of no state of this training"]

    def _segment(self, checkpoint: Path) -> Stretch:
        """Return the steps from a checkpoint to the next that the record knows."""
        first, last = checkpoint_step(checkpoint), self._last_known()
        later = [row.step for row in self._record.checkpoints if first < row.step <= last]
        return Stretch(first, min(later, default=last), checkpoint)

    def _last_known(self) -> int:
        """Return the last step that has a line, of the log or of a checkpoint: a run that was stopped has saved later
        than it logged."""
        logged = [row.step for row in self._record.metrics]
        return max([*logged, *(row.step for row in self._record.checkpoints)], default=0)


def what_stands_at(run: RunRecord, step: int) -> str:
    """Return what a record says of the steps up to a logged one, as a part of a sentence."""
    every = int(run.config.get("logging_steps", 10))
    for entry, session in zip(run.resumptions, run.sessions[1:], strict=False):
        if step - every <= entry.step < step:
            changes = "; ".join(entry.changes) or "nothing changed, it says"
            return f"the run was resumed at step {entry.step:,} on {session.environment.device} ({changes})"
    return "the record has nothing special there: no resumption, no change"


def _other_versions(run: RunRecord, names: Sequence[str] | None = None) -> str:
    """Return which libraries have other versions here than in the record, as a part of a sentence."""
    here = package_versions()
    there = run.session.environment.packages
    others = [name for name in names or here if there.get(name) != here[name]]
    texts = [f"{name} {there.get(name, 'of unknown version')}, here {here[name]}" for name in others]
    return f" (it was made with {'; '.join(texts)})" if texts else ""


def check_trainable(run: RunRecord) -> None:
    """Check that steps of a run can be trained here.

    Raises:
        NotHere: they cannot.
    """
    if run.user_supplied:
        raise NotHere(f"the run was trained with a {' and a '.join(run.user_supplied)} given from Python")
    device_of(run)
