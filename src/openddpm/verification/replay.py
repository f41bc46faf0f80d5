"""Replays: a stretch of a run, trained again from its record, beside what the record says of it."""

import io
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from openddpm.comparison.same_run import Relation, computes_coarsely
from openddpm.config import TrainConfig, resuming_config
from openddpm.record.files import link_or_copy, write_json
from openddpm.record.reader import RunFolder
from openddpm.record.schema import EvaluationRow, MetricsRow, Progress
from openddpm.record.writer import RUN_FILE
from openddpm.training.checkpoint import InvalidCheckpoint
from openddpm.training.checkpointer import Checkpointer
from openddpm.training.loop import fit
from openddpm.training.observer import Observer
from openddpm.training.run import Training
from openddpm.training.setup import prepare
from openddpm.training.state import NotFinite, Tensors, TrainingState
from openddpm.training.stop import StopRequest
from openddpm.training.timetable import Timetable
from openddpm.verification.materials import device_of, options_here
from openddpm.verification.states import StateCheck, check_state, copied_weights

Tell = Callable[[int], None]
"""Called with each step that was logged."""

_NEUTRAL: dict[str, Any] = {
    **{"follow": "none", "report_to": "none", "push_to_hub": False, "milestones": 0, "keep_every": None},
    **{"max_rollbacks": 0, "recipe": None},
}


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of a run."""

    first: int
    """Steps done before it: 0, or the step of a checkpoint."""
    last: int
    checkpoint: Path | None = None
    """That it starts from; None for the seed."""


@dataclass
class Replayed:
    """What a replay found."""

    stretch: Stretch
    relation: Relation
    """Of the replay's logged rows to the record's."""
    steps: int
    """Steps that were computed."""
    states: list[StateCheck] = field(default_factory=list)
    """In the order of their steps."""
    not_finite: str | None = None
    """What of the replay was not finite, as a sentence."""

    @property
    def has_compared(self) -> bool:
        """Whether there was a number or a state to compare."""
        return bool(self.relation.num_numbers or self.states)

    @property
    def reached(self) -> int:
        """The last step that was computed."""
        return self.stretch.first + self.steps


def replay(
    record: RunFolder,
    stretch: Stretch,
    dataset: str | None,
    tell: Tell,
    until: float = float("inf"),
    checked: Collection[int] = (),
    other: Relation | None = None,
) -> Replayed:
    """Train a stretch of a run again, until a number differs by more than rounding does, or for some time.

    It is an ordinary run in a temporary folder, resumed with the options of the record, that draws no previews and
    writes no checkpoints.

    Args:
        dataset: where the images are, if not where the record says.
        until: time of `time.perf_counter` at which to stop, at the next logged step.
        checked: steps of the stretch with a line in checkpoints.jsonl, whose state to compare.
        other: of a second record to compare the rows with.

    Raises:
        UserError: the run cannot be trained here.
        InvalidCheckpoint: the checkpoint is of another step than its name.
    """
    relation = Relation(record, computes_coarsely(record), stretch.first)
    with tempfile.TemporaryDirectory(prefix="openddpm-replay-") as name:
        folder = Path(name) / "run"
        config = _resumable(record, stretch, folder, dataset)
        relations = [relation, other] if other else [relation]
        for one in relations:  # a checkpoint has the sum of the losses since the line before it
            one.row_before = relation.row_before
        watch = _Watch(relations, tell, until)
        with _quiet():
            training = prepare(config, observers=[watch], times_steps=False, on_cpu=device_of(record.run).type == "cpu")
        _check_start(training, record, stretch)
        checker = _StateChecker(record, training, checked)
        training.checkpointer = checker
        training.timetable = _up_to(training.timetable, stretch.last, checked)
        try:
            with _quiet():
                result = fit(training)
        except _Enough:
            pass
        except NotFinite as error:
            return Replayed(stretch, relation, error.step - 1 - stretch.first, checker.states, error.found)
        else:
            if result.status == "interrupted":
                raise KeyboardInterrupt
        return Replayed(stretch, relation, training.state.step - stretch.first, checker.states)


def _resumable(record: RunFolder, stretch: Stretch, folder: Path, dataset: str | None) -> TrainConfig:
    """Write a run folder that resumes at the beginning of a stretch, and return the config that does so."""
    folder.mkdir()
    length = {"max_train_steps": record.run.total_steps, "max_minutes": None}
    values = {**options_here(record.run, dataset).model_dump(), **_NEUTRAL, **length}
    run = record.run.model_copy(
        update={"status": "interrupted", "failure": None, "failure_text": None, "config": values}
    )
    write_json(folder / RUN_FILE, run.model_dump())
    if stretch.checkpoint is not None:
        copy = folder / "checkpoints" / stretch.checkpoint.name
        copy.mkdir(parents=True)
        for path in filter(Path.is_file, stretch.checkpoint.iterdir()):
            link_or_copy(path.resolve(), copy / path.name)
    return resuming_config(values, str(folder))


def _check_start(training: Training, record: RunFolder, stretch: Stretch) -> None:
    """Check that training goes on from where the stretch begins, not from where the content of a checkpoint says.

    Raises:
        InvalidCheckpoint: it is somewhere else.
    """
    rows = {row.step: row.images_seen for row in record.checkpoints}
    found = training.state.step, training.state.images_seen
    images_seen = rows.get(stretch.first, 0 if stretch.checkpoint is None else training.state.images_seen)
    if found != (stretch.first, images_seen):
        raise InvalidCheckpoint(f"its state is of step {found[0]:,} and {found[1]:,} images")


class _Enough(Exception):
    """No more steps are needed."""


class _Watch(Observer):
    """Compares each row of a replay with those of records, and ends the replay."""

    def __init__(self, relations: Sequence[Relation], tell: Tell, until: float) -> None:
        self._relations, self._tell, self._until = relations, tell, until

    def logged(self, row: MetricsRow) -> None:
        """Compare a row of metrics.jsonl."""
        self._compare(row)
        self._tell(row.step)
        if time.perf_counter() >= self._until or any(relation.parted for relation in self._relations):
            raise _Enough

    def evaluated(self, row: EvaluationRow) -> None:
        """Compare a row of evaluations.jsonl."""
        self._compare(row)

    def _compare(self, row: MetricsRow | EvaluationRow) -> None:
        for relation in self._relations:
            relation.add(row)


@dataclass(frozen=True)
class _UpTo(Timetable):
    """The timetable of a run that ends earlier, evaluated when the whole run is, without previews."""

    whole: Timetable | None = None
    checked: frozenset[int] = frozenset()

    def is_evaluation(self, step: int) -> bool:
        """Tell whether the whole run is evaluated at a step."""
        assert self.whole is not None
        return self.whole.is_evaluation(step)

    def is_preview(self, step: int) -> bool:
        """Tell that there are no previews."""
        return False

    def is_checkpoint(self, step: int) -> bool:
        """Tell whether the state of a step is compared."""
        return step in self.checked


def _up_to(whole: Timetable, last: int, checked: Collection[int]) -> Timetable:
    values = {one.name: getattr(whole, one.name) for one in fields(Timetable)}
    return _UpTo(**{**values, "total_steps": last}, whole=whole, checked=frozenset(checked))


class _StateChecker(Checkpointer):
    """Compares states with the record's instead of writing checkpoints."""

    def __init__(self, record: RunFolder, training: Training, steps: Collection[int]) -> None:
        self.states: list[StateCheck] = []
        self._accelerator, self._record, self._steps = training.accelerator, record, steps
        self._first = training.state.step
        self._begin = copied_weights(_on_cpu(training.state)) if steps else {}

    def may_save(self, step: int) -> bool:
        """Tell that nothing else is being saved."""
        return True

    def save(self, state: TrainingState, progress: Progress) -> None:
        """Compare a state."""
        step = progress.step
        if step in self._steps:
            self.states.append(check_state(self._record, step, _on_cpu(state), step - self._first, self._begin))

    def save_last(self, state: TrainingState, progress: Progress, stop: StopRequest) -> None:
        """Compare the last state."""
        self.save(state, progress)

    def collect(self, wait: bool) -> None:
        """Do nothing: nothing is being saved."""

    def wants_retry(self) -> bool:
        """Tell that no save failed."""
        return False


def _on_cpu(state: TrainingState) -> Tensors:
    """Return the tensors of a state, contiguous; on a CPU they change as training goes on."""
    return {
        stem: {name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}
        for stem, content in state.tensors().items()
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what training says to its user from the user of verify."""
    with redirect_stderr(io.StringIO()):
        yield
