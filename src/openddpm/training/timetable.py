"""When a run is previewed and evaluated, and on how much: decided before it starts, from its length alone."""

from dataclasses import dataclass, replace

from openddpm.config import TrainConfig
from openddpm.record.schema import EvaluationPlan

MAX_SHARE_OF_TIME = 0.03  # of training, spent on evaluation
MAX_SHARE_FOR_A_TREND = 0.3  # the same for runs of minutes, whose verdict would else have nothing to rest on
TUPLE_COUNTS = (48, 96, 192)  # of either kind; assumed: four an error bar is made of, in each group, are the least
MIN_EVALUATIONS = 24  # assumed: enough to see a curve; a longer run affords more tuples instead
FORWARD_COST = 0.4  # measured: an evaluated image takes as long as this many trained ones
FORWARD_COST_MIXED = 1.2  # assumed: evaluation stays in float32 where training does not
EARLY_PARTS = (8, 4, 2)  # of the first interval


@dataclass(frozen=True)
class Timetable:
    """Functions of the step, so that an interrupted run keeps to it."""

    total_steps: int
    global_batch_size: int
    images_per_preview: int
    evaluation_steps: int
    """Steps between evaluations; each stretch of so many has one, at its first preview if there is one."""
    early_steps: tuple[int, ...]
    """Of evaluations besides, so that there is something to see from the first minutes."""
    num_tuples: int
    """Of either kind, held-out and training, for each kind of weights."""

    def plan(self) -> EvaluationPlan:
        """Return what run.json says of evaluation."""
        return EvaluationPlan(
            num_tuples=self.num_tuples, evaluation_steps=self.evaluation_steps, early_steps=list(self.early_steps)
        )

    def keeping(self, plan: EvaluationPlan) -> "Timetable":
        """Return this timetable with the evaluations that a run began with, whatever has changed since."""
        early_steps = self.early_steps if plan.early_steps is None else tuple(plan.early_steps)
        return replace(
            self, num_tuples=plan.num_tuples, evaluation_steps=plan.evaluation_steps, early_steps=early_steps
        )

    def is_preview(self, step: int) -> bool:
        """Tell whether previews are made after `step` steps: as an epoch ends, or the run."""
        images, images_before = step * self.global_batch_size, (step - 1) * self.global_batch_size
        ends_epochs = images // self.images_per_preview > images_before // self.images_per_preview
        return ends_epochs or step == self.total_steps

    def is_evaluation(self, step: int) -> bool:
        """Tell whether the weights are evaluated after `step` steps."""
        if step == self.total_steps or step in self.early_steps:
            return True
        stretch = (step - 1) // self.evaluation_steps
        start, end = stretch * self.evaluation_steps, (stretch + 1) * self.evaluation_steps
        next_preview = start * self.global_batch_size // self.images_per_preview + 1
        preview_step = -(-next_preview * self.images_per_preview // self.global_batch_size)
        return step == min(preview_step, end)


def make_timetable(config: TrainConfig, total_steps: int, num_train: int, num_processes: int) -> Timetable:
    """Return the timetable that keeps evaluation within MAX_SHARE_OF_TIME of training.

    A run too short for that has the early evaluations, the one of its first preview and the last one, and if they cost
    more than MAX_SHARE_FOR_A_TREND not even the early ones.
    """
    global_batch_size = config.train_batch_size * config.gradient_accumulation_steps * num_processes
    forward_cost = FORWARD_COST if config.mixed_precision == "no" else FORWARD_COST_MIXED
    forwards_per_tuple = 2 * (2 if config.use_ema else 1)  # held-out and training, by both kinds of weights
    images_per_tuple = forward_cost * forwards_per_tuple * num_processes  # the other processes wait
    total_tuples = total_steps * global_batch_size / images_per_tuple  # that would take as long as training
    affordable = MAX_SHARE_OF_TIME * total_tuples
    num_extra = len(EARLY_PARTS) + 1  # besides one every `evaluation_steps`
    enough = [count for count in TUPLE_COUNTS if affordable >= count * (MIN_EVALUATIONS + num_extra)]
    num_tuples = max(enough, default=TUPLE_COUNTS[0])
    num_regular = int(affordable / num_tuples) - num_extra
    evaluation_steps = -(-total_steps // num_regular) if num_regular > 0 else total_steps
    has_early = (num_extra + 1) * num_tuples <= MAX_SHARE_FOR_A_TREND * total_tuples
    return Timetable(
        total_steps=total_steps,
        global_batch_size=global_batch_size,
        images_per_preview=config.save_images_epochs * num_train,
        evaluation_steps=evaluation_steps,
        early_steps=tuple(evaluation_steps // part for part in EARLY_PARTS) if has_early else (),
        num_tuples=num_tuples,
    )
