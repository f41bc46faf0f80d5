"""openddpm report"""

from pathlib import Path
from typing import Annotated

import tyro


def run(arguments: list[str]) -> int:
    """Parse and rebuild."""
    return tyro.cli(_report, args=arguments, prog="openddpm report", use_underscores=True)


def _report(run: Annotated[Path, tyro.conf.Positional], /) -> int:
    """Rebuild report.html and the model card of a run from its record. Needs no GPU and no torch.

    Args:
        run: The run folder.
    """
    from openddpm.analysis.report import write_report
    from openddpm.publishing.card import write_card

    print(f"report: {write_report(run)}\ncard:   {write_card(run)}")
    return 0
