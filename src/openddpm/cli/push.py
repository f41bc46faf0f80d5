"""openddpm push"""

from openddpm.cli.arguments import OptionalText, RunFolder, call


def run(arguments: list[str]) -> int:
    """Parse `arguments` and push the run."""
    return call(_push, "push", arguments)


def _push(
    run: RunFolder,
    /,
    hub_model_id: OptionalText = None,
    hub_private_repo: bool = False,
    hub_token: OptionalText = None,
) -> int:
    """Upload weights, record, report and card of a run, but no checkpoints. Can be repeated.

    Args:
        run: The run folder.
        hub_model_id: Repository to push to (default: the one in the run's options, or else the run folder's name, under
            your account).
        hub_private_repo: Create the repository as private.
        hub_token: Access token; better given by HF_TOKEN or `hf auth login`.
    """
    from openddpm.publishing.hub import push_run
    from openddpm.record.reader import read_run_record
    from openddpm.report import write_report

    config = read_run_record(run).config
    repository = hub_model_id or config.get("hub_model_id") or run.resolve().name
    is_private = hub_private_repo or bool(config.get("hub_private_repo"))
    write_report(run)
    print(f"pushed: {push_run(run, repository, hub_token, is_private)}")
    return 0
