import gc
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from openddpm.api import train
from openddpm.training import checkpoint
from openddpm.training.checkpoint import (
    InvalidCheckpoint,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
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
    return write_checkpoint(folder, "run", TENSORS, {"step": step, "images": 4})


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


def test_weights_are_known_by_their_names(tmp_path: Path) -> None:
    """A checkpoint may hold any number of averages; one that holds a file of another kind is not valid."""
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
    monkeypatch.setattr(checkpoint, "_sha256", never)
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


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    """All but the newest are removed."""
    for step in (1, 2, 3):
        write(tmp_path, step)
    assert prune_checkpoints(tmp_path, 2) is None
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]


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
