"""Milestones: the exported weights, kept for good at steps that are evenly spaced on a logarithmic scale."""

from collections.abc import Iterable
from pathlib import Path

from openddpm.record.files import fsync_folder, link_or_copy
from openddpm.record.kept import list_milestones, milestone_name
from openddpm.training.checkpoint import checkpoint_step, exported_file

FIRST_PART = 100  # assumed: before a hundredth of a run there is little to see


def milestone_steps(count: int, total_steps: int) -> tuple[int, ...]:
    """Return `count` different steps, or all if there are fewer: from a hundredth of the run to its last step."""
    count = min(count, total_steps)
    steps: list[int] = []
    for place in range(count):
        left = count - 1 - place
        wanted = round(total_steps * FIRST_PART ** -(left / max(count - 1, 1)))
        after = steps[-1] if steps else 0
        steps.append(min(max(wanted, after + 1), total_steps - left))
    return tuple(steps)


def keep_milestone(run_folder: Path, checkpoint: Path, planned: Iterable[int]) -> None:
    """Keep the exported weights of a checkpoint if it is the first at or after a planned step that has none yet.

    A checkpoint may be later than planned: the disk was full, or the one before was still being written.

    Raises:
        OSError: the weights could not be kept.
    """
    step = checkpoint_step(checkpoint)
    last = max((kept for kept in list_milestones(run_folder) if kept <= step), default=0)
    if any(last < wanted <= step for wanted in planned):
        path = run_folder / milestone_name(step)
        path.parent.mkdir(exist_ok=True)
        link_or_copy(exported_file(checkpoint), path)
        fsync_folder(path.parent)
