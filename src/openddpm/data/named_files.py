"""Image files that a table names instead of holding them."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from openddpm.data.decode import RefusedImage
from openddpm.data.image_source import read_encoded
from openddpm.data.zip_source import UNREADABLE, read_member

_IN_ZIP = "zip://"  # the `datasets` library's name of a file in an archive: zip://MEMBER::ARCHIVE


class NamedFiles:
    """Reader of files by their names, in given folders only, since an untrusted table may name any file.

    Args:
        roots: the folders; relative names start from the first. None allows all folders.
    """

    def __init__(self, roots: Sequence[Path] | None) -> None:
        self._roots = roots
        self._path = Path()
        self._archive: zipfile.ZipFile | None = None

    def close(self) -> None:
        """Close the archive that was read last."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def read(self, name: str) -> bytes | RefusedImage:
        """Return a file's content, with links resolved, or why it may not or cannot be read."""
        member, _, archive = name.removeprefix(_IN_ZIP).partition("::") if name.startswith(_IN_ZIP) else ("", "", "")
        path = self._allowed(archive or name)
        if path is None:
            return RefusedImage("names a file outside the data set's folder")
        return self._read_from_zip(path, member) if archive else read_encoded(path)

    def _allowed(self, name: str) -> Path | None:
        if self._roots is None:
            return Path(name)
        try:
            path = Path(os.path.realpath(Path(*self._roots[:1], name)))
            is_inside = any(path.is_relative_to(os.path.realpath(root)) for root in self._roots)
        except ValueError:  # a zero byte in the name
            return None
        return path if is_inside else None

    def _read_from_zip(self, path: Path, member: str) -> bytes | RefusedImage:
        try:
            if self._archive is None or path != self._path:
                self.close()
                if not path.is_file():
                    return RefusedImage("no regular file")
                self._path, self._archive = path, zipfile.ZipFile(path)
            return read_member(self._archive, self._archive.getinfo(member))
        except KeyError:
            return RefusedImage("not in its archive")
        except UNREADABLE as error:
            return RefusedImage(f"cannot be read: {error}")
