"""Data sets saved by `datasets.Dataset.save_to_disk`."""

import json
from pathlib import Path

from openddpm.config import DataOptions
from openddpm.data.image_source import ImageSource, damage_named, digest_files
from openddpm.data.tables import dataset_source
from openddpm.errors import UserError
from openddpm.names import as_text

STATE_FILE, INFO_FILE = "state.json", "dataset_info.json"
MAX_STATE_BYTES = 16 * 2**20  # assumed: the names of 100,000 shards


def is_saved(folder: Path) -> bool:
    """Return whether a folder holds a data set saved by `datasets`."""
    return (folder / STATE_FILE).is_file() and (folder / INFO_FILE).is_file()


def saved_source(folder: Path, options: DataOptions) -> ImageSource:
    """Return the images of a saved data set, from all its shards.

    Cells may name image files in that folder instead of holding them.

    Raises:
        UserError: it is damaged or incomplete, or has no image column.
    """
    import datasets

    shards = [folder / name for name in _shard_names(folder)]
    for shard in shards:
        if not shard.is_file():
            found = f"the saved data set '{as_text(folder)}' is incomplete: '{as_text(shard.name)}' is missing"
            raise UserError(found, "Save it again, or copy the whole folder.")
    with damage_named(folder):
        dataset = datasets.load_from_disk(folder)
        assert isinstance(dataset, datasets.Dataset)
        dataset.data.table.validate(full=True)  # else a damaged offset would read other memory
    digest = digest_files([folder / STATE_FILE, folder / INFO_FILE, *shards])
    return dataset_source(dataset.with_format(None), None, digest, options, [folder])


def _shard_names(folder: Path) -> list[str]:
    """Return the names of a saved data set's files, none of them outside its folder."""
    with damage_named(folder):
        path = folder / STATE_FILE
        if path.stat().st_size > MAX_STATE_BYTES:
            raise ValueError(f"{STATE_FILE} is too large")
        names = [entry["filename"] for entry in json.loads(path.read_bytes())["_data_files"]]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError(f"{STATE_FILE} names files outside its folder")
    return names
