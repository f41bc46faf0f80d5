"""Decoded images on disk: one uint8 array, memory-mapped, keyed by a digest of where it came from and how."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openddpm.data.decode import EncodedImage, Preprocessing, RefusedImage, decode_image, pillow_warnings_ignored
from openddpm.data.sources import ImageSource
from openddpm.errors import UserError
from openddpm.record.files import write_json
from openddpm.record.schema import DataRecord, ImageFinding

STORE_VERSION = 2  # part of the digest: raise it when decoding changes what it makes
DUPLICATE = "exact duplicate"
SAMPLED_SIDE = 128  # rows and columns, evenly spaced, that an image's mean brightness is taken from at most
MAX_REFUSED_SHARE = 0.05  # assumed: beyond it the data set, not an image, is what is broken


@dataclass(frozen=True)
class ImageStore:
    """Decoded images and what was met while decoding them.

    `images` has shape (N, C, H, W), dtype uint8, and is read from disk as it is used.
    """

    images: np.ndarray
    sha256: str
    data: DataRecord


def default_cache_dir() -> Path:
    """Return OPENDDPM_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("OPENDDPM_CACHE") or Path(base) / "openddpm")


def open_store(source: ImageSource, preprocessing: Preprocessing, cache_dir: Path, quiet: bool = False) -> ImageStore:
    """Return the decoded images of `source`, decoding them if no earlier run has.

    Several processes may call this at once: one decodes, the others wait for it.

    Raises:
        UserError: no image, a mix of gray and colour, too many refused, or no room on disk.
    """
    preprocessing.background_rgb()
    if source.digest is None:  # nothing says that the images are the same next time
        with _disk_errors(tempfile.gettempdir(), "Set TMPDIR to one."), _temporary_folder(None, "openddpm-") as folder:
            _decode_all(source, preprocessing, folder, quiet)
            return _read(folder)  # the memory map outlives the folder
    key = json.dumps([STORE_VERSION, source.digest, asdict(preprocessing)])
    folder = cache_dir / "decoded" / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not folder.exists():
        with _disk_errors(cache_dir, "Choose one: --cache_dir FOLDER."):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                _decode_into_cache(source, preprocessing, folder, quiet)
    return _read(folder)


def _decode_into_cache(source: ImageSource, preprocessing: Preprocessing, folder: Path, quiet: bool) -> None:
    """Fill `folder`, which appears at once and whole, unless another process has while we waited for the lock."""
    if folder.exists():
        return
    prefix = f"{folder.name}-"
    for abandoned in folder.parent.glob(f"{prefix}*"):  # by a process that was killed while it held the lock
        shutil.rmtree(abandoned, ignore_errors=True)
    with _temporary_folder(folder.parent, prefix) as temporary:
        _decode_all(source, preprocessing, temporary, quiet)
        temporary.replace(folder)


