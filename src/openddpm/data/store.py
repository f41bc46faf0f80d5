"""Decoded images on disk: one uint8 array, memory-mapped, keyed by a digest of where it came from and how."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openddpm.data.decode import EncodedImage, Preprocessing, RefusedImage, decode_image
from openddpm.data.sources import ImageSource
from openddpm.errors import UserError
from openddpm.record.files import write_json
from openddpm.record.schema import DataRecord, ImageFinding

STORE_VERSION = 1  # part of the digest: raise it when decoding changes what it makes
MAX_REFUSED_SHARE = 0.05  # assumed: beyond it the data set, not an image, is what is broken
MAX_LISTED_CONVERSIONS = 20  # of each reason; every refusal is listed


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
    if source.digest is None:  # a caller's own images: nothing says that they are the same next time
        folder = Path(tempfile.mkdtemp(prefix="openddpm-"))
        try:
            _decode_all(source, preprocessing, folder, quiet)
            return _read(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the memory map outlives its name
    key = json.dumps([STORE_VERSION, source.digest, asdict(preprocessing)])
    folder = cache_dir / "decoded" / hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "store.json").exists():
                temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
                try:
                    _decode_all(source, preprocessing, temporary, quiet)
                    os.replace(temporary, folder)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
            return _read(folder)
    except OSError as error:
        todo = "Choose a folder with room and write access: --cache_dir FOLDER."
        raise UserError(f"cannot keep decoded images in '{cache_dir}': {error.strerror}", todo) from error


def _read(folder: Path) -> ImageStore:
    header = json.loads((folder / "store.json").read_text("utf-8"))
    images = np.memmap(folder / "images.uint8", np.uint8, mode="r", shape=tuple(header["shape"]))
    return ImageStore(images, header["sha256"], DataRecord.model_validate(header["data"]))


def _decode_all(source: ImageSource, preprocessing: Preprocessing, folder: Path, quiet: bool) -> None:
    """Decode every item of `source` in order into `folder`, and write its header last."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    digest, shape, num_images = hashlib.sha256(), None, 0
    counts: Counter[str] = Counter()
    findings: list[ImageFinding] = []
    with Progress(*columns, disable=quiet, transient=True) as progress, open(folder / "images.uint8", "wb") as file:
        task = progress.add_task("decoding images", total=source.num_items)
        for path, result in _decoded_in_order(source.items(), preprocessing):
            progress.advance(task)
            if isinstance(result, RefusedImage):
                counts["refused"] += 1
                findings.append(ImageFinding(path=path, reason=str(result), action="refused"))
                continue
            pixels, changes = result
            if shape is not None and pixels.shape != shape:
                raise UserError(
                    f"the data set mixes gray and colour images: '{path}' is {_mode(pixels.shape)}, those before it "
                    f"are {_mode(shape)}",
                    "Choose one: --image_mode rgb or --image_mode gray.",
                )
            shape = pixels.shape
            content = pixels.tobytes()
            file.write(content)
            digest.update(content)
            num_images += 1
            for reason in changes:
                counts[reason] += 1
                if counts[reason] <= MAX_LISTED_CONVERSIONS:
                    findings.append(ImageFinding(path=path, reason=reason, action="converted"))
        file.flush()
        os.fsync(file.fileno())
    _check_enough(source, num_images, findings)
    data = DataRecord(num_images=num_images, counts=dict(counts), images=findings)
    assert shape is not None
    header = {"shape": [num_images, *shape], "sha256": digest.hexdigest(), "data": data.model_dump()}
    write_json(folder / "store.json", header)


def _decoded_in_order(
    items: Iterator[tuple[str, EncodedImage]], preprocessing: Preprocessing
) -> Iterator[tuple[str, tuple[np.ndarray, list[str]] | RefusedImage]]:
    """Decode on all cores (Pillow releases the lock while it works) and yield in the order of `items`."""
    waiting: deque[tuple[str, Future[tuple[np.ndarray, list[str]]]]] = deque()
    num_threads = os.cpu_count() or 1

    def finish() -> tuple[str, tuple[np.ndarray, list[str]] | RefusedImage]:
        path, future = waiting.popleft()
        try:
            return path, future.result()
        except RefusedImage as refusal:
            return path, refusal

    with ThreadPoolExecutor(num_threads) as pool, contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: [future.cancel() for _, future in waiting])
        for path, encoded in items:
            waiting.append((path, pool.submit(decode_image, encoded, preprocessing)))
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
