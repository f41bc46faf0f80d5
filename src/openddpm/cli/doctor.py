"""openddpm doctor"""

import json
import math
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from openddpm.cli.options import parse_train_config
from openddpm.errors import UserError

if TYPE_CHECKING:
    from openddpm.doctor import Examination
    from openddpm.doctor.measured_checks import Measurements

_DESCRIPTION = """Check a planned run before it costs anything: its images, options, memory, time and disk, and whether
the model can learn one batch by heart. Takes the options of train, and touches nothing in --output_dir.

Exit status: 0 no error found, 1 an error found, 2 unusable input.

Try it:  openddpm doctor --recipe avatars-16

For programs:  --json prints one JSON object, and nothing else, on standard output.
"""

_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


def run(arguments: list[str]) -> int:
    """Examine the plan that `arguments` spell; returns 1 if an error was found."""
    as_json = "--json" in arguments
    options = [argument for argument in arguments if argument != "--json"]
    config = parse_train_config(options, "openddpm doctor", _DESCRIPTION)
    if not config.dataset:
        raise UserError("no data set is named", "Name one: --dataset FOLDER or a Hub id; or --recipe avatars-16.")
    from rich.console import Console

    from openddpm.doctor import examine

    console = Console(stderr=True, highlight=False)
    with console.status("") if console.is_terminal else nullcontext() as status:
        examination = examine(config, tell=lambda stage: status.update(stage) if status else console.print(stage))
    if as_json:
        print(json.dumps(_as_json(examination)))
    else:
        _show(examination)
    return 1 if examination.count("error") else 0


def _as_json(examination: "Examination") -> dict[str, Any]:
    """Return findings and measurements as JSON types."""
    counts = {f"num_{severity}s": examination.count(severity) for severity in ("error", "warning", "note")}
    findings = [asdict(finding) for finding in examination.findings]
    return {**counts, "findings": findings, "measurements": _finite(asdict(examination.measurements))}


def _finite(value: Any) -> Any:
    """Return `value` with None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(examination: "Examination") -> None:
    """Print the plan, the findings, the measurements and a summary."""
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    from openddpm.analysis.text import number_of

    console = Console(highlight=False)
    run = examination.run
    dataset = run.dataset
    console.print(
        f"[bold]the plan:[/] {number_of(dataset.num_train, 'training image')} of {dataset.size} "
        f"({dataset.num_heldout:,} held out), {run.model.num_parameters:,} weights, "
        f"{number_of(run.total_steps, 'step')} on {run.environment['device_type']}\n"
    )
    for finding in examination.findings:
        style = _STYLES[finding.severity]
        console.print(f"[{style}]{finding.severity}:[/] {escape(finding.what)}")
        for line in (finding.why, f"-> {finding.hint}"):
            console.print(Padding(escape(line), (0, 0, 0, 4), expand=False))
        console.print()
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(examination.measurements):
        table.add_row(f"  {name}", escape(value))
    console.print("[bold]measured on this machine[/]")
    console.print(table)
    num_errors, num_warnings = examination.count("error"), examination.count("warning")
    errors = f"[bold red]{number_of(num_errors, 'error')}[/]" if num_errors else "[bold green]no error found[/]"
    console.print(f"\n{errors}" + (f", {number_of(num_warnings, 'warning')}" if num_warnings else ""))
    if not num_errors:
        console.print("next: openddpm train, with the same options")


def _facts(measured: "Measurements") -> list[tuple[str, str]]:
    """Return what was measured, as people read it."""
    from openddpm.analysis.text import byte_size, duration, number_of, significant

    facts = []
    if measured.step_seconds is not None and measured.images_per_second is not None:
        rate = f"{significant(measured.step_seconds)} s, {significant(measured.images_per_second)} images/s"
        facts.append((f"a step of {number_of(measured.batch_size or 0, 'image')}", rate))
    if measured.training_seconds is not None and measured.preview_seconds is not None:
        previews = f"and {duration(measured.preview_seconds)} of previews"
        facts.append(("the whole run", f"about {duration(measured.training_seconds)} of training, {previews}"))
    if measured.signal_left is not None:
        facts.append(("left of an image at the last timestep", f"{measured.signal_left:.2%}"))
    if measured.memory_bytes is not None:
        facts.append(("memory, at most", byte_size(measured.memory_bytes)))
    if measured.disk_needed_bytes is not None and measured.disk_free_bytes is not None:
        needed, free = byte_size(measured.disk_needed_bytes), byte_size(measured.disk_free_bytes)
        facts.append(("disk", f"{needed} for checkpoints, {free} free"))
    if measured.careful_fit is not None:
        facts.append(("memorizing one batch", str(measured.careful_fit)))
    if measured.own_fit is not None:
        facts.append(("the same with your settings", str(measured.own_fit)))
    return facts
