import gc
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from openddpm.api import train
from openddpm.errors import UserError
from openddpm.training import checkpoint
from openddpm.training.checkpoint import (
    InvalidCheckpoint,
    checkpoint_row,
    is_valid,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    remove_checkpoints,
    verify_checkpoint,
    weights_files,
    write_checkpoint,
)
from openddpm.training.intended import DamagedHeader, Intended
from openddpm.training.setup import prepare
from tiny import tiny_config, write_tiny_folder

TENSORS = {
    "unet": {
        "b": torch.arange(6.0).reshape(2, 3),
        "a": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 2),
    },
    "ema": {"b": torch.randn(2, 3), "large": torch.randn(600_000)},
    "optimizer": {"b/step": torch.tensor(3.0), "b/flag": torch.tensor([True, False])},
}


def write(folder: Path, step: int = 1) -> Path:
    """Publish a checkpoint of TENSORS."""
    return write_checkpoint(folder, "run", TENSORS, {"step": step, "images_seen": 4})


def test_what_is_written_is_whole(tmp_path: Path) -> None:
    """A checkpoint agrees with its manifest, whose sha256 were taken of memory, and loads as the tensors it is of."""
    folder = write(tmp_path)
    assert verify_checkpoint(folder, "run") == [
        "ema.safetensors",
        "optimizer.safetensors",
        "state.json",
        "unet.safetensors",
    ]
    loaded = load_checkpoint(tmp_path, "run", "latest")
    assert loaded is not None
    for stem, content in TENSORS.items():
        assert content.keys() == loaded.tensors[stem].keys()
        assert all(torch.equal(tensor, loaded.tensors[stem][name]) for name, tensor in content.items())
    assert (loaded.folder, loaded.skipped) == (folder, [])
    assert loaded.scalars == {"step": 1, "images_seen": 4, "run_id": "run"}
    with safe_open(folder / "ema.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert folder == tmp_path / "checkpoints" / "step-00000001" and list(folder.parent.iterdir()) == [folder]
    row = checkpoint_row(folder)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    del hashes["manifest.json"]
    assert (row.step, row.images_seen, row.sha256) == (1, 4, hashes)
    assert row.exported_sha256 == hashes["ema.safetensors"]


def test_checkpoints_are_told_by_their_names(tmp_path: Path) -> None:
    """Published ones are listed by step; they and partial ones are removed, and what else lies there is not."""
    parent = tmp_path / "checkpoints"
    published = [parent / f"step-{step}" for step in ("00000002", "00000010", "99999999", "100000000")]
    other = [parent / name for name in ("step-1", "step-00000003-old", "my-step-00000003", "notes")]
    for folder in (*other, *published[::-1], parent / ".partial-step-00000004"):
        folder.mkdir(parents=True)
        (folder / "file").write_text("")
    assert list_checkpoints(tmp_path) == published
    remove_checkpoints(tmp_path)
    assert sorted(parent.iterdir()) == sorted(other)
    assert load_checkpoint(tmp_path, "run", "latest") is None


def test_weights_are_known_by_their_names(tmp_path: Path) -> None:
    """A checkpoint may hold any number of averages, or none; one that holds a file of another kind is not valid."""
    without = {stem: TENSORS[stem] for stem in ("unet", "optimizer")}
    folder = write_checkpoint(tmp_path / "without", "run", without, {"step": 1})
    assert weights_files(verify_checkpoint(folder, "run")) == {"raw": "unet.safetensors"}
    averages = {"ema-0.050": TENSORS["ema"], "ema-0.1": TENSORS["ema"]}
    files = verify_checkpoint(write_checkpoint(tmp_path, "run", {**TENSORS, **averages}, {"step": 1}), "run")
    assert weights_files(files) == {
        "ema": "ema.safetensors",
        "ema-0.050": "ema-0.050.safetensors",
        "ema-0.1": "ema-0.1.safetensors",
        "raw": "unet.safetensors",
    }
    for stem in ("raw", "other"):
        folder = write_checkpoint(tmp_path / stem, "run", {**TENSORS, stem: TENSORS["ema"]}, {"step": 1})
        with pytest.raises(InvalidCheckpoint, match="other files"):
            verify_checkpoint(folder, "run")


def rewritten(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


FAULTS: dict[str, Callable[[Path], Any]] = {
    "ema.safetensors is missing": lambda folder: (folder / "ema.safetensors").unlink(),
    "state.json has 4 bytes, expected [0-9]+": lambda folder: (folder / "state.json").write_text("null"),
    "unet.safetensors has another sha256 than in manifest.json": lambda folder: flipped(
        folder / "unet.safetensors", -1
    ),
    "manifest.json lists other files than those of a checkpoint": lambda folder: rewritten(
        folder / "manifest.json", lambda content: content["files"].pop("optimizer.safetensors")
    ),
    "unreadable: FileNotFoundError": lambda folder: (folder / "manifest.json").unlink(),
    "unreadable: KeyError": lambda folder: (folder / "manifest.json").write_text("{}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_whole_is_passed_over(fault: str, tmp_path: Path) -> None:
    """The newest valid checkpoint is loaded; why newer ones were not is told, and refused if none is left."""
    earlier, damaged = write(tmp_path, 1), write(tmp_path, 2)
    FAULTS[fault](damaged)
    assert is_valid(earlier, "run") and not is_valid(damaged, "run") and not is_valid(earlier, "another run")
    with pytest.raises(InvalidCheckpoint, match=f"^{fault}$"):
        verify_checkpoint(damaged, "run")
    loaded = load_checkpoint(tmp_path, "run", "latest")
    assert loaded is not None and loaded.folder == earlier
    assert len(loaded.skipped) == 1 and loaded.skipped[0].startswith("step-00000002: ")
    with pytest.raises(InvalidCheckpoint):  # which an earlier save has published, and could not sync
        write(tmp_path, 2)
    assert list_checkpoints(tmp_path) == [earlier]
    with pytest.raises(UserError, match=r"no valid checkpoint in .*\nstep-00000001: it belongs to another run"):
        load_checkpoint(tmp_path, "another run", "latest")


def test_a_checkpoint_is_asked_for_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, or its path from the run or from here; another folder is refused, with what there is."""
    folders = [write(tmp_path, step) for step in (1, 2)]
    monkeypatch.chdir(tmp_path.parent)
    for asked in ("step-00000001", "checkpoints/step-00000001", f"{tmp_path.name}/checkpoints/step-00000001"):
        loaded = load_checkpoint(tmp_path, "run", asked)
        assert loaded is not None and loaded.folder == folders[0]
    for step, there in ((3, "step-00000001, step-00000002"), (1, "none")):
        with pytest.raises(UserError) as caught:
            load_checkpoint(tmp_path, "run", f"step-0000000{step}")
        assert caught.value.found == f"'step-0000000{step}' is not a checkpoint of the run in '{tmp_path}'"
        assert caught.value.hint == f"It has: {there}"
        remove_checkpoints(tmp_path)


def test_nothing_stays_of_a_save_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has written is removed, as is what a killed save has left; a published one is not written again."""
    folder = write(tmp_path)
    (folder.parent / ".partial-step-00000009").mkdir()

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint, "sync_file", full)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path, 2)
    assert list(folder.parent.iterdir()) == [folder]
    assert write(tmp_path) == folder
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint, "_write_files", full)
    with pytest.raises(OSError, match="no space left"):  # not that there is no folder to remove
        write(tmp_path, 2)
    monkeypatch.undo()
    monkeypatch.setattr(Intended, "is_in", full)
    with pytest.raises(InvalidCheckpoint, match=r"^unreadable: OSError$"):
        write(tmp_path, 2)
    assert list(folder.parent.iterdir()) == [folder]


def test_what_is_written_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of tensors, then the folder, before it is published; then the folder that it is published in."""
    synced: list[str] = []
    for name in ("sync_file", "fsync_folder"):
        monkeypatch.setattr(checkpoint, name, lambda path: synced.append(path.name))
    write(tmp_path)
    files = [f"{stem}.safetensors" for stem in TENSORS]
    assert synced == [*files, ".partial-step-00000001", "checkpoints"]


def test_each_byte_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save hashes as many bytes as it writes into files of tensors and of its state, and no more."""
    hashed, sha256 = [], hashlib.sha256

    class Counting:
        def __init__(self) -> None:
            self._digest = sha256()

        def update(self, part: Any) -> None:
            hashed.append(memoryview(part).nbytes)
            self._digest.update(part)

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    def never(*_: Any) -> None:
        raise AssertionError("a file was hashed")

    monkeypatch.setattr("openddpm.training.intended.hashlib.sha256", Counting)
    monkeypatch.setattr(checkpoint, "file_sha256", never)
    folder = write(tmp_path)
    assert sum(hashed) == sum(path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json")


def flipped(path: Path, place: int) -> None:
    """Flip a bit of the byte at `place`."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "first byte of the header": lambda path: flipped(path, 0),
    "a byte of the header": lambda path: flipped(path, 30),
    "the first byte of the numbers": lambda path: flipped(path, -path.stat().st_size // 2),
    "the last byte": lambda path: flipped(path, -1),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "emptied": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("when", ["as it is written", "as it is published"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_on_the_way_to_the_disk_is_never_published(
    damage: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk holds otherwise than memory does ends the save with an error, and nothing of it stays."""
    earlier = write(tmp_path, step=1)
    save_file, replace_path = checkpoint.save_file, checkpoint.replace_path

    def damaging_save(tensors: Any, path: Path, **options: Any) -> None:
        save_file(tensors, path, **options)
        if path.name == "ema.safetensors":
            DAMAGES[damage](path)

    def damaging_rename(source: Path, target: Path) -> None:
        DAMAGES[damage](source / "ema.safetensors")
        replace_path(source, target)

    if when == "as it is written":
        monkeypatch.setattr(checkpoint, "save_file", damaging_save)
    else:
        monkeypatch.setattr(checkpoint, "replace_path", damaging_rename)
    with pytest.raises((InvalidCheckpoint, DamagedHeader)):
        write(tmp_path, step=2)
    assert list_checkpoints(tmp_path) == [earlier] and list(earlier.parent.iterdir()) == [earlier]


@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_damaged_text_is_never_published(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a state or a manifest that is not on the disk as it was written."""
    replace_path = checkpoint.replace_path

    def damaging_rename(source: Path, target: Path) -> None:
        flipped(source / name, -3)
        replace_path(source, target)

    monkeypatch.setattr(checkpoint, "replace_path", damaging_rename)
    with pytest.raises(InvalidCheckpoint, match=name):
        write(tmp_path)
    assert list_checkpoints(tmp_path) == []


def test_a_header_of_other_tensors_is_refused(tmp_path: Path) -> None:
    """A file whose header names other tensors or shapes than were to be written is not taken for theirs."""
    checkpoint.save_file(TENSORS["ema"], tmp_path / "file.safetensors", metadata={"format": "pt"})
    others = {**TENSORS["ema"], "b": TENSORS["ema"]["b"].reshape(3, 2)}
    integers = {name: tensor.view(torch.int32) for name, tensor in TENSORS["ema"].items()}
    for tensors in (others, integers, {"b": TENSORS["ema"]["b"]}, {**TENSORS["ema"], "more": torch.zeros(1)}):
        with pytest.raises(DamagedHeader):
            Intended.of_tensors(tmp_path / "file.safetensors", tensors, {"format": "pt"})
    with pytest.raises(DamagedHeader):
        Intended.of_tensors(tmp_path / "file.safetensors", TENSORS["ema"], {"format": "np"})


def test_pruning_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the newest are removed; one that cannot be is told, and does not keep the others."""
    for step in (1, 2, 3):
        write(tmp_path, step)
    assert prune_checkpoints(tmp_path, 2) is None
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    remove_folder = checkpoint.remove_folder

    def busy(folder: Path) -> None:
        if folder.name == "step-00000002":
            raise OSError("in use")
        remove_folder(folder)

    monkeypatch.setattr(checkpoint, "remove_folder", busy)
    write(tmp_path, 4)
    assert prune_checkpoints(tmp_path, 1) == "in use"
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000004"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_a_run_that_goes_on_keeps_no_file_of_its_checkpoint_mapped(tmp_path: Path) -> None:
    """Once its content is in place the checkpoint can be removed, which Windows does with no file that is mapped."""
    write_tiny_folder(tmp_path / "images")
    config = tiny_config(tmp_path, dataset=str(tmp_path / "images"), max_train_steps=2)
    train(config)
    going_on = config.model_copy(
        update={"resume_from_checkpoint": "latest", "max_train_steps": 3, "accept_changes": True}
    )
    training = prepare(going_on)
    try:
        assert training.state.step == 2
        gc.collect()
        mapped = Path("/proc/self/maps").read_text("utf-8").splitlines()
        assert [line for line in mapped if str(tmp_path / "run") in line] == []
    finally:
        training.close()
