"""What processes tell each other before a run begins, tried with threads in place of processes."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.training.earlier_run import Earlier
from openddpm.training.same_start import check_same_images, check_same_start, gather_json, processes_without_folder
from threads_as_processes import by_all as by_all_threads
from tiny import tiny_config

_here = threading.local()


def by_all(number: int, act: Callable[[Any], Any]) -> list[Any]:
    """Return what `act` returns or raises in each of so many processes, each on a host of its own."""

    def on_host(process: Any) -> Any:
        _here.host = f"host-{process.process_index}"
        return act(process)

    return by_all_threads(number, on_host)


@pytest.fixture(autouse=True)
def _hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: _here.host)


def test_what_is_said_arrives() -> None:
    """Every process hears the same, in the order of the ranks, whatever letters it has."""
    words = [["ä\0 ", 1], {}, None]
    assert by_all(3, lambda process: gather_json(process, words[process.process_index])) == [words] * 3


def test_who_sees_the_folder(tmp_path: Path) -> None:
    """Processes that look elsewhere are named to all, and no file is left behind."""
    folders = [tmp_path / name for name in ("shared", "shared", "own", "shared", "own", "own", "own", "own")]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    names = by_all(8, lambda process: processes_without_folder(process, folders[process.process_index]))
    unseeing = "".join(f"process {rank} on 'host-{rank}', " for rank in (2, 4, 5, 6))
    assert names == [f"{unseeing}and 1 more, unlike process 0 on 'host-0'"] * 8
    names = by_all(7, lambda process: processes_without_folder(process, folders[process.process_index]))
    assert names == [f"{unseeing}unlike process 0 on 'host-0'"] * 7
    assert by_all(2, lambda process: processes_without_folder(process, folders[0])) == ["", ""]
    assert [path for folder in folders for path in folder.iterdir()] == []


def test_one_process_has_nobody_to_ask(tmp_path: Path) -> None:
    """A single process looks for no folder, and gathers nothing."""
    alone: Any = SimpleNamespace(num_processes=1)
    assert processes_without_folder(alone, tmp_path / "missing") == ""
    assert check_same_start(alone, tiny_config(tmp_path, max_rollbacks=1), None, "") == []
    check_same_images(alone, "0" * 64, {})


def test_only_what_changes_the_numbers_has_to_agree(tmp_path: Path) -> None:
    """A host may have its data set, cache and logs elsewhere; another seed is refused in all processes."""
    ours, theirs = (
        tiny_config(tmp_path, dataset=name, cache_dir=name, logging_dir=name, output_dir=name, seed=seed)
        for name, seed in (("a", 0), ("b", 0))
    )
    other = theirs.model_copy(update={"seed": 3})
    same = by_all(2, lambda process: check_same_start(process, (ours, theirs)[process.process_index], None, ""))
    assert same == [[], []]
    for error in by_all(
        3, lambda process: check_same_start(process, (ours, theirs, other)[process.process_index], None, "")
    ):
        assert isinstance(error, UserError)
        assert error.found == (
            "the processes have different options:\n  seed: 3 in process 2 on 'host-2', 0 in process 0 on 'host-0'"
        )


def found_run(config: TrainConfig, run_id: str, step: int) -> Earlier:
    """Return a run to go on with, as far as processes compare it."""
    checkpoint = SimpleNamespace(scalars={"step": step, "images_seen": 4 * step})
    return Earlier(SimpleNamespace(run_id=run_id), checkpoint, config, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [("a", 4), ("b", 8), None])
def test_all_go_on_with_the_same_run_from_the_same_step(tmp_path: Path, other: tuple[str, int] | None) -> None:
    """A process that finds another run, the same one at another step, or none, is refused in all; else all go on."""
    config = tiny_config(tmp_path, resume_from_checkpoint="latest")
    ours = found_run(config, "a", 8)
    theirs = found_run(config, *other) if other else None
    same = by_all(2, lambda process: check_same_start(process, config, found_run(config, "a", 8), ""))
    assert same == [[], []]
    for error in by_all(
        2, lambda process: check_same_start(process, config, (ours, theirs)[process.process_index], "")
    ):
        assert isinstance(error, UserError)
        found = f"{other[0]} at step {other[1]}" if other else "none"
        assert error.found == (
            f"the processes do not find the same run in '{config.output_dir}':\n"
            f"  run: '{found}' in process 1 on 'host-1', 'a at step 8' in process 0 on 'host-0'"
        )


def test_other_images_or_another_unet_are_refused() -> None:
    """The same path may hold other files on another host: what is read there decides."""
    structures = {"sample_size": 8, "from": Path("a")}, {"from": Path("a"), "sample_size": 8}
    same = by_all(2, lambda process: check_same_images(process, "0" * 64, structures[process.process_index]))
    assert same == [None, None]
    for sha256, size, found in (
        ("01", 8, f"images, sha256: '{'01' * 8}' in process 1 on 'host-1', '{'00' * 8}'"),
        ("00", 9, """UNet: '{"sample_size": 9}' in process 1 on 'host-1', '{"sample_size": 8}'"""),
    ):
        said = ("0" * 64, {"sample_size": 8}), (sha256 * 32, {"sample_size": size})
        for error in by_all(2, lambda process, said=said: check_same_images(process, *said[process.process_index])):
            assert isinstance(error, UserError)
            assert error.found.endswith(f"same images or UNet:\n  {found} in process 0 on 'host-0'")


@pytest.mark.parametrize("options", [{"resume_from_checkpoint": "latest"}, {"max_rollbacks": 1}])
def test_what_needs_a_shared_folder_is_refused_without(tmp_path: Path, options: dict[str, Any]) -> None:
    """Going on and going back read checkpoints in every process, so they need a folder that all see."""
    config, name = tiny_config(tmp_path, **options), next(iter(options))
    for error in by_all(2, lambda process: check_same_start(process, config, None, "process 1 on 'b'")):
        assert isinstance(error, UserError) and f"--{name}" in error.found and "process 1 on 'b'" in error.found
    plain = tiny_config(tmp_path)
    for remarks in by_all(2, lambda process: check_same_start(process, plain, None, "process 1 on 'b'")):
        assert len(remarks) == 1 and "process 1 on 'b'" in remarks[0]


def test_a_run_found_by_all_goes_on_without_a_shared_folder(tmp_path: Path) -> None:
    """Copies of a run serve to go on with; to go back later they do not."""
    for rollbacks in (0, 1):
        config = tiny_config(tmp_path, resume_from_checkpoint="latest", max_rollbacks=rollbacks)
        found = found_run(config, "a", 8)
        for end in by_all(2, lambda process, config=config, found=found: check_same_start(process, config, found, "b")):
            assert (isinstance(end, UserError) and "--max_rollbacks reads" in end.found) if rollbacks else len(end) == 1
