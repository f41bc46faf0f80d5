"""openddpm resume"""

from pathlib import Path
from typing import Annotated

import tyro

from openddpm.cli.train import report_result


def run(arguments: list[str]) -> int:
    """Parse and go on with a run."""
    return tyro.cli(_resume, args=arguments, prog="openddpm resume", use_underscores=True)


def _resume(run: Annotated[Path, tyro.conf.Positional], /, hub_token: str | None = None) -> int:
    """Go on with a run from its own record and its newest valid checkpoint.

    Args:
        run: The run folder.
        hub_token: Access token, if the run is pushed to the Hub; better given by HF_TOKEN.
    """
    from openddpm.api import resume

    return report_result(resume(run, hub_token=hub_token))
