"""openddpm report"""

from openddpm.cli.arguments import RunFolder, call


def run(arguments: list[str]) -> int:
    """Parse `arguments` and rebuild the report."""
    return call(_report, "report", arguments)


def _report(run: RunFolder, /) -> int:
    """Rebuild report.html and the model card of a run from its record. Needs no GPU and no torch.

    Args:
        run: The run folder.
    """
    from openddpm.record.reader import read_run_folder
    from openddpm.report import write_report
    from openddpm.report.card import write_card

    record = read_run_folder(run)
    print(f"report: {write_report(run, record)}\ncard:   {write_card(run, record)}")
    return 0
