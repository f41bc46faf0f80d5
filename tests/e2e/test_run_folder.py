"""What one command leaves behind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from openddpm.analysis.verdict import judge
from openddpm.record.files import read_json_lines
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import RunRecord
from openddpm.record.writer import REFERENCE_BAND_FILE, SCHEMAS

TOKEN = b"hf_secret_of_the_tiny_run"
STEPS = 11  # 2 epochs of 22 training images in batches of 4, rounded up


def test_every_file_of_the_contract_is_there(finished_run: Path) -> None:
    """A finished run leaves every file of the run folder's contract, and no temporary one."""
    names = {str(path.relative_to(finished_run)) for path in finished_run.rglob("*") if path.is_file()}
    checkpoint = f"checkpoints/step-{STEPS:08d}"
    expected = {
        *("run.json", "metrics.jsonl", "evaluations.jsonl", "data.json", "baselines.json", "verdict.json"),
        *("samples.jsonl", "checkpoints.jsonl", "report.html", "README.md", "curves.png", "manifest.json"),
        *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
        *("scheduler/scheduler_config.json", "samples/training-data.png"),
        *(f"samples/step-{step:08d}-{weights}.png" for step in (6, STEPS) for weights in ("ema", "raw")),
        *(f"{checkpoint}/{stem}.safetensors" for stem in ("unet", "ema", "optimizer")),
        *(f"{checkpoint}/state.json", f"{checkpoint}/manifest.json"),
    }
    assert names - {".lock"} == expected


def test_each_record_validates(finished_run: Path) -> None:
    """Each JSON file and every line of the JSON Lines files fits the schema, with no field unknown to it."""
    for name, schema in SCHEMAS.items():
        path = finished_run / name
        if name == REFERENCE_BAND_FILE:  # it follows no reference
            assert not path.exists()
            continue
        rows = read_json_lines(path) if path.suffix == ".jsonl" else [json.loads(path.read_text("utf-8"))]
        assert rows
        assert [schema.model_validate(row).model_dump(mode="json") for row in rows] == rows


def test_run_json_tells_how_the_run_ended(finished_run: Path) -> None:
    """run.json holds the status, the progress, the data and the size of the model as they were."""
    run = RunRecord.model_validate_json((finished_run / "run.json").read_text("utf-8"))
    assert (run.status, run.progress.step, run.total_steps, run.progress.images_seen) == ("finished", STEPS, STEPS, 44)
    assert (run.dataset.num_images, run.dataset.num_train, run.dataset.num_heldout) == (24, 22, 2)
    weights = load_file(finished_run / "unet" / "diffusion_pytorch_model.safetensors")
    assert run.model.num_parameters == sum(tensor.numel() for tensor in weights.values())
    assert run.name == finished_run.name


def test_each_step_stands_once(finished_run: Path) -> None:
    """metrics.jsonl has each logged step once and the last; the others have the first preview and the end."""
    assert [row["step"] for row in read_json_lines(finished_run / "metrics.jsonl")] == [2, 4, 6, 8, 10, 11]
    for name in ("evaluations.jsonl", "samples.jsonl"):
        rows = read_json_lines(finished_run / name)
        assert [(row["step"], row["weights"]) for row in rows] == [
            (step, weights) for step in (6, STEPS) for weights in ("ema", "raw")
        ]


def test_the_verdict_is_the_judges(finished_run: Path) -> None:
    """verdict.json is what the record says when it is judged again, and its numbers are in the evaluations."""
    run = read_run_folder(finished_run)
    assert run.verdict == judge(run.run, run.metrics, run.evaluations, run.baselines, run.samples)
    assert run.verdict.step == STEPS and run.verdict.skill in {row.skill for row in run.evaluations[-2:]}
    assert run.baselines is not None
    for row in run.evaluations:
        assert row.heldout_loss == pytest.approx(float(np.dot(run.baselines.shares, row.by_timestep)))


def test_the_run_folder_is_a_pipeline_with_the_averaged_weights(finished_run: Path) -> None:
    """DDIMPipeline.from_pretrained samples from the run folder, with the EMA weights of the last checkpoint."""
    pipeline = DDIMPipeline.from_pretrained(finished_run)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=2).images
    assert [image.size for image in images] == [(8, 8), (8, 8)]
    checkpoint = finished_run / "checkpoints" / f"step-{STEPS:08d}"
    averaged, raw = load_file(checkpoint / "ema.safetensors"), load_file(checkpoint / "unet.safetensors")
    exported = pipeline.unet.state_dict()
    assert exported.keys() == averaged.keys()
    assert all(torch.equal(exported[name], averaged[name]) for name in averaged)
    assert any(not torch.equal(raw[name], averaged[name]) for name in averaged)


@pytest.fixture(scope="module")
def events(workshop: Path, finished_run: Path) -> EventAccumulator:
    """The finished run, as TensorBoard reads it."""
    accumulator = EventAccumulator(str(workshop / "logs" / finished_run.name))
    accumulator.Reload()
    return accumulator


def test_tensorboard_finds_scalars_and_images(events: EventAccumulator, finished_run: Path) -> None:
    """TensorBoard shows the losses of metrics.jsonl by step, the evaluations, and the previews of both weights."""
    losses = [(event.step, event.value) for event in events.Scalars("train/train_loss")]
    rows = read_json_lines(finished_run / "metrics.jsonl")
    assert losses == [(row["step"], pytest.approx(row["train_loss"])) for row in rows]
    expected = {"train/learning_rate", "evaluation_ema/skill", "evaluation_raw/detail_skill", "verdict/skill"}
    assert expected <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) == {"samples/ema", "samples/raw"}
    assert [event.step for event in events.Images("samples/ema")] == [6, STEPS]


def test_tensorboard_finds_the_config(events: EventAccumulator) -> None:
    """TensorBoard shows the config as text and as hyper-parameters, without the token's name or value."""
    content: dict[str, Any] = events.summary_metadata
    assert "_hparams_/session_start_info" in content
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| learning_rate | 0.0001 |" in text
    hyper_parameters = content["_hparams_/session_start_info"].plugin_data.content
    assert b"learning_rate" in hyper_parameters
    assert b"hub_token" not in hyper_parameters
    assert "hub_token" not in text


def test_no_file_holds_the_token(workshop: Path, finished_run: Path) -> None:
    """A token given on the command line stands in no file of the run folder, of the logs or of the cache."""
    files = [path for path in workshop.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert [path for path in files if TOKEN in path.read_bytes()] == []


def test_pages_name_the_run(finished_run: Path) -> None:
    """report.html and README.md carry the run's name as text, whatever markup it could be taken for."""
    assert finished_run.name in (finished_run / "report.html").read_text("utf-8")
    card = (finished_run / "README.md").read_text("utf-8")
    assert "# tiny \\[bold\\] run" in card
    assert "samples/step-00000011-ema.png" in card
