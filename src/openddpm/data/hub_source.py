"""Data sets of the Hugging Face Hub (or of the mirror in HF_ENDPOINT), pinned to a commit."""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from openddpm.config import DataOptions
from openddpm.data.splits import split_of
from openddpm.errors import UserError, closest
from openddpm.names import as_text

if TYPE_CHECKING:
    import datasets

CONVERTED = "refs/convert/parquet"  # the branch with the parquet files into which the Hub converts a data set


def load_from_hub(options: DataOptions) -> tuple["datasets.Dataset", str | None, str]:
    """Download one split, or load it from the cache if the Hub cannot be reached.

    Returns:
        the data set; its commit (None if it is not known); a digest of what was loaded.

    Raises:
        UserError: no such data set, configuration or split; no access; no connection.
    """
    commit: str | None
    try:
        commit = _commit(options)
    except _NoAnswerError as error:
        dataset, commit = _load_from_cache(options, error)
    else:
        dataset = _download(options, commit)
    identity = f"{options.dataset} {dataset.config_name} {dataset.split} {commit or dataset._fingerprint}"
    return dataset, commit, hashlib.sha256(identity.encode()).hexdigest()


def cache_folders(options: DataOptions) -> list[Path]:
    """Return the folders of downloads: the only ones in which a data set of the Hub may name files."""
    import datasets
    from huggingface_hub import constants

    config = datasets.config
    downloads = [config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH]
    return [Path(folder) for folder in [constants.HF_HUB_CACHE, *downloads, options.cache_dir] if folder]


def _download(options: DataOptions, commit: str) -> "datasets.Dataset":
    """Return the requested configuration and split of the data set at `commit`."""
    import datasets
    from datasets.exceptions import DataFilesNotFoundError

    try:
        is_converted = options.dataset_revision == CONVERTED  # which has a folder for each configuration
        names = (
            _folders(options, commit)
            if is_converted
            else datasets.get_dataset_config_names(options.dataset, revision=commit)
        )
        config = _choose(options.dataset_config, names, "--dataset_config", "default" if "default" in names else None)
        name, folder = (None, config) if is_converted else (config, None)
        splits = datasets.get_dataset_split_names(options.dataset, name, revision=commit, data_dir=folder)
        split = _choose_split(options, splits)
        return datasets.load_dataset(
            options.dataset, name, split=split, revision=commit, data_dir=folder, cache_dir=options.cache_dir
        )
    except UserError:
        raise
    except Exception as error:  # the libraries' errors have no common base class
        cause = _cause(error)
        is_empty = isinstance(error, DataFilesNotFoundError | datasets.data_files.EmptyDatasetError)
        if not is_empty and (_status(cause) is not None or isinstance(cause, OSError)):
            raise UserError(
                f"the Hub did not deliver the data set {_named(options)}: {_first_line(cause)}",
                "Check the connection and the disk space, then run the same command again.",
            ) from error
        if re.search("scripts? .*supported", str(error)):
            raise UserError(
                f"the data set {_named(options)} needs its own loading script, and such scripts are never run: "
                f"{_first_line(error)}",
                f"Take the Hub's conversion to parquet files, if there is one: --dataset_revision {CONVERTED}. Else "
                "ask its authors for parquet files, or run their script yourself and give the folder of images.",
            ) from error
        raise UserError(
            f"the data set {_named(options)} of the Hub cannot be loaded: {_first_line(error)}",
            "It may hold no files of a known format; export its images to parquet files or a folder first.",
        ) from error


