"""Uploads a run to the Hugging Face Hub: only weights, record, report and card, by an allow-list."""

from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.record.reader import read_run_record
from openddpm.report.card import write_card

ALLOWED_FILES = (
    *("model_index.json", "unet/config.json", "unet/*.safetensors", "scheduler/scheduler_config.json"),
    *("run.json", "metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "checkpoints.jsonl"),
    *("data.json", "baselines.json", "verdict.json"),
    *("report.html", "README.md", "curves.png", "samples/step-*.png", "samples/training-data.png"),
)
"""Everything else is not uploaded, above all checkpoints and optimizer states."""

_DEEPER_FILES = "*/*/*"  # a star of the patterns above matches slashes, too


class HubError(UserError):
    """The Hub refused or could not be reached; nothing local is lost."""


def prepare_repository(config: TrainConfig) -> str:
    """Check before training that the token works and the repository can be written; return the repository's id.

    Raises:
        HubError: no token, no permission, or no connection.
    """
    api = HfApi(token=config.hub_token)
    name = config.hub_model_id or Path(config.output_dir).resolve().name
    try:
        repository = name if "/" in name else f"{api.whoami()['name']}/{name}"
        return api.create_repo(repository, private=config.hub_private_repo or None, exist_ok=True).repo_id
    except Exception as error:
        raise _hub_error(f"cannot push to '{name}' on the Hub", error) from error


def push_run(folder: Path, repository: str, token: str | None = None, private: bool = False) -> str:
    """Upload a run's folder, creating the repository if need be; return the address of the commit.

    Raises:
        HubError: the upload failed; it can be repeated.
        UserError: there is no run in `folder`.
    """
    read_run_record(folder)
    write_card(folder)
    api = HfApi(token=token)
    try:
        repository = api.create_repo(repository, private=private or None, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(ALLOWED_FILES),
            ignore_patterns=[_DEEPER_FILES],
            commit_message=f"openddpm run {folder.resolve().name}",
        )
        return str(commit.commit_url)
    except Exception as error:
        raise _hub_error(f"could not push to '{repository}' on the Hub", error) from error


def _hub_error(found: str, error: Exception) -> HubError:
    """Return the error for any exception of the client: it has no common base class."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
        hint = "Log in with a token that has write access: hf auth login, or set HF_TOKEN."
    elif isinstance(error, HFValidationError):
        hint = "Name it with --hub_model_id NAME or --hub_model_id ACCOUNT/NAME."
    else:
        hint = "Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE."
    return HubError(f"{found} ({constants.ENDPOINT}): {reason}", hint)
