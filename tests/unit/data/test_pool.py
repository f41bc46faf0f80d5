import threading
from collections.abc import Iterator

import numpy as np
import pytest

from openddpm.data import decode, pool
from openddpm.data.decode import Preprocessing, RefusedImage
from openddpm.data.image_source import Example
from openddpm.data.pool import decoded_in_order

AS_GIVEN = Preprocessing(4, "auto", "white")


def test_what_is_read_ahead_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few the images, no more encoded bytes than the bound wait for their turn, but for the last image."""
    monkeypatch.setattr(pool, "MAX_BYTES_AHEAD", 1000)
    sizes = [300, 300, 300, 300, 5000, 10, 10, *[400] * 20]
    num_bytes_ahead, most_before_the_last = 0, 0

    def items() -> Iterator[Example]:
        nonlocal num_bytes_ahead, most_before_the_last
        for size in sizes:
            most_before_the_last = max(most_before_the_last, num_bytes_ahead)
            num_bytes_ahead += size
            yield Example(str(size), bytes(size))

    names = []
    for example, result in decoded_in_order(items(), AS_GIVEN):
        assert isinstance(result, RefusedImage)
        names.append(example.path)
        num_bytes_ahead -= int(example.path)
    assert names == [str(size) for size in sizes]
    assert 900 <= most_before_the_last <= 1000


def test_large_images_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images that together have more pixels than the memory is meant for, one waits until the other is done."""
    monkeypatch.setattr(decode, "_memory", decode._PixelBudget(1500))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    load, lock = decode._load, threading.Lock()
    num_inside, most_inside = 0, 0
    arrived = threading.Event()

    def counted(*arguments: object) -> object:
        nonlocal num_inside, most_inside
        with lock:
            num_inside += 1
            most_inside = max(most_inside, num_inside)
            if num_inside > 1:
                arrived.set()
        arrived.wait(0.05)  # time for a second one to come in, if it may
        with lock:
            num_inside -= 1
        return load(*arguments)

    monkeypatch.setattr(decode, "_load", counted)

    def most_at_once(side: int) -> int:
        nonlocal most_inside
        most_inside = 0
        arrived.clear()
        items = iter([Example(str(n), np.full((side, side), n, np.uint8)) for n in range(4)])
        assert [example.path for example, _ in decoded_in_order(items, AS_GIVEN)] == ["0", "1", "2", "3"]
        return most_inside

    assert most_at_once(36) == 1
    assert most_at_once(20) > 1
