"""openddpm resume"""

from openddpm.cli.arguments import OptionalText, RunFolder, call
from openddpm.cli.train import report_result


def run(arguments: list[str]) -> int:
    """Parse and go on with a run."""
    return call(_resume, "resume", arguments)


def _resume(run: RunFolder, /, dataset: OptionalText = None, hub_token: OptionalText = None) -> int:
    """Go on with a run from its own record and its newest valid checkpoint; a finished run is left as it is.

    Args:
        run: The run folder.
        dataset: Where the images are, if they have moved since; they have to be the same.
        hub_token: Access token, if the run is pushed to the Hub; better given by HF_TOKEN or `hf auth login`.
    """
    from openddpm.record.reader import read_run_record

    record = read_run_record(run)
    if record.status == "finished":
        print(f"finished already, at step {record.progress.step:,} of {record.total_steps:,}: nothing to do")
        return 0
    from openddpm.api import resume

    moved = {"dataset": dataset} if dataset is not None else {}
    return report_result(resume(run, hub_token=hub_token, **moved), record.config["logging_dir"])
