"""What sampling says of how far it is."""

import io

import pytest
from rich.console import Console

from openddpm.sampling_run import progress
from openddpm.sampling_run.progress import SamplingProgress


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_now_and_then(now: list[float]) -> None:
    """Without a terminal there is a line every 15 seconds with the rate and the time left, and one at the end."""
    out = io.StringIO()
    with SamplingProgress(100_000, 1000, Console(file=out)) as shown:
        for batch in range(1, 41):
            now[0] = 2.0 * batch
            shown.advance(100)
    lines = out.getvalue().splitlines()
    assert lines[0] == "1,800/100,000 images  50.0 images/s  0:32:44 left"
    assert len(lines) == 6
    assert lines[-1] == "4,000 images made in 0:01:20, 50.0 images/s; 5,000 of 100,000 there"


def test_the_bar_has_rate_and_time_left(now: list[float]) -> None:
    """On a terminal there is a bar with the count, the rate and the time left."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=20, legacy_windows=False)
    with SamplingProgress(400, 0, console) as shown:
        now[0] = 4.0
        shown.advance(100)
    assert "100/400" in out.getvalue()
    assert "25.0 images/s  0:00:12 left" in out.getvalue()


def test_an_interruption_says_how_to_go_on(now: list[float]) -> None:
    """Whoever stops it reads how many images are there, and that the same command goes on."""
    out = io.StringIO()
    with pytest.raises(SystemExit), SamplingProgress(40, 10, Console(file=out)) as shown:
        shown.advance(5)
        raise SystemExit(143)
    assert out.getvalue() == "stopped: 15 of 40 images are there; the same command continues\n"
