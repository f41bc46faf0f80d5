"""`openddpm sample`."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openddpm.cli.main import main
from openddpm.sampling_run import folder as folder_module
from openddpm.sampling_run import run as run_module

Cli = Callable[..., Any]
Flags = Callable[..., list[str]]

# diffusers turns tensors into arrays in a way that NumPy 2 deprecates; people do not see that warning


def read_images(folder: Path) -> np.ndarray:
    """Return 00000.png and those after it, (N, H, W) or (N, H, W, 3) uint8."""
    images = []
    for path in sorted(folder.glob("0*.png")):
        with Image.open(path) as image:
            images.append(np.asarray(image))
    return np.stack(images)


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "dpmsolver++", "unipc"])
def test_an_image_depends_on_seed_and_number_alone(solver: str, cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """Image N of a seed is the same whatever num_images and batch_size are, up to the rounding of batched sums."""
    common = ["sample", finished_run, "--solver", solver, "--num_inference_steps", "4"]
    assert cli(*common, "--output_dir", tmp_path / "five", "--num_images", "5", "--batch_size", "2").status == 0
    assert cli(*common, "--output_dir", tmp_path / "three", "--num_images", "3").status == 0
    five, three = read_images(tmp_path / "five"), read_images(tmp_path / "three")
    assert five.shape == (5, 8, 8, 3)
    assert np.abs(five[:3].astype(int) - three.astype(int)).max() <= 1
    assert len({image.tobytes() for image in five}) == 5
    assert (tmp_path / "five.png").is_file()
    assert sorted(path.name for path in (tmp_path / "five").iterdir()) == [f"0000{number}.png" for number in range(5)]


def test_seeds_and_solvers_differ(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """Another seed, and the noise that ddpm adds, each make other images."""
    common = ["sample", finished_run, "--num_images", "2", "--num_inference_steps", "3"]
    for name, options in {"a": [], "b": ["--seed", "1"], "c": ["--solver", "ddpm"]}.items():
        assert cli(*common, *options, "--output_dir", tmp_path / name).status == 0
    a, b, c = (read_images(tmp_path / name) for name in "abc")
    assert (a != b).any()
    assert (a != c).any()


def test_the_default_folder_is_named(cli: Cli, flags: Flags, tmp_path: Path) -> None:
    """Without --output_dir images go below RUN/generated, by step and weights; the command says where; gray stays gray.

    A run that keeps no average is sampled with its raw weights, which is said; averaged ones are not to be had.
    """
    run = tmp_path / "gray run"
    gray = str(Path(flags()[1]).parent / "gray")
    options = flags(output_dir=run, dataset=gray, max_train_steps=2, logging_dir=tmp_path / "logs")
    outcome = cli("train", *options, "--no-use_ema")
    assert outcome.status == 0, outcome.err
    outcome = cli("sample", run, "--num_images", "3", "--num-inference-steps", "2")
    folder = run / "generated" / "step-00000002-raw-ddim-2-seed-0"
    assert outcome.status == 0
    assert outcome.out == f"grid:   {folder}.png\nimages: {folder}\n"
    assert "Loading" not in outcome.err
    assert "has no averaged weights" in outcome.err
    assert read_images(folder).shape == (3, 8, 8)
    outcome = cli("sample", run, "--weights", "ema")
    assert outcome.status == 2
    assert "has no ema weights" in outcome.err and "It has: raw" in outcome.err


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--num_images", "0"], ["--num_images 0"]),
        (["--batch_size", "-1", "--seed", "-2"], ["--batch_size -1", "--seed -2"]),
        (["--num_inference_steps", "0"], ["--num_inference_steps 0"]),
        (["--num_inference_steps", "1001"], ["1001", "1000"]),
        (["--num_inference_steps", "1001", "--solver", "unipc"], ["1001", "1000"]),
        (["--solver", "euler"], ["euler", "unipc"]),
        (["--output_dir", "a-file/samples"], ["a-file/samples", "--output_dir"]),
        (["--output_dir", "/"], ["'/'", "--output_dir"]),
    ],
    ids=" ".join,
)
def test_wrong_numbers(
    extra: list[str], words: list[str], cli: Cli, finished_run: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Numbers that no solver can use, and folders that cannot be written, are told in one message."""
    monkeypatch.chdir(tmp_path)
    Path("a-file").touch()
    outcome = cli("sample", finished_run, "--output_dir", "out", *extra)
    assert outcome.status == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert [word for word in words if word not in outcome.err] == [], outcome.err
    assert sorted(path.name for path in Path().iterdir()) == ["a-file"]


