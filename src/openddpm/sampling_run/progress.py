"""Progress of sampling: a bar with rate and time left on a terminal, occasional lines if output goes to a file."""

import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from openddpm.names import as_text

_PLAIN_EVERY_SECONDS = 15.0  # between lines if the output is not a terminal, as in training
_RATE_BATCHES = 30  # rate and time left are those of the last batches


class SamplingProgress:
    """Context manager that shows the progress of sampling; call `advance` after each batch.

    Args:
        total: number of images in the end.
        done: number of images that were there before.
    """

    def __init__(self, total: int, done: int, console: Console) -> None:
        self._total, self._done, self._made, self._console = total, done, 0, console
        self._start = self._plain_at = time.monotonic()
        self._times = deque([(self._start, done)], maxlen=_RATE_BATCHES + 1)
        self._bar = Progress(
            TextColumn("[bold]sampling"), BarColumn(None), MofNCompleteColumn(), TextColumn("images"),
            TextColumn("{task.fields[rate]}"), expand=True, console=console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total, completed=done, rate="")

    def __enter__(self) -> "SamplingProgress":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()
        if error is None:
            seconds = time.monotonic() - self._start
            rate = f", {self._made / seconds:,.1f} images/s" if self._made and seconds else ""
            self.say(f"{self._made:,} images made in {clock(seconds)}{rate}; {self._done:,} of {self._total:,} there")
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            hint = "the same command continues" if self._done else "the same command begins again"
            self.say(f"stopped: {self._done:,} of {self._total:,} images are there; {hint}")

    def advance(self, num_images: int) -> None:
        """Count images that were written."""
        if not num_images:
            return
        self._done += num_images
        self._made += num_images
        now = time.monotonic()
        self._times.append((now, self._done))
        first, before = self._times[0]
        rate = (self._done - before) / max(now - first, 1e-9)
        text = f"{rate:,.1f} images/s  {clock((self._total - self._done) / rate)} left"
        self._bar.update(self._task, completed=self._done, rate=text)
        if not self._console.is_terminal and now - self._plain_at >= _PLAIN_EVERY_SECONDS:
            self._plain_at = now
            self.say(f"{self._done:,}/{self._total:,} images  {text}")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._console.print(as_text(line), soft_wrap=True, markup=False)  # a line of a log file is a line


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
