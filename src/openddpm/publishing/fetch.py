"""Fetches a run that was pushed to the Hugging Face Hub: its record, with some previews, or its weights as well."""

import random
import re
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

from openddpm.errors import UserError
from openddpm.publishing.hub import CHECK_CONNECTION, HubError, first_line, status_of
from openddpm.record.kept import MILESTONES_FOLDER, STEP_NAME, step_name
from openddpm.record.public import PAGES, VERIFICATION_FILES, WEIGHTS_FILES
from openddpm.record.reader import log_spaced
from openddpm.record.schema import exported_weights
from openddpm.record.writer import MANIFEST_FILE, PREVIEW_NAME, RUN_FILE, SCHEMAS

MAX_PREVIEWS = 8
MAX_CHECKPOINTS = 2  # each several times as large as the weights
_ALL = (*WEIGHTS_FILES, "samples/*.png", f"{MILESTONES_FOLDER}/*", *PAGES, *VERIFICATION_FILES)
_IN_A_CHECKPOINT = re.compile(rf"checkpoints/{STEP_NAME}/[^/]+")
REFUSALS = (401, 403, 404)  # status of an answer that a copy in the cache does not replace


def fetch_record(repository: str, token: str | None = None, whole: bool = False) -> Path:
    """Download a run's record into the cache of huggingface_hub, or find it there if the Hub cannot be reached.

    Args:
        repository: USER/NAME, or USER/NAME@REVISION with a branch, tag or commit.
        whole: whether to download all weights and previews, too, and two of the checkpoints, drawn at random: nobody
            who made the record could know which.

    Returns:
        a run folder with the files of the record and up to 8 previews of the exported weights, or with all of these.

    Raises:
        HubError: no such repository or revision, no permission, or no connection and nothing in the cache.
        UserError: it holds no record of a run.
    """
    name, _, revision = repository.partition("@")
    files, no_answer = [*SCHEMAS, MANIFEST_FILE, *(_ALL if whole else ())], None
    try:
        info = HfApi(token=token).model_info(name, revision=revision or None)
        names = [entry.rfilename for entry in info.siblings or []]
        files = [*files, *_some_checkpoints(names)] if whole else _wanted(names)
    except Exception as error:  # the client's errors have no common base class
        no_answer = why_not_read(repository, error)
        if status_of(error) in REFUSALS or isinstance(error, HFValidationError):
            raise no_answer from error
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=files, token=token, local_files_only=no_answer is not None
        )
    except Exception as error:  # the same, or a full disk
        raise no_answer or why_not_read(repository, error) from error
    return run_in(repository, Path(folder))


def run_in(repository: str, folder: Path) -> Path:
    """Return the folder of a repository's files.

    Raises:
        UserError: it holds no record of a run.
    """
    if not (folder / RUN_FILE).is_file():
        found = f"'{repository}' on the Hub has no {RUN_FILE}: it is not a run that openddpm pushed"
        raise UserError(found, "Give a repository that `openddpm push` or --push_to_hub made.")
    return folder


def why_not_read(repository: str, error: Exception) -> HubError:
    """Return the error for any exception of the client while files of a repository are read."""
    status = status_of(error)
    if isinstance(error, RevisionNotFoundError):
        found = f"'{repository}': the repository on the Hub has no such revision"
        return HubError(found, "Give a branch, a tag or a commit behind the @.")
    if status in REFUSALS or isinstance(error, HFValidationError):
        found = f"the Hub ({constants.ENDPOINT}) has no model '{repository}' that you may read"
        hint = "Check the name; for a private or gated one log in first: hf auth login, or set HF_TOKEN."
        return HubError(f"{found} ({status})" if status else found, hint)
    found = f"could not fetch '{repository}' from the Hub ({constants.ENDPOINT}): {first_line(error)}"
    return HubError(found, CHECK_CONNECTION)


def _some_checkpoints(names: list[str]) -> list[str]:
    """Return patterns of the files of some checkpoints among a repository's files, but not of the last: no step can be
    trained after it, as a rule."""
    steps = {int(match["step"]) for name in names if (match := _IN_A_CHECKPOINT.fullmatch(name))}
    folders = [f"checkpoints/{step_name(step)}" for step in sorted(steps)][: -1 if len(steps) > 1 else None]
    chosen = random.SystemRandom().sample(folders, min(len(folders), MAX_CHECKPOINTS))
    return [f"{folder}/*" for folder in chosen]


def _wanted(names: list[str]) -> list[str]:
    """Return which of a repository's files to fetch."""
    matches = [PREVIEW_NAME.fullmatch(name.removeprefix("samples/")) for name in names if name.startswith("samples/")]
    previews = [(match["weights"], int(match["step"]), f"samples/{match[0]}") for match in matches if match]
    exported = exported_weights(weights for weights, *_ in previews)
    by_step = {step: name for weights, step, name in previews if weights == exported}
    return [*SCHEMAS, MANIFEST_FILE, *(by_step[step] for step in log_spaced(by_step, MAX_PREVIEWS))]
