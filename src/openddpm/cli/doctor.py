"""openddpm doctor"""

import json
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from openddpm.cli.arguments import Flag
from openddpm.cli.options import parse_options
from openddpm.config import TrainConfig
from openddpm.errors import UserError

if TYPE_CHECKING:
    from openddpm.doctor import Examination

_DESCRIPTION = """Check a planned run before it costs anything: its images, options, memory, time and disk, and whether
the model can memorize one batch. Takes the options of train, and changes nothing in --output_dir.

Exit status: 0 no error found, 1 an error found, 2 unusable input.

Try it:  openddpm doctor --recipe avatars-16

For programs:  --json prints one JSON object, and nothing else, on standard output.
"""

_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold"}


@dataclass
class _OwnOptions:
    """Options of this command alone."""

    json: Flag = False
    """Print one JSON object instead of text."""


def run(arguments: list[str]) -> int:
    """Examine the run that `arguments` plan; return 1 if an error was found."""
    own, given = parse_options(arguments, "openddpm doctor", _DESCRIPTION, own=_OwnOptions)
    config = TrainConfig(**given)
    if not config.dataset:
        raise UserError("no data set is given", "Give one: --dataset FOLDER or a Hub id; or --recipe avatars-16.")
    from rich.console import Console

    from openddpm.doctor import examine

    console = Console(stderr=True, highlight=False)
    with console.status("") if console.is_terminal else nullcontext() as status:
        examination = examine(config, tell=lambda stage: status.update(stage) if status else console.print(stage))
    if own.json:
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
    """Return `value` with None in place of NaN and infinities, which JSON lacks."""
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
        f"{number_of(run.total_steps, 'step')} on {run.session.environment.device_type}\n"
    )
    for finding in examination.findings:
        style = _STYLES[finding.severity]
        console.print(f"[{style}]{finding.severity}:[/] {escape(finding.what)}")
        for line in (finding.why, f"-> {finding.hint}"):
            console.print(Padding(escape(line), (0, 0, 0, 4), expand=False))
        console.print()
    table = Table.grid(padding=(0, 2))
    for name, value in examination.measurements.facts():
        table.add_row(f"  {name}", escape(value))
    console.print("[bold]measured on this machine[/]")
    console.print(table)
    num_errors, num_warnings = examination.count("error"), examination.count("warning")
    errors = f"[bold red]{number_of(num_errors, 'error')}[/]" if num_errors else "[bold green]no error found[/]"
    console.print(f"\n{errors}" + (f", {number_of(num_warnings, 'warning')}" if num_warnings else ""))
    if not num_errors:
        console.print("next: openddpm train, with the same options")
