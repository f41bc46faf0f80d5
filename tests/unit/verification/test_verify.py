"""Each tampering with a record is caught by the rung that should catch it; honest records never fail."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from tampering import TAMPERINGS, Tampering, hide_resumption, note_checkpoint, tampered, write_rows

import openddpm
from openddpm.record.files import file_sha256
from openddpm.record.reader import read_run_folder
from openddpm.record.verification import VerificationRecord
from openddpm.verification.ladder import verify
from openddpm.verification.replays import Replays
from openddpm.verification.rungs import files
from tiny import tiny_config, tiny_images, write_tiny_folder
from verifications import Silent

STEPS = 24
IN_SHORT_RUNS = [one for one in TAMPERINGS if one.name != "plan"]  # which have one evaluation


def climbed(folder: Path, whole: bool = False, budget: float = 5.0, **options: Any) -> VerificationRecord:
    """Return the statement about a record."""
    return verify(read_run_folder(folder), str(folder), Silent(), budget, whole=whole, **options)


def statuses(found: VerificationRecord) -> dict[str, str]:
    """Return the status of each rung."""
    return {rung.name: rung.status for rung in found.rungs}


def texts(found: VerificationRecord, status: str) -> list[str]:
    """Return the texts of the rungs with a status."""
    return [f"{rung.name}: {rung.text}" for rung in found.rungs if rung.status == status]


def trained(folder: Path, name: str, **options: Any) -> Path:
    """Train a tiny run whose checkpoints are all kept, and return its folder."""
    values = {"max_train_steps": STEPS, "checkpointing_steps": 6, "checkpoints_total_limit": 100, **options}
    config = tiny_config(folder, name, dataset=str(folder / "images"), report_to="none", **values)
    openddpm.train(config)
    return Path(config.output_dir)


def stopped(folder: Path, name: str) -> Path:
    """Train a tiny run that ends with an error at step 15, between two checkpoints, and return its folder."""

    class Stopped(Exception):
        pass

    class Stopping(openddpm.Observer):
        def logged(self, row: Any) -> None:
            if row.step == 15:
                raise Stopped

    images = str(folder / "images")
    config = tiny_config(folder, name, dataset=images, max_train_steps=STEPS, checkpointing_steps=6, report_to="none")
    with pytest.raises(Stopped):
        openddpm.train(config, observers=[Stopping()])
    return Path(config.output_dir)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images."""
    folder = tmp_path_factory.mktemp("verify")
    write_tiny_folder(folder / "images")
    return folder


@pytest.fixture(scope="module")
def honest(place: Path) -> Path:
    """Return the folder of a run that nobody tampered with."""
    return trained(place, "honest")


@pytest.fixture(scope="module")
def other(place: Path) -> Path:
    """Return the folder of the same run with another seed."""
    return trained(place, "other", seed=1)


@pytest.fixture
def copied(honest: Path, tmp_path: Path) -> Path:
    """Return a copy of the honest run, to be changed."""
    return Path(shutil.copytree(honest, tmp_path / "copy"))


def test_an_honest_run_is_verified_to_the_bit_by_every_rung(honest: Path) -> None:
    """All rungs of an untouched record are exact on the machine that made it, and all its steps are computed again."""
    found = climbed(honest, whole=True)
    assert set(statuses(found).values()) == {"exact"}, texts(found, "failed")
    assert found.is_verified and found.first_divergent_step is None


def test_what_the_first_steps_covered_is_not_trained_once_more(honest: Path) -> None:
    """Where the budget was enough for all steps, --whole has its answer without another replay."""
    found = climbed(honest, whole=True)
    assert statuses(found)["whole"] == "exact"
    assert [one for one in found.replayed if one[0] == 1] == [(1, STEPS)]


