"""A data set of the Hugging Face Hub (or of the mirror that HF_ENDPOINT names), pinned to a commit."""

import hashlib
from typing import TYPE_CHECKING

from openddpm.config import DataOptions
from openddpm.errors import UserError, closest

if TYPE_CHECKING:
    import datasets


def load_from_hub(options: DataOptions) -> tuple["datasets.Dataset", str | None, str]:
    """Download one split, or take it from the cache.

    Returns:
        the data set; its commit (None when offline); a digest of what was loaded.

    Raises:
        UserError: no such data set, configuration or split; no access; no connection.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    revision = _pin_revision(options)
    try:
        names = datasets.get_dataset_config_names(options.dataset, revision=revision)
        config = _choose(options.dataset_config, names, "--dataset_config", "default" if "default" in names else None)
        splits = datasets.get_dataset_split_names(options.dataset, config, revision=revision)
        split = _choose(options.dataset_split, splits, "--dataset_split", None)
        dataset = datasets.load_dataset(
            options.dataset, config, split=split, revision=revision, cache_dir=options.cache_dir
        )
    except (DatasetNotFoundError, FileNotFoundError, HFValidationError) as error:
        raise UserError(
            f"'{options.dataset}' is neither a local path, a built-in name, nor a data set on the Hub that you can "
            f"read: {_first_line(error)}",
            "Check the name; for a private or gated data set log in first: hf auth login.",
        ) from error
    except (ConnectionError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"the Hub did not give '{options.dataset}': {_first_line(error)}",
            "Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, then run the same command again.",
        ) from error
    except (ValueError, RuntimeError) as error:
        todo = "The images may need exporting to parquet files first."
        raise UserError(f"'{options.dataset}' cannot be loaded: {_first_line(error)}", todo) from error
    identity = f"{options.dataset} {config} {split} {revision or dataset._fingerprint}"
    return dataset, revision, hashlib.sha256(identity.encode()).hexdigest()


def _pin_revision(options: DataOptions) -> str | None:
    """Return the commit that the asked revision stands for; what was asked, where the Hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(options.dataset, revision=options.dataset_revision).sha
    except Exception:  # loading from the cache may still succeed; if not, it says why
        return options.dataset_revision


def _choose(asked: str | None, names: list[str], option: str, default: str | None) -> str:
    if asked in names:
        return str(asked)
    if asked is None and (default or len(names) == 1):
        return default or names[0]
    found = f"{option} '{asked}' is not there" if asked else f"there are several to choose from with {option}"
    raise UserError(found, closest(asked or "", names))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
