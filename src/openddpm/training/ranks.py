"""What several processes tell each other at every step, and what one of them does when another is gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from accelerate import Accelerator

from openddpm.errors import UserError

_SIGNS_OF_A_LOST_RANK = ("gloo", "nccl", "connection", "socket", "timed out", "timeout")


class RankLost(UserError):
    """Another process of the run has ended or no longer answers."""


@dataclass(frozen=True)
class Word:
    """What a process has to say about the step in hand."""

    is_finite: bool = True
    signal: int | None = None
    """That it was asked to stop by."""
    wants_save: bool = False
    """An earlier save has failed, and is to be tried again."""
    look_due: bool = False
    """The weights were not looked at to the end."""
    may_save: bool = False
    """The save before is done; only the main process knows."""


def agree(accelerator: Accelerator, word: Word) -> Word:
    """Return what all processes say together. A collective call, and so a barrier, when there are several."""
    if accelerator.num_processes == 1:
        return word
    said = torch.tensor([[not word.is_finite, word.signal or 0, word.wants_save, word.look_due, word.may_save]])
    met, signal, *wants = accelerator.gather(said.to(accelerator.device)).amax(0).tolist()  # type: ignore[union-attr]
    return Word(not met, signal or None, *map(bool, wants))


@contextmanager
def lost_ranks_named() -> Iterator[None]:
    """Turn the backends' errors into one that says what has happened and what to do.

    Raises:
        RankLost: another process has ended, or has not answered within --rank_timeout.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's have no class of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        is_of_a_collective = any(sign in reason.lower() for sign in _SIGNS_OF_A_LOST_RANK)
        if not isinstance(error, distributed.DistError) and not (distributed.is_initialized() and is_of_a_collective):
            raise
        raise RankLost(
            f"another process of this run has ended or no longer answers: {reason}",
            "Look at its own messages; then start all of them again with --resume_from_checkpoint latest.",
        ) from error
