"""openddpm compare"""

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from openddpm.cli.arguments import Flag, OptionalPath, call

if TYPE_CHECKING:
    from openddpm.comparison.compare import Comparison
    from openddpm.comparison.imported import ImportedComparison
    from openddpm.references import Reference

_Candidate = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CANDIDATE")]
_References = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="REFERENCE")]

STATUS = {"same_bits": 0, "same_run": 0, "inside": 0, "outside": 1, "not_comparable": 2}
WIDTH = 110  # columns that the table needs; a narrower terminal wraps it
MOST_EXPLANATIONS = 8  # printed; the page and --json have all


def run(arguments: list[str]) -> int:
    """Parse `arguments` and compare."""
    return call(_compare, "compare", arguments)


def _compare(candidate: _Candidate, reference: _References, /, page: OptionalPath = None, json: Flag = False) -> int:
    """Is a run where a reference was after as many images? Tells same bits, same run, inside or outside its band.

    Exit status: 0 same bits, same run, or inside; 1 outside; 2 not comparable. From the records alone, without torch.

    Args:
        candidate: The run: its folder, or a Hub id; or the folder of an imported record, which has no more to compare
            than its training loss.
        reference: One or more runs with the same options and other seeds: a built-in name (avatars-16), run folders, a
            folder of run folders, or Hub ids.
        page: HTML file to write the comparison to (default: compare.html in the candidate's folder, or here for a run
            on the Hub).
        json: Print the answer as JSON, for programs, and write no page unless --page is given.
    """
    from openddpm.comparison.compare import compare
    from openddpm.comparison.imported import compare_imported
    from openddpm.names import as_text
    from openddpm.record.imported import is_imported, read_imported_folder
    from openddpm.references import open_reference, open_run
    from openddpm.references.sources import folder_of

    comparison: Comparison | ImportedComparison
    folder = folder_of(candidate)
    if is_imported(folder):
        imported, opened = read_imported_folder(folder), open_reference(*reference)
        comparison = compare_imported(imported, opened.runs)
    else:
        run, opened = open_run(candidate), open_reference(*reference)
        comparison = compare(run, opened.runs)
    if json:
        print(_as_json(comparison))
    else:
        for note in opened.notes:
            print(f"note: {as_text(note)}")
        _print(comparison, opened.name)
    if page is not None or not json:
        page = page or (comparison.candidate.folder if Path(candidate).is_dir() else Path()) / "compare.html"
        _write_page(page, comparison, opened)
        if not json:
            print(f"page: {as_text(str(page))}")
    return STATUS[comparison.verdict]


def _write_page(page: Path, comparison: "Comparison | ImportedComparison", reference: "Reference") -> None:
    from openddpm.comparison.imported import ImportedComparison
    from openddpm.report.compare import write_comparison
    from openddpm.report.imported import write_imported_comparison

    if isinstance(comparison, ImportedComparison):
        write_imported_comparison(page, comparison, reference)
    else:
        write_comparison(page, comparison, reference)


def _as_json(comparison: "Comparison | ImportedComparison") -> str:
    return json_module.dumps(comparison.answer(), indent=1, allow_nan=False)


def _print(comparison: "Comparison | ImportedComparison", name: str) -> None:
    """Print the sentence, a table of the quantities, and the explanations."""
    from rich.console import Console
    from rich.table import Table

    from openddpm.analysis.text import significant
    from openddpm.names import as_text

    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.width = max(console.width, WIDTH)
    console.print(as_text(comparison.sentence))
    if comparison.standings:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for header in ("", "candidate", "reference", "95 % of seeds", "left at"):
            table.add_column(header, no_wrap=True)
        console.print(f"after {comparison.standings[0].images:,.0f} images; reference: {as_text(name)}")
        for one in comparison.standings:
            ends = [significant(end) for end in (one.low, one.high) if end is not None]
            elsewhere = f", after {one.images:,.0f}" if one.images != comparison.standings[0].images else ""
            table.add_row(
                one.quantity.name + elsewhere,
                significant(one.candidate),
                significant(one.mean),
                " to ".join(ends) or "none",
                "" if one.left_at is None else f"{one.left_at:,.0f}",
            )
        console.print(table)
    if comparison.explanations:
        console.print("differences, the likeliest explanation first:")
        for found in comparison.explanations[:MOST_EXPLANATIONS]:
            console.print(as_text(f"  {found.name}: {found.candidate}; reference: {found.reference} ({found.reason})"))
        if len(comparison.explanations) > MOST_EXPLANATIONS:
            console.print(f"  and {len(comparison.explanations) - MOST_EXPLANATIONS} more, on the page")
