"""The steps of previews, evaluations and checkpoints, and the number of fixed samples, from the length of the run."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from openddpm.config import TrainConfig, average_names
from openddpm.record.schema import EvaluationPlan, PreviewPlan, RunRecord
from openddpm.training.milestones import milestone_steps

MAX_SHARE_OF_TIME = 0.03  # of training time, for evaluation
MAX_SHARE_FOR_A_TREND = 0.3  # the same for runs of minutes, which need a few evaluations for a verdict
FIXED_SAMPLE_COUNTS = (48, 96, 192)  # of each kind; assumed: an error bar needs at least four in each group
ENOUGH_EVALUATIONS = 24  # assumed: enough for a curve; longer runs have more fixed samples instead
EARLY_PARTS = (8, 4, 2)  # of the first interval

MAX_SHARE_OF_PREVIEWS = 0.05  # of training time, for previews
FILM_STRIP = 8  # previews; assumed: enough to see the progress
MAX_SHARE_OF_A_FILM_STRIP = 0.2  # the same for short runs, which would otherwise have few or none
MOST_PREVIEWS = 1_000  # planned; assumed: more than anybody views, and few enough to list in run.json

FORWARD_COST = 0.4  # measured: the time of a forward pass over that of a training step, per image
FORWARD_COST_MIXED = 1.2  # assumed: evaluation is still in float32, and not compiled


@dataclass(frozen=True)
class Timetable:
    """When a run is evaluated and previewed, as functions of the step, the same after a resume."""

    total_steps: int
    global_batch_size: int
    images_per_preview: int | None
    """Images between previews by --save_images_epochs; None where previews are planned."""
    evaluation_steps: int
    """Length of an interval in steps; each has one evaluation, at its first preview if it has any, else at its end."""
    early_steps: tuple[int, ...]
    """Steps of extra early evaluations, for a first result within minutes."""
    num_fixed_samples: int
    """Number of each kind, held-out and training, for each set of weights."""
    preview_images: float
    """Training images in the time of a preview."""
    fixed_sample_images: float
    """Training images in the time of evaluating all sets of weights on one fixed sample of each kind."""
    preview_steps: tuple[int, ...] = ()
    """Steps of planned previews, increasing, without the last step; empty with --save_images_epochs."""
    checkpoint_intervals: tuple[int, ...] = ()
    """Intervals in steps, each of which ends with a checkpoint."""
    milestone_steps: tuple[int, ...] = ()
    """Steps of further checkpoints, whose weights are kept."""

    @property
    def pauses_in_steps(self) -> float:
        """Training steps in the time of all previews and evaluations, about."""
        total_images = self.total_steps * self.global_batch_size
        every = self.images_per_preview
        previews = 1 + (len(self.preview_steps) if every is None else total_images // every)
        evaluations = 1 + len(self.early_steps) + self.total_steps // self.evaluation_steps
        images = previews * self.preview_images + evaluations * self.num_fixed_samples * self.fixed_sample_images
        return images / self.global_batch_size

    def plan(self) -> EvaluationPlan:
        """Return the entry of evaluation in run.json."""
        return EvaluationPlan(
            num_fixed_samples=self.num_fixed_samples,
            evaluation_steps=self.evaluation_steps,
            early_steps=list(self.early_steps),
        )

    def plan_of_previews(self) -> PreviewPlan | None:
        """Return the entry of previews in run.json; None with --save_images_epochs."""
        return PreviewPlan(steps=list(self.preview_steps)) if self.images_per_preview is None else None

    def keeping(self, run: RunRecord) -> "Timetable":
        """Return this timetable with what is recorded in `run`, which is resumed.

        If the run is longer than before, previews after its old end are those of this timetable.
        """
        table = replace(
            self,
            num_fixed_samples=run.evaluation.num_fixed_samples,
            evaluation_steps=run.evaluation.evaluation_steps,
            early_steps=tuple(run.evaluation.early_steps),
        )
        if run.previews and self.images_per_preview is None:
            kept = [step for step in run.previews.steps if step < self.total_steps]
            added = [step for step in self.preview_steps if step > run.total_steps]
            table = replace(table, preview_steps=(*kept, *added))
        return table

    def is_preview(self, step: int) -> bool:
        """Tell whether previews are made after `step` steps: as planned or at the end of epochs, and at the end."""
        if step == self.total_steps:
            return True
        if self.images_per_preview is None:
            return step in self.preview_steps
        images, images_before = step * self.global_batch_size, (step - 1) * self.global_batch_size
        return images // self.images_per_preview > images_before // self.images_per_preview

    def is_checkpoint(self, step: int) -> bool:
        """Tell whether a checkpoint is due after `step` steps; there is one at the end, too."""
        return step in self.milestone_steps or any(step % interval == 0 for interval in self.checkpoint_intervals)

    def is_evaluation(self, step: int) -> bool:
        """Tell whether the weights are evaluated after `step` steps."""
        if step == self.total_steps or step in self.early_steps:
            return True
        stretch = (step - 1) // self.evaluation_steps
        start, end = stretch * self.evaluation_steps, (stretch + 1) * self.evaluation_steps
        return step == min(self._first_preview_after(start), end)

    def _first_preview_after(self, start: int) -> int:
        """Return the first step with a preview after `start` steps; planned ones at early evaluations do not count."""
        if self.images_per_preview is None:
            planned = self.preview_steps[bisect_right(self.preview_steps, start) :]
            return next((step for step in planned if step not in self.early_steps), self.total_steps)
        next_preview = start * self.global_batch_size // self.images_per_preview + 1
        return -(-next_preview * self.images_per_preview // self.global_batch_size)


def forward_cost(config: TrainConfig) -> float:
    """Return the time of a forward pass over that of a training step, per image."""
    return FORWARD_COST if config.mixed_precision == "no" else FORWARD_COST_MIXED


def make_timetable(config: TrainConfig, total_steps: int, num_train: int, num_processes: int) -> Timetable:
    """Return the timetable that keeps evaluation within MAX_SHARE_OF_TIME of training, and previews within theirs.

    A run too short for that is evaluated early, at its first preview and at the end; and if that costs more than
    MAX_SHARE_FOR_A_TREND, without the early evaluations.
    """
    global_batch_size = config.global_batch_size(num_processes)
    cost = forward_cost(config) * (1 + len(average_names(config.model_dump())))  # of all sets of weights
    fixed_sample_images = 2 * cost  # held-out and training; shared by the processes, like training
    total_fixed_samples = total_steps * global_batch_size / fixed_sample_images  # in the time of training
    affordable = MAX_SHARE_OF_TIME * total_fixed_samples
    num_extra = len(EARLY_PARTS) + 1  # in addition to one every `evaluation_steps`
    enough = [count for count in FIXED_SAMPLE_COUNTS if affordable >= count * (ENOUGH_EVALUATIONS + num_extra)]
    num_fixed_samples = max(enough, default=FIXED_SAMPLE_COUNTS[0])
    num_regular = int(affordable / num_fixed_samples) - num_extra
    evaluation_steps = -(-total_steps // num_regular) if num_regular > 0 else total_steps
    has_early = (num_extra + 1) * num_fixed_samples <= MAX_SHARE_FOR_A_TREND * total_fixed_samples
    every = config.save_images_epochs
    table = Timetable(
        total_steps=total_steps,
        global_batch_size=global_batch_size,
        images_per_preview=None if every is None else every * num_train,
        evaluation_steps=evaluation_steps,
        early_steps=tuple(evaluation_steps // part for part in EARLY_PARTS) if has_early else (),
        num_fixed_samples=num_fixed_samples,
        preview_images=num_processes * cost * config.eval_batch_size * config.num_inference_steps,  # all wait
        fixed_sample_images=fixed_sample_images,
        checkpoint_intervals=tuple(filter(None, (config.checkpointing_steps, config.keep_every))),
        milestone_steps=milestone_steps(config.milestones, total_steps),
    )
    return table if every is not None else replace(table, preview_steps=_planned_previews(table, num_train))


def _planned_previews(table: Timetable, num_train: int) -> tuple[int, ...]:
    """Return the steps of previews, without the last: at the end of epochs, or of evaluations if epochs are few."""
    batch, total_images = table.global_batch_size, table.total_steps * table.global_batch_size
    affordable = int(MAX_SHARE_OF_PREVIEWS * total_images / table.preview_images)
    few = min(FILM_STRIP, int(MAX_SHARE_OF_A_FILM_STRIP * total_images / table.preview_images))
    count = min(max(affordable, few), MOST_PREVIEWS) - 1  # without the one at the end
    epochs = range(1, (table.total_steps - 1) * batch // num_train + 1)
    if len(epochs) < min(count, FILM_STRIP - 1):
        stretches = range(table.evaluation_steps, table.total_steps, table.evaluation_steps)
        evaluated = sorted({*table.early_steps, *stretches} - {0})
        if len(epochs) < len(evaluated):
            return tuple(_increasingly_spaced(evaluated, table.total_steps, min(count, FILM_STRIP - 1)))
    chosen = _increasingly_spaced(epochs, total_images / num_train, count)
    return tuple(sorted({-(-epoch * num_train // batch) for epoch in chosen}))


def _increasingly_spaced(rising: Sequence[int], end: float, count: int) -> list[int]:
    """Return `count` of the numbers `rising` at increasing distances, or all if there are no more.

    They are those nearest to end * (n / (count + 1)) ** 2, n = 1 .. count, or the next if that one is taken, or an
    earlier one where too few would be left: where a batch is many epochs, the last epochs lie far before the end.
    """
    if len(rising) <= count:
        return list(rising)
    chosen: list[int] = []
    index = -1
    for part in range(1, count + 1):
        wanted = end * (part / (count + 1)) ** 2
        after = min(bisect_left(rising, wanted), len(rising) - 1)
        is_first_nearer = after > 0 and wanted - rising[after - 1] < rising[after] - wanted
        index = min(max(after - is_first_nearer, index + 1), len(rising) - (count + 1 - part))
        chosen.append(rising[index])
    return chosen
