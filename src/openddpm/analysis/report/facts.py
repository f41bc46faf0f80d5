"""What the top of the page says about a run."""

from dataclasses import dataclass
from datetime import datetime
from statistics import median

from openddpm.analysis.report.text import count, duration, short_count, utc_text
from openddpm.record.reader import RunFolder

LAST_ROWS = 20  # the rate is their median, so that a pause does not show as a slow machine

STATUS_SENTENCES = {
    "running": "Still growing: this page is rebuilt as it goes, so reload it for a newer one.",
    "finished": "All steps are done.",
    "interrupted": "Stopped before its last step; it can be resumed from its newest checkpoint.",
    "failed": "Stopped by an error before its last step.",
}


@dataclass(frozen=True)
class Fact:
    """A number with its name, maybe explained (`term`), maybe with a smaller line under it."""

    label: str
    value: str
    note: str = ""
    term: str = ""


@dataclass(frozen=True)
class Header:
    """The facts of the header, and how far the run is."""

    status_sentence: str
    created: str
    built: str
    done_percent: float
    facts: list[Fact]


def header_facts(run: RunFolder, built: datetime) -> Header:
    """Return what the header states; `built` is when the page was made."""
    record = run.run
    done = record.progress.step / record.total_steps if record.total_steps else 0.0
    return Header(
        status_sentence=STATUS_SENTENCES[record.status],
        created=utc_text(record.created),
        built=utc_text(built.isoformat()),
        done_percent=round(100 * min(1.0, done), 1),
        facts=[
            Fact("step", count(record.progress.step), f"of {count(record.total_steps)}", "step"),
            Fact("images", count(record.progress.images), f"from a set of {count(record.dataset.num_train)}", "images"),
            Fact("epochs", f"{record.progress.epoch:.1f}", "", "epoch"),
            _time(run, done),
            _rate(run),
            Fact("parameters", short_count(record.model.num_parameters), _work(run), "parameters"),
            Fact("device", _device(run), _processes(record.num_processes)),
        ],
    )


def _time(run: RunFolder, done: float) -> Fact:
    if not run.metrics:
        return Fact("time", "0 s", "no step logged yet")
    seconds = run.metrics[-1].wall_seconds
    is_moving = run.run.status == "running" and 0 < done < 1
    return Fact("time", duration(seconds), f"about {duration(seconds / done - seconds)} left" if is_moving else "")


def _rate(run: RunFolder) -> Fact:
    if not run.metrics:
        return Fact("rate", "none", "no step logged yet", "images_per_second")
    rate = median(row.images_per_second for row in run.metrics[-LAST_ROWS:])
    return Fact("rate", f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}", "images a second", "images_per_second")


def _work(run: RunFolder) -> str:
    gflops = run.run.model.gflops_per_image
    return "" if gflops is None else f"{gflops:.3g} GFLOP an image"


def _device(run: RunFolder) -> str:
    return str(run.run.environment.get("device", "not recorded"))


def _processes(num_processes: int) -> str:
    return "" if num_processes == 1 else f"{num_processes} processes"
