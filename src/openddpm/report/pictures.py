"""Previews and training images as data URIs, within a budget of bytes."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from PIL import Image

from openddpm.analysis.text import count, significant
from openddpm.record.reader import RunFolder
from openddpm.record.schema import Weights, weights_in_order
from openddpm.report.series import images_at_steps

BUDGET_BYTES = 1_000_000  # of all images together, as text in the page
MAX_FRAMES = 60  # more cannot be told apart on a slider
MAX_SHRUNK_FRAMES = 24  # shrinking takes time, and a running run does it again at every preview
MIN_FRAMES = 12  # images are shrunk until this many fit
MAX_SIDE, MIN_SIDE = 1024, 192  # pixels of a shrunk image
PIXEL_ART_RESOLUTION = 32  # up to here single pixels matter, and smoothing would only blur them
TRAINING_DATA_FILE = "training-data.png"

T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """A preview in the film strip: data URIs and held-out losses as text, by the names of weights that have them."""

    label: str
    pictures: dict[Weights, str]
    losses: dict[Weights, str]

    @property
    def length(self) -> int:
        """Characters of all its images."""
        return sum(map(len, self.pictures.values()))


@dataclass(frozen=True)
class Pictures:
    """The contents of the film strip."""

    frames: list[Frame]
    num_previews: int
    weights: list[Weights]
    """Weights that any frame has a picture of."""
    training_data: str | None
    is_pixel_art: bool


def embed_pictures(run: RunFolder) -> Pictures:
    """Embed the previews of a run, thinned evenly to fit the budget, and a sample of its training data."""
    num_weights = max((len(preview.pictures) for preview in run.previews), default=1)
    limit = BUDGET_BYTES // (num_weights * (min(MIN_FRAMES, len(run.previews)) + 1) + 1)  # the last frame counts twice
    training_data = data_uri(run.folder / "samples" / TRAINING_DATA_FILE, limit)
    frames = thin_to_budget(_frames(run, limit), BUDGET_BYTES - len(training_data or ""))
    return Pictures(
        frames=frames,
        num_previews=len(run.previews),
        weights=weights_in_order(name for frame in frames for name in frame.pictures),
        training_data=training_data,
        is_pixel_art=is_pixel_art(run),
    )


def is_pixel_art(run: RunFolder) -> bool:
    """Return whether single pixels of a run's images matter."""
    return max(run.run.dataset.image_shape[1:]) <= PIXEL_ART_RESOLUTION


def thin_to_budget(frames: list[Frame], budget: int) -> list[Frame]:
    """Return as many frames, evenly chosen with the first and the last, as fit into `budget` characters.

    The last frame counts twice: the page has it as the initial picture, and again among the frames.
    """
    for num_frames in range(len(frames), 2, -1):
        chosen = evenly(frames, num_frames)
        if sum(frame.length for frame in [*chosen, chosen[-1]]) <= budget:
            return chosen
    return evenly(frames, 2)


def evenly(items: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` of `items`, evenly spaced, with the first and the last."""
    if len(items) <= limit:
        return list(items)
    return [items[round(index * (len(items) - 1) / (limit - 1))] for index in range(limit)]


def _frames(run: RunFolder, limit: int) -> list[Frame]:
    """Return the frames to choose from, each with at least one readable image of at most `limit` characters."""
    sizes = [_uri_length(path.stat().st_size) for one in run.previews for path in one.pictures.values()]
    previews = evenly(run.previews, MAX_FRAMES if max(sizes, default=0) <= limit else MAX_SHRUNK_FRAMES)
    losses: dict[int, dict[Weights, str]] = {}
    for row in run.evaluations:
        if row.heldout_loss is not None:
            losses.setdefault(row.step, {})[row.weights] = significant(row.heldout_loss)
    frames = []
    for preview, images in zip(previews, images_at_steps(run, [one.step for one in previews]), strict=True):
        epoch = images / max(1, run.run.dataset.num_train)
        label = f"step {count(preview.step)} · {count(images)} images · epoch {epoch:.1f}"
        uris = {name: uri for name, path in preview.pictures.items() if (uri := data_uri(path, limit))}
        if uris:
            frames.append(Frame(label, uris, losses.get(preview.step, {})))
    return frames


def data_uri(path: Path, limit: int) -> str | None:
    """Return a PNG as a data URI of at most `limit` characters, if need be as a smaller JPEG; None if unreadable."""
    try:
        content, kind = path.read_bytes(), "png"
        Image.open(BytesIO(content), formats=["PNG"]).verify()
        if _uri_length(len(content)) > limit:
            content, kind = _shrink(Image.open(BytesIO(content)).convert("RGB"), limit), "jpeg"
    except Exception:  # missing or damaged: Pillow's decoders raise errors of almost any kind
        return None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _shrink(image: Image.Image, limit: int) -> bytes:
    side = min(MAX_SIDE, max(image.size))
    while True:
        buffer = BytesIO()
        image.thumbnail((side, side))
        image.save(buffer, "JPEG", quality=82)
        if _uri_length(buffer.tell()) <= limit or side <= MIN_SIDE:
            return buffer.getvalue()
        side = side * 3 // 4


def _uri_length(num_bytes: int) -> int:
    """Return the length of a data URI of `num_bytes`: its header, and base64, which makes 4 characters of 3 bytes."""
    return (num_bytes + 2) // 3 * 4 + len("data:image/jpeg;base64,")