def _folders(options: DataOptions, commit: str) -> list[str]:
    """Return the folders at the top of a data set's repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFolder

    entries = HfApi().list_repo_tree(options.dataset, revision=commit, repo_type="dataset")
    return sorted(entry.path for entry in entries if isinstance(entry, RepoFolder))


def _load_from_cache(options: DataOptions, no_answer: Exception) -> tuple["datasets.Dataset", str | None]:
    """Return the data set of an earlier download, and its commit if the cache has it."""
    import datasets

    was_offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True  # else `datasets` waits for the Hub for another half minute
    try:
        by_split = datasets.load_dataset(options.dataset, options.dataset_config, cache_dir=options.cache_dir)
    except Exception as error:
        raise _unreachable(options, no_answer) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    dataset = by_split[_choose_split(options, list(by_split))]
    folder = Path(dataset.cache_files[0]["filename"]).parent.name if dataset.cache_files else ""
    commit = folder if re.fullmatch("[0-9a-f]{40}", folder) else None
    if options.dataset_revision not in (None, commit):
        raise _unreachable(options, no_answer)
    return dataset, commit


class _NoAnswerError(Exception):
    """Error of a Hub that does not answer: no connection, offline mode, or an error of the Hub."""


def _commit(options: DataOptions) -> str:
    """Return the commit of the requested revision.

    The Hub's API is asked before `datasets`, which reports a failing Hub as a data set without files.

    Raises:
        UserError: the Hub has no such data set or revision, or does not permit reading it.
        _NoAnswerError: the Hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RevisionNotFoundError

    try:
        commit = HfApi().dataset_info(options.dataset, revision=options.dataset_revision).sha
    except HFValidationError as error:
        raise UserError(
            f"{_named(options)} is no local file or folder, no built-in name, and cannot be the name of a data set "
            "on the Hub",
            "Check the path, or give a Hub id such as huggan/pokemon.",
        ) from error
    except RevisionNotFoundError as error:
        hint = (
            "The Hub has not converted it to parquet files; ask its authors for them on its page."
            if options.dataset_revision == CONVERTED
            else "Check --dataset_revision: a branch, a tag or a commit."
        )
        raise UserError(
            f"{_named(options)} has no revision '{as_text(str(options.dataset_revision))}'", hint
        ) from error
    except Exception as error:
        status = _status(error)
        if status == 404 or (status in (401, 403) and not isinstance(error, GatedRepoError)):
            raise UserError(_not_found(options, status), _hint(status)) from error
        if isinstance(error, GatedRepoError):
            hint = "Ask for access on its page on the Hub, then log in: hf auth login."
            raise UserError(f"the data set {_named(options)} is gated: {_first_line(error)}", hint) from error
        raise _NoAnswerError(_first_line(error)) from error
    assert commit is not None
    return commit


def _named(options: DataOptions) -> str:
    return f"'{as_text(options.dataset)}'"


def _not_found(options: DataOptions, status: int) -> str:
    not_local = f"{_named(options)} is no local file or folder and no built-in name"
    if status == 404:
        return f"{not_local}, and the Hub has no data set of that name that you may read (404)"
    return f"{not_local}, and the Hub lets you read no data set of that name ({status})"


def _hint(status: int) -> str:
    if status == 404:
        return "Check the name; for a private data set log in first: hf auth login."
    return "Check the name, and your token (HF_TOKEN, or hf auth login): it may be wrong, expired or without access."


def _unreachable(options: DataOptions, no_answer: Exception) -> UserError:
    """Return the error of a Hub that does not answer; it does not claim that the data set does not exist."""
    from huggingface_hub import constants

    return UserError(
        f"{_named(options)} is no local file or folder and no built-in name, and the Hub ({constants.ENDPOINT}) "
        f"could not be asked for it: {_first_line(no_answer)}",
        "Give the path of an existing folder; or check the connection, HF_ENDPOINT and HF_HUB_OFFLINE and try again.",
    )


def _choose(asked: str | None, names: list[str], option: str, default: str | None) -> str:
    if asked in names:
        return str(asked)
    if asked is None and (default or len(names) == 1):
        return default or names[0]
    found = f"{option} '{as_text(asked)}' does not exist" if asked else f"{option} is needed: there are several"
    raise UserError(found, closest(asked or "", [as_text(name) for name in names]))


def _choose_split(options: DataOptions, names: list[str]) -> str:
    """Return the requested split, or the only one that spells it in another way."""
    asked = options.dataset_split
    alike = [name for name in names if split_of(name) == split_of(asked)]
    return _choose(alike[0] if asked not in names and len(alike) == 1 else asked, names, "--dataset_split", None)


def _cause(error: BaseException) -> BaseException:
    """Return the answer of the Hub that `error` came from, or `error` itself."""
    link: BaseException | None = error
    while link is not None:
        if _status(link) is not None:
            return link
        link = link.__cause__ or link.__context__
    return error


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that caused `error`, if any."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _first_line(error: BaseException) -> str:
    return as_text((str(error).strip() or type(error).__name__).splitlines()[0])
