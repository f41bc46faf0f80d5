"""The time and the training rate of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Measures the time of the whole run, over all sessions, and the rate of training without pauses."""

    def __init__(self, seconds_before: float) -> None:
        self._logged_at = time.perf_counter()
        self._origin = self._logged_at - seconds_before
        self.images_since_log = 0

    def wall_seconds(self) -> float:
        """Return the seconds spent on the run so far."""
        return time.perf_counter() - self._origin

    def images_per_second(self) -> float:
        """Return the rate since the last call, without pauses."""
        now = time.perf_counter()
        rate = self.images_since_log / max(now - self._logged_at, 1e-9)
        self._logged_at, self.images_since_log = now, 0
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside this context from the rate."""
        start = time.perf_counter()
        yield
        self._logged_at += time.perf_counter() - start
