"""Whether runs are evaluated after equal numbers of images, which their options determine."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from openddpm.analysis.text import listed
from openddpm.comparison.band import common_images
from openddpm.comparison.curves import Column, Curve
from openddpm.record.reader import RunFolder
from openddpm.record.schema import RunRecord

MOST_PLANNED = 1_000_000  # evaluations or previews
MOST_SHOWN = 3  # numbers of images


def planned_evaluations(run: RunRecord) -> list[int]:
    """Return the steps at which a run is evaluated if it is trained to its end, as its timetable has them."""
    every, last = run.evaluation.evaluation_steps, run.total_steps
    if last // every > MOST_PLANNED:  # of a record that nobody made by training
        return [last]
    steps = {*run.evaluation.early_steps, last}
    previews = [step for step in _previews(run) if step not in run.evaluation.early_steps]
    for start in range(0, last, every):
        place = bisect_right(previews, start)
        steps.add(min([*previews[place : place + 1], start + every, last]))
    return sorted(steps)


def _previews(run: RunRecord) -> Sequence[int]:
    if run.previews is not None:
        return run.previews.steps
    if not run.config.get("save_images_epochs"):
        return []
    images = run.config["save_images_epochs"] * run.dataset.num_train
    total_images = run.total_steps * run.global_batch_size
    if total_images // images > MOST_PLANNED:
        return []
    return [-(-number * images // run.global_batch_size) for number in range(1, total_images // images + 1)]


def unequal_evaluations(run: RunRecord, reference: Sequence[RunFolder]) -> str:
    """Return that a run, even at its end, has no evaluation near those that all runs of a reference have, and what to
    do; empty if it has one.
    """
    planned = _curve(step * run.global_batch_size for step in planned_evaluations(run))
    images = common_images([_curve(row.images_seen for row in run.evaluations) for run in reference])
    if not len(images) or not np.isnan(planned.near(images)).all():
        return ""
    return (
        f"they are not evaluated after equal numbers of images: the candidate after {_shown(planned.images)}, the "
        f"reference after {_shown(images)}. That depends on batch, length and --save_images_epochs: train with those "
        "of the reference"
    )


def _curve(images: Iterable[int]) -> Curve:
    known = np.array(sorted({count for count in images if count > 0}), dtype=np.float64)
    return Curve(known, np.ones(len(known)))


def _shown(images: Column) -> str:
    """336, 720, 1,440 and 3 more"""
    shown = [f"{count:,.0f}" for count in images[:MOST_SHOWN]]
    more = len(images) - len(shown)
    return listed([*shown, f"{more} more"] if more else shown)
