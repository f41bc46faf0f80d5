"""Held-out images that are nearly a training image: shifted, mirrored, recompressed or recoloured.

Small digests of brightness and of edges find candidates, whose pixels are then compared. docs/baselines.md says how
well this works.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from openddpm.data.store import ImageStore
from openddpm.record.data_record import NearDuplicateRecord
from openddpm.record.files import write_json

VERSION = 2  # part of the cache's key: raise it when a change finds other pairs
SIDE = 32  # images are compared at this size, or at their own if they are smaller
DIGEST_SIDE = 8  # smaller images are not compared: they are too often similar by chance
NUM_CANDIDATES = 8  # measured: the true one is among the first 4 of 8,000
MAX_HELDOUT = 512  # evenly spaced ones where there are more
MAX_DIFFERENCE = 15.0  # of brightness, 0..255, anywhere; measured: 13 by JPEG of quality 75, 16 to 44 by another mouth
MAX_CONTRAST_SHARE = 0.5  # of the image's standard deviation: images of low contrast differ by less
CLEAR_EDGE = 24  # of 255; measured: 10, 40, and roots of differences of neighbours separate less well
MIN_EDGE_CORRELATION = 0.996  # measured: of 512 different faces 4 or 5 reach it, of recoloured ones 98 %
COMMON_SHARE, COMMON_CORRELATION = 0.25, 0.95  # assumed: of training images, by digest; then all have one layout
CHUNK_IMAGES, CHUNK_BYTES = 2048, 2**25  # assumed
BLOCK_QUERIES = 64  # assumed: 512 pairs of images at once

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class NearDuplicate:
    """A held-out image and the training image most similar to it, by their indices in the store."""

    heldout: int
    train: int
    how: str
    """"nearly identical", "mirrored", "recoloured" or "mirrored and recoloured"."""


@dataclass(frozen=True)
class NearDuplicates:
    """The pairs that were found, and the number of held-out images that were compared."""

    pairs: list[NearDuplicate]
    num_compared: int


def near_duplicates_across(
    store: ImageStore, train: np.ndarray, heldout: np.ndarray, cache_dir: Path, quiet: bool = True
) -> NearDuplicates:
    """Return `find_near_duplicates` of a store, from the cache of an earlier run if possible."""
    digest = hashlib.sha256(json.dumps([VERSION, store.sha256, store.images.shape]).encode())
    for indices in (train, heldout):
        digest.update(np.ascontiguousarray(indices).tobytes())
    path = cache_dir / "near_duplicates" / f"{digest.hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
        cached = json.loads(path.read_text("utf-8"))
        pairs = [NearDuplicate(int(pair[0]), int(pair[1]), str(pair[2])) for pair in cached["pairs"]]
        if all(0 <= index < len(store.images) for pair in pairs for index in (pair.heldout, pair.train)):
            return NearDuplicates(pairs, int(cached["num_compared"]))
    found = find_near_duplicates(store.images, train, heldout, quiet)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the run
        pairs_as_lists = [[pair.heldout, pair.train, pair.how] for pair in found.pairs]
        write_json(path, {"pairs": pairs_as_lists, "num_compared": found.num_compared})
    return found


def with_near_duplicates(store: ImageStore, near: NearDuplicates) -> ImageStore:
    """Return `store` with the pairs in its data record, by the images' names."""
    heldout = store.names([pair.heldout for pair in near.pairs])
    train = store.names([pair.train for pair in near.pairs])
    pairs = [
        NearDuplicateRecord(heldout=ours, train=theirs, how=pair.how)
        for ours, theirs, pair in zip(heldout, train, near.pairs, strict=True)
    ]
    return replace(store, data=store.data.model_copy(update={"near_duplicates": pairs}))


def find_near_duplicates(
    images: np.ndarray, train: np.ndarray, heldout: np.ndarray, quiet: bool = True
) -> NearDuplicates:
    """Return the held-out images that are nearly the same as a training image.

    Two images are if, possibly after mirroring or a shift by one pixel (two for images larger than SIDE), their
    brightness differs nowhere by more than recompression changes it; or if, possibly after mirroring, their edges are
    at the same places, which recolouring does not change.

    Args:
        images: uint8, (N, C, H, W), H = W.
        train, heldout: indices into `images`.
    """
    if images.shape[-1] < DIGEST_SIDE or not len(train) or not len(heldout):
        return NearDuplicates([], 0)
    if len(heldout) > MAX_HELDOUT:
        heldout = heldout[np.linspace(0, len(heldout) - 1, MAX_HELDOUT).astype(int)]
    queries = _Queries(images[heldout])
    alike, recoloured, has_own_layout = _candidates(images, train, queries, quiet)
    found: dict[int, NearDuplicate] = {}
    for start in range(0, len(heldout), BLOCK_QUERIES):
        block = np.arange(start, min(start + BLOCK_QUERIES, len(heldout)))
        for number, twin, how in (
            *queries.recoloured(own := block[has_own_layout[block]], images, recoloured[own]),
            *queries.alike(block, images, alike[block]),  # last, since it is more specific
        ):
            found[number] = NearDuplicate(int(heldout[number]), twin, how)
    return NearDuplicates([found[number] for number in sorted(found)], len(heldout))


