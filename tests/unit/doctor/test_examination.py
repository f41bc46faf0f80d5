"""The doctor finds what is planted in a tiny run, and leaves its folders alone."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from made_up_run import a_run
from openddpm.diffusion.process import DiffusionProcess
from openddpm.diffusion.unet import build_unet
from openddpm.doctor import Examination, examine
from openddpm.doctor import examination as doctor
from openddpm.doctor.measured_checks import Measurements
from openddpm.doctor.one_batch import MemorizingProbe
from openddpm.training import probe
from openddpm.training.loop import fit
from openddpm.training.performance import Speed
from openddpm.training.setup import prepare
from tiny import TINY_UNET, tiny_config, tiny_images, write_tiny_folder


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMING_STEPS", 1)
    monkeypatch.setattr(doctor, "FIT_STEPS", 25)


def examined(folder: Path, **options: Any) -> Examination:
    """Examine a plan to train the tiny UNet on tiny images."""
    return examine(tiny_config(folder, dataset=str(write_tiny_folder(folder / "images")), **options))


def severities(examination: Examination) -> dict[str, str]:
    """Return what was found, but for what is true of every tiny run."""
    tiny = {"memorizing", "heldout", "length", "previews", "mirroring", "near_duplicates"}  # four fields, recoloured
    return {finding.name: finding.severity for finding in examination.findings if finding.name not in tiny}


def test_a_sound_run_is_measured_and_left_in_peace(tmp_path: Path) -> None:
    """Of a sound run nothing is found, every measurement is made, and no folder of the run appears."""
    stages: list[str] = []
    config = tiny_config(tmp_path, dataset=str(write_tiny_folder(tmp_path / "images")))
    examination = examine(config, tell=stages.append)
    assert severities(examination) == {}
    measured = examination.measurements
    assert measured.batch_size == 4 and not measured.out_of_memory and measured.num_frozen == 0
    assert measured.step_seconds and measured.training_seconds and measured.preview_seconds and measured.memory_bytes
    assert measured.disk_needed_bytes == 4 * 4 * examination.run.model.num_parameters  # one checkpoint in 12 steps
    assert measured.careful_fit and measured.careful_fit.remaining < 0.5
    assert measured.own_fit and measured.own_fit.first_loss == measured.careful_fit.first_loss
    assert measured.epsilon_share == pytest.approx(1, abs=0.05)
    assert len(stages) == len(set(stages)) == 5
    assert not Path(config.output_dir).exists() and not Path(config.logging_dir).exists()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"adam_epsilon": 1e-1}, "adam_epsilon"),
        ({"learning_rate": 1e-7}, "own_settings"),
        ({"learning_rate": 1.0}, "own_settings"),
    ],
    ids=str,
)
def test_settings_that_cannot_learn_are_caught_by_learning(options: dict[str, Any], name: str, tmp_path: Path) -> None:
    """An epsilon that swamps the gradients, and rates far too low or high, show in one batch memorized."""
    examination = examined(tmp_path, **options)
    assert severities(examination)[name] == "error"
    assert [finding.name for finding in examination.findings].count(name) == 1
    assert "one_batch" not in severities(examination)


def test_a_model_frozen_but_for_a_little_does_not_learn(tmp_path: Path) -> None:
    """Where only the output's bias can move, the frozen weights are counted, and the loss that stays is an error."""
    unet = build_unet(TINY_UNET, (3, 8, 8)).requires_grad_(False)
    unet.conv_out.bias.requires_grad_(True)
    examination = examine(tiny_config(tmp_path), dataset=tiny_images(), unet=unet)
    assert severities(examination) == {"frozen": "warning", "one_batch": "error"}
    assert examination.measurements.num_frozen == examination.run.model.num_parameters - 3


def test_a_target_without_relation_to_the_input_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that is drawn anew each time, and so cannot be learned, is an error of the model or what it is given."""
    draws = torch.Generator().manual_seed(0)

    def anew(process: DiffusionProcess, images: torch.Tensor, noise: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.randn(noise.shape, generator=draws)

    monkeypatch.setattr(DiffusionProcess, "target", anew)
    assert severities(examined(tmp_path))["one_batch"] == "error"


@pytest.mark.parametrize(("most", "batch_size"), [(2, 2), (0, None)])
def test_a_batch_beyond_the_memory_names_what_fits(
    most: int, batch_size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the batch does not fit, the largest divisor that does is found, and the rest measured with it."""
    whole = probe.micro_batch_loss

    def short(training: Any, index: int) -> torch.Tensor:
        if training.config.train_batch_size > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return whole(training, index)

    monkeypatch.setattr(probe, "micro_batch_loss", short)
    examination = examined(tmp_path)
    assert severities(examination) == {"memory": "error"}
    assert examination.measurements.batch_size == batch_size
    assert (examination.measurements.careful_fit is None) == (batch_size is None)