def test_as_many_steps_as_a_solver_takes(cli: Cli, flags: Flags, tmp_path: Path) -> None:
    """The largest number of steps that a message offers, all timesteps, does work, with every solver."""
    run = tmp_path / "run"
    options = {"num_train_timesteps": 21, "max_train_steps": 1, "logging_dir": tmp_path / "logs"}
    assert cli("train", *flags(output_dir=run, **options)).status == 0
    for solver in ("ddim", "ddpm", "dpmsolver++", "unipc"):
        common = ["sample", run, "--solver", solver, "--num_images", "1", "--num_inference_steps"]
        assert cli(*common, "21").status == 0
        assert "22 is more than the run's 21 timesteps" in cli(*common, "22").err


def test_a_run_without_weights(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """A run that has no checkpoint yet, or damaged weights, is told as such."""
    (tmp_path / "run.json").write_bytes((finished_run / "run.json").read_bytes())
    assert "no weights yet" in cli("sample", tmp_path).err
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((finished_run / name).read_bytes())
    outcome = cli("sample", tmp_path)
    assert outcome.status == 2
    assert "cannot be read" in outcome.err


BATCHES = ("--num_images", "7", "--batch_size", "2", "--num_inference_steps", "2", "--solver", "ddpm", "--npz")
"""Four batches, the last of a single image."""


def before_batch(monkeypatch: pytest.MonkeyPatch, index: int, act: Callable[[], Any]) -> list[int]:
    """Do something when the batch of an index, from 0, is made; returns the sizes of all that are made, as they are."""
    made: list[int] = []
    sample = run_module.sample

    def sampling(denoise: Any, noise: torch.Tensor, *arguments: Any) -> Any:
        made.append(len(noise))
        changed = act() if len(made) == index + 1 else None
        return sample(denoise, noise, *arguments) if changed is None else changed

    monkeypatch.setattr(run_module, "sample", sampling)
    return made


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the images, the grid and the npz by name."""
    beside = [folder.with_name(f"{folder.name}{suffix}") for suffix in (".png", ".npz")]
    return {path.name.replace(folder.name, "out"): path.read_bytes() for path in (*folder.iterdir(), *beside)}


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_costs_one_batch(
    sent: int, status: int, cli: Cli, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made before a signal stays; the same command makes the rest alone, and all is as if left alone."""
    assert cli("sample", finished_run, *BATCHES, "--output_dir", tmp_path / "whole").status == 0
    command = ("sample", finished_run, *BATCHES, "--output_dir", tmp_path / "stopped")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background has it ignored
    with monkeypatch.context() as patch:
        before_batch(patch, 2, lambda: os.kill(os.getpid(), sent))
        outcome = cli(*command)
    assert outcome.status == status
    assert "stopped: 4 of 7 images are there; the same command continues" in outcome.err
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == [f"0000{n}.png" for n in range(4)]
    (tmp_path / "stopped" / "00001.png").unlink()  # its batch is made again, and 00000.png is kept
    made = before_batch(monkeypatch, 99, lambda: None)
    outcome = cli(*command)
    assert outcome.status == 0, outcome.err
    assert "continuing: 3 of 7 images are there" in outcome.err
    assert made == [2, 2, 1]
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")
    assert outcome.out.splitlines()[-1] == f"npz:    {tmp_path / 'stopped.npz'}"
    assert cli(*command).status == 0
    assert len(made) == 3, "nothing is made twice"


def test_a_signal_among_the_files_of_a_batch(
    cli: Cli, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal while a batch is written leaves whole files alone, and the count that is told is theirs."""
    write_bytes = Path.write_bytes

    def signalled(path: Path, data: Any) -> int:
        written = write_bytes(path, data)
        if path.name.startswith(".00003"):
            os.kill(os.getpid(), signal.SIGTERM)
        return written

    monkeypatch.setattr(folder_module.Path, "write_bytes", signalled)
    outcome = cli("sample", finished_run, *BATCHES, "--output_dir", tmp_path / "out")
    assert outcome.status == 143
    assert "stopped: 3 of 7 images are there" in outcome.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"0000{n}.png" for n in range(3)]


def test_a_full_disk(cli: Cli, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room is told in one message with status 2; once there is room the same command continues."""
    command = ("sample", finished_run, *BATCHES, "--output_dir", tmp_path / "out")
    write_bytes = Path.write_bytes

    def full(path: Path, data: Any) -> int:
        if path.name.startswith(".00003"):
            write_bytes(path, data[:9])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.Path, "write_bytes", full)
        outcome = cli(*command)
    assert outcome.status == 2
    assert "No space left on device; 3 of 7 images are there" in outcome.err
    assert "the same command again" in outcome.err and "Traceback" not in outcome.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"0000{n}.png" for n in range(3)]
    assert cli(*command).status == 0


