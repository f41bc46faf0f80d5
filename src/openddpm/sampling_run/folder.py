"""A folder of generated images, and the files beside it: NAME.json (the settings), NAME.png (a grid), NAME.npz.

The folder holds single images and nothing else, because programs that compute FID read whole folders.
"""

import glob
import io
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel

from openddpm.errors import UserError
from openddpm.pictures import image_grid, to_picture
from openddpm.record.files import (
    TEMPORARY,
    parse_json,
    read_file,
    replace_path,
    write_atomically,
    write_json,
)
from openddpm.record.lock import locked
from openddpm.sampling_run.npz import write_npz

GRID_IMAGES = 64
"""Most images in a grid."""

_NAME = re.compile(r"\d{5,}\.png")
_CLUTTER = {".DS_Store", "Thumbs.db", "desktop.ini"}  # written by file browsers
_NAMES_SHOWN = 5
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"  # then width and height, 4 bytes each
_PNG_TAIL = b"\x00\x00\x00\x00IEND\xaeB`\x82"  # the last chunk of a PNG (W3C PNG specification, 11.2.5)


class Settings(BaseModel, frozen=True):
    """Settings that images are made with. Folders with the same settings hold the same images, up to their number."""

    run_id: str
    step: int | None
    weights: str
    sha256: str
    """Digest of the file with the weights."""
    solver: str
    num_inference_steps: int
    seed: int
    scheduler: dict[str, Any]
    device: str
    """Type of the device, which the noise depends on."""
    precision: str
    openddpm: str
    """Version of openddpm."""
    num_images: int
    batch_size: int

    def differences(self, earlier: "Settings") -> list[str]:
        """Return a line for each different setting that changes the images: not their number and the batch size."""
        ours, theirs = ({**one.model_dump(), **one.scheduler} for one in (self, earlier))
        names = [name for name in {**theirs, **ours} if name not in ("num_images", "batch_size", "scheduler")]
        return [
            f"  {name}: {theirs.get(name)} there, {ours.get(name)} asked for"
            for name in names
            if theirs.get(name) != ours.get(name)
        ]