class _Queries:
    """Held-out images in all alignments with a training image."""

    def __init__(self, images: np.ndarray) -> None:
        thinned = _thinned(images)
        self._luma = _luma(thinned)  # (n, T, T)
        reach = 1 if self._luma.shape[-1] <= SIDE else 2
        steps = sorted(range(-reach, reach + 1), key=abs)
        self._alignments = [(mirrored, dy, dx) for mirrored in (False, True) for dy in steps for dx in steps]
        self.luma_digests = np.stack([_luma_digest(_moved(self._luma, *way)) for way in self._alignments])
        edges = [_edges(thinned), _edges(thinned[..., ::-1])]
        self._edges = [_normalised(ways) for ways in edges]
        self.edge_digests = [_edge_digest(ways) for ways in edges]

    def alike(self, block: np.ndarray, images: np.ndarray, candidates: np.ndarray) -> Iterator[tuple[int, int, str]]:
        """Yield (query, image, how) for pairs that are equal up to shift, mirroring and noise.

        Args:
            block: numbers of queries, (b,).
            candidates: indices into `images` of possible near duplicates, (b, k).
        """
        numbers = np.repeat(block, candidates.shape[1])
        theirs = _shrunk(_luma(_thinned(images[candidates.ravel()])))
        digests = _luma_digest(theirs)
        distances = np.stack([np.square(query[numbers] - digests).sum(1) for query in self.luma_digests])
        alignments = distances.argmin(0)
        worst = np.empty(len(numbers))
        for alignment in np.unique(alignments):
            chosen = np.flatnonzero(alignments == alignment)
            moved = _moved(self._luma[numbers[chosen]], *self._alignments[alignment])
            ours = _shrunk(moved)[:, 1:-1, 1:-1]  # without the border, which the shift fills
            difference = np.abs(_box_means(ours - theirs[chosen, 1:-1, 1:-1])).max((1, 2))
            limit = np.minimum(MAX_DIFFERENCE, MAX_CONTRAST_SHARE * ours.std((1, 2)))
            worst[chosen] = np.where(difference <= limit, difference, np.inf)
        for row, scores in enumerate(worst.reshape(candidates.shape)):
            best = row * candidates.shape[1] + int(scores.argmin())
            if np.isfinite(worst[best]):
                is_mirrored = self._alignments[alignments[best]][0]
                how = "mirrored" if is_mirrored else "nearly identical"
                yield int(block[row]), int(candidates.ravel()[best]), how

    def recoloured(
        self, block: np.ndarray, images: np.ndarray, candidates: np.ndarray
    ) -> Iterator[tuple[int, int, str]]:
        """Yield (query, image, how) for pairs with edges at the same places; arguments as for `alike`."""
        edges = _edges(_thinned(images[candidates.ravel()]))
        theirs = _normalised(edges).reshape(*candidates.shape, self._edges[0].shape[1])
        likeness = np.stack([np.einsum("bd,bkd->bk", ours[block], theirs) for ours in self._edges], 1)
        for number, row, indices in zip(block, likeness, candidates, strict=True):
            is_mirrored, best = np.unravel_index(row.argmax(), row.shape)
            if row[is_mirrored, best] >= MIN_EDGE_CORRELATION:
                yield int(number), int(indices[best]), "mirrored and recoloured" if is_mirrored else "recoloured"


