"""Two processes are one process with twice the accumulation."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import exact_evaluations, exact_metrics, write_tiny_folder, write_tiny_unet

MAIN = Path(__file__).parents[2] / "main.py"


def _command(folder: Path, name: str, accumulation: int) -> list[str]:
    options = {
        "dataset": write_tiny_folder(folder / "images"),
        "output_dir": folder / name,
        "logging_dir": folder / "logs",
        "cache_dir": folder / "cache",
        "model": write_tiny_unet(folder),
        "resolution": 8,
        "train_batch_size": 4,
        "gradient_accumulation_steps": accumulation,
        "max_train_steps": 50,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 5,
        "logging_steps": 1,
        "save_images_epochs": 5,
        "num_inference_steps": 2,
        "eval_batch_size": 2,
        "mixed_precision": "no",
    }
    return [str(MAIN), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_gloo_processes_are_one_with_two_accumulation_steps(tmp_path: Path) -> None:
    """Over 50 steps, previews included, the losses of both differ by less than 1e-5 of their size.

    So do those of evaluations, which each of the two has made a half of, written once.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1"]
    launch.append(f"--master_port={_free_port()}")
    for command in (
        [*launch, *_command(tmp_path, "two", accumulation=1)],
        [sys.executable, *_command(tmp_path, "one", accumulation=2)],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = exact_metrics(tmp_path / "one"), exact_metrics(tmp_path / "two")
    assert [row["images_seen"] for row in two] == [8 * step for step in range(1, 51)]
    for ours, theirs in zip(two, one, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert ours["learning_rate"] == theirs["learning_rate"]
    alone, shared = exact_evaluations(tmp_path / "one"), exact_evaluations(tmp_path / "two")
    assert shared and len({(row["step"], row["weights"]) for row in shared}) == len(shared)
    final = [{row["weights"]: row for row in rows if row["step"] == 50} for rows in (alone, shared)]
    for weights, row in final[0].items():
        for name in ("heldout_loss", "fixed_train_loss"):
            assert final[1][weights][name] == pytest.approx(row[name], rel=1e-5)
