"""Cases that each go wrong in another way, to see that fuzz.py names them."""

import ctypes
import random
from collections.abc import Callable

WAYS = ("well", "faulty", "crash", "hang", "greedy")


def cases() -> Callable[[random.Random], str]:
    """Return what takes one of five ways, by the case's own random numbers."""
    ways = {"well": _well, "faulty": _faulty, "crash": _crash, "hang": _hang, "greedy": _greedy}
    return lambda rng: ways[rng.choice(WAYS)]()


def _well() -> str:
    return ""


def _faulty() -> str:
    return "a fault\nof two lines"


def _crash() -> str:
    return str(ctypes.string_at(0))


def _hang() -> str:
    while True:
        pass


def _greedy() -> str:
    return "" if b"x" * 2**29 else "no memory"
