"""What the time of a run went to, from its record: steps, evaluations, previews, saves."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from openddpm.record.schema import MetricsRow


@dataclass
class Seconds:
    """Seconds of a run up to its last line of metrics.jsonl. Saves are written beside the steps: what they hold up."""

    wall: float = 0.0
    steps: float = 0.0
    evaluations: float = 0.0
    previews: float = 0.0
    saves: float = 0.0
    other: float = 0.0

    def shares(self) -> dict[str, float]:
        """Return each as a share of all."""
        return {name: round(value / (self.wall or 1.0), 4) for name, value in asdict(self).items() if name != "wall"}


def seconds_by_kind(
    metrics: Sequence[MetricsRow], evaluated: Mapping[int, float], previews: Collection[int], saves: Collection[int]
) -> Seconds:
    """Return what the time went to.

    Between two lines, what is not spent on steps is a pause. It is an evaluation's as far as the record says; the rest
    is a preview's, where one was made between them, or else a save's. (Where both fall there it is the preview's.)

    Args:
        evaluated: seconds of the evaluations by the step after which they were made.
        previews: steps after which there were previews.
        saves: steps after which a checkpoint was begun.
    """
    found = Seconds(wall=metrics[-1].wall_seconds if metrics else 0.0)
    step, images, wall = 0, 0, 0.0
    for row in metrics:
        between = range(step, row.step)  # what is due after a step is done as the next one begins
        steps = (row.images_seen - images) / row.images_per_second
        pause = max(0.0, row.wall_seconds - wall - steps)
        evaluations = min(pause, sum(evaluated.get(number, 0.0) for number in between))
        rest = pause - evaluations
        found.steps += steps
        found.evaluations += evaluations
        if any(number in previews for number in between):
            found.previews += rest
        elif any(number in saves for number in between):
            found.saves += rest
        else:
            found.other += rest
        step, images, wall = row.step, row.images_seen, row.wall_seconds
    return found
