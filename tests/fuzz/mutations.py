"""Damage to bytes: what failing disks, half downloads and ill will do to a file."""

import random
from collections.abc import Sequence

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x2710, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER_BYTES = 96  # where most formats keep sizes, depths and counts


def mutate_bytes(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return `content` after one to four mutations; `others` are whole files to splice from."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        content = rng.choice(MUTATIONS)(content or b"\0", others, rng)
    return content


def _flip_bits(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _fill_run(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start, length = rng.randrange(len(content)), rng.choice((1, 2, 4, 8, 64))
    filling = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    return content[:start] + filling + content[start + length :]


def _truncate(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _drop(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.choice((1, 2, 4, 16, 200)) :]


def _repeat(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    stop = start + rng.choice((1, 4, 16, 100))
    return content[:stop] + content[start:stop] * rng.choice((1, 2, 50)) + content[stop:]


def _splice(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    start = rng.randrange(len(other))
    piece, at = other[start : start + rng.choice((4, 16, 64, 500))], rng.randrange(len(content))
    return content[:at] + piece + content[at + rng.choice((0, len(piece))) :]


def _concatenate(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return content + rng.choice(others)


def _set_header_field(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    width = rng.choice((1, 2, 4))
    at = rng.randrange(min(HEADER_BYTES, len(content)))
    value = (rng.choice(EXTREMES) % 256**width).to_bytes(width, rng.choice(("big", "little")))
    return content[:at] + value + content[at + width :]


MUTATIONS = (_flip_bits, _fill_run, _truncate, _drop, _repeat, _splice, _concatenate, *[_set_header_field] * 3)
