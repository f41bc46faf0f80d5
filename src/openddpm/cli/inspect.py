"""openddpm inspect"""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from openddpm.cli.arguments import Flag
from openddpm.cli.options import parse_options
from openddpm.config import DataOptions, TrainConfig
from openddpm.errors import UserError

if TYPE_CHECKING:
    from openddpm.inspection import Inspection

_DESCRIPTION = """Show what training would do with a data set's images: which are refused, converted, left out,
enlarged or duplicates, with thumbnails before and after. Trains nothing, and writes only the page.

Exit status: 0 training would accept the images, 1 it would not, 2 unusable input.

Try it:  openddpm inspect FOLDER --resolution 64

For programs:  --json prints one JSON object, and nothing else, on standard output.
"""

_OMITTED_OPTIONS = frozenset({"dataset", "random_flip", "heldout_images"})  # dataset is positional here
_MAX_NAMED = 5  # refused images, on the terminal


@dataclasses.dataclass(kw_only=True)
class _OwnOptions:
    """Options of this command alone."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """What to inspect: a Hub id (huggan/pokemon), a local folder, a parquet, arrow, zip, tar, npz, npy or idx file, or
    a built-in name (avatars-16, digits-8)."""
    page: Annotated[Path, tyro.conf.arg(metavar="PATH")] = Path("inspection.html")
    """HTML page to write; an existing file is replaced."""
    json: Flag = False
    """Print one JSON object instead of the summary."""


def run(arguments: list[str]) -> int:
    """Inspect the data set that `arguments` name; return 1 if training would not accept it."""
    own, given = parse_options(
        *(arguments, "openddpm inspect", _DESCRIPTION, TrainConfig(), _OwnOptions, {"data": DataOptions}),
        without=_OMITTED_OPTIONS,
    )
    config, page = TrainConfig(dataset=own.dataset, **given), own.page.expanduser()
    _check_writable(page)
    from openddpm.inspection import write_page

    inspection = _inspect(config)
    try:
        write_page(page, inspection)
    except OSError as error:
        raise _unwritable(page, error.strerror or str(error)) from error
    if own.json:
        print(json.dumps(_as_json(inspection, page)))
    else:
        _show(inspection, page)
    return 1 if inspection.objections else 0


def _check_writable(page: Path) -> None:
    """Check that the page can be written, before the images are decoded."""
    if page.is_dir():
        raise _unwritable(page, "it is a folder")
    folder = next(parent for parent in page.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise _unwritable(page, f"no files can be created in '{folder}'")


def _unwritable(page: Path, reason: str) -> UserError:
    return UserError(f"cannot write '{page}': {reason}", "Choose another place: --page FILE.html")


def _inspect(config: TrainConfig) -> "Inspection":
    """Decode the images, with progress and time left on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from openddpm.inspection import inspect_images

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, transient=True, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("decoding the images", total=None)
        return inspect_images(config, lambda num_items: progress.update(task, advance=1, total=num_items))


def _as_json(inspection: "Inspection", page: Path) -> dict[str, Any]:
    """Return the fields of data.json, and whether training would accept the images."""
    return {
        **inspection.data.model_dump(),
        "usable": not inspection.objections,
        "reasons": [{"found": objection.found, "hint": objection.hint} for objection in inspection.objections],
        "shape": inspection.shape,
        "page": str(page),
    }


def _show(inspection: "Inspection", page: Path) -> None:
    """Print a summary, whether training would accept the images, and where the page is."""
    from rich.console import Console
    from rich.markup import escape

    from openddpm.analysis import left_out
    from openddpm.inspection import words

    data = inspection.data
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(inspection.source.name)}:[/] {words.summary(inspection)} pixels\n")
    if left_out.is_more_than_taken(data):
        console.print(f"[bold red]warning:[/] {left_out.WARNING}\n")
    lines = [*words.facts(inspection).items()]
    lines += [("converted", f"{name}: {section.num_images:,}") for name, section in words.converted(inspection)]
    for name, value in lines:
        console.print(f"  {name:12}{escape(value)}")
    if left_out.without_texts(data):
        console.print(f"\n{left_out.headline(data)}")
        for line, is_data in left_out.lines(data):
            console.print(f"[bold yellow]{escape(line)}[/]" if is_data else escape(line))
    refused = inspection.gallery.sections.get("refused")
    if refused and not inspection.objections:  # objections name refused images themselves
        console.print("\nrefused")
        for image in refused.shown[:_MAX_NAMED]:
            console.print(f"  {escape(image.path)}: {escape(image.note)}")
        if refused.num_images > _MAX_NAMED:
            console.print(f"  and {refused.num_images - _MAX_NAMED:,} more")
    style = "bold red" if inspection.objections else "bold green"
    console.print(f"\n[{style}]{words.verdict_sentence(inspection)}[/]")
    for objection in inspection.objections:
        console.print(f"{escape(objection.found)}\n  -> {escape(objection.hint)}")
    console.print(f"page: {escape(str(page))}")
