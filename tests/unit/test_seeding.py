import ast
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import openddpm
from openddpm.seeding import (
    keyed_hashes,
    numpy_generator,
    seed_global_generators,
    standard_normal,
    stream_key,
    torch_generator,
    uniform,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ((0, "order", 0), 0x4535CE2420AC22F06830E85087692056),
        ((0, "noise", 1, 2), 0x03944CDB9AABA3B3F0670B3ADDD8AA02),
        ((2**40, "heldout"), 0x2AB44CAA3611591F3EEF416CE7AF287D),
    ],
)
def test_keys_are_the_same_everywhere(arguments: tuple[int, str], key: int) -> None:
    """A key is what it was in every earlier release and process, so that their runs can be replayed."""
    assert stream_key(*arguments) == key
    assert stream_key(*(np.int64(value) if isinstance(value, int) else value for value in arguments)) == key


def test_draws_are_the_same_everywhere() -> None:
    """The numbers drawn on the CPU are those of every earlier release."""
    normal = torch.tensor([0.14542555809020996, 0.45903316140174866, 0.3130062520503998])
    assert torch.equal(standard_normal((3,), CPU, 0, "noise", 1, 2), normal)
    flips = torch.tensor([0.9079347252845764, 0.6553093194961548, 0.2230566143989563])
    assert torch.equal(uniform((3,), CPU, 0, "flip", 0, 0), flips)


def test_keyed_hashes_are_the_same_everywhere_and_spread_evenly() -> None:
    """They depend on each half of a digest, the seed and the purpose, and have each bit set half the time."""
    digests = np.random.default_rng(0).integers(0, 256, (20_000, 16), np.uint8)
    hashes = keyed_hashes(digests, 0, "heldout")
    assert hashes[:2].tolist() == [15543850778847720190, 16330606926182216931]
    for half in (slice(8), slice(8, 16)):
        changed = digests.copy()
        changed[:, half] ^= 1
        assert not (keyed_hashes(changed, 0, "heldout") == hashes).any()
    assert not (keyed_hashes(digests, 1, "heldout") == hashes).any()
    assert not (keyed_hashes(digests, 0, "training tuples") == hashes).any()
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.02
    assert len(np.unique(hashes)) == len(digests)


def test_streams_differ_in_all_they_are_keyed_by() -> None:
    """Another seed, even 2^32 or 2^64 apart, another purpose or another counter gives another stream."""
    keys = [
        (0, "noise"),
        (2**32, "noise"),
        (2**64, "noise"),
        (0, "flip"),
        (0, "noise", 0),
        (0, "noise", 0, 0),
        (0, "noise", 1, 0),
        (0, "noise", 0, 1),
        (0, "noise", 2**32),
        (0, "noise", 1, 12),
        (0, "noise", 11, 2),
    ]
    assert len({stream_key(*key) for key in keys}) == len(keys)
    draws = {standard_normal((4,), CPU, *key).numpy().tobytes() for key in keys}
    draws |= {torch.randn(4, generator=torch_generator(CPU, *key)).numpy().tobytes() for key in keys}
    assert len(draws) == 2 * len(keys)


def test_streams_have_no_state() -> None:
    """Drawing from a stream changes neither another nor the global generators, and can be repeated."""
    first = standard_normal((5,), CPU, 1, "noise", 3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    uniform((1000,), CPU, 1, "noise", 3)
    numpy_generator(1, "order").permutation(9)
    torch.rand(3, generator=torch_generator(CPU, 1, "noise", 3))
    assert torch.equal(standard_normal((5,), CPU, 1, "noise", 3), first)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before[1:]


def test_normal_draws_are_standard_normal() -> None:
    """Mean, variance, skewness and kurtosis of a million draws are those of N(0, 1), to within five sigma."""
    draws = standard_normal((1000, 10, 100), CPU, 0, "noise", 0)
    assert (draws.dtype, draws.shape) == (torch.float32, (1000, 10, 100))
    values = draws.double()
    for power, expected, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((values**power).mean() - expected) < 5 * (variance / 1e6) ** 0.5
    neighbours = (values[:, :, 1:] * values[:, :, :-1]).mean()
    assert abs(neighbours) < 5 / 990_000**0.5


def test_uniform_draws_are_uniform() -> None:
    """A million draws lie in [0, 1), and each tenth holds its share, to within five sigma."""
    draws = uniform((1_000_000,), CPU, 0, "flip", 0)
    assert draws.dtype == torch.float32
    assert draws.min() >= 0 and draws.max() < 1
    assert (draws.histc(10, 0, 1) - 100_000).abs().max() < 5 * 300


def test_global_generators_can_be_keyed() -> None:
    """Torch's global generator, once seeded for a purpose, repeats, and differs by purpose."""
    state = torch.get_rng_state()
    draws = []
    for purpose in ("dropout", "transform", "dropout"):
        seed_global_generators(0, purpose, 1)
        draws.append(torch.rand(4).tolist())
    torch.set_rng_state(state)
    assert draws[0] == draws[2] != draws[1]


def test_every_stream_has_a_listed_purpose() -> None:
    """No call in the source spells a purpose as a string of its own."""
    functions = {"stream_key", "numpy_generator", "torch_generator", "standard_normal", "uniform"}
    functions |= {"seed_global_generators", "_keyed_permutation"}
    num_calls, spelled = 0, []
    for path in Path(openddpm.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in functions:
                num_calls += 1
                given = [*call.args, *(keyword.value for keyword in call.keywords)]
                spelled += [
                    f"{path.name}:{call.lineno}" for one in given if isinstance(one, ast.JoinedStr | ast.Constant)
                ]
    assert num_calls > 15
    assert spelled == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_draws_on_a_gpu_repeat() -> None:
    """On a GPU, too, a stream is a function of its key alone."""
    device = torch.device("cuda")
    draw = standard_normal((5,), device, 0, "noise", 1)
    torch.randn(3, device=device)
    assert torch.equal(standard_normal((5,), device, 0, "noise", 1), draw)
    assert not torch.equal(standard_normal((5,), device, 0, "noise", 2), draw)
    assert uniform((9,), device, 0, "flip").max() < 1
