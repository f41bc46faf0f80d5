"""The README does what it says."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from openddpm.cli.options import parse_train_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.S | re.M)
    return [content for kind, content in blocks if kind == language]


def _commands() -> list[list[str]]:
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Python block runs as printed, on a small folder of images; only the length of the runs is cut."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENDDPM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "my-images").mkdir()
    for number in range(12):
        Image.effect_noise((70, 70), 60 + number).convert("RGB").save(tmp_path / "my-images" / f"{number}.png")
    small = "max_train_steps=2, num_inference_steps=1, eval_batch_size=1, train_batch_size=2, "
    blocks = sorted(_blocks("python"), key=lambda block: "DDIMPipeline" in block)  # the run first, then its use
    assert len(blocks) == 3
    for block in blocks:
        model = "" if "unet=unet" in block else 'model="unet-16", '
        block = block.replace("TrainConfig(dataset", f"TrainConfig({small}{model}dataset")
        exec(compile(block.replace("num_inference_steps=50", "num_inference_steps=1"), "README.md", "exec"), {})
    with Image.open("sample.png") as sample:
        assert sample.size == (64, 64)
    assert (tmp_path / "runs" / "own-unet" / "report.html").exists()


def test_shell_commands_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command names a target of the Makefile, a command of openddpm, or options that train accepts."""
    monkeypatch.chdir(tmp_path)  # where there are no runs yet
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    seen = set()
    for words in _commands():
        seen.add(words[0])
        if words[0] == "make":
            assert f"\n{words[1]}:" in makefile, words
        elif words[0] == "openddpm":
            _check_openddpm(words[1:])
        elif "main.py" in words:
            parse_train_config(words[words.index("main.py") + 1 :])
        else:
            assert words[0] in ("tensorboard", "pip"), words
    assert {"make", "openddpm", "python", "accelerate", "torchrun", "tensorboard"} <= seen


def _check_openddpm(words: list[str]) -> None:
    from openddpm.cli.main import COMMANDS, main

    assert words[0] in COMMANDS
    if words[0] == "train":
        parse_train_config(words[1:])
        return
    if words == ["verify", "digits-8"]:
        assert main([*words, "--budget", "0"]) == 0  # its first lines alone
        return
    names_a_run = words != ["references"]  # one that is not there, which is found after the options are parsed
    assert main(words) == (2 if names_a_run else 0)


def test_file_tree_is_that_of_the_source() -> None:
    """Every module of src stands in the README's tree with a line of its own, and nothing else does."""
    tree = next(block for block in _blocks("") if "src/openddpm/" in block)
    listed = set(re.findall(r"^ {2,}([\w/.-]+)  ", tree, flags=re.M))
    source = ROOT / "src" / "openddpm"
    folders = {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    modules = {path.name for path in source.glob("*.py")}
    assert listed == folders | modules


def test_pictures_are_there() -> None:
    """Every picture and document that the README links to is in the repository."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) >= 4
    for link in links:
        assert (ROOT / link.partition("#")[0]).exists(), link