def test_every_file_is_hashed_once(honest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are named in the manifest and in checkpoints.jsonl, and measured afterwards: still each is read once for
    its digest."""
    hashed = list[Path]()

    def counted(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr("openddpm.verification.ladder.file_sha256", counted)
    climbed(honest, budget=0.0)
    weights = [path for path in hashed if path.suffix == ".safetensors"]
    assert len(weights) == len(set(weights)) > 0


@pytest.mark.parametrize("tampering", IN_SHORT_RUNS, ids=lambda one: one.name)
def test_tampering_is_caught_by_its_rung(copied: Path, other: Path, tampering: Tampering) -> None:
    """A record that was changed, with digests that fit, fails at the rung that is meant to see it, and at none before.

    The run is short, so all its first steps are within the budget.
    """
    tampered(copied, other, tampering)
    if tampering.needs_whole:
        before = climbed(copied, budget=0)
        assert not before.is_failed
    found = climbed(copied, whole=tampering.needs_whole)
    failed = [rung.name for rung in found.rungs if rung.status == "failed"]
    assert tampering.caught_by in failed, statuses(found)
    if not tampering.needs_whole:
        assert failed[0] == tampering.caught_by, texts(found, "failed")


@pytest.mark.parametrize("tampering", IN_SHORT_RUNS, ids=lambda one: one.name)
def test_a_record_whose_manifest_was_left_as_it_was_fails_at_its_files(
    copied: Path, other: Path, tampering: Tampering
) -> None:
    """Whatever is changed in a published file, the manifest that the run wrote shows it, without training a step.

    The state of the optimizer is not published, and so is not in the manifest; checkpoints.jsonl is.
    """
    tampering.change(copied, other)
    assert files(read_run_folder(copied)).status == "failed"


def test_the_step_of_an_edited_loss_is_named(copied: Path) -> None:
    """The first divergent step is the one whose line was edited."""
    rows = [json.loads(line) for line in (copied / "metrics.jsonl").read_text().splitlines()]
    rows[8]["train_loss"] *= 1.1
    write_rows(copied / "metrics.jsonl", rows)
    assert climbed(copied).first_divergent_step == rows[8]["step"]


def test_a_hidden_resumption_with_another_learning_rate_fails(place: Path) -> None:
    """A run that was resumed with another learning rate, which its record hides, has other numbers than its options
    give: in its learning rates, or, if those are rewritten too, from the step of the resumption on."""
    folder = stopped(place, "hidden")
    learning_rate = read_run_folder(folder).run.config["learning_rate"]
    openddpm.resume(folder, learning_rate=2 * learning_rate, accept_changes=True)
    rewritten = Path(shutil.copytree(folder, folder.with_name("rewritten")))
    hide_resumption(folder)
    found = climbed(folder)
    assert statuses(found)["files"] == statuses(found)["first_steps"] == "failed"
    hide_resumption(rewritten, learning_rate)
    (rewritten / "manifest.json").unlink()
    found = climbed(rewritten)
    assert statuses(found)["files"] == "exact" and statuses(found)["first_steps"] == "failed", texts(found, "failed")
    assert found.first_divergent_step == 14


def _replace_one_image(images: list[np.ndarray]) -> list[np.ndarray]:
    return [255 - images[0], *images[1:]]


def _reverse(images: list[np.ndarray]) -> list[np.ndarray]:
    return images[::-1]


@pytest.mark.parametrize("change", [_replace_one_image, _reverse])
def test_other_images_fail(
    honest: Path, tmp_path: Path, change: Callable[[list[np.ndarray]], list[np.ndarray]]
) -> None:
    """One other image, or the same in another order, fails the data rung, and nothing is trained on them."""
    for number, image in enumerate(change(tiny_images())):
        Image.fromarray(image).save(tmp_path / f"{number:03d}.png")
    found = climbed(honest, dataset=str(tmp_path))
    assert statuses(found)["data"] == "failed"
    assert statuses(found)["first_steps"] == "not_checked" and found.replayed_steps == 0


def test_missing_images_are_not_a_failure(honest: Path, tmp_path: Path) -> None:
    """Without the images nothing fails, the text says where to name them, and the record counts as not verified."""
    found = climbed(honest, dataset=str(tmp_path / "nowhere"))
    assert not found.is_failed and not found.is_verified
    assert "--dataset" in texts(found, "not_checked")[0]


HONEST: dict[str, dict[str, Any]] = {
    "v-prediction": {"prediction_type": "v_prediction"},
    "muon": {"optimizer": "muon"},
    "without an average": {"use_ema": False},
    "without held-out images": {"heldout_images": 0},
    "accumulation": {"gradient_accumulation_steps": 2, "train_batch_size": 2},
    "flips": {"random_flip": True},
    "bfloat16": {"mixed_precision": "bf16"},
    "milestones": {"milestones": 3, "checkpoints_total_limit": 1},
    "lines every seven steps": {"logging_steps": 7},
    "previews each epoch": {"save_images_epochs": 1},
    "epochs": {"max_train_steps": None, "num_epochs": 4},
    "gray": {"image_mode": "gray"},
}


MORE = ("muon", "accumulation", "bfloat16", "milestones", "previews each epoch", "epochs", "gray")
KINDS = [pytest.param(HONEST[kind], id=kind, marks=[pytest.mark.slow] * (kind in MORE)) for kind in HONEST]


@pytest.mark.parametrize("options", KINDS)
def test_honest_runs_of_all_kinds_are_verified(place: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """No rung fails on an untouched record, whatever its options; files, data and first steps are always checked."""
    folder = trained(place, str(tmp_path / "run"), **options)
    found = climbed(folder)
    assert found.is_verified, texts(found, "failed") + texts(found, "not_checked")


def test_a_moved_folder_is_verified(copied: Path, tmp_path: Path) -> None:
    """A run folder that was moved is verified like before."""
    moved = shutil.move(copied, tmp_path / "elsewhere")
    assert climbed(Path(moved)).is_verified


def test_a_run_that_was_changed_on_the_way_is_checked_after_the_change(place: Path) -> None:
    """After an accepted change nothing fails; steps before it are not checkable, and the text says so; segments after
    it are trained again."""
    folder = trained(place, "changed", max_train_steps=12)
    openddpm.resume(folder, max_train_steps=STEPS, learning_rate=3e-3, accept_changes=True)
    found = climbed(folder)
    assert not found.is_failed, texts(found, "failed")
    assert statuses(found)["first_steps"] == "not_checked" and statuses(found)["segments"] == "exact"
    assert not found.is_verified


def test_a_resumed_run_is_verified(place: Path) -> None:
    """A run that was interrupted and resumed is verified from its seed on."""

    folder = stopped(place, "killed")
    openddpm.resume(folder)
    found = climbed(folder)
    assert found.is_verified, texts(found, "failed")


@pytest.mark.parametrize("given", ["transform", "dataset"])
def test_what_was_given_from_python_is_not_checkable(place: Path, tmp_path: Path, given: str) -> None:
    """A run with a user-supplied transform or data set fails nothing, and says that it cannot be trained again."""
    source = {"dataset": str(place / "images")} if given == "transform" else {}
    config = tiny_config(tmp_path, report_to="none", checkpointing_steps=6, **source)
    objects: dict[str, Any] = {"transform": {"transform": lambda images: images}, "dataset": {"dataset": tiny_images()}}
    openddpm.train(config, **objects[given])
    found = climbed(Path(config.output_dir))
    assert not found.is_failed and not found.is_verified
    assert "given from Python" in texts(found, "not_checked")[0]


def test_a_replay_leaves_the_run_folder_as_it_is(honest: Path) -> None:
    """Verifying changes no file of the run folder."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in honest.rglob("*")}
    climbed(honest, whole=True)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in honest.rglob("*")} == before