class ImageFolder:
    """A folder of the images 00000.png to NUM_IMAGES - 1, each complete or missing.

    Args:
        folder: need not exist.
        shape: of an image, (C, H, W), one channel or three.

    Raises:
        UserError: the folder has no parent folder for the files beside it.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], num_images: int) -> None:
        self.folder = folder if folder.name not in ("", "..") else folder.resolve()
        name = self.folder.name
        if not name:
            hint = "Give another folder: --output_dir FOLDER."
            raise UserError(f"'{folder}' has no parent folder, in which the grid would be written", hint)
        self.settings_file, self.grid_file, self.npz_file = (
            self.folder.with_name(f"{name}{suffix}") for suffix in (".json", ".png", ".npz")
        )
        self._lock_file = self.folder.with_name(f".{name}.lock")
        self.shape, self._num_images = shape, num_images
        self._is_there = bytearray(num_images)

    @property
    def num_there(self) -> int:
        """Number of images that are there."""
        return sum(self._is_there)

    def locked(self) -> AbstractContextManager[None]:
        """Make the folder and lock it.

        Raises:
            UserError: it cannot be written, or another process has locked it.
        """
        return locked(self.folder, self._lock_file, f"another openddpm sample is writing to '{self.folder}'")

    def begin(self, settings: Settings) -> list[str]:
        """Find the images that are there, and write the settings; return messages for the user.

        Raises:
            UserError: other files are there, or more images than asked for; nothing is changed.
        """
        earlier = self._earlier_settings()
        torn, foreign, beyond = self._scan()
        beside = [path.name for path in (self.grid_file, self.npz_file) if path.exists()]
        if earlier is None:
            images = [f"{number:05d}.png" for number in range(self._num_images) if self._is_there[number]]
            if others := [*beside, *foreign, *images, *torn, *beyond]:
                raise self._foreign(others)
        elif (lines := settings.differences(earlier)) and (self.num_there or torn or foreign or beyond or beside):
            found = f"'{self.folder}' has images that were made with other settings:\n" + "\n".join(lines)
            raise UserError(found, f"Choose another --output_dir, or remove that folder and '{self.settings_file}'.")
        elif foreign:
            raise self._foreign(foreign)
        elif beyond:
            count = self.num_there + len(torn) + len(beyond)
            found = f"'{self.folder}' has {count:,} images, more than --num_images {self._num_images}"
            hint = f"Give --num_images {count}, or another --output_dir: programs that compute FID read whole folders."
            raise UserError(found, hint)
        self._remove_leftovers()
        write_json(self.settings_file, settings.model_dump())
        messages = [f"{len(torn):,} incomplete images, as after a power loss, are made again"] if torn else []
        if self.num_there:
            messages.append(f"continuing: {self.num_there:,} of {self._num_images:,} images are there")
            if earlier and earlier.batch_size != settings.batch_size and self.num_there < self._num_images:
                messages.append(
                    f"in batches of {settings.batch_size}, earlier of {earlier.batch_size}: images are the same up to "
                    "rounding"
                )
        return messages

    def missing(self, numbers: range) -> list[int]:
        """Return those of `numbers` that are not there."""
        return [number for number in numbers if not self._is_there[number]]

    def write(self, number: int, image: np.ndarray) -> None:
        """Write an image, (C, H, W) uint8, completely or not at all.

        Images are not synced one by one: `begin` finds those that a power loss left incomplete.

        Raises:
            OSError: the disk is full, or the folder was removed.
        """
        encoded = io.BytesIO()
        to_picture(image).save(encoded, "png")
        temporary = self.folder / f".{number:05d}.{os.getpid()}{TEMPORARY}"
        try:
            temporary.write_bytes(encoded.getbuffer())
            replace_path(temporary, self._path(number))
        finally:
            temporary.unlink(missing_ok=True)
        self._is_there[number] = True

    def write_grid(self) -> None:
        """Write the first images, at most `GRID_IMAGES`, in a grid beside the folder."""
        images = np.stack([self._read(number) for number in range(min(GRID_IMAGES, self._num_images))])
        encoded = io.BytesIO()
        image_grid(images).save(encoded, "png")
        write_atomically(self.grid_file, encoded.getvalue())

    def write_npz(self) -> None:
        """Write all images, three channels each, beside the folder."""
        images = (self._read(number).transpose(1, 2, 0) for number in range(self._num_images))
        write_npz(self.npz_file, images, (self._num_images, *self.shape[1:]))

    def check_whole(self) -> None:
        """Check that the folder has exactly the images asked for.

        Raises:
            UserError: some were removed meanwhile, or others added.
        """
        torn, foreign, beyond = self._scan()
        if foreign or beyond:
            raise self._foreign(foreign + beyond)
        if torn or self.num_there < self._num_images:
            found = f"'{self.folder}' has {self.num_there:,} complete images of {self._num_images:,}: some were removed"
            raise UserError(found, "Give the same command again: it makes the missing ones.")

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.png"

    def _earlier_settings(self) -> Settings | None:
        """Return the settings beside the folder; None if there are none."""
        content = read_file(self.settings_file)
        try:
            return None if content is None else Settings.model_validate(parse_json(content))
        except ValueError as error:
            found = f"'{self.settings_file}' was not written by openddpm sample"
            raise UserError(found, "It would be overwritten: choose another --output_dir.") from error

    def _scan(self) -> tuple[list[str], list[str], list[str]]:
        """Note which images are there; return the names of torn images, foreign files, and images beyond the count."""
        self._is_there = bytearray(self._num_images)
        torn, foreign, beyond = [], [], []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                name = entry.name
                if name in _CLUTTER or name.endswith(TEMPORARY):
                    continue
                is_ours = _NAME.fullmatch(name) and name == f"{int(name[:-4]):05d}.png" and entry.is_file()
                state = self._state(Path(entry.path)) if is_ours else "foreign"
                if state == "foreign":
                    foreign.append(name)
                elif int(name[:-4]) >= self._num_images:
                    beyond.append(name)
                elif state == "torn":
                    torn.append(name)
                else:
                    self._is_there[int(name[:-4])] = True
        return torn, foreign, beyond

    def _state(self, path: Path) -> str:
        """Return "whole", "torn" or, for another size or format, "foreign", by the first and last bytes of the file."""
        size = b"".join(side.to_bytes(4, "big") for side in (self.shape[2], self.shape[1]))
        head, length = _PNG_HEAD + size, path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(head))
            if length < len(head) + len(_PNG_TAIL):
                return "torn"
            file.seek(-len(_PNG_TAIL), os.SEEK_END)
            end = file.read()
        if start != head and start.strip(b"\0"):
            return "foreign"
        return "whole" if start == head and end == _PNG_TAIL else "torn"

    def _read(self, number: int) -> np.ndarray:
        """Return an image that is there, (C, H, W) uint8."""
        path = self._path(number)
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture)
        except (OSError, SyntaxError, ValueError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            hint = "Remove it, then give the same command again."
            raise UserError(f"'{path}' cannot be read back: {error}", hint) from error
        image = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if image.shape != self.shape or image.dtype != np.uint8:
            hint = "Remove it, then give the same command again."
            raise UserError(f"'{path}' is not as it was written: {image.shape}, {image.dtype}", hint)
        return image

    def _foreign(self, names: list[str]) -> UserError:
        more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
        shown = ", ".join(names[:_NAMES_SHOWN])
        found = f"'{self.folder}', or the folder above it, has files that openddpm sample did not make: {shown}{more}"
        return UserError(found, "Nothing was overwritten. Move them away, or choose another --output_dir.")

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of a call that was killed."""
        for path in self.folder.glob(f".*{TEMPORARY}"):
            path.unlink(missing_ok=True)
        for path in self.folder.parent.glob(f".{glob.escape(self.folder.name)}.*{TEMPORARY}"):
            path.unlink(missing_ok=True)
