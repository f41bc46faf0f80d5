"""Fetches the weights of a run that was pushed to the Hugging Face Hub, and as much of its record as sampling needs."""

import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from openddpm.errors import UserError
from openddpm.publishing.fetch import run_in, why_not_read
from openddpm.publishing.hub import HubError
from openddpm.record.files import file_sha256
from openddpm.record.kept import list_milestones, milestone_name, milestones_among, nearest_milestone
from openddpm.record.public import WEIGHTS_FILE, WEIGHTS_FILES
from openddpm.record.reader import read_checkpoint_rows, read_run_record
from openddpm.record.writer import CHECKPOINTS_FILE, RUN_FILE

_SMALL_FILES = [RUN_FILE, CHECKPOINTS_FILE, *(name for name in WEIGHTS_FILES if name != WEIGHTS_FILE)]
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def may_be_on_the_hub(name: str) -> bool:
    """Tell whether a name can be that of a repository, USER/NAME."""
    return _NAME.fullmatch(name) is not None and not name.startswith(".")


def fetch_weights(repository: str, at: int | None = None) -> Path:
    """Download a run's weights into the cache of huggingface_hub, or find them there if the Hub cannot be reached.

    Args:
        at: number of images seen: the nearest milestone is fetched; None for the exported weights.

    Returns:
        a run folder with these weights, checked against checkpoints.jsonl, and what else sampling needs.

    Raises:
        HubError: no such repository, no permission, or no connection and nothing in the cache.
        UserError: it is not a run, has no milestones, or the weights are not those of its record.
    """
    folder = run_in(repository, _download(repository, _SMALL_FILES))
    read_run_record(folder)
    rows, name = read_checkpoint_rows(folder), WEIGHTS_FILE
    if at is not None:
        row = nearest_milestone(rows, _milestones(repository, folder), at)
        if row is None:
            raise UserError(f"'{repository}' on the Hub has no milestones", "Leave --at out: it has final weights.")
        name, rows = milestone_name(row.step), [row]
    path = _download(repository, [name], folder.name) / name
    if not path.is_file():
        hint = "Push the run again; or, if the Hub cannot be reached now, try later."
        raise UserError(f"'{repository}' on the Hub: {name} is missing", hint)
    if file_sha256(path) not in {row.exported_sha256 for row in rows}:
        found = f"'{repository}' on the Hub: {name} differs from its sha256 in {CHECKPOINTS_FILE}"
        raise UserError(found, "Push the run again; an interrupted push may have left an older file.")
    return folder


def _milestones(repository: str, folder: Path) -> list[int]:
    """Return the steps of a repository's milestones, or of those in the cache if the Hub cannot be reached."""
    try:
        return list(milestones_among(HfApi().list_repo_files(repository, revision=folder.name)))
    except Exception:  # the client's errors have no common base class
        return list(list_milestones(folder))


def _download(repository: str, names: list[str], revision: str | None = None) -> Path:
    """Download files of one commit; return the folder that has them, which is named after the commit."""
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=names))
    except Exception as error:  # the same, or a full disk
        reason = why_not_read(repository, error)
        raise HubError(f"'{repository}' is no folder here, and {reason.found}", reason.hint) from error