def test_no_temporary_folder_is_left(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders of replays are gone afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    climbed(honest)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_killed_is_verified_as_far_as_it_went(place: Path) -> None:
    """A run whose last lines have no checkpoint after them is verified, from its seed and from its checkpoints."""

    stopped(place, "dead")
    run = json.loads((place / "dead" / "run.json").read_text())
    (place / "dead" / "run.json").write_text(json.dumps({**run, "status": "running"}))
    (place / "dead" / "manifest.json").unlink()  # which a run that is killed does not write
    found = climbed(place / "dead")
    assert found.is_verified and statuses(found)["segments"] == "exact", texts(found, "failed")


def test_a_state_between_two_lines_that_rounds_otherwise_is_no_failure(place: Path) -> None:
    """Where a checkpoint has other bits than the replay, and no line tells more, its distance decides: rounding passes,
    though all losses that were compared are the same."""
    folder = trained(place, "sparse", logging_steps=12)
    checkpoint = folder / "checkpoints" / "step-00000018"
    path = checkpoint / "ema.safetensors"
    save_file({name: one * (1 + 1e-7) for name, one in load_file(path).items()}, path, metadata={"format": "pt"})
    note_checkpoint(folder, checkpoint)
    record = read_run_folder(folder)
    found = Replays(record, None, lambda *_: None).segments([folder / "checkpoints" / "step-00000012"], 60.0)
    assert found.status == "rounding", found.text


def test_a_record_of_more_steps_than_anybody_trains_ends_in_a_failure(copied: Path) -> None:
    """A number of steps that no run has costs neither memory nor time: the missing lines are told."""
    run = json.loads((copied / "run.json").read_text())
    run["total_steps"] = run["config"]["max_train_steps"] = run["progress"]["step"] = 10**12
    (copied / "run.json").write_text(json.dumps(run))
    assert files(read_run_folder(copied)).status == "failed"


def test_images_are_decoded_anew_whatever_a_cache_holds(place: Path, tmp_path: Path) -> None:
    """A cache that comes with a record, in which the decoded images were changed, is not read: the data rung fails."""
    config = tiny_config(tmp_path, dataset=str(place / "images"), report_to="none")
    openddpm.train(config)
    (decoded,) = (tmp_path / "cache" / "decoded").glob("*/images.uint8")
    decoded.write_bytes(bytes(value // 4 for value in decoded.read_bytes()))
    openddpm.train(tiny_config(tmp_path, "forged", dataset=str(place / "images"), report_to="none"))
    found = climbed(tmp_path / "forged")
    assert found.is_failed, statuses(found)
