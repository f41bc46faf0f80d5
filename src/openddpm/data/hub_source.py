"""A data set of the Hugging Face Hub (or of the mirror that HF_ENDPOINT names), pinned to a commit."""

import hashlib
from typing import TYPE_CHECKING

from openddpm.config import DataOptions
from openddpm.errors import UserError, closest

if TYPE_CHECKING:
    import datasets


def load_from_hub(options: DataOptions) -> tuple["datasets.Dataset", str | None, str]:
    """Download one split, or take it from the cache where the Hub cannot be reached.

    Returns:
        the data set; its commit (None when the Hub did not tell it); a digest of what was loaded.

    Raises:
        UserError: no such data set, configuration or split; no access; no connection.
    """
    import datasets

    revision, config, split = options.dataset_revision, options.dataset_config, options.dataset_split
    silence = None  # why the Hub does not answer, if it does not
    try:
        revision = _commit(options)
    except _NoAnswerError as error:
        silence = error
    try:
        if silence is None:
            names = datasets.get_dataset_config_names(options.dataset, revision=revision)
            config = _choose(config, names, "--dataset_config", "default" if "default" in names else None)
            splits = datasets.get_dataset_split_names(options.dataset, config, revision=revision)
            split = _choose(split, splits, "--dataset_split", None)
        dataset = datasets.load_dataset(
            options.dataset, config, split=split, revision=revision, cache_dir=options.cache_dir
        )
    except UserError:
        raise
    except Exception as error:  # the libraries below have no common base for what goes wrong on the way
        if silence is not None:
            raise _unreachable(options, silence) from error
        if _status(error) is not None or isinstance(error, OSError):
            raise _unreachable(options, error) from error
        raise UserError(
            f"the data set '{options.dataset}' of the Hub cannot be loaded: {_first_line(error)}",
            "It may hold no files of a known format; export its images to parquet files or a folder first.",
        ) from error
    identity = f"{options.dataset} {config} {split} {revision or dataset._fingerprint}"
    return dataset, revision, hashlib.sha256(identity.encode()).hexdigest()


class _NoAnswerError(Exception):
    """The Hub could not be asked: no connection, an offline mode, or trouble of its own."""


def _commit(options: DataOptions) -> str:
    """Return the commit that the asked revision stands for.

    The Hub's API is asked before `datasets` is, which reports a Hub in trouble as a data set without files.

    Raises:
        UserError: the Hub answers that there is no such data set or revision, or that it may not be read.
        _NoAnswerError: the Hub does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RevisionNotFoundError

    try:
        commit = HfApi().dataset_info(options.dataset, revision=options.dataset_revision).sha
    except HFValidationError as error:
        raise UserError(
            f"'{options.dataset}' is no local file or folder, no built-in name, and cannot be the name of a data set "
            "on the Hub",
            "Check the path, or give a Hub id such as huggan/pokemon.",
        ) from error
    except RevisionNotFoundError as error:
        todo = "Check --dataset_revision: a branch, a tag or a commit."
        raise UserError(f"'{options.dataset}' has no revision '{options.dataset_revision}'", todo) from error
    except Exception as error:
        status = _status(error)
        if status == 404 or (status in (401, 403) and not isinstance(error, GatedRepoError)):
            raise UserError(_not_found(options, status), _todo(status)) from error
        if isinstance(error, GatedRepoError):
            todo = "Ask for access on its page on the Hub, then log in: hf auth login."
            raise UserError(f"the data set '{options.dataset}' is gated: {_first_line(error)}", todo) from error
        raise _NoAnswerError(_first_line(error)) from error
    assert commit is not None
    return commit


def _not_found(options: DataOptions, status: int) -> str:
    nowhere = f"'{options.dataset}' is no local file or folder and no built-in name"
    if status == 404:
        return f"{nowhere}, and the Hub has no data set of that name that you may read (404)"
    return f"{nowhere}, and the Hub lets you read no data set of that name ({status})"


def _todo(status: int) -> str:
    if status == 404:
        return "Check the name; for a private data set log in first: hf auth login."
    return "Check the name, and your token (HF_TOKEN, or hf auth login): it may be wrong, expired or without access."


def _unreachable(options: DataOptions, error: Exception) -> UserError:
    """Say that the Hub failed, without claiming that the data set does not exist."""
    return UserError(
        f"'{options.dataset}' is no local file or folder and no built-in name, and the Hub could not be asked for it: "
        f"{_first_line(error)}",
        "Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, then run the same command again; or give a local path.",
    )


def _choose(asked: str | None, names: list[str], option: str, default: str | None) -> str:
    if asked in names:
        return str(asked)
    if asked is None and (default or len(names) == 1):
        return default or names[0]
    found = f"{option} '{asked}' is not there" if asked else f"there are several to choose from with {option}"
    raise UserError(found, closest(asked or "", names))


def _status(error: Exception) -> int | None:
    """Return the HTTP status that made `error`, if one did."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
