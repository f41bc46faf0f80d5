"""When a run is previewed and evaluated, and on how much: decided before it starts, from its length alone."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from openddpm.config import TrainConfig, average_names
from openddpm.record.schema import EvaluationPlan, PreviewPlan, RunRecord

MAX_SHARE_OF_TIME = 0.03  # of training, spent on evaluation
MAX_SHARE_FOR_A_TREND = 0.3  # the same for runs of minutes, whose verdict would else have nothing to rest on
FIXED_SAMPLE_COUNTS = (
    48,
    96,
    192,
)  # of either kind; assumed: four an error bar is made of, in each group, are the least
ENOUGH_EVALUATIONS = 24  # assumed: enough to see a curve; a longer run affords more tuples instead
EARLY_PARTS = (8, 4, 2)  # of the first interval

MAX_SHARE_OF_PREVIEWS = 0.05  # of training, spent on previews
FILM_STRIP = 8  # previews; assumed: enough to see pictures grow
MAX_SHARE_OF_A_FILM_STRIP = 0.2  # the same for short runs, which would else have none to speak of
MOST_PREVIEWS = 1_000  # planned; assumed: more than anybody looks at, and few enough to list in run.json

FORWARD_COST = 0.4  # measured: an image that is denoised once takes as long as this many trained ones
FORWARD_COST_MIXED = 1.2  # assumed: evaluation stays in float32 where training does not, and nothing is compiled


@dataclass(frozen=True)
class Timetable:
    """Functions of the step, so that an interrupted run keeps to it."""

    total_steps: int
    global_batch_size: int
    images_per_preview: int | None
    """Where --save_images_epochs says when; each step that completes as many has a preview."""
    evaluation_steps: int
    """Steps between evaluations; each stretch of so many has one, at its first preview if there is one."""
    early_steps: tuple[int, ...]
    """Of evaluations besides, so that there is something to see from the first minutes."""
    num_fixed_samples: int
    """Of either kind, held-out and training, for each of the weights."""
    preview_images: float
    """Images that are trained in the time of a preview."""
    fixed_sample_images: float
    """The same for a fixed sample of either kind, by all weights."""
    preview_steps: tuple[int, ...] = ()
    """Of the planned previews, rising, without that of the last step; none where --save_images_epochs says when."""

    @property
    def pauses_in_steps(self) -> float:
        """Steps that are trained in the time of all previews and evaluations, about."""
        total_images = self.total_steps * self.global_batch_size
        every = self.images_per_preview
        previews = 1 + (len(self.preview_steps) if every is None else total_images // every)
        evaluations = 1 + len(self.early_steps) + self.total_steps // self.evaluation_steps
        images = previews * self.preview_images + evaluations * self.num_fixed_samples * self.fixed_sample_images
        return images / self.global_batch_size

    def plan(self) -> EvaluationPlan:
        """Return what run.json says of evaluation."""
        return EvaluationPlan(
            num_fixed_samples=self.num_fixed_samples,
            evaluation_steps=self.evaluation_steps,
            early_steps=list(self.early_steps),
        )

    def plan_of_previews(self) -> PreviewPlan | None:
        """Return what run.json says of previews; None where --save_images_epochs says when."""
        return PreviewPlan(steps=list(self.preview_steps)) if self.images_per_preview is None else None

    def keeping(self, run: RunRecord) -> "Timetable":
        """Return this timetable with what `run` began with, whatever has changed since.

        Of a run that has become longer, the previews beyond its old end are those of this timetable.
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
        """Tell whether previews are made after `step` steps: as planned, or as epochs end; and as the run ends."""
        if step == self.total_steps:
            return True
        if self.images_per_preview is None:
            return step in self.preview_steps
        images, images_before = step * self.global_batch_size, (step - 1) * self.global_batch_size
        return images // self.images_per_preview > images_before // self.images_per_preview

    def is_evaluation(self, step: int) -> bool:
        """Tell whether the weights are evaluated after `step` steps."""
        if step == self.total_steps or step in self.early_steps:
            return True
        stretch = (step - 1) // self.evaluation_steps
        start, end = stretch * self.evaluation_steps, (stretch + 1) * self.evaluation_steps
        return step == min(self._first_preview_after(start), end)

    def _first_preview_after(self, start: int) -> int:
        """Return the first step with a preview after `start` steps; planned ones that early evaluations have aside."""
        if self.images_per_preview is None:
            planned = self.preview_steps[bisect_right(self.preview_steps, start) :]
            return next((step for step in planned if step not in self.early_steps), self.total_steps)
        next_preview = start * self.global_batch_size // self.images_per_preview + 1
        return -(-next_preview * self.images_per_preview // self.global_batch_size)


def make_timetable(config: TrainConfig, total_steps: int, num_train: int, num_processes: int) -> Timetable:
    """Return the timetable that keeps evaluation within MAX_SHARE_OF_TIME of training, and previews within theirs.

    A run too short for that has the early evaluations, the one of its first preview and the last one, and if they cost
    more than MAX_SHARE_FOR_A_TREND not even the early ones.
    """
    global_batch_size = config.global_batch_size(num_processes)
    forward_cost = FORWARD_COST if config.mixed_precision == "no" else FORWARD_COST_MIXED
    cost = forward_cost * (1 + len(average_names(config.model_dump())))  # of all weights
    fixed_sample_images = 2 * cost  # held-out and training; the processes share them, as they share training
    total_fixed_samples = total_steps * global_batch_size / fixed_sample_images  # that would take as long as training
    affordable = MAX_SHARE_OF_TIME * total_fixed_samples
    num_extra = len(EARLY_PARTS) + 1  # besides one every `evaluation_steps`
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
        preview_images=num_processes * cost * config.eval_batch_size * config.num_inference_steps,  # all but one wait
        fixed_sample_images=fixed_sample_images,
    )
    return table if every is not None else replace(table, preview_steps=_planned_previews(table, num_train))


