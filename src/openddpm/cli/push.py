"""openddpm push"""

from pathlib import Path
from typing import Annotated

import tyro


def run(arguments: list[str]) -> int:
    """Parse and push."""
    return tyro.cli(_push, args=arguments, prog="openddpm push", use_underscores=True)


def _push(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    hub_model_id: str | None = None,
    hub_private_repo: bool = False,
    hub_token: str | None = None,
) -> int:
    """Upload weights, record, report and card of a run, never its checkpoints. Can be repeated.

    Args:
        run: The run folder.
        hub_model_id: Repository to push to (default: the run folder's name, under your account).
        hub_private_repo: Create the repository as private.
        hub_token: Access token; better given by HF_TOKEN or `hf auth login`.
    """
    from openddpm.analysis.report import write_report
    from openddpm.publishing.hub import push_run

    write_report(run)
    print(f"pushed: {push_run(run, hub_model_id or run.resolve().name, hub_token, hub_private_repo)}")
    return 0
