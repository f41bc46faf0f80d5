"""Folders that a user may not enter or write to are named in one message, by every command."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from made_up_run import write_made_up_run

OBEYING = "-dac_override,-dac_read_search"  # without these capabilities root obeys file modes, too
pytestmark = pytest.mark.skipif(
    os.name == "nt" or (os.geteuid() == 0 and not shutil.which("setpriv")), reason="file modes stop nobody here"
)


def call(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run a command in `folder` as a user who obeys file modes; return its status, and all that it prints."""
    command = [sys.executable, "-m", "openddpm", *arguments]
    if os.geteuid() == 0:
        command = ["setpriv", f"--bounding-set={OBEYING}", f"--inh-caps={OBEYING}", *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with `runs`, which holds five seeds and a run that nobody may enter, and with `locked`."""
    for seed in range(5):
        write_made_up_run(tmp_path / "runs" / f"s{seed}", seed=seed, rows=4, previews=1, evaluations=6)
    (tmp_path / "locked").mkdir()
    for folder in ("locked", "runs/s3"):
        (tmp_path / folder).chmod(0)
    yield tmp_path
    for folder in ("locked", "runs/s3", "runs/s4"):
        (tmp_path / folder).chmod(0o755)


@pytest.mark.parametrize(
    "command",
    [
        "compare locked runs/s0",
        "compare runs/s0 locked",
        "compare runs/s0 locked/inner",
        "references locked",
        "report locked",
        "report locked/inner",
        "sample locked/inner --num_images 2",
        "import-tensorboard locked",
        "train --recipe digits-8 --max_train_steps 3 --follow locked --output_dir new",
        "train --recipe digits-8 --max_train_steps 3 --no_follow --output_dir locked/new",
    ],
)
def test_a_locked_folder_is_named(command: str, place: Path) -> None:
    """Status 2, the place, and what to do, without a traceback."""
    status, printed = call(place, *command.split())
    assert status == 2
    assert "openddpm: 'locked" in printed and "Permission denied" in printed and "  -> " in printed
    assert "Traceback" not in printed and not (place / "new").exists()


def test_the_run_that_is_locked_is_named_and_not_its_reference(place: Path) -> None:
    """One run that cannot be read stops a comparison by its own name, and is listed by the page of many runs."""
    assert call(place, "compare", "runs/s0", "runs") == (
        2,
        "openddpm: 'runs/s3/run.json' cannot be read: Permission denied\n  -> Make it readable.\n",
    )
    status, printed = call(place, "report", "runs", "--output", "page.html")
    assert (status, printed.splitlines()) == (
        0,
        ["not read: 'runs/s3/run.json' cannot be read: Permission denied", "page of 4 runs: page.html"],
    )


def test_a_run_folder_that_is_read_only_is_named(place: Path) -> None:
    """`report` of a run whose folder takes no files says so."""
    (place / "runs" / "s4").chmod(0o555)
    status, printed = call(place, "report", "runs/s4")
    assert (status, printed.splitlines()[0]) == (2, "openddpm: 'runs/s4' cannot be written to: Permission denied")