def _planned_previews(table: Timetable, num_train: int) -> tuple[int, ...]:
    """Return the steps of previews, without the last: as epochs end, or, where few do, as weights are evaluated."""
    batch, total_images = table.global_batch_size, table.total_steps * table.global_batch_size
    affordable = int(MAX_SHARE_OF_PREVIEWS * total_images / table.preview_images)
    few = min(FILM_STRIP, int(MAX_SHARE_OF_A_FILM_STRIP * total_images / table.preview_images))
    count = min(max(affordable, few), MOST_PREVIEWS) - 1  # besides the one at the end
    epochs = range(1, (table.total_steps - 1) * batch // num_train + 1)
    if len(epochs) < min(count, FILM_STRIP - 1):
        stretches = range(table.evaluation_steps, table.total_steps, table.evaluation_steps)
        evaluated = sorted({*table.early_steps, *stretches} - {0})
        if len(epochs) < len(evaluated):
            return tuple(_thinning(evaluated, table.total_steps, min(count, FILM_STRIP - 1)))
    chosen = _thinning(epochs, total_images / num_train, count)
    return tuple(sorted({-(-epoch * num_train // batch) for epoch in chosen}))


def _thinning(rising: Sequence[int], end: float, count: int) -> list[int]:
    """Return `count` of the numbers `rising`, further and further apart, or all where there are no more.

    They are those nearest to end * (n / (count + 1)) ** 2, n = 1 .. count, or the next where that is taken.
    """
    if len(rising) <= count:
        return list(rising)
    chosen: list[int] = []
    index = -1
    for part in range(1, count + 1):
        wanted = end * (part / (count + 1)) ** 2
        after = min(bisect_left(rising, wanted), len(rising) - 1)
        is_first_nearer = after > 0 and wanted - rising[after - 1] < rising[after] - wanted
        index = max(after - is_first_nearer, index + 1)
        chosen.append(rising[index])
    return chosen