@contextlib.contextmanager
def _temporary_folder(parent: Path | None, prefix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def _disk_errors(folder: Path | str, todo: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = f"cannot keep decoded images in '{folder}': {error.strerror or error}"
        raise UserError(found, f"It takes a folder with room and write access. {todo}") from error


def _read(folder: Path) -> ImageStore:
    try:
        header = json.loads((folder / "store.json").read_text("utf-8"))
        images = np.memmap(folder / "images.uint8", np.uint8, mode="r", shape=tuple(header["shape"]))
        return ImageStore(images, header["sha256"], DataRecord.model_validate(header["data"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"the decoded images in '{folder}' are damaged: {error}", "Remove that folder.") from error


def _decode_all(source: ImageSource, preprocessing: Preprocessing, folder: Path, quiet: bool) -> None:
    """Decode every item of `source` in order into `folder`, and write its header last."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    digest, shape, first_path, census = hashlib.sha256(), None, "", _Census()
    with (
        Progress(*columns, disable=quiet, transient=True, console=Console(stderr=True)) as progress,
        (folder / "images.uint8").open("wb") as file,
        contextlib.closing(_decoded_in_order(source.items(), preprocessing)) as decoded,
    ):
        task = progress.add_task("decoding images", total=source.num_items)
        for path, result in decoded:
            progress.advance(task)
            if isinstance(result, RefusedImage):
                census.add_refused(path, str(result))
                continue
            pixels = result.pixels
            if shape is not None and pixels.shape != shape:
                raise UserError(
                    f"the data set mixes gray and colour images: '{first_path}' is {_mode(shape)}, '{path}' is "
                    f"{_mode(pixels.shape)}",
                    "Choose one: --image_mode rgb or --image_mode gray.",
                )
            if shape is None:
                shape, first_path = pixels.shape, path
            file.write(pixels.data)
            digest.update(pixels.data)
            census.add(path, result)
        file.flush()
        os.fsync(file.fileno())
    _check_enough(source, census.num_images, census.findings)
    assert shape is not None
    data = census.record().model_dump()
    write_json(
        folder / "store.json", {"shape": [census.num_images, *shape], "sha256": digest.hexdigest(), "data": data}
    )


@dataclass(frozen=True)
class _Decoded:
    """An image, and what of it the data record is made of."""

    pixels: np.ndarray  # (C, H, W), uint8, contiguous
    changes: list[str]
    digest: bytes
    least: int
    greatest: int
    value_counts: np.ndarray  # (256,), of the sampled pixels


def _decode(encoded: EncodedImage, preprocessing: Preprocessing) -> _Decoded:
    """Decode an image and measure it, on a thread of its own."""
    pixels, changes = decode_image(encoded, preprocessing)
    step = -(-pixels.shape[-1] // SAMPLED_SIDE)
    counts = np.bincount(pixels[:, ::step, ::step].ravel(), minlength=256)
    digest = hashlib.blake2b(pixels.data, digest_size=16).digest()
    return _Decoded(pixels, changes, digest, int(pixels.min()), int(pixels.max()), counts)


class _Census:
    """Gathers the data record, image by image."""

    def __init__(self) -> None:
        self.num_images = 0
        self.findings: list[ImageFinding] = []
        self._counts: Counter[str] = Counter()
        self._first_paths: dict[bytes, str] = {}  # by a digest of the pixels
        self._value_counts = np.zeros(256, np.int64)
        self._least, self._greatest = 255, 0

    def add_refused(self, path: str, reason: str) -> None:
        self._counts["refused"] += 1
        self.findings.append(ImageFinding(path=path, reason=reason, action="refused"))

    def add(self, path: str, image: _Decoded) -> None:
        self.num_images += 1
        self._counts.update(image.changes)
        self.findings += [ImageFinding(path=path, reason=reason, action="converted") for reason in image.changes]
        self._value_counts += image.value_counts
        self._least, self._greatest = min(self._least, image.least), max(self._greatest, image.greatest)
        first_path = self._first_paths.get(image.digest)
        if first_path is None:
            self._first_paths[image.digest] = path
        else:
            self._counts[DUPLICATE] += 1
            self.findings.append(ImageFinding(path=path, reason=f"{DUPLICATE} of {first_path}", action="kept"))

    def record(self) -> DataRecord:
        values, counts = np.arange(256), self._value_counts
        mean = np.average(values, weights=counts)
        return DataRecord(
            num_images=self.num_images,
            counts=dict(self._counts),
            images=self.findings,
            num_duplicates=self._counts[DUPLICATE],
            pixel_min=self._least,
            pixel_max=self._greatest,
            pixel_mean=round(float(mean), 3),
            pixel_std=round(float(np.average((values - mean) ** 2, weights=counts)) ** 0.5, 3),
        )


def _decoded_in_order(
    items: Iterator[tuple[str, EncodedImage]], preprocessing: Preprocessing
) -> Generator[tuple[str, _Decoded | RefusedImage], None, None]:
    """Decode on all cores (Pillow releases the lock while it works) and yield in the order of `items`."""
    waiting: deque[tuple[str, Future[_Decoded]]] = deque()
    num_threads = os.cpu_count() or 1

    def finish() -> tuple[str, _Decoded | RefusedImage]:
        path, future = waiting.popleft()
        try:
            return path, future.result()
        except RefusedImage as refusal:
            return path, refusal

    with pillow_warnings_ignored(), ThreadPoolExecutor(num_threads) as pool, contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: [future.cancel() for _, future in waiting])
        for path, encoded in items:
            waiting.append((path, pool.submit(_decode, encoded, preprocessing)))
            if len(waiting) >= 16 * num_threads:  # bounds the encoded images held in memory
                yield finish()
        while waiting:
            yield finish()


def _check_enough(source: ImageSource, num_images: int, findings: list[ImageFinding]) -> None:
    refused = [finding for finding in findings if finding.action == "refused"]
    if num_images and len(refused) <= MAX_REFUSED_SHARE * (num_images + len(refused)):
        return
    if not refused:
        raise UserError(f"no images in '{source.name}'", "Name a data set that holds image files.")
    examples = "\n".join(f"  {finding.path}: {finding.reason}" for finding in refused[:5])
    raise UserError(
        f"{len(refused)} of {num_images + len(refused)} images in '{source.name}' cannot be used:\n{examples}",
        "Remove or repair them, or check that this is the data set you mean.",
    )


def _mode(shape: tuple[int, ...]) -> str:
    return "gray" if shape[0] == 1 else "colour"