def test_a_folder_that_goes_away(cli: Cli, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder removed while it is filled is told in one message, and is not made anew with a part of the images."""
    before_batch(monkeypatch, 1, lambda: shutil.rmtree(tmp_path / "out"))
    outcome = cli("sample", finished_run, *BATCHES, "--output_dir", tmp_path / "out")
    assert outcome.status == 2
    assert f"cannot write to '{tmp_path / 'out'}': No such file or directory" in outcome.err
    assert not (tmp_path / "out").exists()


def test_broken_weights_give_no_images(
    cli: Cli, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels that are not finite are refused, not written as black."""
    before_batch(monkeypatch, 1, lambda: torch.full((2, 3, 8, 8), torch.nan))
    outcome = cli("sample", finished_run, *BATCHES, "--output_dir", tmp_path / "out")
    assert outcome.status == 2
    assert "not finite, in images 2 to 3" in outcome.err
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_too_large_a_batch(cli: Cli, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU without the memory for a batch is told in one message, with the option to lower."""

    def out_of_memory() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    before_batch(monkeypatch, 0, out_of_memory)
    outcome = cli("sample", finished_run, *BATCHES, "--output_dir", tmp_path / "out")
    assert outcome.status == 2
    assert "2 images at a time" in outcome.err and "Lower --batch_size, which is 2" in outcome.err


def test_a_folder_grows(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """More images are added to those that are there, and the npz with them, asked for or not."""
    command = ("sample", finished_run, "--num_inference_steps", "2", "--output_dir", tmp_path / "out")
    assert cli(*command, "--num_images", "3", "--npz").status == 0
    assert cli(*command, "--num_images", "5").status == 0
    with np.load(tmp_path / "out.npz") as file:
        assert (file["arr_0"] == read_images(tmp_path / "out")).all()
    outcome = cli(*command, "--num_images", "4")
    assert outcome.status == 2
    assert "has 5 images, more than --num_images 4" in outcome.err


def test_weights_and_checkpoints(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """Raw and averaged weights draw differently, in folders that say which; a step that is missing names those there.

    A checkpoint that is not whole is refused when it is asked for, and passed over, which is said, when it is not.
    """
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    checkpoint = max((run / "checkpoints").iterdir())
    step = int(checkpoint.name.removeprefix("step-"))
    common = ("sample", run, "--num_images", "2", "--num_inference_steps", "2")
    for extra in ((), ("--weights", "raw"), ("--weights", "ema", "--checkpoint", str(step))):
        outcome = cli(*common, *extra)
        assert outcome.status == 0, outcome.err
        assert f"of step {step}, sha256" in outcome.err
    ema, raw = (run / "generated" / f"step-{step:08d}-{name}-ddim-2-seed-0" for name in ("ema", "raw"))
    assert (read_images(ema) != read_images(raw)).any()
    outcome = cli(*common, "--checkpoint", "12345")
    assert outcome.status == 2
    assert "no checkpoint of that step" in outcome.err and str(step) in outcome.err.split("It has:")[1]
    with (checkpoint / "unet.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    for extra, words in ((("--checkpoint", str(step)), "is not valid"), (("--weights", "raw"), "no valid one")):
        outcome = cli(*common, *extra)
        assert outcome.status == 2
        assert words in outcome.err and "unet.safetensors has another sha256" in outcome.err


def test_a_run_without_its_checkpoints(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """The record tells the step of weights without checkpoints; unknown weights are named for their sha256."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    step = int(max((run / "checkpoints").iterdir()).name.removeprefix("step-"))
    shutil.move(run / "checkpoints", tmp_path / "elsewhere")
    common = ("sample", run, "--num_images", "1", "--num_inference_steps", "1")
    assert cli(*common).status == 0
    assert (run / "generated" / f"step-{step:08d}-ema-ddim-1-seed-0").is_dir()
    assert "has no valid one" in cli(*common, "--weights", "raw").err
    (run / "checkpoints.jsonl").unlink()
    outcome = cli(*common)
    assert outcome.status == 0
    assert "their step is not known" in outcome.err
    assert list((run / "generated").glob("weights-????????-ema-ddim-1-seed-0"))


def test_a_scheduler_that_is_not_the_runs_is_refused(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """Weights are never drawn by a process that they were not trained for: the scheduler has to be the run's."""
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    path = run / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text("utf-8").replace('"epsilon"', '"v_prediction"'), "utf-8")
    outcome = cli("sample", run, "--num_images", "1", "--num_inference_steps", "1")
    assert outcome.status == 2
    assert "has the prediction_type v_prediction, the run epsilon" in outcome.err


def test_steps_by_default_are_no_more_than_the_timesteps(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """A run of fewer timesteps than 50 is sampled in as many steps as it has, by the command that training advises."""
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for path in (run / "run.json", run / "scheduler" / "scheduler_config.json"):
        path.write_text(
            path.read_text("utf-8").replace('"num_train_timesteps": 1000', '"num_train_timesteps": 30'), "utf-8"
        )
    outcome = cli("sample", run, "--num_images", "1")
    assert outcome.status == 0, outcome.err
    assert "-ddim-30-seed-0" in outcome.out


@pytest.fixture(scope="module")
def run_with_milestones(workshop: Path, flags: Flags) -> Path:
    """A run of 8 steps of 4 images, with milestones of the steps 1, 2, 3 and 8."""
    folder = workshop / "runs" / "milestones"
    assert main(["train", *flags(output_dir=folder, max_train_steps=8, milestones=4)]) == 0
    return folder


def test_the_nearest_milestone_is_drawn_with(cli: Cli, run_with_milestones: Path, tmp_path: Path) -> None:
    """--at takes the milestone nearest to a number of images, says which, and is refused beside --checkpoint."""
    common = ("sample", run_with_milestones, "--num_images", "1", "--num_inference_steps", "2")
    for images, step in (("0", 1), ("6", 1), ("7", 2), ("22", 3), ("23", 8), ("999", 8)):
        outcome = cli(*common, "--at", images)
        assert outcome.status == 0, outcome.err
        assert f"milestone of step {step}, {4 * step} images seen; the nearest to {images}\n" in outcome.err
        assert f"step-{step:08d}-ema-ddim-2-seed-0" in outcome.out
    assert "images seen\n" in cli(*common, "--at", "12").err
    for extra, words in (
        (("--checkpoint", "8"), "--at and --checkpoint both choose"),
        (("--weights", "raw"), "a milestone has no raw weights"),
    ):
        outcome = cli(*common, "--at", "8", *extra)
        assert outcome.status == 2 and words in outcome.err
    assert "--at -1 is less than 0" in cli(*common, "--at", "-1").err


def test_milestones_that_are_damaged_or_missing(cli: Cli, run_with_milestones: Path, tmp_path: Path) -> None:
    """A milestone that is not the one in the record is refused, with the others; without any, checkpoints are named."""
    run = tmp_path / "run"
    shutil.copytree(run_with_milestones, run)
    last, third = (run / "milestones" / f"step-{step:08d}.safetensors" for step in (8, 3))
    shutil.copy(last, third)
    outcome = cli("sample", run, "--at", "12")
    assert outcome.status == 2
    assert "differs from its sha256" in outcome.err and "of the steps: 1, 2, 8." in outcome.err
    shutil.rmtree(run / "milestones")
    outcome = cli("sample", run, "--at", "12")
    assert outcome.status == 2
    assert "has no milestones" in outcome.err and "there are: 2, 3, 8." in outcome.err


def test_images_of_a_run_on_the_hub_lie_here(
    cli: Cli, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default folder of a run on the Hub is generated/USER/NAME below the current one; a folder here goes first."""
    monkeypatch.setattr(run_module, "fetch_weights", lambda repository, at: finished_run)
    monkeypatch.chdir(tmp_path)
    common = ("sample", "me/model", "--num_images", "1", "--num_inference_steps", "2")
    assert cli(*common).out == (
        "grid:   generated/me/model/step-00000011-ema-ddim-2-seed-0.png\n"
        "images: generated/me/model/step-00000011-ema-ddim-2-seed-0\n"
    )
    assert "cannot be chosen" in cli(*common, "--checkpoint", "11").err
    Path("me/model").mkdir(parents=True)
    assert "no run in 'me/model'" in cli(*common).err
