"""openddpm references"""

import json as json_module
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from openddpm.cli.arguments import Flag, call
from openddpm.names import as_text

if TYPE_CHECKING:
    from openddpm.record.reader import RunFolder
    from openddpm.references import Reference

_OptionalName = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]", help_behavior_hint="")]


def run(arguments: list[str]) -> int:
    """Parse `arguments` and list the references."""
    return call(_references, "references", arguments)


def _references(name: _OptionalName = None, /, json: Flag = False) -> int:
    """List the references: runs of one config with several seeds, without weights, that come with openddpm.

    Args:
        name: Reference to show seed by seed: a built-in one, a folder of runs, or a run on the Hub (USER/NAME).
        json: Print one JSON object, and nothing else, on standard output.
    """
    from openddpm.references import builtin_names, open_reference

    references = [open_reference(one) for one in ([name] if name else builtin_names())]
    if json:
        print(json_module.dumps({"references": [_as_json(reference) for reference in references]}))
    elif name:
        _show(references[0])
    else:
        _list(references)
    return 0


def _as_json(reference: "Reference") -> dict[str, Any]:
    """Return what is known of a reference, but for its curves."""
    return {
        "name": reference.name,
        "about": reference.about and reference.about.model_dump(mode="json"),
        "film": reference.film and str(reference.film),
        "notes": reference.notes,
        "runs": [
            {
                "seed": run.run.seed,
                "folder": str(run.folder),
                "status": run.run.status,
                "step": run.run.progress.step,
                "images_seen": run.run.progress.images_seen,
                "skill": _skill(run),
                "seconds": _seconds(run),
                "device": run.run.session.environment.device,
                "cpu_threads": run.run.session.environment.cpu_threads,
            }
            for run in reference.runs
        ],
    }


def _list(references: list["Reference"]) -> None:
    """Print a line for each reference."""
    rows = [
        {
            "name": reference.name,
            "seeds": f"{len(reference.runs)}",
            "images seen": f"{max(run.run.progress.images_seen for run in reference.runs):,}",
            "skill at the end": _mean_and_range([_skill(run) for run in reference.runs]),
            "time": _times(reference.runs),
            "where": _machine(reference.runs[0]),
        }
        for reference in references
    ]
    _print_table(rows)
    print("\nseed by seed: openddpm references NAME")


def _show(reference: "Reference") -> None:
    """Print a line for each seed, and how they were made."""
    from openddpm.analysis.text import duration, signed

    rows = [
        {
            "seed": f"{run.run.seed}",
            "images seen": f"{run.run.progress.images_seen:,}",
            "skill at the end": "" if (skill := _skill(run)) is None else signed(skill, plus=True),
            "time": duration(_seconds(run)),
            "where": _machine(run),
            "status": run.run.status,
        }
        for run in reference.runs
    ]
    _print_table(rows)
    for note in reference.notes:
        print(f"note: {as_text(note)}")
    if about := reference.about:
        print(f"\n{as_text(about.text)}")
        print(as_text(f"made {about.made} by openddpm {about.version}, commit {about.commit}"))
    if reference.film:
        print(f"film strip of seed {reference.runs[0].run.seed}: {as_text(reference.film)}")


def _print_table(rows: list[dict[str, str]]) -> None:
    """Print rows that all have the same columns, under the names of these."""
    lines = [list(rows[0]), *(list(row.values()) for row in rows)] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _skill(run: "RunFolder") -> float | None:
    """Return the skill of the best weights at the last evaluation."""
    from openddpm.analysis.course import Course

    last = Course(run.run, run.metrics, run.evaluations, run.baselines).last if run.evaluations else None
    return last.skill if last else None


def _seconds(run: "RunFolder") -> float:
    return run.metrics[-1].wall_seconds if run.metrics else 0.0


def _mean_and_range(skills: list[float | None]) -> str:
    from openddpm.analysis.text import signed

    known = [skill for skill in skills if skill is not None]
    if not known:
        return ""
    middle, low, high = (signed(value, plus=True) for value in (mean(known), min(known), max(known)))
    return middle if low == high else f"{middle} ({low} to {high})"


def _times(runs: list["RunFolder"]) -> str:
    from openddpm.analysis.text import duration

    seconds = [_seconds(run) for run in runs]
    shortest, longest = duration(min(seconds)), duration(max(seconds))
    return shortest if shortest == longest else f"{shortest} to {longest}"


def _machine(run: "RunFolder") -> str:
    from openddpm.analysis.text import number_of

    environment = run.run.session.environment
    threads = f", {number_of(environment.cpu_threads, 'thread')}" if environment.device_type == "cpu" else ""
    return f"{as_text(environment.device)}{threads}"