def test_other_errors_of_a_step_are_not_taken_for_short_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that has nothing to do with memory comes through."""

    def broken(training: Any, index: int) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(probe, "micro_batch_loss", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        examined(tmp_path)


def test_exact_duplicates_are_not_parted(tmp_path: Path) -> None:
    """Where every image stands in the set twice, none is held out whose twin is trained on."""
    twice = tiny_images() * 2
    assert severities(examine(tiny_config(tmp_path), dataset=twice)) == {"duplicates": "warning"}
    split = prepare(tiny_config(tmp_path), dataset=twice).split
    assert len(split.heldout) == 4
    assert set((split.heldout + 24) % 48) == set(split.heldout)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less free space than the checkpoints take is an error."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10, 10))
    assert severities(examined(tmp_path)) == {"disk": "error"}


@pytest.mark.parametrize(
    ("options", "checkpoints", "milestones"),
    [
        ({}, 4, 0),
        ({"keep_every": 30}, 4 + 3, 0),
        ({"milestones": 5}, 4, 5),
        ({"milestones": 5, "keep_every": 10, "checkpoints_total_limit": 1}, 2 + 10, 5),
    ],
)
def test_disk_of_what_is_kept(options: dict[str, Any], checkpoints: int, milestones: int, tmp_path: Path) -> None:
    """The disk that is asked for counts the checkpoints that are kept, of 4 copies of the weights, and milestones."""
    config, measured = tiny_config(tmp_path, checkpointing_steps=5, **options), Measurements()
    run = a_run(tmp_path / "run", total_steps=100)
    doctor._measure_disk(config, run, measured)
    assert measured.disk_needed_bytes == (4 * checkpoints + milestones) * 4 * run.model.num_parameters


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A file in the place of a folder, for the run or its logs, is an error that names the option."""
    (tmp_path / "a-file").touch()
    found = examined(tmp_path, output_dir=str(tmp_path / "a-file" / "run"), logging_dir=str(tmp_path / "a-file"))
    assert severities(found) == {"output_dir": "error", "logging_dir": "error"}


def test_a_tracker_that_is_not_installed_is_told(tmp_path: Path) -> None:
    """A tracker that `openddpm train` would stop at is an error of its option; without any no logs are asked for."""
    config = tiny_config(tmp_path, report_to="aim")
    assert [found.name for found in doctor._check_folders(config)] == ["report_to"]
    (tmp_path / "file").touch()
    config = tiny_config(tmp_path, report_to="none", logging_dir=str(tmp_path / "file" / "logs"))
    assert list(doctor._check_folders(config)) == []


def test_the_images_folder_as_run_folder_is_told(tmp_path: Path) -> None:
    """A run folder that is the folder of images is an error, as training would refuse it."""
    assert severities(examined(tmp_path, output_dir=str(tmp_path / "images"))) == {"output_folder": "error"}


def test_a_run_that_is_there_already_is_told(tmp_path: Path) -> None:
    """A run folder that is taken is a warning with what to do, and keeps its content."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("mine")
    examination = examined(tmp_path)
    assert severities(examination) == {"earlier_run": "warning"}
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "mine"


def test_a_run_to_go_on_with_is_left_in_peace(tmp_path: Path) -> None:
    """With --resume_from_checkpoint latest, the run that training would go on with is no obstacle; without, it is."""
    dataset = str(write_tiny_folder(tmp_path / "images"))
    config = tiny_config(tmp_path, dataset=dataset, max_train_steps=2, lr_warmup_steps=1)
    fit(prepare(config))
    assert severities(examine(config)) == {"earlier_run": "warning"}
    assert severities(examine(config.model_copy(update={"resume_from_checkpoint": "latest"}))) == {}


def test_an_epsilon_that_measures_sound_is_no_alarm(tmp_path: Path) -> None:
    """An epsilon that the plan warns of is left in peace where AdamW's steps are as long with it as without."""
    examination = examined(tmp_path, adam_epsilon=1e-5)
    assert (examination.measurements.epsilon_share or 0) > 0.9
    assert "adam_epsilon" not in severities(examination)


def test_a_unet_is_compiled_for_one_size_of_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are timed as the run takes them; fewer images than a batch run through the UNet as it is."""
    compiled_for: list[int] = []

    def compile_by_recording(speed: Speed, unet: Any) -> None:
        def call(noisy: torch.Tensor, timesteps: torch.Tensor) -> Any:
            compiled_for.append(len(noisy))
            return unet._call_impl(noisy, timesteps)

        unet._compiled_call_impl = call

    monkeypatch.setattr(Speed, "apply", compile_by_recording)
    training = prepare(tiny_config(tmp_path), dataset=tiny_images())
    try:
        examiner = MemorizingProbe(training)
        assert examiner.fit_memory() == 4
        examiner.seconds_a_step()
        assert set(compiled_for) == {4}
        compiled_for.clear()
        fit = examiner.memorize_batch(examiner.careful_settings(), 2, 25, 60)
        assert not compiled_for and training.state.unet._compiled_call_impl is None
        assert fit.remaining < 0.5
    finally:
        training.close()
