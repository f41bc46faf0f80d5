"""The rungs that train parts of a run again: its first steps, segments after checkpoints, all of it."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from openddpm.analysis.text import number_of
from openddpm.comparison.rounding import Quantity, limit
from openddpm.comparison.same_run import Relation, computes_coarsely
from openddpm.errors import UserError
from openddpm.record.kept import step_name
from openddpm.record.reader import RunFolder
from openddpm.record.schema import RunRecord
from openddpm.record.verification import Rung, RungName
from openddpm.training.checkpoint import (
    InvalidCheckpoint,
    checkpoint_step,
    list_checkpoints,
    tensors_sha256,
    verify_checkpoint,
)
from openddpm.training.new_record import package_versions
from openddpm.training.state import Tensors
from openddpm.verification.materials import NotHere, device_of
from openddpm.verification.record_lines import changed_at
from openddpm.verification.replay import Replayed, Stretch, replay
from openddpm.verification.rungs import not_checked, rung

COARSE_STATE = 0.5  # assumed: the smallest limit of a state in TF32, bfloat16 or float16; another seed makes 0.7
SQUARES, COUNT = "exp_avg_sq", "step"  # names in the state of AdamW: second moments, and the steps so far

Weights = dict[str, torch.Tensor]

Told = Callable[[RungName, int, int], None]
"""Called with what is done, the step that was logged, and the last step to do."""


@dataclass(frozen=True)
class _State:
    """A state of a replay beside a checkpoint of the record."""

    altered: list[str]
    """Files of the checkpoint that have another sha256."""
    far: list[str]
    """Tensors that are farther from those of the checkpoint than rounding is, a sentence each; empty if it is not here.
    """


@dataclass(frozen=True)
class _Done:
    """A replay, and its states."""

    replayed: Replayed
    states: dict[int, _State]

    @property
    def relation(self) -> Relation:
        """Relation of the logged rows to the record's."""
        return self.replayed.relation


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

    def first_steps(self, seconds: float) -> Rung:
        """Train the first steps again, from the seed."""
        return self._from_the_seed("first_steps", self._last_logged(), seconds)

    def whole(self) -> Rung:
        """Train the whole run again."""
        return self._from_the_seed("whole", self._last_logged(), float("inf"))

    def segments(self, chosen: Sequence[Path], seconds: float) -> Rung:
        """Train on from checkpoints, as far as the time allows.

        Args:
            chosen: checkpoints in the order in which to do so, each followed by logged steps.
        """
        name: RungName = "segments"
        end = time.perf_counter() + seconds
        done: list[_Done] = []
        problems: list[str] = []
        for checkpoint in chosen:
            if done and time.perf_counter() >= end:
                break
            stretch = self._segment(checkpoint)
            try:
                verify_checkpoint(checkpoint, self._record.run.run_id)
                done.append(self._replay(name, stretch, end, self._checkpoint_steps(stretch)))
            except InvalidCheckpoint as error:
                problems.append(f"{checkpoint.name} is not a whole checkpoint of this run: {error}")
            except NotHere as error:
                return not_checked(name, str(error))
            else:
                problems += self._problems(done[-1])
        if problems:
            return rung(name, "failed", problems[0], problems)
        if not done or not any(one.relation.num_numbers for one in done):
            return not_checked(name, "no logged step was reached within the budget: give more minutes by --budget")
        stretches = ", ".join(f"{one.replayed.stretch.first + 1:,} to {one.replayed.reached:,}" for one in done)
        of = f" of {len(chosen)}" if len(done) < len(chosen) else ""
        text = f"{number_of(len(done), 'segment')}{of} trained again (steps {stretches})"
        return self._summary(name, text, done)

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that a segment can start from: made with the options in the record, steps after."""
        last = self._last_logged()
        return [
            folder for folder in list_checkpoints(self._record.folder) if self._since <= checkpoint_step(folder) < last
        ]

    def _from_the_seed(self, name: RungName, last: int, seconds: float) -> Rung:
        if self._since:
            reason = f"options or images were changed at step {self._since:,}, and the record keeps only the new ones"
            return not_checked(name, reason)
        if not last:
            return not_checked(name, "the record has no logged steps")
        stretch = Stretch(0, last)
        try:
            found = self._replay(name, stretch, time.perf_counter() + seconds, self._checkpoint_steps(stretch))
        except NotHere as error:
            return not_checked(name, str(error))
        problems = self._problems(found)
        if problems:
            return rung(name, "failed", problems[0], problems)
        if not found.relation.num_numbers:
            return not_checked(name, "no logged step was reached within the budget: give more minutes by --budget")
        total = self._record.run.total_steps
        reached = found.replayed.reached
        what = f"all {total:,} steps" if reached == total else f"the first {reached:,} of {total:,} steps"
        return self._summary(name, f"{what} trained again from the seed", [found])

    def _summary(self, name: RungName, what: str, done: Sequence[_Done]) -> Rung:
        numbers = sum(one.relation.num_numbers for one in done)
        digests = sum(len(one.states) for one in done)
        with_digests = f" and {number_of(digests, 'checkpoint')}" * bool(digests)
        altered = [step for one in done for step, state in one.states.items() if state.altered]
        firsts = [one.relation.first.step for one in done if one.relation.first]
        if not altered and not firsts:
            return rung(name, "exact", f"{what}: the same {numbers:,} numbers{with_digests}, to the bit")
        text = f"{what}: the same {numbers:,} numbers"
        if firsts:
            largest = max(one.relation.largest for one in done)
            text += f" but for rounding, {100 * largest:.2g} % apart at most (from step {min(firsts):,} on)"
        if altered:
            text += (
                f"; other bits in the state of {number_of(len(altered), 'checkpoint')}, from step {min(altered):,} on"
            )
        return rung(name, "rounding", text)

    def _replay(self, name: RungName, stretch: Stretch, end: float, wanted: Collection[int]) -> _Done:
        """Train a stretch again.

        Raises:
            NotHere: the run cannot be trained here.
        """
        check_trainable(self._record.run)

        def tell(step: int) -> None:
            self._told(name, step, stretch.last)

        try:
            states, begin = dict[int, _State](), Tensors()

            def look(step: int, tensors: Tensors) -> None:
                if step == stretch.first:
                    begin.update({stem: _copies(content) for stem, content in tensors.items() if stem != "optimizer"})
                else:
                    states[step] = self._compared(step, tensors, step - stretch.first, begin)

            found = replay(self._record, stretch, self._dataset, tell, end, [stretch.first, *wanted], look)
        except UserError as error:
            raise NotHere(error.found) from error
        if found.steps:
            self.stretches.append((found.stretch.first + 1, found.reached))
        return _Done(found, states)

    def _problems(self, done: _Done) -> list[str]:
        """Return how a replay differs from the record, the first step first."""
        found = done.replayed
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
        problems = []
        for state in done.states.values():
            problems += state.far
        return problems

    def _compared(self, step: int, tensors: Tensors, steps: int, begin: Tensors) -> "_State":
        """Compare a state with what the record says of its checkpoint, and with the checkpoint if it is there.

        Args:
            steps: that the replay took to get there.
            begin: the weights that it began with.
        """
        row = next(row for row in self._record.checkpoints if row.step == step)
        digests = {f"{stem}.safetensors": tensors_sha256(content) for stem, content in tensors.items()}
        altered = [file for file, sha256 in digests.items() if row.sha256.get(file) != sha256]
        checkpoint = self._record.folder / "checkpoints" / step_name(step)
        far = list[str]()
        if altered and checkpoint.is_dir():
            least = COARSE_STATE if computes_coarsely(self._record) else 0.0
            for name, (distance, quantity) in state_distances(tensors, checkpoint, begin).items():
                if not distance <= max(limit(quantity, steps), least):
                    size = "how far it moved" if quantity == "weights" else "its size"
                    far.append(f"{name} in the checkpoint of step {step:,} is off by {100 * distance:.2g} % of {size}")
        return _State(altered, far)

    def _checkpoint_steps(self, stretch: Stretch) -> list[int]:
        """Return the steps of a stretch at which the record knows the state."""
        return [row.step for row in self._record.checkpoints if stretch.first < row.step <= stretch.last]

    def _segment(self, checkpoint: Path) -> Stretch:
        """Return the steps from a checkpoint to the next that the record knows."""
        first, last = checkpoint_step(checkpoint), self._last_logged()
        later = [row.step for row in self._record.checkpoints if first < row.step <= last]
        return Stretch(first, min(later, default=last), checkpoint)

    def _last_logged(self) -> int:
        return max((row.step for row in self._record.metrics), default=0)


def what_stands_at(run: RunRecord, step: int) -> str:
    """Return what a record says of the steps up to a logged one, as a part of a sentence."""
    every = int(run.config.get("logging_steps", 10))
    for entry, session in zip(run.resumptions, run.sessions[1:], strict=False):
        if step - every <= entry.step < step:
            changes = "; ".join(entry.changes) or "nothing changed, it says"
            return f"the run was resumed at step {entry.step:,} on {session.environment.device} ({changes})"
    return "the record has nothing special there: no resumption, no change"


def _other_versions(run: RunRecord) -> str:
    """Return which libraries have other versions here than in the record, as a part of a sentence."""
    here = package_versions()
    there = run.session.environment.packages
    others = [f"{name} {there[name]}, here {here[name]}" for name in here if there.get(name, here[name]) != here[name]]
    return f" (it was made with {'; '.join(others)})" if others else ""


def check_trainable(run: RunRecord) -> None:
    """Check that steps of a run can be trained here.

    Raises:
        NotHere: they cannot.
    """
    if run.user_supplied:
        raise NotHere(f"the run was trained with a {' and a '.join(run.user_supplied)} given from Python")
    device_of(run)


def state_distances(here: Tensors, checkpoint: Path, begin: Tensors) -> dict[str, tuple[float, Quantity]]:
    """Return the relative distance of weights and moments from those in a checkpoint, by the names of the tensors.

    That of weights is divided by how far they moved since the beginning, that of moments by their length. It is
    infinite where tensors are missing, and for other numbers of steps.
    """
    found: dict[str, tuple[float, Quantity]] = {}
    for stem, content in here.items():
        try:
            there = load_file(checkpoint / f"{stem}.safetensors")
        except (OSError, SafetensorError):
            there = {}
        if there.keys() != content.keys() or any(there[name].shape != content[name].shape for name in there):
            found[stem] = math.inf, "weights"
        elif stem in begin:
            found[stem] = _distance(content, there, begin[stem]), "weights"
        else:
            for kind in sorted({name.rpartition("/")[2] for name in there}):
                names = [name for name in there if name.endswith(f"/{kind}")]
                distance = _distance(*({name: tensors[name] for name in names} for tensors in (content, there)))
                if kind == COUNT and distance:
                    distance = math.inf
                found[f"{stem} ({kind})"] = distance, "squares" if kind == SQUARES else "moments"
    return found


def _distance(ours: Weights, theirs: Weights, begin: Weights | None = None) -> float:
    """Return the distance of two sets of tensors, divided by that of the second from `begin`, or by its length."""
    apart = _length(ours[name].double() - theirs[name].double() for name in theirs)
    size = _length(theirs[name].double() - (0 if begin is None else begin[name].double()) for name in theirs)
    return apart / size if size else math.inf if apart else 0.0


def _length(tensors: Iterable[torch.Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))


def _copies(content: Weights) -> Weights:
    return {name: tensor.clone() for name, tensor in content.items()}
