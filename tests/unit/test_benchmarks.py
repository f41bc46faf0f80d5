"""What benchmarks/ puts into runs, and how it counts."""

import argparse
import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from openddpm.config import ModelOptions, TrainConfig
from openddpm.diffusion.process import DiffusionProcess
from openddpm.evaluation.evaluation import Evaluation
from openddpm.record.reader import read_run_folder
from tiny import TINY_UNET, differing, newest_tensors, tiny_config, write_tiny_folder


def _load(name: str) -> ModuleType:
    """Import a script of benchmarks/, which is no package."""
    spec = spec_from_file_location(name, Path(__file__).parents[2] / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bugs = _load("bugs")
commands = _load("commands")
_load("measures")
plain_loop = _load("plain_loop")
kernel_distance = _load("kernel_distance")
_load("image_folders"), _load("origin"), _load("step_profile")
throughput = _load("throughput")
_load("time_to_quality_figure")
time_to_quality = _load("time_to_quality")
performance_page = _load("performance_page")
_load("digits"), _load("sampling")
learning = _load("learning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run without bug in `right`."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bugs")
    bugs.train_with(_config(folder, "right"), [])
    return folder


def _config(folder: Path, name: str) -> TrainConfig:
    """Return a config for three epochs, each of one step and a preview."""
    dataset = str(write_tiny_folder(folder / "images", count=12))
    steps = {"train_batch_size": 8, "max_train_steps": 3, "lr_warmup_steps": 1, "save_images_epochs": 1}
    return tiny_config(folder, name, dataset=dataset, **steps)


def _weights(run: Path) -> dict[str, np.ndarray]:
    """Return live and EMA weights of the last step."""
    return {name: tensor for name, tensor in newest_tensors(run).items() if not name.startswith("optimizer:")}


@pytest.mark.parametrize("bug", bugs.BUGS, ids=lambda bug: bug.name)
def test_a_bug_is_in_and_changes_training(folder: Path, bug: Any) -> None:
    """A run with a bug ends, the bug's own checks have seen it, and its weights or their EMA differ."""
    bugs.train_with(_config(folder, bug.name), [bug])
    assert read_run_folder(folder / bug.name).run.status == "finished"
    assert differing(_weights(folder / "right"), _weights(folder / bug.name))


def test_all_bugs_go_together_and_leave_nothing_behind(folder: Path) -> None:
    """All common bugs train in one run, and a run after it is what it is without them."""
    bugs.train_with(_config(folder, "all"), bugs.COMMON)
    bugs.train_with(_config(folder, "after"), [])
    assert differing(_weights(folder / "right"), _weights(folder / "after")) == []


def _plain(folder: Path, *switched: str, **options: Any) -> Any:
    """Train six steps, two epochs, of the plain loop on tiny images."""
    files = plain_loop.image_files(write_tiny_folder(folder / "images", count=12))
    unet = {**TINY_UNET, "dropout": 0.0, "sample_size": 8}
    values = {"max_train_steps": 6, "train_batch_size": 4, "lr_warmup_steps": 1, "window_steps": 2, **options}
    with patch.multiple(plain_loop, PREVIEW_IMAGES=2, PREVIEW_STEPS=2):
        return plain_loop.train(
            plain_loop.Options(files, unet, 8, random_flip=False, switched=frozenset(switched), **values)
        )


def _losses(outcome: Any) -> list[float]:
    return [float(loss) for loss in outcome.losses]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what the plain loop comes to as it stands."""
    return _plain(tmp_path_factory.mktemp("plain"))


def test_the_plain_loop_counts_what_it_does(plain: Any) -> None:
    """Its windows go on to the last image, previews cost time, and the average is not the weights."""
    assert [row["images"] for row in plain.windows] == [8, 16, 24]
    assert 0 < plain.preview_seconds < plain.seconds
    assert not torch.equal(plain.ema[0], next(plain.unet.parameters()))


@pytest.mark.parametrize("measure", ["device-noise", "no-waits", "fused-adamw", "foreach-ema", "half-previews", "tf32"])
def test_a_measure_leaves_what_is_learned(plain: Any, measure: str, tmp_path: Path) -> None:
    """A measure that is about speed alone leaves losses and averages the same up to rounding."""
    faster = _plain(tmp_path, measure)
    assert _losses(faster) == pytest.approx(_losses(plain), rel=1e-4)
    for ours, theirs in zip(faster.ema, plain.ema, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("measure", ["decoded-once", "bf16"])
def test_a_measure_that_changes_numbers_trains_alike(plain: Any, measure: str, tmp_path: Path) -> None:
    """Another order of the images, or half precision, leaves losses nearly the same."""
    assert _losses(_plain(tmp_path, measure))[-1] == pytest.approx(_losses(plain)[-1], rel=0.2)


@pytest.mark.parametrize("bug", plain_loop.BUGS)
def test_a_bug_of_the_plain_loop_changes_what_is_learned(plain: Any, bug: str, tmp_path: Path) -> None:
    """Each bug leads to other losses."""
    assert _losses(_plain(tmp_path, bug)) != _losses(plain)


def test_kept_images_are_those_decoded_each_time(tmp_path: Path) -> None:
    """Images decoded once and images decoded at every step are the same, up to their order."""
    files = plain_loop.image_files(write_tiny_folder(tmp_path, count=12))
    kept, decoded = (
        plain_loop.Options(files, {}, 8, 1, random_flip=False, switched=frozenset(switched))
        for switched in (["decoded-once"], [])
    )
    epochs = [next(plain_loop._batches(options, torch.device("cpu")))[1] for options in (kept, decoded)]
    first, second = (images.flatten(1).sort(dim=0).values for images in epochs)
    torch.testing.assert_close(first, second)


def test_rates_leave_out_the_warm_up_and_previews_where_they_say_so(tmp_path: Path) -> None:
    """After a warm-up of two steps: all seconds, those of the steps, and those of an epoch with a preview."""
    job = commands.Job(tmp_path, tmp_path, 8, 6, 1, train_batch_size=4, warmup_steps=2)
    found = commands.rates([(4, 9.0, 9.0), (8, 10.0, 10.0), (24, 14.0, 12.0)], job, 75.0)
    assert found["images_per_second"] == 4.0
    assert found["steps_images_per_second"] == 8.0
    assert found["epoch_images_per_second"] == round(7400 / (7400 / 8 + 75), 2)


def test_the_kernel_distance_is_that_of_torchmetrics() -> None:
    """The unbiased estimate equals the library's, which takes sets of one size; a set's own half is at about 0."""
    generator = np.random.default_rng(0)
    samples, reference = generator.normal(size=(64, 8)), generator.normal(size=(64, 8)) + 0.3
    found = kernel_distance.KernelDistance(reference).of(samples)
    assert found.value == pytest.approx(float(poly_mmd(torch.tensor(samples), torch.tensor(reference))), rel=1e-9)
    same = kernel_distance.KernelDistance(generator.normal(size=(256, 8))).of(generator.normal(size=(256, 8)))
    assert abs(same.value) < 3 * same.error() < found.value
    assert same.error_of_difference(same) == 0


def test_the_error_of_a_mean_is_the_usual_one() -> None:
    """With one sample a block, the jackknife gives a mean's standard error exactly."""
    values = np.random.default_rng(0).normal(size=50)
    without = (values.sum() - values) / 49
    assert kernel_distance.jackknife_error(without) == pytest.approx(values.std(ddof=1) / np.sqrt(50))


def test_when_a_loss_was_reached_is_interpolated_in_its_logarithm() -> None:
    """Halfway between 0.4 and 0.1 lies 0.2; what was never reached has no time."""
    points = [{"seconds": 0.0, "ema": 0.4, "raw": 0.4}, {"seconds": 10.0, "ema": 0.1, "raw": 0.05}]
    assert time_to_quality.seconds_to(0.2, points) == pytest.approx(5.0)
    assert time_to_quality.seconds_to(0.5, points) == 0.0
    assert time_to_quality.seconds_to(0.07, points) is None
    plain = [{"seconds": 50.0, "ema": 0.2, "raw": 0.3}]
    row = time_to_quality.against(plain, points)
    assert row["ratio"] == pytest.approx(10.0)
    assert row["our_seconds_of_the_better"] < row["our_seconds"]


def test_a_median_counts_what_was_never_reached() -> None:
    """One seed of three that never came is the slowest, whether in seconds or in ratios; two of three are never."""
    rows = [
        {"ratio": 2.0, "our_seconds": 5.0},
        {"ratio": None, "our_seconds": None},
        {"ratio": 4.0, "our_seconds": 1.0},
    ]
    assert time_to_quality._median(rows, "ratio") == 2.0
    assert time_to_quality._median(rows, "our_seconds") == 5.0
    assert time_to_quality._median([*rows[:2], rows[1]], "our_seconds") is None


def test_ratios_are_of_commands_of_one_round() -> None:
    """Rates are divided within a round before medians are taken: 12 / 10 and 6 / 4, never 9 / 7."""
    ours = [dict.fromkeys(throughput.RATES, 12.0), dict.fromkeys(throughput.RATES, 6.0)]
    plain = [dict.fromkeys(throughput.RATES, 10.0), dict.fromkeys(throughput.RATES, 4.0)]
    found = throughput.ratios(ours, plain)["images_per_second"]
    assert found == {"median": 1.35, "least": 1.2, "most": 1.5}


def test_each_round_begins_with_another_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the machine does to the second of two commands falls on both in turn; each is a row of its own."""
    begun: list[str] = []
    for name in ("plain", "ours"):
        row = dict.fromkeys(throughput.RATES, 1.0)
        monkeypatch.setattr(throughput, f"run_{name}", lambda *_, name=name, row=row: begun.append(name) or row)
    _, job = throughput.prepare_case(throughput.CASES["16x16"], tmp_path, threads=1, dry_run=True)
    found = throughput.compare(job, tmp_path, rounds=3)
    assert begun == ["plain", "ours", "ours", "plain", "plain", "ours"]
    assert [len(rows) for rows in found["runs"].values()] == [3, 3]


@pytest.mark.parametrize("text", ["0", "-1", "two"])
def test_counts_of_benchmarks_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is too small or no number ends the command with 2 and is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=commands.int_of_at_least(1))
    assert parser.parse_args(["--rounds", "1"]).rounds == 1
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--rounds", text])
    assert text in capsys.readouterr().err


def test_timesteps_drawn_by_log_snr() -> None:
    """The log-SNR of timesteps drawn by a density over it has that density's mean and spread."""
    objective = _objective_of("log-snr")
    log_snr = objective.process.snr()[objective.timesteps(1000, step=0, micro_index=0)].log()
    assert log_snr.mean().item() == pytest.approx(learning.LOG_SNR_MEAN, abs=0.05)
    assert log_snr.std().item() == pytest.approx(learning.LOG_SNR_SD, abs=0.05)
    assert torch.equal(objective.weights(torch.arange(3)), torch.ones(3))


def test_errors_weighted_by_min_snr() -> None:
    """The error of a velocity counts min(SNR, 5) / (SNR + 1), at timesteps as the run draws them."""
    objective, plain = _objective_of("v-min-snr"), _objective_of("v")
    timesteps, snr = torch.arange(1000), objective.process.snr()
    assert (snr > 5).any() and (snr < 5).any()
    torch.testing.assert_close(objective.weights(timesteps), snr.clamp(max=5.0) / (snr + 1))
    assert torch.equal(objective.timesteps(16, 0, 0), plain.timesteps(16, 0, 0))


def _objective_of(variant: str) -> Any:
    process = DiffusionProcess(ModelOptions(), torch.device("cpu"))
    return learning.VariantObjective(process, "stratified", 0, torch.device("cpu"), learning.VARIANTS[variant])


def test_a_model_of_cosine_noise_is_scored_on_linear_noise() -> None:
    """It is told the timestep of its own schedule whose noise is nearest to that of the fixed sample."""
    linear, cosine = (
        DiffusionProcess(ModelOptions(beta_schedule=schedule), torch.device("cpu"))
        for schedule in ("linear", "squaredcos_cap_v2")
    )
    told: list[torch.Tensor] = []
    training = SimpleNamespace(process=cosine)
    learning._judge_on_linear_noise(training, SimpleNamespace(process=linear, evaluation=Evaluation({}, {}, 1)))
    with patch.object(
        Evaluation, "squared_errors", lambda self, denoise, *part: denoise(None, torch.tensor([50, 400, 800]))
    ):
        training.evaluation.squared_errors(lambda noisy, timesteps: told.append(timesteps))
    expected = linear.snr()[[50, 400, 800]].log()
    torch.testing.assert_close(cosine.snr()[told[0]].log(), expected, atol=0.02, rtol=0)


def test_the_page_says_what_is_not_measured(tmp_path: Path) -> None:
    """Without results each section names the command that measures it; twice the same results give the same page."""
    page = performance_page.make_page(tmp_path)
    assert page.count("Not measured yet") == len(performance_page.SECTIONS)
    points = [
        {"images": 16, "seconds": 2.0, "ema": 0.5, "raw": 0.4},
        {"images": 32, "seconds": 4.0, "ema": 0.1, "raw": 0.1},
    ]
    runs = [{"name": name, "seed": 0, "total_images": 32, "points": points} for name in time_to_quality.RUNS]
    results = {
        "commit": "abc",
        "versions": {"torch": "9"},
        "recipe": "avatars-16",
        "jobs": 2,
        **time_to_quality.compare(runs),
    }
    (tmp_path / "time-to-quality.json").write_text(json.dumps({**results, "runs": runs}))
    (tmp_path / "around.json").write_text(json.dumps({"commit": "abc", "help": {"seconds": 0.31234}}))
    page = performance_page.make_page(tmp_path)
    assert "| plain loop without them | 0 | 0.1000 | 4 s | 4.0 s | 1.00 × | 1.00 × |" in page  # noqa: RUF001
    assert "| help: seconds | 0.3123 |" in page and "commit abc" in page
    assert page == performance_page.make_page(tmp_path)


@pytest.mark.slow
def test_both_commands_are_measured_from_outside(tmp_path: Path) -> None:
    """Each trains, and is told in images a second and memory; a command that fails says why."""
    _, job = throughput.prepare_case(throughput.CASES["16x16"], tmp_path, threads=1, dry_run=True)
    for told in (commands.run_plain(job), commands.run_ours(job, tmp_path / "ours")):
        assert told["steps_images_per_second"] > 0 and told["preview_seconds"] > 0 and told["resident_mib"] > 50
    with pytest.raises(RuntimeError, match="ended with 2"):
        commands.run([sys.executable, str(commands.PLAIN_LOOP)], threads=1)
