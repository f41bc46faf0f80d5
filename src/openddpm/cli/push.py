"""openddpm push"""

import sys
from typing import Annotated

import tyro

from openddpm.cli.arguments import OptionalText, RunFolder, call
from openddpm.record.kept import PublishedWeights

_OptionalWeights = Annotated[
    PublishedWeights | None, tyro.conf.arg(metavar="{none,milestones,kept}", help_behavior_hint="")
]


def run(arguments: list[str]) -> int:
    """Parse `arguments` and push the run."""
    return call(_push, "push", arguments)


def _push(
    run: RunFolder,
    /,
    hub_model_id: OptionalText = None,
    hub_private_repo: bool = False,
    hub_token: OptionalText = None,
    checkpoints: _OptionalWeights = None,
) -> int:
    """Upload weights, record, report and card of a run, and what it keeps of earlier steps if there is any.

    Can be repeated: files that are there already are not sent again, and an interrupted push goes on. Paths of this
    machine are reduced to their last part.

    Args:
        run: The run folder.
        hub_model_id: Repository to push to (default: the one in the run's options, or else the run folder's name, under
            your account).
        hub_private_repo: Create the repository as private.
        hub_token: Access token; better given by HF_TOKEN or `hf auth login`.
        checkpoints: Weights of earlier steps to upload: none; milestones, which --milestones of training keeps; or
            kept, which adds the checkpoints that --keep_every keeps, whole, with the state of the optimizer, several
            times as large (default: milestones if there are any, else none).
    """
    from openddpm.publishing.hub import push_run
    from openddpm.record.reader import read_run_record

    config = read_run_record(run).config
    repository = hub_model_id or config.get("hub_model_id") or run.resolve().name
    is_private = hub_private_repo or bool(config.get("hub_private_repo"))
    address = push_run(run, repository, hub_token, is_private, checkpoints, lambda line: print(line, file=sys.stderr))
    print(f"pushed: {address}")
    return 0
