"""Records that were made to mislead or to break the ladder, and honest ones that look as if they were."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from tampering import TAMPERINGS, note_checkpoint, write_rows

import openddpm
from openddpm.config import TrainConfig
from openddpm.publishing.fetch import _some_checkpoints
from openddpm.record.files import read_json_lines
from openddpm.record.manifest import write_manifest
from openddpm.record.public import published_names
from openddpm.record.reader import read_run_folder
from openddpm.record.verification import Rung
from openddpm.references import open_runs
from openddpm.training.earlier_run import find_earlier_run
from openddpm.verification.ladder import verify
from openddpm.verification.materials import NoPicture, pixels_of
from openddpm.verification.record_lines import check_lines
from openddpm.verification.replays import Replays
from openddpm.verification.rungs import files
from tiny import tiny_config, write_tiny_folder
from verifications import Silent

STEPS = 20


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with a line every ten steps and a checkpoint every six."""
    folder = tmp_path_factory.mktemp("untrusted")
    write_tiny_folder(folder / "images")
    values = {"max_train_steps": STEPS, "checkpointing_steps": 6, "checkpoints_total_limit": 100, "logging_steps": 10}
    config = tiny_config(folder, "honest", dataset=str(folder / "images"), report_to="none", **values)
    openddpm.train(config)
    return Path(config.output_dir)


@pytest.fixture
def copied(honest: Path, tmp_path: Path) -> Path:
    """Return a copy of the honest run, to be changed."""
    return Path(shutil.copytree(honest, tmp_path / "copy"))


def climbed(folder: Path) -> dict[str, Rung]:
    """Return the rungs of a folder, with a manifest that fits its files."""
    record = read_run_folder(folder)
    write_manifest(folder, published_names(folder, record.checkpoints, None))
    return {rung.name: rung for rung in verify(record, folder.name, Silent(), 5.0).rungs}


def edited(path: Path, **values: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def cut(folder: Path, step: int) -> None:
    """Make a run end at a step after its last line, as a signal does."""
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "checkpoints.jsonl"):
        rows = [row for row in read_json_lines(folder / name) if row["step"] <= step]
        write_rows(folder / name, rows)
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    progress = json.loads((folder / "run.json").read_text("utf-8"))["progress"]
    edited(folder / "run.json", status="interrupted", progress=progress | {"step": step})


def whole(folder: Path) -> Rung:
    """Return what training all steps again says."""
    return Replays(read_run_folder(folder), None, lambda *_: None).whole()


def test_steps_after_the_last_line_are_trained_again(copied: Path) -> None:
    """Of a run that was stopped between two lines the state it ended with is compared, too."""
    cut(copied, 18)
    assert whole(copied).status == "exact"
    path = copied / "checkpoints" / "step-00000018" / "ema.safetensors"
    save_file({name: 2 * one for name, one in load_file(path).items()}, path, metadata={"format": "pt"})
    note_checkpoint(copied, path.parent)
    assert whole(copied).status == "failed"


def test_evaluations_that_were_left_out_of_the_plan_are_missed(tmp_path: Path) -> None:
    """A record that keeps its last evaluation alone, and plans no other, does not have the plan of its options."""
    record = open_runs("avatars-16")[0]
    folder = Path(shutil.copytree(record.folder, tmp_path / "run"))
    assert check_lines(read_run_folder(folder)).problems == []
    next(one for one in TAMPERINGS if one.name == "plan").change(folder, folder)
    assert any("evaluations are planned" in text for text in check_lines(read_run_folder(folder)).problems)


def test_a_unet_other_than_that_of_the_model_option_fails(tmp_path: Path) -> None:
    """The structure in run.json has to be that of the named model."""
    folder = Path(shutil.copytree(open_runs("avatars-16")[0].folder, tmp_path / "run"))
    run = json.loads((folder / "run.json").read_text("utf-8"))
    edited(folder / "run.json", config=run["config"] | {"model": "unet-8"})
    assert any("--model unet-8" in text for text in check_lines(read_run_folder(folder)).problems)


def test_missing_baselines_fail(copied: Path) -> None:
    """Without baselines no skill can be checked, and every run writes them."""
    (copied / "baselines.json").unlink()
    found = climbed(copied)
    assert found["files"].status == "failed" and "baselines.json is missing" in found["files"].text


@pytest.mark.parametrize(
    "change",
    [
        {"linear": [1.0]},
        {"linear": [0.0]},
        {"shares": []},
    ],
)
def test_baselines_that_cannot_be_end_no_ladder(copied: Path, change: dict[str, Any]) -> None:
    """Lists of other lengths, or losses of zero, fail the files, and the other rungs are climbed."""
    edited(copied / "baselines.json", **change)
    found = climbed(copied)
    assert found["files"].status == "failed" and found["first_steps"].status == "exact"


