"""Facts about a run at the top of the page."""

from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median

from openddpm.analysis.text import count, duration, short_count, utc_text
from openddpm.record.reader import RunFolder
from openddpm.record.schema import Verdict, VerdictCode

LAST_ROWS = 20  # the rate is their median, which a pause does not change

STATUS_SENTENCES = {
    "running": "Still running: this page is rebuilt from time to time, so reload it for a newer one.",
    "finished": "All steps are done.",
    "interrupted": "Stopped before its last step; it can be resumed from its newest checkpoint.",
    "failed": "Stopped by an error before its last step.",
}


@dataclass(frozen=True)
class Badge:
    """A verdict's code in words, and its tone: a key of MARKS."""

    words: str
    tone: str


MARKS = {"good": "\u2713", "note": "\u2022", "warning": "!", "bad": "\u2715"}
"""Characters that show a tone without colour."""

VERDICT_BADGES: dict[VerdictCode, Badge] = {
    "too_early": Badge("too early to tell", "note"),
    "learning": Badge("learning", "good"),
    "plateaued": Badge("levelled off", "note"),
    "memorizing": Badge("memorization", "warning"),
    "not_learning": Badge("not learning", "bad"),
    "diverged": Badge("diverged", "bad"),
    "unstable": Badge("unstable", "warning"),
    "finished": Badge("finished", "good"),
}


def verdict_badge(verdict: Verdict) -> Badge:
    """Return the badge of a verdict: good only if the run has learned something and its samples look right."""
    badge = VERDICT_BADGES[verdict.code]
    has_learned = verdict.code != "finished" or (verdict.skill is not None and verdict.skill > 0)
    looks_right = not any(item.name == "samples" and item.kind == "warning" for item in verdict.evidence)
    return badge if badge.tone != "good" or (has_learned and looks_right) else replace(badge, tone="warning")


@dataclass(frozen=True)
class Fact:
    """A number with its name, optionally an explanation (`term`) and a smaller line under it."""

    label: str
    value: str
    note: str = ""
    term: str = ""


@dataclass(frozen=True)
class Header:
    """The facts of the header, and the progress of the run."""

    status_sentence: str
    created: str
    built: str
    done_percent: float
    facts: list[Fact]


def header_facts(run: RunFolder, built: datetime) -> Header:
    """Return the header; `built` is when the page was made."""
    record = run.run
    done = record.progress.step / record.total_steps
    return Header(
        status_sentence=STATUS_SENTENCES[record.status],
        created=utc_text(record.created),
        built=utc_text(built.isoformat()),
        done_percent=round(100 * min(1.0, done), 1),
        facts=[
            Fact("step", count(record.progress.step), f"of {count(record.total_steps)}", "step"),
            Fact(
                "images",
                count(record.progress.images_seen),
                f"from a set of {count(record.dataset.num_train)}",
                "images",
            ),
            Fact("epochs", f"{record.progress.epoch:.1f}", "", "epoch"),
            _time(run, done),
            _rate(run),
            *_evaluation(run),
            Fact("parameters", short_count(record.model.num_parameters), _work(run), "parameters"),
            Fact("device", record.session.environment.device, _processes(record.session.num_processes)),
        ],
    )


def _time(run: RunFolder, done: float) -> Fact:
    if not run.metrics:
        return Fact("time", "0 s", "no step logged yet")
    seconds = run.metrics[-1].wall_seconds
    is_moving = run.run.status == "running" and 0 < done < 1
    return Fact("time", duration(seconds), f"about {duration(seconds / done - seconds)} left" if is_moving else "")


def training_rate(run: RunFolder) -> float | None:
    """Return the images per second of late, without previews and checkpoints; None before the first logged step."""
    return median(row.images_per_second for row in run.metrics[-LAST_ROWS:]) if run.metrics else None


def rate_text(rate: float | None) -> str:
    """1234.5 -> 1,234; 2.345 -> 2.3; None -> none"""
    return "none" if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _rate(run: RunFolder) -> Fact:
    rate = training_rate(run)
    return Fact(
        "rate", rate_text(rate), "no step logged yet" if rate is None else "images a second", "images_per_second"
    )


def _evaluation(run: RunFolder) -> list[Fact]:
    seconds = sum(row.seconds for row in run.evaluations)
    total = run.metrics[-1].wall_seconds if run.metrics else 0.0
    if seconds <= 0 or total <= 0:
        return []
    return [Fact("evaluation", f"{100 * seconds / total:.1f} %", "of the time", "heldout_loss")]


def _work(run: RunFolder) -> str:
    return f"{run.run.model.gflops_per_image:.3g} GFLOP an image"


def _processes(num_processes: int) -> str:
    return "" if num_processes == 1 else f"{num_processes} processes"
