"""What may become of files on a disk: flipped bits, cut, emptied, swapped or lost files, a power cut in a save."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fault_injection import Site, act_at, moments_file, read_moments, start, tally_of, watch
from openddpm.record.reader import read_run_record
from openddpm.training.checkpoint import InvalidCheckpoint, list_checkpoints, verify_checkpoint
from same_run import resumed

Whole = Callable[..., Path]
SAVE = 5
PRUNING = {"checkpoints_total_limit": 2}


def interrupted(site: Site, name: str) -> Path:
    """Make a run that is asked to stop in its seventh save: three checkpoints, and a third of its steps to go."""
    stop = act_at(1, lambda: os.kill(os.getpid(), signal.SIGTERM), save=7)
    child = start(site, site.command(name), name, lambda: watch(site.folder, stop))
    assert child.wait() == 143, child.text()
    return site.folder / name


def flips(content: bytes, every_bit: bool) -> Iterator[tuple[str, bytes]]:
    """Yield copies with one bit flipped: each bit in turn, or some at the start, in the middle and at the end."""
    bits = range(8 * len(content))
    places = bits if every_bit else sorted({0, 7, 8 * 8 + 1, 8 * 100, len(bits) // 2, len(bits) - 9, len(bits) - 1})
    for bit in places:
        if bit in bits:
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            yield f"bit {bit} flipped", bytes(flipped)


def damages(path: Path, other: Path, every_bit: bool) -> Iterator[tuple[str, bytes | None]]:
    """Yield (what was done, new content, None for a lost file) for a file, and its like of another checkpoint."""
    content = path.read_bytes()
    yield from flips(content, every_bit and path.suffix == ".json")
    for length in sorted({0, 1, 8, len(content) // 2, len(content) - 2}):
        yield f"cut to {length} bytes", content[:length]
    yield "longer by a byte", content + b"\0"
    yield "lost", None
    yield "swapped", other.read_bytes()


@pytest.mark.parametrize("every_bit", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "every"])
def test_damage_is_detected(site: Site, every_bit: bool) -> None:
    """Whatever is changed in whichever file of a checkpoint, it is no longer taken for whole."""
    run = interrupted(site, f"damage-{every_bit}")
    *_, other, newest = list_checkpoints(run)
    run_id, missed, tries = read_run_record(run).run_id, [], 0
    verify_checkpoint(newest, run_id)
    for path in sorted(newest.iterdir()):
        whole = path.read_bytes()
        for what, content in damages(path, other / path.name, every_bit):
            tries += 1
            path.unlink() if content is None else path.write_bytes(content)
            try:
                verify_checkpoint(newest, run_id)
                missed.append(f"{path.name}: {what}")
            except InvalidCheckpoint:
                pass
            path.write_bytes(whole)
    with tally_of("damaged files of a checkpoint, verified") as tally:
        tally.tries, tally.identical, tally.notes = tries, tries - len(missed), missed


FALLBACKS = [
    ("unet.safetensors", "flipped"),
    pytest.param("ema.safetensors", "cut", marks=pytest.mark.slow),
    pytest.param("optimizer.safetensors", "swapped", marks=pytest.mark.slow),
    pytest.param("state.json", "emptied", marks=pytest.mark.slow),
    pytest.param("manifest.json", "lost", marks=pytest.mark.slow),
    pytest.param("manifest.json", "flipped", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("file", "damage"), FALLBACKS)
def test_falls_back_loudly(site: Site, whole: Whole, file: str, damage: str) -> None:
    """A damaged newest checkpoint is passed over in words, in run.json too, and the run ends as if it were whole."""
    name = f"fallback-{file.replace('.', '-')}-{damage}"
    run = interrupted(site, name)
    *_, other, newest = list_checkpoints(run)
    path, content = newest / file, (newest / file).read_bytes()
    flipped = content[:-10] + bytes([content[-10] ^ 1]) + content[-9:]
    changed = {"flipped": flipped, "cut": content[:-7], "emptied": b"", "swapped": (other / file).read_bytes()}
    path.unlink() if damage == "lost" else path.write_bytes(changed[damage])
    with tally_of(f"newest checkpoint: {file} {damage}") as tally:
        differing = resumed(site, name, whole())
        said = (site.folder / f"{name}-resumed.log").read_text("utf-8")
        assert f"checkpoint not valid, skipped: {newest.name}: " in said
        last = read_run_record(run).resumptions[-1]
        assert (last.step, len(last.skipped_checkpoints)) == (int(other.name[5:]), 1)
        assert last.skipped_checkpoints[0].startswith(f"{newest.name}: ")
        tally.count(f"{file} {damage}", [], differing)


@pytest.mark.slow
def test_torn_by_a_power_cut(site: Site, whole: Whole) -> None:
    """A torn last line, a half-written newest checkpoint and temporary files cost the steps since the one before."""
    run = interrupted(site, "torn")
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 36, "images_seen": 14')
    newest = list_checkpoints(run)[-1]
    for path in newest.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shutil.copytree(newest, newest.with_name(".partial-step-00000040"))
    for leftover in (".run.json.77.openddpm-tmp", "samples/.step-00000045-ema.png.77.openddpm-tmp"):
        (run / leftover).write_bytes(b"half of")
    with tally_of("power cut: torn line, half a checkpoint, temporary files") as tally:
        tally.count("torn", [], resumed(site, "torn", whole()))


@pytest.mark.slow
def test_no_valid_checkpoint_is_refused(site: Site) -> None:
    """With no valid checkpoint left a resumption ends with status 2, names each, and leaves every file as it is."""
    run = interrupted(site, "none-valid")
    for folder in list_checkpoints(run):
        (folder / "state.json").unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    child = start(site, ["resume", str(run)], "none-valid")
    assert child.wait() == 2
    assert all(folder.name in child.text() for folder in list_checkpoints(run)) and "Traceback" not in child.text()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"} == before


def unsafe_orders(save: list[str]) -> list[str]:
    """Return in what a save would not survive a power cut on a disk that keeps only what was synced.

    Such a disk may keep, of what was not, any part: a rename without the content of the file, or a removal without the
    rename before it.
    """
    dirty: set[str] = set()  # files written and folders changed, since they were synced last
    faults = []
    published = next(index for index, what in enumerate(save) if what.startswith("os.rename checkpoints/.partial"))
    for index, what in enumerate(save):
        event, _, path = what.partition(" ")
        path, _, mode = path.partition(" ")
        folder, name = path.split("/") if "/" in path else ("", path)
        if what.startswith("save_file done"):
            dirty.add(mode.split()[-1])
        elif event == "open" and mode and mode[0] in "wax":
            dirty |= {path, folder}
        elif event == "fsync":
            dirty -= {path, name}
        elif event == "os.rename":
            inside = {entry for entry in dirty if entry in (path, name) or entry.startswith(f"{name}/")}
            faults += [f"{what} while {entry} is not synced" for entry in sorted(inside)]
            dirty = (dirty - inside) | {folder}
        elif event == "shutil.rmtree":
            faults += [f"{what} while the rename is not synced"] * ("checkpoints" in dirty)
            faults += [f"{what} before the new one is verified"] * (not any(map(is_reading, save[published:index])))
    before = save[:published]
    faults += [f"{name} is not synced before" for name in ROWS if not any(is_sync_of(what, name) for what in before)]
    return faults


ROWS = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "checkpoints.jsonl")


def is_reading(what: str) -> bool:
    """Tell whether this reads a published checkpoint's manifest."""
    return what.startswith("open step-") and what.endswith("/manifest.json r")


def is_sync_of(what: str, name: str) -> bool:
    """Tell whether this is the sync of a file of that name."""
    return what.startswith("fsync ") and what.endswith(f"/{name}")


def test_a_power_cut_finds_a_whole_checkpoint(whole: Whole) -> None:
    """In a save all is synced before it is renamed, and that synced, and verified, before anything is removed."""
    save = [what for number, what in read_moments(moments_file(whole(**PRUNING))) if number == SAVE]
    assert any(what.startswith("shutil.rmtree") for what in save)
    assert unsafe_orders(save) == []


def test_unsafe_orders_are_seen(whole: Whole) -> None:
    """Each sync of what a checkpoint rests on is missed when it is left out."""
    save = [what for number, what in read_moments(moments_file(whole(**PRUNING))) if number == SAVE]
    published = next(index for index, what in enumerate(save) if what.startswith("os.rename checkpoints/.partial"))
    syncs = [index for index in range(published + 3) if save[index].startswith("fsync ")]
    seen = [save[index] for index in syncs if unsafe_orders(save[:index] + save[index + 1 :])]
    redundant = [save[index] for index in syncs if save[index] not in seen]
    assert set(redundant) <= {"fsync checkpoints/.partial-step-00000025"}
