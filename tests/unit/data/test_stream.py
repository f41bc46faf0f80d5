from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openddpm.data import stream as stream_module
from openddpm.data.stream import (
    BatchStream,
    TrainingOrder,
    load_images,
    signed_unit_to_uint8,
    split_heldout,
    uint8_to_signed_unit,
)
from openddpm.errors import UserError
from openddpm.seeding import Purpose, numpy_generator, seed_global_generators, uniform

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
TRAIN = np.array([1, 4, 5, 9, 10, 11, 17])


def stream(random_flip: bool = False, transform: Any = None, seed: int = 0) -> BatchStream:
    """Return a stream over the training part of IMAGES."""
    return BatchStream(IMAGES, TRAIN, CPU, seed, random_flip, transform)


def digests(*contents: int) -> np.ndarray:
    """Return digests as of images with these contents: equal ones are exact duplicates."""
    content = b"".join(blake2b(str(one).encode(), digest_size=16).digest() for one in contents)
    return np.frombuffer(content, np.uint8).reshape(-1, 16)


@given(num_images=st.integers(1, 3000), seed=st.integers(0, 2**64), asked=st.none() | st.integers(0, 2999))
def test_split_is_disjoint_and_complete(num_images: int, seed: int, asked: int | None) -> None:
    """Each image is either trained on or held out, in ascending order, as many as asked or one in ten up to 512."""
    if asked is not None:
        asked %= num_images
    split = split_heldout(digests(*range(num_images)), asked, seed)
    assert len(split.heldout) == (min(512, num_images // 10) if asked is None else asked)
    np.testing.assert_array_equal(np.sort([*split.train, *split.heldout]), np.arange(num_images))
    assert (np.diff(split.train) > 0).all() and (np.diff(split.heldout) > 0).all()


@given(contents=st.lists(st.integers(0, 12), min_size=2, max_size=60), data=st.data(), seed=st.integers(0, 2**64))
def test_duplicates_stay_on_one_side_wherever_they_lie(contents: list[int], data: st.DataObject, seed: int) -> None:
    """Whole groups are held out, never more than asked, no further group fits, and the order changes nothing."""
    asked = data.draw(st.integers(0, len(contents) - 1))
    split = split_heldout(digests(*contents), asked, seed)
    heldout, train = ({contents[index] for index in indices} for indices in (split.heldout, split.train))
    assert not heldout & train and train
    assert len(split.heldout) <= asked
    assert all(len(split.heldout) + contents.count(one) > asked for one in train)
    shuffled = data.draw(st.permutations(contents))
    again = split_heldout(digests(*shuffled), asked, seed)
    assert sorted(shuffled[index] for index in again.heldout) == sorted(contents[index] for index in split.heldout)


@pytest.mark.parametrize(
    ("contents", "asked", "num_heldout"),
    [([7] * 20, None, 0), ([7] * 20, 19, 0), ([1], None, 0), ([1, 1, 2, 2], 3, 2), ([1, 2, 3], 0, 0)],
)
def test_fewer_are_held_out_where_duplicates_demand_it(
    contents: list[int], asked: int | None, num_heldout: int
) -> None:
    """Of images that are all the same none is held out; of pairs an even number."""
    split = split_heldout(digests(*contents), asked, 0)
    assert (len(split.heldout), len(split.train)) == (num_heldout, len(contents) - num_heldout)
    assert split.train.dtype == split.heldout.dtype == np.int32


def test_split_is_keyed() -> None:
    """The same seed holds out the same images, another seed others, and not just the first or the last."""
    first, again, other = (split_heldout(digests(*range(1000)), 100, seed).heldout for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(set(first) & set(other)) < 30
    assert 400 < first.mean() < 600


@pytest.mark.parametrize("num_heldout", [10, 11])
def test_something_is_left_to_train_on(num_heldout: int) -> None:
    """Holding out all there is, or more, is the user's error."""
    with pytest.raises(UserError, match=f"--heldout_images {num_heldout} leaves none of 10"):
        split_heldout(digests(*range(10)), num_heldout, 0)


@given(num_images=st.integers(1, 3000), epoch=st.integers(0, 10**9), seed=st.integers(0, 2**64))
def test_order_is_that_of_earlier_versions(num_images: int, epoch: int, seed: int) -> None:
    """The order is numpy's permutation, whatever it is kept in: old runs go on with the same images."""
    order = TrainingOrder(num_images, seed).indices(epoch * num_images, num_images)
    np.testing.assert_array_equal(order, numpy_generator(seed, "order", epoch).permutation(num_images))


@given(num_images=st.integers(1, 40), epoch=st.integers(0, 10**9), seed=st.integers(0, 2**64))
def test_each_epoch_is_a_permutation(num_images: int, epoch: int, seed: int) -> None:
    """Whatever the epoch, each image comes in it exactly once."""
    indices = TrainingOrder(num_images, seed).indices(epoch * num_images, num_images)
    assert sorted(indices) == list(range(num_images))


@given(num_images=st.integers(1, 30), start=st.integers(0, 200), count=st.integers(1, 100), before=st.integers(0, 300))
def test_order_is_a_function_of_position(num_images: int, start: int, count: int, before: int) -> None:
    """A batch that straddles epochs is what single positions give, whatever was asked before."""
    order = TrainingOrder(num_images, 3)
    order.indices(before, 1)
    together = order.indices(start, count)
    single = [TrainingOrder(num_images, 3).indices(position, 1)[0] for position in range(start, start + count)]
    assert (together.dtype, together.tolist()) == (np.int64, single)


def test_each_epoch_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that straddle epochs, and those of another process a little behind, shuffle nothing twice; no more than
    two epochs are kept."""
    shuffled: list[int] = []
    generator = stream_module.numpy_generator

    def noted(seed: int, purpose: Purpose, epoch: int) -> np.random.Generator:
        shuffled.append(epoch)
        return generator(seed, purpose, epoch)

    monkeypatch.setattr(stream_module, "numpy_generator", noted)
    order = TrainingOrder(10, 0)
    for start in range(0, 50, 4):
        order.indices(start, 4)
        order.indices(max(0, start - 8), 4)
        assert len(order._permutations) <= 2
    assert shuffled == [0, 1, 2, 3, 4, 5]


def test_numbers_of_images_take_half_the_memory() -> None:
    """Permutations are int32: a million images are 4 MB."""
    digests = np.random.default_rng(0).integers(0, 256, (100, 16), dtype=np.uint8)
    split, order = split_heldout(digests, 10, 0), TrainingOrder(100, 0)
    order.indices(0, 1)
    assert split.train.dtype == split.heldout.dtype == order._permutations[0].dtype == np.int32


def test_orders_differ_by_epoch_and_seed() -> None:
    """No two epochs, and no two seeds, give the same order."""
    orders = [TrainingOrder(100, seed).indices(100 * epoch, 100).tobytes() for seed in range(3) for epoch in range(5)]
    assert len(set(orders)) == 15


def test_the_order_does_not_change_with_versions() -> None:
    """The order of seed 0 is the one of earlier releases, so that their runs can be resumed."""
    assert TrainingOrder(10, 0).indices(0, 10).tolist() == [5, 3, 6, 1, 0, 8, 9, 7, 2, 4]


def test_batches_hold_the_training_images() -> None:
    """Without augmentation a batch holds the images at its positions, as float32 in [-1, 1], and no held-out one."""
    batch = stream().micro_batch(3, 9, step=0, micro_index=0)
    indices = TRAIN[TrainingOrder(len(TRAIN), 0).indices(3, 9)]
    assert (batch.dtype, batch.shape) == (torch.float32, (9, 3, 4, 4))
    assert batch.min() >= -1 and batch.max() <= 1
    np.testing.assert_array_equal(signed_unit_to_uint8(batch), IMAGES[indices])


def test_flips_mirror_the_chosen_and_no_others() -> None:
    """With random_flip every image comes as it is or mirrored left to right, half of each but for chance."""
    plain = stream().micro_batch(0, 10_000, step=5, micro_index=1)
    flipped = stream(random_flip=True).micro_batch(0, 10_000, step=5, micro_index=1)
    is_plain = (flipped == plain).all(dim=(1, 2, 3))
    is_mirrored = (flipped == plain.flip(-1)).all(dim=(1, 2, 3))
    assert (is_plain ^ is_mirrored).all()
    assert 4_800 < is_mirrored.sum() < 5_200  # four standard deviations
    expected = uniform((10_000,), CPU, 0, "flip", 5, 1) < 0.5  # as in earlier versions: their runs can be resumed
    assert torch.equal(is_mirrored, expected)


def test_augmentation_is_keyed_by_step_and_micro_batch() -> None:
    """The same step and micro-batch give the same batch in any stream, and each other step or micro-batch another."""
    batches = [
        stream(random_flip=True).micro_batch(0, 64, step, micro_index).numpy().tobytes()
        for step, micro_index in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0)]
    ]
    assert batches[0] == batches[4]
    assert len(set(batches)) == 4


def test_transforms_are_applied_last_and_repeat() -> None:
    """A transform gets uint8 images on the device, what it returns is trained on, and its random numbers repeat."""
    seen = []

    def transform(images: torch.Tensor) -> torch.Tensor:
        seen.append((images.dtype, images.device.type))
        return torch.randint_like(images, 0, 256)

    first, again, other = (stream(transform=transform).micro_batch(0, 4, step, 0) for step in (1, 1, 2))
    assert seen == [(torch.uint8, "cpu")] * 3
    seed_global_generators(0, "transform", 1, 0)
    assert torch.equal(signed_unit_to_uint8(first), torch.randint(0, 256, first.shape, dtype=torch.uint8))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("transform", "found"),
    [
        (lambda images: images.float(), r"returned torch.float32 \(4, 3, 4, 4\)"),
        (lambda images: images[:, :1], r"returned torch.uint8 \(4, 1, 4, 4\)"),
        (lambda images: None, "returned NoneType"),
        (lambda images: images.numpy(), "returned ndarray"),
    ],
    ids=["dtype", "shape", "nothing", "array"],
)
def test_transforms_that_change_the_kind_are_refused(transform: Callable[[Any], Any], found: str) -> None:
    """A transform that returns anything but uint8 images of the same shape is the user's error."""
    with pytest.raises(UserError, match=found):
        stream(transform=transform).micro_batch(0, 4, 0, 0)


def test_loading_copies(tmp_path: Any) -> None:
    """Images loaded from a read-only memory map can be written to without a warning."""
    IMAGES.tofile(tmp_path / "images")
    mapped = np.memmap(tmp_path / "images", np.uint8, mode="r", shape=IMAGES.shape)
    loaded = load_images(mapped, np.array([3, 1]), CPU)
    loaded += 0
    np.testing.assert_array_equal(loaded, IMAGES[[3, 1]])


def test_conversion_round_trips_exactly() -> None:
    """All 256 values survive the way to [-1, 1] and back, the ends are -1 and 1, and steps are equal."""
    values = torch.arange(256, dtype=torch.uint8)
    signed = uint8_to_signed_unit(values)
    assert (signed.dtype, signed[0].item(), signed[-1].item()) == (torch.float32, -1, 1)
    torch.testing.assert_close(signed.diff(), torch.full((255,), 2 / 255), rtol=0, atol=1e-7)
    assert torch.equal(signed_unit_to_uint8(signed), values)


@pytest.mark.parametrize(
    ("signed", "expected"), [(-7.0, 0), (7.0, 255), (0.0, 128), (1 - 0.9 / 255, 255), (1 - 1.1 / 255, 254)]
)
def test_conversion_rounds_and_clamps(signed: float, expected: int) -> None:
    """Values beyond [-1, 1] are clamped, others go to the nearest integer."""
    assert signed_unit_to_uint8(torch.tensor([signed], dtype=torch.float64)).item() == expected


def test_images_on_the_device_are_those_of_the_store() -> None:
    """Whether all images lie on the device or are loaded as they come makes no difference to a batch."""
    loaded = stream(random_flip=True)
    resident = BatchStream(IMAGES, TRAIN, CPU, 0, True, on_device=True)
    for step in range(4):
        torch.testing.assert_close(
            resident.micro_batch(5 * step, 5, step, 0), loaded.micro_batch(5 * step, 5, step, 0), rtol=0, atol=0
        )


def test_images_on_the_device_are_moved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are moved whole, in parts, as uint8; the store is not read again; the device's lack of room is no error."""
    monkeypatch.setattr(stream_module, "IMAGES_MOVED_AT_ONCE", 7)
    store = IMAGES.copy()
    resident = BatchStream(store, TRAIN, CPU, 0, False, on_device=True)
    assert resident.on_device and not stream().on_device
    assert resident._on_device is not None and torch.equal(resident._on_device, torch.from_numpy(IMAGES))
    expected = stream().micro_batch(0, 5, 0, 0)
    store[:] = 0
    assert torch.equal(resident.micro_batch(0, 5, 0, 0), expected)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(stream_module, "_moved", full)
    assert not BatchStream(IMAGES, TRAIN, CPU, 0, False, on_device=True).on_device


class Loader:
    """Does at once what it is given, and notes it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.ended: list[dict[str, Any]] = []

    def submit(self, act: Callable[..., torch.Tensor], *place: int) -> "Future[torch.Tensor]":
        self.asked.append(place)  # type: ignore[arg-type]
        future: Future[torch.Tensor] = Future()
        future.set_result(act(*place))
        return future

    def shutdown(self, **options: Any) -> None:
        self.ended.append(options)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_next_batch_of_this_process_is_brought_ahead(num_processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded once, ahead; only a place that was not foreseen is loaded as it is asked for."""
    options = {} if num_processes == 1 else {"num_processes": num_processes}
    ahead, loader = BatchStream(IMAGES, TRAIN, CPU, 0, False, **options), Loader()
    loaded: list[tuple[int, int]] = []
    pinned = BatchStream._pinned
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(BatchStream, "_pinned", lambda self, *place: (loaded.append(place), pinned(self, *place))[1])
    ahead._loader = loader  # type: ignore[assignment]
    step = 5 * num_processes
    for start in (0, step, 2 * step, 7):
        ahead.micro_batch(start, 5, 0, 0)
    assert loader.asked == [(step, 5), (2 * step, 5), (3 * step, 5), (7 + step, 5)]
    assert loaded == [(0, 5), *loader.asked[:3], (7, 5), loader.asked[3]]
    ahead.close()
    assert loader.ended == [{"cancel_futures": True}]  # what nobody waits for is not loaded
    stream().close()


def test_only_a_gpu_without_the_images_has_them_brought_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread loads ahead for a GPU unless all images lie there; on the CPU there is nothing to wait for."""
    gpu = torch.device("cuda")
    waiting = BatchStream(IMAGES, TRAIN, gpu, 0, False)
    assert waiting._loader is not None and waiting._loader._max_workers == 1 and stream()._loader is None
    waiting.close()
    monkeypatch.setattr(stream_module, "_moved", lambda images, _: torch.from_numpy(images))
    assert BatchStream(IMAGES, TRAIN, gpu, 0, False, on_device=True)._loader is None


@pytest.mark.parametrize(("device", "may_go_on"), [("cuda", True), ("mps", False), ("cpu", False)])
def test_only_copies_to_cuda_go_on_by_themselves(device: str, may_go_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Apple GPU would read memory that is freed by then."""
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda _, where, non_blocking: seen.append((where.type, non_blocking)))
    load_images(IMAGES, np.array([1]), torch.device(device))
    assert seen == [(device, may_go_on)]


@pytest.mark.parametrize("starts", [[0, 5, 10, 15], [0, 10, 20], [3, 0, 40, 45], [5, 5, 10]])
def test_loading_ahead_is_loading(starts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread has brought ahead is what is asked for, also after jumps to a position that was not foreseen."""
    ahead = BatchStream(IMAGES, TRAIN, CPU, 0, True, num_processes=2 if starts == [0, 10, 20] else 1)
    ahead._loader = ThreadPoolExecutor(1)  # as on a GPU
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    for step, start in enumerate(starts):
        expected = stream(random_flip=True).micro_batch(start, 5, step, 0)
        torch.testing.assert_close(ahead.micro_batch(start, 5, step, 0), expected, rtol=0, atol=0)
    ahead.close()
