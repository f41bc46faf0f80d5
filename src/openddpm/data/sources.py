"""Sources of images: a built-in name, a folder, files, the Hub, or a user-supplied data set."""

import contextlib
import re
import stat
from dataclasses import replace
from importlib import resources
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from openddpm.config import DataOptions
from openddpm.data.array_files import open_arrays
from openddpm.data.array_source import array_source
from openddpm.data.folder_source import folder_source, read_head
from openddpm.data.foreign_files import NOT_READ
from openddpm.data.formats import (
    ARRAY_SUFFIXES,
    TAR_SUFFIXES,
    TEXT_SUFFIXES,
    foreign_format,
    image_suffixes,
    names_arrays,
    suffix_of,
)
from openddpm.data.image_source import ImageSource, check_no_hub_options
from openddpm.data.left_out import LeftOutCounts
from openddpm.data.shards import MISSING, other_shards
from openddpm.data.splits import check_split, named_in
from openddpm.data.tables import arrow_source, count_rows, dataset_source, parquet_source
from openddpm.data.tar_source import tar_source
from openddpm.data.user_source import user_source
from openddpm.data.zip_source import ZIP_START, zip_source
from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.record.data_record import LeftOut

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # a single letter is a Windows drive
_HUB_ADDRESS = re.compile(r"(https?://huggingface\.co/|hf://)datasets/(?P<name>[^/?#@]+/[^/?#@]+)/?$", re.IGNORECASE)

BUILT_IN = ("avatars-16", "digits-8")

FILE_SUFFIXES = (".parquet", ".arrow", ".zip", *TAR_SUFFIXES, *ARRAY_SUFFIXES)


def open_source(options: DataOptions, user_dataset: Any = None) -> ImageSource:
    """Open the images that `options` name, or a user-supplied data set.

    Args:
        user_dataset: a `datasets.Dataset`, or any sequence of Pillow images, of uint8 arrays (H, W, C), or of tuples
            or dicts that hold one.

    Raises:
        UserError: there are no such data, no image column or several, or the Hub refuses.
    """
    if user_dataset is not None:
        check_no_hub_options(options, "the data set given from Python")
        return user_source(user_dataset, options)
    if not options.dataset:
        raise UserError("no data set is given", "Give one: --dataset FOLDER, a Hub id, or --recipe avatars-16.")
    if options.dataset in BUILT_IN:
        check_split(options, None, f"the built-in set '{options.dataset}'")
        check_no_hub_options(options, f"the built-in set '{options.dataset}'")
        with resources.as_file(resources.files("openddpm.data") / "builtin" / f"{options.dataset}.parquet") as path:
            return parquet_source([path], options)
    if _ADDRESS.match(options.dataset):
        raise _url_given(options.dataset)
    path = Path(options.dataset)
    with contextlib.suppress(RuntimeError):  # no such user
        path = path.expanduser()
    mode = _mode_of(path)
    if mode:  # a folder's README.md may declare configurations
        local = options.model_copy(update={"dataset_config": None}) if stat.S_ISDIR(mode) else options
        check_no_hub_options(local, f"'{as_text(path)}'")
    if stat.S_ISDIR(mode):
        return folder_source(path, options)
    if stat.S_ISREG(mode):
        return _file_source(path, options)
    if _can_only_be_a_path(options.dataset):
        raise UserError(f"no file or folder '{as_text(options.dataset)}'", "Check the path given as --dataset.")
    from openddpm.data.hub_source import cache_folders, load_from_hub

    dataset, revision, digest = load_from_hub(options)
    source = dataset_source(dataset, revision, digest, options, cache_folders(options))
    return replace(source, left_out=(*source.left_out, *_other_splits(dataset)))


def _can_only_be_a_path(dataset: str) -> bool:
    """Return whether a name is a path, of any system, and cannot be a name on the Hub."""
    of_windows = PureWindowsPath(dataset)
    return (
        bool(of_windows.anchor)  # a slash or backslash first, or a drive
        or "\\" in dataset
        or dataset.startswith((".", "~"))
        or of_windows.name.lower().endswith(FILE_SUFFIXES)
    )


def _url_given(dataset: str) -> UserError:
    """Return the error of a data set that is given by a URL."""
    hint = "Download it first, and give the path of the file or folder as --dataset."
    if dataset.lower().startswith("file:"):
        from urllib.request import url2pathname  # removes the slash from /C:/images on Windows

        hint = f"Give the plain path: --dataset '{as_text(url2pathname(urlsplit(dataset).path))}'."
    elif hub := _HUB_ADDRESS.match(dataset):
        hint = f"Give its name on the Hub: --dataset '{as_text(hub['name'])}'."
    return UserError(f"'{as_text(dataset)}' is a URL, not a path or the name of a data set on the Hub", hint)


def _other_splits(dataset: Any) -> tuple[LeftOut, ...]:
    """Count the images of a Hub data set's other splits, as far as known."""
    left_out = LeftOutCounts()
    for name, info in (dataset.info.splits or {}).items():
        if name != str(dataset.split):
            reason = f"split '{name}': --dataset_split chooses one"
            left_out.add(reason, [], is_data=False, count=getattr(info, "num_examples", None) or 0)
    return left_out.listed()


def _mode_of(path: Path) -> int:
    """Return the file mode of a path; 0 if it does not exist."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _file_source(path: Path, options: DataOptions) -> ImageSource:
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return zip_source(path, options)
    if suffix in (".parquet", ".arrow"):
        check_split(options, named_in(path.stem), f"the file '{as_text(path)}'")
        source = parquet_source([path], options) if suffix == ".parquet" else arrow_source([path], options)
        return replace(source, left_out=(*source.left_out, *_other_parts(path)))
    if path.name.lower().endswith(TAR_SUFFIXES):
        return tar_source([path], options)
    if names_arrays(path.name) or open_arrays(path):
        return array_source([path], options)
    if suffix_of(path.name) not in NOT_READ and suffix not in image_suffixes() and read_head(path)[:4] == ZIP_START:
        return zip_source(path, options)
    found, hint = f"'{as_text(path)}' is not a data set that can be read", "Give a folder of images, or a .zip, .tar, "
    hint += ".parquet, .arrow, .npz or .npy file, or an idx file of MNIST."
    if suffix in image_suffixes():
        hint = f"It is one image; give the folder of images: --dataset '{as_text(path.parent)}'."
    elif suffix in TEXT_SUFFIXES:
        hint = f"It is a text file. {hint}"
    elif foreign := foreign_format(path.name, lambda: read_head(path)):
        found, hint = f"{found}: {foreign.what}", foreign.hint
    raise UserError(found, hint)


def _other_parts(path: Path) -> tuple[LeftOut, ...]:
    """Count the other parts of the data set of which a file is a numbered part."""
    left_out = LeftOutCounts()
    others = other_shards(path)
    present = {other: None for other in others if other.is_file()}
    reason = f"other parts: only this one of {len(others) + 1:,} is taken; give their folder to take all"
    left_out.add(reason, [other.name for other in present], is_data=True, count=sum(map(count_rows, present)))
    missing = [other.name for other in others if other not in present]
    left_out.add(MISSING, missing, is_data=True)
    return left_out.listed()
