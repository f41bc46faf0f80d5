"""openddpm resume"""

from pathlib import Path

from openddpm.cli.options import parse_options
from openddpm.cli.train import report_result
from openddpm.config import TrainConfig, config_differences, resuming_config
from openddpm.errors import UserError
from openddpm.record.reader import read_run_record

_PROGRAM = "openddpm resume RUN"
_DESCRIPTION = """Go on with a run from its own record and its newest valid checkpoint.

Takes the options of train; what is not given is as the run has it. Options that change its numbers need
--accept_changes, and are recorded. A finished run goes on if it is given more epochs or steps.

Train for longer:  openddpm resume runs/mine --accept_changes --num_epochs 200

If the images have moved:  openddpm resume runs/mine --dataset NEW-PLACE
"""


def run(arguments: list[str]) -> int:
    """Go on with a run; returns 0, or 128 + N after signal N."""
    if arguments and arguments[0] in ("-h", "--help"):
        parse_options(arguments, _PROGRAM, _DESCRIPTION)
    if not arguments or arguments[0].startswith("-"):
        raise UserError("no run is named", "Name its folder first: openddpm resume RUN [OPTIONS].")
    folder, options = Path(arguments[0]), arguments[1:]
    record = read_run_record(folder)
    recorded = resuming_config(record.config, str(folder))
    _, given = parse_options(options, _PROGRAM, _DESCRIPTION, recorded)
    config = resuming_config(record.config, str(folder), **given)
    if config.output_dir != recorded.output_dir or config.recipe is not None:
        hint = "Leave them out; `openddpm train` begins a new run."
        raise UserError("a run goes on in its own folder and with its own options: no --output_dir, no --recipe", hint)
    if record.status == "finished" and _asks_for_nothing(config, recorded):
        print(f"finished already, at step {record.progress.step:,} of {record.total_steps:,}: nothing to do")
        return 0
    from openddpm.api import train

    return report_result(train(config), config)


def _asks_for_nothing(config: TrainConfig, recorded: TrainConfig) -> bool:
    return config.resume_from_checkpoint == "latest" and not config_differences(config, recorded)
