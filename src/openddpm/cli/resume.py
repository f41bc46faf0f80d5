"""openddpm resume"""

from pathlib import Path

from openddpm.cli.options import parse_options
from openddpm.cli.train import report_result
from openddpm.config import config_differences, resuming_config
from openddpm.errors import UserError
from openddpm.record.reader import read_run_record

_PROGRAM = "openddpm resume RUN"
_DESCRIPTION = """Continue a run from its newest valid checkpoint, with its recorded options.

Takes the options of train; those that are not given stay as recorded. Options that change the run's numbers need
--accept_changes, and are recorded. A finished run continues if it is given more epochs or steps.

Train for longer:  openddpm resume runs/mine --accept_changes --num_epochs 200

If the images have moved:  openddpm resume runs/mine --dataset NEW-PLACE
"""


def run(arguments: list[str]) -> int:
    """Resume a run; return 0, or 128 + N after signal N."""
    if arguments and arguments[0] in ("-h", "--help"):
        parse_options(arguments, _PROGRAM, _DESCRIPTION)
    if not arguments or arguments[0].startswith("-"):
        raise UserError("no run is given", "Give its folder first: openddpm resume RUN [OPTIONS].")
    folder, options = Path(arguments[0]), arguments[1:]
    record = read_run_record(folder)
    recorded = resuming_config(record.config, str(folder))
    _, given = parse_options(options, _PROGRAM, _DESCRIPTION, recorded)
    config = resuming_config(record.config, str(folder), **given)
    changes = config.resume_from_checkpoint != "latest" or config_differences(config, recorded)
    if record.status == "finished" and not changes:
        print(f"already finished, at step {record.progress.step:,} of {record.total_steps:,}: nothing to do")
        return 0
    from openddpm.api import train

    return report_result(train(config), config)
