"""Fetches the record of a run that was pushed to the Hugging Face Hub: no weights, and only some of its previews."""

from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

from openddpm.errors import UserError
from openddpm.publishing.hub import HubError
from openddpm.record.reader import log_spaced
from openddpm.record.schema import exported_weights
from openddpm.record.writer import PREVIEW_NAME, RUN_FILE, SCHEMAS

MAX_PREVIEWS = 8


def fetch_record(repository: str, token: str | None = None) -> Path:
    """Download a run's record into the cache of huggingface_hub, or find it there if the Hub cannot be reached.

    Args:
        repository: USER/NAME, or USER/NAME@REVISION with a branch, tag or commit.

    Returns:
        a run folder with the files of the record and up to 8 previews of the exported weights.

    Raises:
        HubError: no such repository or revision, no permission, or no connection and nothing in the cache.
        UserError: it holds no record of a run.
    """
    name, _, revision = repository.partition("@")
    files, no_answer = [*SCHEMAS], ""
    try:
        info = HfApi(token=token).model_info(name, revision=revision or None)
        files = _wanted([entry.rfilename for entry in info.siblings or []])
    except Exception as error:  # the client's errors have no common base class
        no_answer = _reason(repository, error)
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=files, token=token, local_files_only=bool(no_answer)
        )
    except Exception as error:  # the same, or a full disk
        found = f"could not fetch '{repository}' from the Hub ({constants.ENDPOINT}): {no_answer or _first_line(error)}"
        raise HubError(found, "Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE.") from error
    if not (Path(folder) / RUN_FILE).is_file():
        found = f"'{repository}' on the Hub has no {RUN_FILE}: it is not a run that openddpm pushed"
        raise UserError(found, "Give a repository that `openddpm push` or --push_to_hub made.")
    return Path(folder)


def _wanted(names: list[str]) -> list[str]:
    """Return which of a repository's files to fetch."""
    matches = [PREVIEW_NAME.fullmatch(name.removeprefix("samples/")) for name in names if name.startswith("samples/")]
    previews = [(match["weights"], int(match["step"]), f"samples/{match[0]}") for match in matches if match]
    exported = exported_weights(weights for weights, *_ in previews)
    by_step = {step: name for weights, step, name in previews if weights == exported}
    return [*SCHEMAS, *(by_step[step] for step in log_spaced(by_step, MAX_PREVIEWS))]


def _reason(repository: str, error: Exception) -> str:
    """Return why the Hub does not answer.

    Raises:
        HubError: it did answer, and there is nothing that may be read under this name.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        found = f"'{repository}': the repository on the Hub has no such revision"
        raise HubError(found, "Give a branch, a tag or a commit behind the @.") from error
    if status in (401, 403, 404) or isinstance(error, HFValidationError):
        found = f"the Hub ({constants.ENDPOINT}) has no model '{repository}' that you may read"
        hint = "Check the name; for a private or gated one log in first: hf auth login, or set HF_TOKEN."
        raise HubError(f"{found} ({status})" if status else found, hint) from error
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
