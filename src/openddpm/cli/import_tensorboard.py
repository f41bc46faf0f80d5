"""openddpm import-tensorboard"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from openddpm.cli.arguments import OptionalPath, OptionalText, call

if TYPE_CHECKING:
    from openddpm.record.imported import ImportedFolder

_LogDir = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LOGDIR")]
_OptionalSize = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]

MAX_IGNORED = 8  # tags printed; the record has all


def run(arguments: list[str]) -> int:
    """Parse `arguments` and import."""
    return call(_import, "import-tensorboard", arguments)


def _import(
    logdir: _LogDir,
    /,
    output_dir: OptionalPath = None,
    batch_size: _OptionalSize = None,
    loss_tag: OptionalText = None,
) -> int:
    """Make a partial record of a run that another script trained, from its TensorBoard events.

    `openddpm report` shows it, and `openddpm compare` tells by its training loss whether it is where a reference was.
    Needs no GPU and no torch.

    Args:
        logdir: The folder with the events of one run, as for `tensorboard --logdir`.
        output_dir: Folder for the record; an imported record in it is replaced, anything else is refused
            (default: runs/imported-NAME, by the name of the folder with the events).
        batch_size: Images that a step of the log consumes, over all processes and gradient accumulation (all images of
            the data set if it counts epochs); without it the record counts steps only, and cannot be compared.
        loss_tag: Tag of the training loss (default: the only one with a usual name, such as loss or train/loss).
    """
    from openddpm.errors import UserError
    from openddpm.importing import import_tensorboard
    from openddpm.record.schema import MAX_COUNT

    if batch_size is not None and not 1 <= batch_size <= MAX_COUNT:
        hint = f"Give the number of images that a step consumes, from 1 to {MAX_COUNT:,}."
        raise UserError(f"--batch_size is {batch_size}", hint)
    _print(import_tensorboard(logdir, output_dir, batch_size, loss_tag))
    return 0


def _print(imported: "ImportedFolder") -> None:
    """Print what was taken and what is missing, and the commands that go on from there."""
    import shlex

    from openddpm.analysis.text import count, number_of
    from openddpm.names import as_text
    from openddpm.record.imported import MISSING

    record = imported.record
    folder = shlex.quote(as_text(str(imported.folder)))
    where = f"steps {count(record.step[0])} to {count(record.step[-1])}"
    if record.images_per_step is not None:
        where += f", {count(record.step[-1] * record.images_per_step)} images"
    print(f"loss:     {number_of(len(record.step), 'point')} of '{record.tags.train_loss}', {where}")
    print(f"rate:     {repr(record.tags.learning_rate) if record.tags.learning_rate else 'none'}")
    names = ", ".join(f"'{tag}'" for tag in dict.fromkeys(one.tag for one in record.pictures))
    print(f"pictures: {f'{len(record.pictures):,} of {names}' if record.pictures else 'none'}")
    if ignored := record.ignored_tags:
        more = f" and {len(ignored) - MAX_IGNORED} more" if len(ignored) > MAX_IGNORED else ""
        print(f"ignored:  {', '.join(ignored[:MAX_IGNORED])}{more}")
    for note in record.notes:
        print(f"note:     {note}")
    print("not known from a log:")
    for missing in MISSING:
        print(f"  {missing}")
    print(f"record:   {folder}\nnext:\n  openddpm report {folder}")
    if record.images_per_step is None:
        print("  to compare it, import again with --batch_size: the images that a step consumes")
    else:
        print(f"  openddpm compare {folder} REFERENCE    # `openddpm references` lists those that are built in")
