"""Files of a folder or an archive, and the kinds of data that their names tell."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from openddpm.data.formats import TAR_SUFFIXES, image_suffixes, is_image_head, names_arrays, suffix_of

File = TypeVar("File")


@dataclass(frozen=True, eq=False, slots=True)
class Entry(Generic[File]):
    """A file in a folder or an archive, or a folder that cannot be listed."""

    path: PurePosixPath
    """Path relative to the folder or archive."""
    file: File
    head_of: Callable[[File], bytes]
    """Reads a file's first HEAD_BYTES, or nothing if it cannot be read."""
    is_unlisted_folder: bool = False

    @property
    def folders(self) -> tuple[PurePosixPath, ...]:
        """Return the folders that it is in, the outermost first."""
        above = _folders_to(str(self.path).rpartition("/")[0])
        return (*above, self.path) if self.is_unlisted_folder else above

    def read_head(self) -> bytes:
        """Return the first HEAD_BYTES, or nothing if the file cannot be read."""
        return self.head_of(self.file)


@functools.lru_cache(maxsize=1024)  # files in one folder follow each other
def _folders_to(folder: str) -> tuple[PurePosixPath, ...]:
    """Return a folder and its parents, the outermost first."""
    path = PurePosixPath(folder)
    return tuple(reversed([one for one in (path, *path.parents) if one.parts]))


@dataclass(frozen=True)
class Kind:
    """A kind of data that a folder can hold."""

    name: str
    noun: str
    """Name of one such file in messages."""
    is_one: Callable[[PurePosixPath], bool]
    """Returns by its path whether a file is of this kind."""
    is_container: bool = True
    """Whether a file holds many images, so that its name can be that of a split."""
    has_splits: bool = False
    """Whether one file may hold several splits."""


IMAGES = Kind("images", "image file", lambda path: suffix_of(path.name) in image_suffixes(), is_container=False)
PARQUET = Kind("parquet", "parquet file", lambda path: suffix_of(path.name) == ".parquet")
ARROW = Kind("arrow", "arrow file", lambda path: suffix_of(path.name) == ".arrow")
TAR = Kind("tar", "tar file", lambda path: path.name.lower().endswith(TAR_SUFFIXES), has_splits=True)
ARRAYS = Kind("arrays", "array file", lambda path: names_arrays(path.name), has_splits=True)
KINDS = (IMAGES, PARQUET, ARROW, TAR, ARRAYS)  # a new kind needs an entry here and an opener in folder_source.py


def named_kind(path: PurePosixPath) -> Kind | None:
    """Return the kind of data that a file's name tells."""
    return next((kind for kind in KINDS if kind.is_one(path)), None)


def kind_of(entry: Entry[File]) -> Kind | None:
    """Return the kind of data that a file's name tells, or its first bytes if the name has no suffix."""
    if entry.is_unlisted_folder:
        return None
    if kind := named_kind(entry.path):
        return kind
    return IMAGES if not suffix_of(entry.path.name) and is_image_head(entry.read_head()) else None
