"""`openddpm sample`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
    assert (tmp_path / "five" / "grid.png").is_file()


def test_seeds_and_solvers_differ(cli: Cli, finished_run: Path, tmp_path: Path) -> None:
    """Another seed, and the noise that ddpm adds, each make other images."""
    common = ["sample", finished_run, "--num_images", "2", "--num_inference_steps", "3"]
    for name, options in {"a": [], "b": ["--seed", "1"], "c": ["--solver", "ddpm"]}.items():
        assert cli(*common, *options, "--output_dir", tmp_path / name).status == 0
    a, b, c = (read_images(tmp_path / name) for name in "abc")
    assert (a != b).any()
    assert (a != c).any()


def test_the_default_folder_is_named(cli: Cli, flags: Flags, tmp_path: Path) -> None:
    """Without --output_dir images go below RUN/generated, the command says where, and a gray run gives gray ones."""
    run = tmp_path / "gray run"
    gray = str(Path(flags()[1]).parent / "gray")
    outcome = cli("train", *flags(output_dir=run, dataset=gray, max_train_steps=2, logging_dir=tmp_path / "logs"))
    assert outcome.status == 0, outcome.err
    outcome = cli("sample", run, "--num_images", "3", "--num-inference-steps", "2")
    folder = run / "generated" / "ddim-2-seed-0"
    assert outcome.status == 0
    assert outcome.out == f"grid:   {folder / 'grid.png'}\nimages: {folder}\n"
    assert "Loading" not in outcome.err
    assert read_images(folder).shape == (3, 8, 8)


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
    assert not list(Path().glob("out/*"))


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
