"""Which of a log's tags are the training loss and the learning rate."""

import re
from collections.abc import Iterable

from openddpm.errors import UserError, closest
from openddpm.names import as_text

LOSS_NAMES = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "train_", "training_")
    for name in ("loss", "train_loss", "training_loss", "loss_train", "loss_training", "loss_step", "train_loss_step")
) | {"step_loss", "losses_train"}
"""Of scripts built on Accelerate, Lightning, Keras and plain loops, each with the separators of `_normal`."""
_RATE = re.compile(r"(?:train(?:ing)?_)?(?:lr|learning_rate)(?:_\w+)?")  # lr-AdamW is Lightning's
MAX_LISTED = 20


def is_loss(tag: str) -> bool:
    """Tell whether a tag is known to be a training loss: loss, train/loss, Loss/train, ..."""
    return _normal(tag) in LOSS_NAMES


def loss_tag(tags: Iterable[str], wanted: str | None, source: str) -> str:
    """Return the tag of the training loss: `wanted`, or the only one that is known to be one.

    Raises:
        UserError: there is none, or several.
    """
    known = sorted(tags)
    listed = ", ".join(map(as_text, known[:MAX_LISTED])) + (", ..." if len(known) > MAX_LISTED else "")
    if not known:
        found = f"there are no numbers that can be read in the events of '{source}'"
        raise UserError(found, "Name a folder whose events have a loss.")
    if wanted is not None:
        if wanted not in known:
            hint = f"Give one of its tags: {closest(wanted, known[:MAX_LISTED])}"
            raise UserError(f"--loss_tag: '{source}' has no numbers with the tag '{wanted}'", hint)
        return wanted
    likely = [tag for tag in known if is_loss(tag)]
    if len(likely) == 1:
        return likely[0]
    if likely:
        which = ", ".join(map(as_text, likely))
        raise UserError(f"several tags of '{source}' may be the training loss: {which}", "Name one by --loss_tag TAG.")
    raise UserError(
        f"no tag of '{source}' is known to be a training loss; its numbers have the tags {listed}",
        "Name the training loss by --loss_tag TAG.",
    )


def learning_rate_tags(tags: Iterable[str]) -> list[str]:
    """Return the tags that are known to be learning rates; several if a script logs one for each group of weights."""
    return sorted(tag for tag in tags if _RATE.fullmatch(_normal(tag)))


def _normal(tag: str) -> str:
    """Loss/train -> loss_train"""
    return re.sub(r"[^a-z0-9]+", "_", tag.lower()).strip("_")