def _candidates(
    images: np.ndarray, train: np.ndarray, queries: _Queries, quiet: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the training images nearest to each query.

    Returns:
        indices by brightness and by edges, (n, NUM_CANDIDATES) each; whether a query's layout of edges is rare in the
        set, (n,).
    """
    luma_queries = [_extended(digest, is_query=True) for digest in queries.luma_digests]
    size = max(1, min(CHUNK_IMAGES, CHUNK_BYTES // images[0].size))
    nearest = [_Nearest(len(luma_queries[0])), _Nearest(len(luma_queries[0]))]
    num_common = np.zeros(len(luma_queries[0]), int)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, disable=quiet or not console.is_terminal, transient=True, console=console) as progress:
        task = progress.add_task("looking for near duplicates", total=len(train))
        for start in range(0, len(train), size):
            chunk = train[start : start + size]
            thinned = _thinned(images[chunk])
            digests = _extended(_luma_digest(_luma(thinned)), is_query=False), _edge_digest(_edges(thinned))
            for kept, ours, theirs in zip(nearest, (luma_queries, queries.edge_digests), digests, strict=True):
                best = ours[0] @ theirs.T
                for query in ours[1:]:
                    np.maximum(best, query @ theirs.T, out=best)
                kept.add(best, chunk)
            num_common += (best >= COMMON_CORRELATION).sum(1)
            progress.advance(task, len(chunk))
    return nearest[0].indices, nearest[1].indices, num_common <= COMMON_SHARE * len(train)


class _Nearest:
    """The NUM_CANDIDATES best of all added images, for each of `num_queries`."""

    def __init__(self, num_queries: int) -> None:
        self._scores = np.empty((num_queries, 0), np.float32)
        self.indices = np.empty((num_queries, 0), np.int64)

    def add(self, scores: np.ndarray, indices: np.ndarray) -> None:
        """Add the images at `indices`, (n,), with their scores, (num_queries, n); a higher score is nearer."""
        kept = min(NUM_CANDIDATES, scores.shape[1])
        first = np.argpartition(scores, -kept, axis=1)[:, -kept:]
        scores = np.concatenate([self._scores, np.take_along_axis(scores, first, 1)], 1)
        all_indices = np.concatenate([self.indices, indices[first]], 1)
        order = np.argsort(-scores, axis=1)[:, :NUM_CANDIDATES]
        self._scores, self.indices = np.take_along_axis(scores, order, 1), np.take_along_axis(all_indices, order, 1)


def _thinned(images: np.ndarray) -> np.ndarray:
    """Return (n, C, H, H) subsampled to a side below 8 SIDE."""
    step = max(1, images.shape[-1] // (4 * SIDE))
    return np.ascontiguousarray(images[..., ::step, ::step])


def _shrunk(values: np.ndarray) -> np.ndarray:
    """Return the area means of (..., T, T) at SIDE, or the values if they are no larger."""
    return _area_means(values, min(SIDE, values.shape[-1]))


def _area_means(values: np.ndarray, side: int) -> np.ndarray:
    """Return (..., side, side), each the mean over its part of the area of (..., H, H)."""
    size = values.shape[-1]
    if size == side:
        return values
    borders = np.linspace(0, size, side + 1)
    pixels = np.arange(size)
    overlap = np.minimum(borders[1:, None], pixels + 1) - np.maximum(borders[:-1, None], pixels)
    weights = (overlap.clip(0) * side / size).astype(np.float32)
    means: np.ndarray = weights @ (values @ weights.T)
    return means


def _luma(thinned: np.ndarray) -> np.ndarray:
    """Return the brightness, (n, T, T) float32 in 0..255, of (n, C, T, T)."""
    if thinned.shape[1] == 1:
        return thinned[:, 0].astype(np.float32)
    return np.einsum("nchw,c->nhw", thinned.astype(np.float32), _LUMA, optimize=True)


def _edges(thinned: np.ndarray) -> np.ndarray:
    """Return the differences of neighbours, in the channel where they are largest, up to CLEAR_EDGE, (n, 2, S, S).

    Recolouring changes the strength of edges, but seldom their places. The result is float32.
    """
    edges = np.zeros((len(thinned), 2, *thinned.shape[2:]), np.float32)
    left, right, upper, lower = thinned[..., :-1], thinned[..., 1:], thinned[..., :-1, :], thinned[..., 1:, :]
    edges[:, 0, :, 1:] = (np.maximum(left, right) - np.minimum(left, right)).max(1)
    edges[:, 1, 1:, :] = (np.maximum(upper, lower) - np.minimum(upper, lower)).max(1)
    return _shrunk(np.minimum(edges, CLEAR_EDGE))


def _moved(luma: np.ndarray, mirrored: bool, dy: int, dx: int) -> np.ndarray:
    """Return (n, T, T), mirrored if asked, and shifted with its border repeated."""
    border = max(abs(dy), abs(dx))
    padded = np.pad(luma[..., ::-1] if mirrored else luma, ((0, 0), (border, border), (border, border)), "edge")
    side = luma.shape[-1]
    return padded[:, border + dy : border + dy + side, border + dx : border + dx + side]


def _box_means(values: np.ndarray) -> np.ndarray:
    """Return the means of all 2x2 windows of (n, T, T)."""
    rows = values[:, 1:] + values[:, :-1]
    means: np.ndarray = (rows[..., 1:] + rows[..., :-1]) / 4
    return means


def _luma_digest(luma: np.ndarray) -> np.ndarray:
    """Return (n, 64) means of areas."""
    return _area_means(luma, DIGEST_SIDE).reshape(len(luma), -1) - 128


def _edge_digest(edges: np.ndarray) -> np.ndarray:
    """Return (n, 64) means of areas, normalised; an edge counts for the pixels on both of its sides."""
    both = edges.sum(1)
    both[..., :-1] += edges[:, 0, :, 1:]
    both[..., :-1, :] += edges[:, 1, 1:, :]
    return _normalised(_area_means(both, DIGEST_SIDE))


def _normalised(values: np.ndarray) -> np.ndarray:
    """Return (n, D), each row of mean 0 and norm 1; 0 for constant rows."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    flat = flat - flat.mean(1, keepdims=True)
    scaled: np.ndarray = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-3)
    return scaled


def _extended(digests: np.ndarray, is_query: bool) -> np.ndarray:
    """Return digests such that the inner product of a query and another is minus half their squared distance."""
    halves = -np.square(digests).sum(1, keepdims=True) / 2
    ones = np.ones_like(halves)
    return np.concatenate([digests, ones, halves] if is_query else [digests, halves, ones], axis=1)
