"""Uploads a run to the Hugging Face Hub, in commits that are each whole, so that an interrupted push can go on."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.hf_api import RepoFile

from openddpm.analysis.text import byte_size, number_of
from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.publishing.selection import Commit, left_over, manifest_of, select
from openddpm.record.kept import PublishedWeights
from openddpm.record.reader import read_run_record
from openddpm.record.writer import MANIFEST_FILE

CHECK_CONNECTION = "Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE."


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


def push_run(
    folder: Path,
    repository: str,
    token: str | None = None,
    private: bool = False,
    checkpoints: PublishedWeights | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> str:
    """Upload a run's folder, creating the repository if need be; return the address of the last commit.

    Record and exported weights are one commit, each milestone and each checkpoint another. Files that are there
    already are not sent again; those of an earlier run, or of steps that this one has not, are removed.

    Args:
        checkpoints: which weights of earlier steps to upload, too; None for milestones, if there are any.
        tell: called with each line of what will be sent, before anything is.

    Raises:
        HubError: the upload failed; it can be repeated, and goes on.
        UserError: there is no run in `folder`, or it has not what is to be uploaded.
    """
    read_run_record(folder)
    api, asked = HfApi(token=token), repository
    try:
        repository = asked if "/" in asked else f"{api.whoami()['name']}/{asked}"
        commits = select(folder, repository, checkpoints)
        repository = api.create_repo(repository, private=private or None, exist_ok=True).repo_id
        entries = api.list_repo_tree(repository, recursive=True)
        there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    except UserError:
        raise
    except Exception as error:
        raise _hub_error(f"could not push to '{asked}' on the Hub", error) from error
    digests = {name: entry.lfs.sha256 if entry.lfs else None for name, entry in there.items()}
    gone = left_over(folder, commits, digests)
    commits[0].add("record", MANIFEST_FILE, manifest_of(folder, repository, commits, digests, gone))
    new = [
        [name for name, file in one.content.items() if not _is_there(there.get(name), file, one.sha256[name])]
        for one in commits
    ]
    for line in _overview(repository, commits, {name for names in new for name in names}, gone):
        tell(line)
    address = f"{constants.ENDPOINT}/{repository}"
    for number, (commit, names) in enumerate(zip(commits, new, strict=True)):
        removed = gone if number == 0 else []
        if names or removed:
            try:
                operations: list[CommitOperationAdd | CommitOperationDelete] = []
                operations += [CommitOperationAdd(name, commit.content[name]) for name in names]
                operations += [CommitOperationDelete(name) for name in removed]
                address = str(api.create_commit(repository, operations, commit_message=commit.message).commit_url)
            except Exception as error:
                found = f"could not push to '{repository}' on the Hub after {number} of {len(commits)} commits"
                raise _hub_error(found, error, "What was sent stays there; the same command goes on.") from error
    return address


def _is_there(entry: RepoFile | None, content: bytes | Path, sha256: str) -> bool:
    """Tell whether a repository has a file with this content, by the digest that it names its files with."""
    if entry is None or entry.size != (len(content) if isinstance(content, bytes) else content.stat().st_size):
        return False
    if entry.lfs is not None:
        return bool(entry.lfs.sha256 == sha256)
    content = content if isinstance(content, bytes) else content.read_bytes()
    return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


def _overview(repository: str, commits: list[Commit], new: set[str], gone: list[str]) -> list[str]:
    """Return what will be sent and removed, a line for each kind of file."""
    lines = []
    files = {name: (kind, commit.content[name]) for commit in commits for name, kind in commit.kinds.items()}
    for kind in ("record", "weights", "milestones", "checkpoints"):
        sizes = {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, (kind_of_file, content) in files.items()
            if kind_of_file == kind
        }
        sent = [size for name, size in sizes.items() if name in new]
        there = len(sizes) - len(sent)
        note = f"; there already: {number_of(there, 'file')}" if there else ""
        if sizes:
            lines.append(f"  {kind:11} {number_of(len(sent), 'file'):>9}, {byte_size(sum(sent))}{note}")
    if gone:
        lines.append(
            f"  {'removed':11} {number_of(len(gone), 'file'):>9} from an earlier push, not of this run as it is now"
        )
    return [f"sending to {repository}:", *lines]


def _hub_error(found: str, error: Exception, more: str = "") -> HubError:
    """Return the error for any exception of the client: it has no common base class."""
    if isinstance(error, LocalTokenNotFoundError) or status_of(error) in (401, 403):
        hint = "Log in with a token that has write access: hf auth login, or set HF_TOKEN."
    elif isinstance(error, HFValidationError):
        hint = "Name it with --hub_model_id NAME or --hub_model_id ACCOUNT/NAME."
    else:
        hint = CHECK_CONNECTION
    return HubError(f"{found} ({constants.ENDPOINT}): {first_line(error)}", f"{hint} {more}".strip())


def status_of(error: Exception) -> int | None:
    """Return the status of the Hub's answer that an exception of the client is about; None without one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