def test_a_unet_folder_with_other_tensors_fails_the_evaluation(copied: Path) -> None:
    """Exported weights that do not fit the UNet are told, and the other rungs are climbed."""
    path = copied / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    path.unlink()
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path, metadata={"format": "pt"})
    found = climbed(copied)
    assert found["evaluation"].status == "failed" and "other tensors" in found["evaluation"].text
    assert found["first_steps"].status == "exact"


def test_a_state_file_that_cannot_be_read_ends_no_ladder(copied: Path) -> None:
    """A checkpoint whose state has no number for its step ends at most its own rung."""
    checkpoint = copied / "checkpoints" / "step-00000006"
    edited(checkpoint / "state.json", step="x", loss_sums=[])
    note_checkpoint(copied, checkpoint)
    found = climbed(copied)
    assert found["first_steps"].status == "failed" or found["segments"].status != "exact"
    assert found["previews"].status == "exact"


def test_other_files_among_checkpoints_are_nothing(copied: Path) -> None:
    """What a file manager leaves, or a file or folder with the name of a checkpoint, changes no result."""
    checkpoint = copied / "checkpoints" / "step-00000006"
    (checkpoint / ".DS_Store").write_bytes(b"x")
    (checkpoint / "folder").mkdir()
    (copied / "checkpoints" / "step-00000099").write_bytes(b"x")
    found = climbed(copied)
    assert not [rung.text for rung in found.values() if rung.status != "exact"]


def test_an_edited_card_is_told_and_no_failure(copied: Path) -> None:
    """README.md is its owner's to edit: the files are as they have to be, and the text names it."""
    (copied / "README.md").write_text("mine", "utf-8")
    found = files(read_run_folder(copied))
    assert found.status == "exact" and "README.md was edited" in found.text


def test_a_line_of_a_step_that_nobody_trains_costs_no_time(copied: Path) -> None:
    """A line of step 10^12 is told, without looking at the steps before it."""
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        rows = read_json_lines(copied / name)
        rows.append(rows[-1] | {"step": 10**12})
        write_rows(copied / name, rows)
    assert files(read_run_folder(copied)).status == "failed"


def test_equal_states_between_lines_are_something_compared(copied: Path) -> None:
    """A segment without a line, but with a state at its end, is checked: exact where the state is the same."""
    record = read_run_folder(copied)
    found = Replays(record, None, lambda *_: None).segments([copied / "checkpoints" / "step-00000012"], 60.0)
    assert found.status == "exact" and "1 checkpoint" in found.text


