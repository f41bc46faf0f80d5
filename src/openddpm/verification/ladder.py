"""The ladder: all rungs, those that cost nothing first, within a budget of time."""

import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Protocol

import torch

from openddpm.errors import UserError
from openddpm.record.files import file_sha256
from openddpm.record.reader import RunFolder
from openddpm.record.schema import EnvironmentRecord, RunRecord
from openddpm.record.verification import Rung, RungName, VerificationRecord
from openddpm.record.writer import SCHEMAS
from openddpm.training.new_record import environment
from openddpm.training.performance import Speed
from openddpm.verification import measured, rungs
from openddpm.verification.materials import (
    Images,
    Measuring,
    NotHere,
    device_of,
    empty_cache,
    open_recorded_images,
    prepare_measuring,
)
from openddpm.verification.replays import Replays
from openddpm.verification.weights import WeightsFile, weights_here

LADDER: tuple[RungName, ...] = (
    *("files", "data", "initial_weights", "evaluation", "previews", "first_steps", "segments", "whole"),
)
SHARE_OF_PREVIEWS = 0.2  # of the budget
SHARE_OF_FIRST_STEPS = 0.5  # of what then is left, if there are segments, too


class Listener(Protocol):
    """What hears of the progress of a verification."""

    def working(self, name: RungName, done: int, total: int) -> None:
        """A part of a rung is done."""

    def finished(self, rung: Rung) -> None:
        """A rung is done."""


def verify(
    record: RunFolder,
    source: str,
    listener: Listener,
    budget_minutes: float,
    dataset: str | None = None,
    whole: bool = False,
    is_fetched: bool = False,
) -> VerificationRecord:
    """Check whether a record is what its options produce.

    Args:
        source: what the user asked to verify, for the statement.
        budget_minutes: for training again and drawing previews.
        dataset: where the images are, if not where the record says.
        whole: whether to train the whole run again, however long that takes.
        is_fetched: whether paths in the record are those of another machine.
    """
    with empty_cache():
        return _climbed(record, source, listener, budget_minutes, dataset, whole, is_fetched)


def _climbed(
    record: RunFolder,
    source: str,
    listener: Listener,
    budget_minutes: float,
    dataset: str | None,
    whole: bool,
    is_fetched: bool,
) -> VerificationRecord:
    started, done = datetime.now(UTC), dict[RungName, Rung]()

    def climb(name: RungName, check: Callable[[], Rung]) -> None:
        start = time.perf_counter()
        listener.working(name, 0, 0)
        try:
            found = check()
        except NotHere as error:
            found = rungs.not_checked(name, str(error))
        except UserError as error:
            found = rungs.not_checked(name, error.found)
        except Exception as error:  # a record of unknown origin must not end the rungs that are left
            found = rungs.not_checked(name, f"of an error ({type(error).__name__}: {error})")
        done[name] = found.model_copy(update={"seconds": round(time.perf_counter() - start, 2)})
        listener.finished(done[name])

    @cache
    def digest_of(path: Path) -> str:
        listener.working("files", digest_of.cache_info().misses, 0)
        return file_sha256(path)

    replays = Replays(record, dataset, listener.working)
    climb("files", lambda: rungs.files(record, digest_of))
    images: Images | None = None

    def data() -> Rung:
        nonlocal images
        opened = open_recorded_images(record.run, dataset, is_fetched)
        found = rungs.data(record, opened)
        images = opened if rungs.are_those_of(record.run, opened) else None
        return found

    climb("data", data)
    why = "the images are not those of the record" if done["data"].status == "failed" else "the images are not here"
    if images is None:
        for name in LADDER[2:]:
            if name != "whole" or whole:
                climb(name, lambda name=name: rungs.not_checked(name, why))  # type: ignore[misc]
        return _statement(record, source, started, budget_minutes, replays, done)
    found_images = images
    climb("initial_weights", lambda: rungs.initial_weights(record, found_images))
    _measure(record, found_images, cache(lambda: weights_here(record, digest_of)), listener, climb, budget_minutes)
    _replay(replays, climb, 60 * budget_minutes - done["previews"].seconds, whole)
    return _statement(record, source, started, budget_minutes, replays, done)


def _measure(
    record: RunFolder,
    images: Images,
    weights: Callable[[], Sequence[WeightsFile]],
    listener: Listener,
    climb: Callable[[RungName, Callable[[], Rung]], None],
    budget_minutes: float,
) -> None:
    """Evaluate and preview the weights that are there."""

    @cache
    def measuring() -> Measuring:
        return prepare_measuring(record.run, images, device_of(record.run))

    def evaluation() -> Rung:
        return measured.evaluation(
            record, weights(), measuring(), lambda at, of: listener.working("evaluation", at, of)
        )

    def previews() -> Rung:
        end = time.perf_counter() + SHARE_OF_PREVIEWS * 60 * budget_minutes
        return measured.previews(
            *(record, weights(), measuring(), lambda at, of: listener.working("previews", at, of)),
            is_time=lambda: time.perf_counter() < end,
        )

    climb("evaluation", evaluation)
    climb("previews", previews)


def _replay(
    replays: Replays, climb: Callable[[RungName, Callable[[], Rung]], None], seconds: float, whole: bool
) -> None:
    """Train parts of the run again, or all of it."""
    checkpoints = replays.checkpoints()
    random.SystemRandom().shuffle(checkpoints)  # nobody who made the record could know the order
    start = time.perf_counter()
    climb("first_steps", lambda: replays.first_steps(seconds * (SHARE_OF_FIRST_STEPS if checkpoints else 1.0)))
    left = max(seconds - (time.perf_counter() - start), 0.0)
    if checkpoints:
        climb("segments", lambda: replays.segments(checkpoints, left))
    else:
        climb("segments", lambda: rungs.not_checked("segments", "there is no checkpoint with steps after it"))
    if whole:
        climb("whole", replays.whole)


def _statement(
    record: RunFolder,
    source: str,
    started: datetime,
    budget_minutes: float,
    replays: Replays,
    done: dict[RungName, Rung],
) -> VerificationRecord:
    run = record.run
    files = {name: file_sha256(record.folder / name) for name in SCHEMAS if (record.folder / name).is_file()}
    return VerificationRecord(
        run_id=run.run_id,
        name=run.name,
        source=source,
        files=files,
        time=started.isoformat(timespec="seconds"),
        environment=_environment(run),
        trained_on=run.session.environment.device,
        budget_minutes=budget_minutes,
        total_steps=run.total_steps,
        replayed=replays.stretches,
        rungs=[done[name] for name in LADDER if name in done],
        first_divergent_step=replays.first_divergent_step,
    )


def _environment(run: RunRecord) -> EnvironmentRecord:
    try:
        device = device_of(run)
    except NotHere:
        device = torch.device("cpu")
    return environment(device, Speed().record(0.0), None)
