"""`openddpm inspect`, as people and programs call it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openddpm.config import DataOptions

Cli = Callable[..., Any]
Snapshot = Callable[[Path], dict[str, bytes]]

LOADED = """
import sys
from openddpm.cli.main import main
status = main(sys.argv[1:])
heavy = {"torch", "diffusers", "accelerate", "datasets", "plotly"} & set(sys.modules)
print("heavy:", *sorted(heavy), file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 40 different images in colour, the last two of them alike."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(40):
        Image.new("RGB", (20, 16), (6 * min(index, 38), 100, 50)).save(folder / f"{index:02d}.png")
    return folder


def test_images_that_training_would_accept(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """A usable set means status 0, a summary with the numbers, and the path of the page as the last line."""
    page = tmp_path / "pages" / "page.html"
    outcome = cli("inspect", folder, "--resolution", 8, "--page", page)
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[0] == f"{folder}: 40 images, used at 8x8 pixels"
    stated = dict(line.split(maxsplit=1) for line in outcome.out.splitlines()[2:7])
    assert stated.pop("brightness").startswith("0 to 228, mean ")
    assert stated == {
        "usable": "40",
        "duplicates": "1, kept (--duplicates drop leaves them out)",
        "channels": "colour",
        "originals": "20x16",
    }
    assert outcome.out.splitlines()[-2:] == ["Training would accept these images.", f"page: {page}"]
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_images_that_training_would_refuse(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """Masks beside images mean status 1, and the option that decides; with it, status 0."""
    (folder / "masks").mkdir()
    for path in sorted(folder.glob("*.png")):
        Image.new("L", (20, 16)).save(folder / "masks" / path.name)
    call = ["inspect", folder, "--resolution", 8, "--page", tmp_path / "page.html"]
    outcome = cli(*call)
    assert outcome.status == 1
    assert "Training would not accept these images." in outcome.out
    assert "40 in 'masks' (gray)" in outcome.out and "--image_mode rgb" in outcome.out
    assert cli(*call, "--image-mode", "rgb").status == 0


def test_training_agrees(cli: Cli, folder: Path, tmp_path: Path, flags: Callable[..., list[str]]) -> None:
    """What inspect objects to is, word for word, what training ends with."""
    for index in range(9):
        (folder / f"empty-{index}.png").write_bytes(b"")
    answer = json.loads(cli("inspect", folder, "--resolution", 8, "--page", tmp_path / "page.html", "--json").out)
    refusal = cli("train", *flags(dataset=folder, output_dir=tmp_path / "run"))
    assert refusal.status == 2
    (reason,) = answer["reasons"]
    assert reason["found"] in refusal.err and reason["hint"] in refusal.err


def test_json_is_one_object_and_nothing_else(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """With --json standard output is one JSON object: the data record, the answer, the shape and the page."""
    (folder / "empty [bold].png").write_bytes(b"")
    page = tmp_path / "page.html"
    outcome = cli("inspect", "--json", "--resolution=8", f"--page={page}", folder)
    assert (outcome.status, outcome.err) == (0, "")
    answer = json.loads(outcome.out)
    assert (answer["usable"], answer["reasons"], answer["shape"]) == (True, [], [40, 3, 8, 8])
    assert answer["page"] == str(page)
    assert (answer["num_images"], answer["num_duplicates"]) == (40, 1)
    assert answer["counts"] == {"refused": 1, "exact duplicate": 1}
    assert {"path": "empty [bold].png", "reason": "empty file", "action": "refused"} in answer["images"]


def test_names_are_text_on_the_terminal(cli: Cli, folder: Path, tmp_path: Path) -> None:
    """What looks like markup in a file's name is printed as it is."""
    (folder / "[red]stop[bold].png").write_bytes(b"")
    outcome = cli("inspect", folder, "--resolution", 8, "--page", tmp_path / "page.html")
    assert "  [red]stop[bold].png: empty file\n" in outcome.out


def test_nothing_is_written_but_the_page(
    cli: Cli, folder: Path, tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without options the page is inspection.html where one stands, and neither images nor cache are touched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = snapshot(tmp_path)
    assert cli("inspect", "images").status == 0
    after = snapshot(tmp_path)
    assert after.pop("inspection.html").startswith(b"<!doctype html>")
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["./no/such"], "no/such"),
        (["."], "no images"),
        ([], "DATASET"),
        (["images", "--resolution", "0"], "resolution"),
        (["images", "--background", "mauvish"], "mauvish"),
        (["images", "--background", "white", "--colour", "red"], "--colour"),
        (["images", "--max_refused_share", "2"], "max_refused_share"),
        (["images", "--page", "images"], "it is a folder"),
        (["images", "--page", "images/00.png/page.html"], "cannot write"),
    ],
)
def test_unusable_input(
    cli: Cli, folder: Path, arguments: list[str], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be inspected, or not be written, ends with status 2, one message and no page."""
    (folder.parent / "empty").mkdir()
    monkeypatch.chdir(folder.parent / "empty" if arguments == ["."] else folder.parent)
    outcome = cli("inspect", *arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert word in outcome.err and "Traceback" not in outcome.err
    assert not list(folder.parent.rglob("*.html"))


def test_help_names_the_options_of_decoding(cli: Cli) -> None:
    """The help has the options that decide what is decoded, as train has them, and none that do not."""
    text = cli("inspect", "--help").out
    squeezed = "".join(character for character in text if not character.isspace() and character not in "│╭╮╰╯─")
    for name, field in DataOptions.model_fields.items():
        assert field.description is not None
        is_option = re.search(rf"--{name}\b", text) is not None
        assert is_option == (name not in ("dataset", "random_flip", "heldout_images"))
        if is_option:
            assert "".join(field.description.split()) in squeezed, name
    assert "DATASET" in text.splitlines()[0]
    assert "None" not in text


def test_no_torch_is_loaded(folder: Path, tmp_path: Path) -> None:
    """Inspecting a folder loads neither torch nor the libraries above it."""
    command = [sys.executable, "-c", LOADED, "inspect", str(folder), "--page", str(tmp_path / "page.html")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "heavy:"