@pytest.mark.parametrize("kind", ["palette", "transparent", "garbage", "other size", "no PNG"])
def test_a_picture_that_shows_something_else_is_none(tmp_path: Path, kind: str) -> None:
    """Only a plain PNG of the expected size counts: a palette or transparency shows other pixels than are stored."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    path, plain = tmp_path / "a.png", Image.fromarray(pixels)
    plain.save(path)
    assert np.array_equal(pixels_of(path, pixels), pixels)
    if kind == "palette":
        picture = Image.fromarray(pixels, "P")
        picture.putpalette([255 - index // 3 for index in range(768)])
        picture.save(path)
    elif kind == "transparent":
        plain.save(path, transparency=0)
    elif kind == "garbage":
        path.write_bytes(b"%!PS-Adobe")
    elif kind == "other size":
        Image.fromarray(pixels[:4]).save(path)
    else:
        plain.save(path, "GIF")
    with pytest.raises(NoPicture):
        pixels_of(path, pixels)


def test_an_unreadable_preview_fails_and_hides_no_other(copied: Path) -> None:
    """A preview that is no picture fails the rung."""
    sorted((copied / "samples").glob("step-*-ema.png"))[-1].write_bytes(b"x")
    assert climbed(copied)["previews"].status == "failed"


def test_a_batch_that_changes_with_the_processes_is_a_change(honest: Path) -> None:
    """Where twice the processes cannot keep the images per step, the accepted change is noted, so that verify knows."""
    config = json.loads((honest / "run.json").read_text("utf-8"))["config"]
    asked = TrainConfig(**{**config, "resume_from_checkpoint": "latest", "accept_changes": True, "max_train_steps": 30})
    earlier = find_earlier_run(asked, num_processes=2)
    assert earlier is not None
    batch = config["train_batch_size"]
    assert f"images per step: {2 * batch}, but {batch} in the run" in earlier.changes


def test_checkpoints_of_a_hub_run_are_drawn_among_checkpoints() -> None:
    """Other folders beside the checkpoints are never drawn, nor the last one, after which there are no steps."""
    names = [f"checkpoints/step-{step:08d}/unet.safetensors" for step in (5, 10, 15)]
    names += [f"checkpoints/x{index}/a" for index in range(100)] + ["checkpoints/*/a", "checkpoints/step-1/a"]
    assert sorted(_some_checkpoints(names)) == ["checkpoints/step-00000005/*", "checkpoints/step-00000010/*"]
    assert _some_checkpoints(names[:1]) == ["checkpoints/step-00000005/*"]


def test_pixel_statistics_of_other_images_fail(copied: Path) -> None:
    """What data.json says of the pixels has to be that of the images."""
    edited(copied / "data.json", pixel_mean=12.0)
    found = climbed(copied)["data"]
    assert found.status == "failed" and "pixel_mean" in found.text


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unet/config.json", {"act_fn": "relu"}),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}),
        ("model_index.json", {"unet": ["elsewhere", "Model"]}),
    ],
)
def test_a_pipeline_that_is_not_the_runs_fails(copied: Path, name: str, change: dict[str, Any]) -> None:
    """What diffusers loads with the weights has to be the structure and the scheduler of the run."""
    edited(copied / name, **change)
    found = climbed(copied)["files"]
    assert found.status == "failed" and f"{name} is not that of the run" in found.text


def test_weights_that_the_options_do_not_give_fail(copied: Path) -> None:
    """Evaluations of an average that was never kept are told, however well they fit."""
    rows = read_json_lines(copied / "evaluations.jsonl")
    rows += [row | {"weights": "ema-0.050"} for row in rows if row["weights"] == "ema"]
    rows.sort(key=lambda row: row["step"])
    write_rows(copied / "evaluations.jsonl", rows)
    found = climbed(copied)["files"]
    assert found.status == "failed" and "ema-0.050" in " ".join(found.details)


def test_a_flag_of_gpus_loosens_nothing_on_a_cpu(copied: Path) -> None:
    """No CPU computes in TF32: a loss that is off by a hundredth fails, whatever the record says of it."""
    run = json.loads((copied / "run.json").read_text("utf-8"))
    for session in run["sessions"]:
        session["environment"]["speed"]["tf32"] = True
    edited(copied / "run.json", sessions=run["sessions"])
    rows = read_json_lines(copied / "metrics.jsonl")
    rows[0]["train_loss"] *= 0.99
    write_rows(copied / "metrics.jsonl", rows)
    assert climbed(copied)["first_steps"].status == "failed"


def test_an_earlier_digest_is_no_rounding_where_a_later_state_is_equal(copied: Path) -> None:
    """Digests that lead to a state with the same bits are those of the states before it."""
    rows = read_json_lines(copied / "checkpoints.jsonl")
    rows[0]["sha256"]["unet.safetensors"] = "0" * 64
    write_rows(copied / "checkpoints.jsonl", rows)
    shutil.rmtree(copied / "checkpoints" / "step-00000006")
    found = climbed(copied)["first_steps"]
    assert found.status == "failed" and "of no state of this training" in found.text


def test_a_checkpoint_with_files_missing_is_not_here(copied: Path) -> None:
    """A run that was killed while it removed a checkpoint is honest: what is left of that one is not compared."""
    (copied / "checkpoints" / "step-00000006" / "optimizer.safetensors").unlink()
    assert not [rung.text for rung in climbed(copied).values() if rung.status != "exact"]


def test_a_picture_of_a_step_without_a_preview_is_told(copied: Path) -> None:
    """A run that finished has a line for each of its pictures."""
    last = sorted((copied / "samples").glob("step-*-ema.png"))[-1]
    shutil.copyfile(last, last.with_name("step-00000013-ema.png"))
    found = climbed(copied)["previews"]
    assert found.status == "failed" and "step-00000013-ema.png" in found.text


def test_a_verdict_of_another_version_is_named_as_not_checked(copied: Path) -> None:
    """Rules of planning and judging belong to a version: what another one decided is left, and the text says so."""
    run = json.loads((copied / "run.json").read_text("utf-8"))
    for session in run["sessions"]:
        session["environment"]["packages"]["openddpm"] = "0.0.1"
    edited(copied / "run.json", sessions=run["sessions"])
    edited(copied / "verdict.json", sentence="Best of all.")
    found = climbed(copied)["files"]
    assert found.status == "exact" and "openddpm 0.0.1, were not checked" in found.text


def test_images_that_are_said_to_be_from_elsewhere_fail(copied: Path) -> None:
    """The name of the data set in the record is that of the source that the images were decoded from."""
    run = json.loads((copied / "run.json").read_text("utf-8"))
    edited(copied / "run.json", dataset=run["dataset"] | {"source": "ILSVRC/imagenet-1k"})
    found = climbed(copied)["data"]
    assert found.status == "failed" and "imagenet" in found.text
