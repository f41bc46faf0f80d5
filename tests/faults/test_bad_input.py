"""Bad input, row by row: what is promised of it, through the real command line.

| input | test |
|---|---|
| truncated JPEG, zero bytes, HTML named .jpg; SVG, PDF, EPS so named | test_each_bad_image_is_told |
| 16-bit; CMYK, palette, LA, RGBA; EXIF orientation; animated GIF; bomb; duplicates | test_each_bad_image_is_told |
| too many unusable images | test_too_many_refused_images_end_the_run |
| grayscale sets, a mix | test_gray_sets_have_one_channel, WRONG_SETS |
| smaller than the resolution | test_small_images_are_what_is_asked_for |
| no image column or several; several splits, a missing one | WRONG_SETS |
| a hostile zip; a hostile table | test_hostile_archives_are_listed, test_hostile_tables_read_no_other_file |
| fewer images than a batch | test_fewer_images_than_a_batch |
| resolution the UNet cannot halve, fp16 on a CPU | e2e/test_wrong_uses.py |
| bf16 on old GPUs | test_bf16_on_an_old_gpu |
| out of memory | unit/test_doctor.py |
| unwritable folders, another config in the folder | e2e/test_wrong_uses.py |
| Hub 401, 404, 503, offline, a failing push, missing splits of the Hub | e2e/test_hub.py |
| hostile tables and archives of the Hub | test_data_sets_of_the_hub_read_no_other_file |
"""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bad_images import BAD_IMAGES, ESCAPES, encoded, picture
from hub_stand_in import HubStandIn, client_environment
from openddpm.cli.main import main
from openddpm.record.data_record import DataRecord, ImageFinding
from openddpm.record.reader import read_run_record
from picture_files import png, write, write_parquet, write_zip
from tiny import write_tiny_folder, write_tiny_unet

NUM_GOOD = 20


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal, and its exit status."""

    status: int
    out: str
    err: str


Train = Callable[..., Outcome]
Inspect = Callable[..., tuple[DataRecord, dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good/, twenty sound images, and a tiny model."""
    folder = tmp_path_factory.mktemp("bad-input")
    write_tiny_folder(folder / "good", NUM_GOOD)
    write_tiny_unet(folder)
    return folder


@pytest.fixture(scope="module")
def arguments(folder: Path) -> Callable[..., list[str]]:
    """The arguments of a run of one step on eight by eight pixels."""
    (model,) = folder.glob("*.json")
    fixed = {"model": model, "cache_dir": folder / "cache", "logging_dir": folder / "logs", "resolution": 8}
    fixed |= {"train_batch_size": 4, "max_train_steps": 1, "num_inference_steps": 1, "lr_warmup_steps": 0}

    def spell(**options: Any) -> list[str]:
        return [word for name, value in {**fixed, **options}.items() for word in (f"--{name}", str(value))]

    return spell


@pytest.fixture
def train(arguments: Callable[..., list[str]], capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Train:
    """`openddpm train` in this process, into tmp_path/run."""

    def run(**options: Any) -> Outcome:
        capfd.readouterr()
        status = main(["train", *arguments(**{"output_dir": tmp_path / "run", **options})])
        return Outcome(status, *capfd.readouterr())

    return run


@pytest.fixture
def inspect(folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Inspect:
    """`openddpm inspect` in this process, of a set that training would accept: its data record, and all it answers."""

    def run(dataset: Path, **options: Any) -> tuple[DataRecord, dict[str, Any]]:
        options = {"resolution": 8, "cache_dir": folder / "cache", "page": tmp_path / "page.html", **options}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        capfd.readouterr()
        assert main(["inspect", str(dataset), "--json", *words]) == 0
        answer = json.loads(capfd.readouterr().out)
        return DataRecord.model_validate({name: answer[name] for name in DataRecord.model_fields}), answer

    return run


def assert_told(outcome: Outcome, *words: str) -> None:
    """Check that a command ended with exit status 2 and one message with `words` and what to do."""
    assert outcome.status == 2, outcome
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.count("openddpm: ") == 1 and "  -> " in outcome.err, outcome.err
    assert [word for word in words if word not in outcome.err] == [], outcome.err


def data_of(run: Path) -> DataRecord:
    """Return what a run recorded of its images."""
    return DataRecord.model_validate_json((run / "data.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def bad_run(folder: Path, arguments: Callable[..., list[str]]) -> Path:
    """The run folder of a run on all bad images among good ones."""
    for name, (content, _) in BAD_IMAGES.items():
        write(folder / "bad" / name, content)
    write_tiny_folder(folder / "bad", NUM_GOOD)
    options = {"output_dir": folder / "bad-run", "image_mode": "rgb", "max_refused_share": 0.5}
    assert main(["train", *arguments(dataset=folder / "bad", **options)]) == 0
    return folder / "bad-run"


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_each_bad_image_is_told(name: str, bad_run: Path) -> None:
    """data.json lists each bad image with just what was done about it and why."""
    shown = r"\x1b[2J\x1b]0;owned\x07\n\u202e.png" if name == ESCAPES else name
    expected = BAD_IMAGES[name][1]
    found = [finding for finding in data_of(bad_run).images if finding.path == shown]
    assert len(found) == len(expected)
    for action, reason in expected:
        assert any(finding.action == action and finding.reason.startswith(reason) for finding in found), found


def test_nothing_is_silent_and_nothing_is_made_up(bad_run: Path) -> None:
    """The counts are those of the list, usable and refused images add up to all, and no good image is listed."""
    data = data_of(bad_run)
    num_refused = sum(finding.action == "refused" for finding in data.images)
    assert num_refused == data.counts["refused"] == 8
    assert data.num_images == read_run_record(bad_run).dataset.num_images == NUM_GOOD + len(BAD_IMAGES) - num_refused
    assert sum(data.counts.values()) == len(data.images)
    assert data.num_duplicates == data.counts["exact duplicate"] == 1
    assert not [finding for finding in data.images if finding.path[:3].isdigit()]


def test_no_file_of_a_run_commands_a_terminal(bad_run: Path) -> None:
    """A file name with a terminal's commands in it stands in no text file of the run as such."""
    texts = [path for path in bad_run.rglob("*") if path.suffix in (".json", ".jsonl", ".html", ".md")]
    assert any(r"\\x1b[2J" in path.read_text("utf-8") for path in texts)
    for path in texts:
        content = path.read_text("utf-8")
        assert not {"\x1b", "\x07", "\N{RIGHT-TO-LEFT OVERRIDE}"} & set(content), path


def test_too_many_refused_images_end_the_run(bad_run: Path, folder: Path, train: Train, tmp_path: Path) -> None:
    """Beyond the share that is accepted, the run ends with the share, the limit, the option and harmless examples."""
    outcome = train(dataset=folder / "bad", image_mode="rgb")
    assert_told(outcome, "8 of 38 images", "21.1 %, but the limit is 5 %", "--max_refused_share", "empty file")
    assert "\x1b" not in outcome.err
    assert not (tmp_path / "run" / "run.json").exists()


def test_gray_sets_have_one_channel(inspect: Inspect, tmp_path: Path) -> None:
    """A set of gray images alone is taken with one channel, and nothing is said of it."""
    for number in range(8):
        write(tmp_path / "gray" / f"{number}.png", encoded(picture("L", number)))
    data, answer = inspect(tmp_path / "gray")
    assert answer["shape"] == [8, 1, 8, 8]
    assert (data.counts, data.images) == ({}, [])


def test_small_images_are_what_is_asked_for(train: Train, inspect: Inspect, tmp_path: Path) -> None:
    """Images below the resolution are enlarged, dropped or an error, as asked, and each is listed."""
    write_tiny_folder(tmp_path / "set", 8)
    for number in range(7):
        write(tmp_path / "set" / f"small-{number}.png", encoded(picture(seed=number).resize((5, 6))))
    upscaled, _ = inspect(tmp_path / "set", max_refused_share=0)
    assert (upscaled.num_images, upscaled.counts) == (15, {"upscaled": 7})
    assert upscaled.images[0] == ImageFinding(path="small-0.png", reason="upscaled", action="converted")
    dropped, _ = inspect(tmp_path / "set", max_refused_share=0, small_images="drop")
    reason = "smaller than the resolution: 5x6"
    assert (dropped.num_images, dropped.counts) == (8, {"dropped": 7})
    assert dropped.images[0] == ImageFinding(path="small-0.png", reason=reason, action="dropped")
    strict = train(dataset=tmp_path / "set", small_images="error")
    assert_told(strict, "7 of 15 images", f"small-0.png: {reason}", "--small_images drop")


WRONG_SETS: dict[str, tuple[Callable[[Path], object], dict[str, str], list[str]]] = {
    # name: (what makes the set, further options, what the message says)
    "masks": (
        lambda path: (
            write(path / "images" / "a.png", encoded(picture())),
            write(path / "masks" / "a.png", encoded(picture("L"))),
        ),
        {},
        ["1 in 'images' (colour); 1 in 'masks' (gray)", "--dataset", "--image_mode rgb"],
    ),
    "no image column": (lambda path: write_parquet(path, label=[1]), {}, ["its columns are label", "--image_column"]),
    "several image columns": (
        lambda path: write_parquet(path, photo=[png(1)], mask=[png(2)]),
        {},
        ["photo, mask", "--image_column"],
    ),
    "wrong column": (
        lambda path: write_parquet(path, photo=[png(1)], mask=[png(2)]),
        {"image_column": "foto"},
        ["no column 'foto'", "did you mean 'photo'"],
    ),
    "missing split": (
        lambda path: (write(path / "train" / "a.png", png(1)), write(path / "val" / "a.png", png(1))),
        {"dataset_split": "test"},
        ["split 'test'", "train (1), val (1)"],
    ),
    "only bad images": (
        lambda path: write(path / "a.jpg", b"<html>"),
        {"max_refused_share": "1"},
        ["the only image in", "a.jpg: not an image"],
    ),
    "empty table": (lambda path: write_parquet(path, image=pa.array([], pa.binary())), {}, ["no images in"]),
    "torn table": (lambda path: write(path, b"PAR1 torn PAR1"), {}, ["cannot be read"]),
    "command in a column": (lambda path: write_parquet(path, **{"\x1b[2J": [1]}), {}, [r"its columns are \x1b[2J"]),
}


@pytest.mark.parametrize("name", WRONG_SETS)
def test_wrong_sets(name: str, train: Train, tmp_path: Path) -> None:
    """A data set that cannot be trained on is told in one message with what there is to choose or to mend."""
    make, options, words = WRONG_SETS[name]
    dataset = tmp_path / ("set.parquet" if "table" in name or "column" in name else "set")
    make(dataset)
    outcome = train(dataset=dataset, **options)
    assert_told(outcome, *words)
    assert "\x1b" not in outcome.err
    assert not (tmp_path / "run" / "run.json").exists()


def test_fewer_images_than_a_batch(train: Train, tmp_path: Path) -> None:
    """A set smaller than a batch is trained on, with a warning that names both numbers and the option."""
    write_tiny_folder(tmp_path / "few", 3)
    outcome = train(dataset=tmp_path / "few", train_batch_size=16)
    assert outcome.status == 0, outcome.err
    assert "a step has 16 images, the training set 3" in " ".join((outcome.out + outcome.err).split())
    assert "--train_batch_size" in outcome.out + outcome.err


def test_bf16_on_an_old_gpu(folder: Path, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 on a GPU that only emulates it is refused at the start, with what to use."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *_: (7, 5))
    assert_told(train(dataset=folder / "good", mixed_precision="bf16"), "bf16", "7.5", "--mixed_precision fp16")


def test_hostile_archives_are_listed(inspect: Inspect, tmp_path: Path) -> None:
    """Of an archive full of tricks the sound images are taken, each trick is listed, and nothing is unpacked."""
    sound = [(f"{number}.png", encoded(picture(seed=number))) for number in range(8)]
    tricks = [("../up.png", png(1)), ("/etc/abs.png", png(1)), ("C:\\drive.png", png(1)), ("bomb.bmp", bytes(10**8))]
    path = write_zip(tmp_path / "zips" / "set.zip", sound + tricks)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("lzma.png", png(1))
    data, _ = inspect(path, max_refused_share=0.5)
    assert (data.num_images, data.counts) == (8, {"refused": 5})
    reasons = {finding.path: finding.reason for finding in data.images}
    assert [reasons[name] for name, _ in tricks[:3]] == ["its name leads out of the archive"] * 3
    assert "decompress to 100,000,000" in reasons["bomb.bmp"]
    assert "use deflate" in reasons["lzma.png"]
    assert list(path.parent.iterdir()) == [path]


def cells_naming(*names: str) -> pa.Array:
    """Return a column of images, 8 that are there and those that are only named."""
    cells = [{"bytes": encoded(picture(seed=number)), "path": f"{number}.png"} for number in range(8)]
    return pa.array([*cells, *({"bytes": None, "path": name} for name in names)])


def test_hostile_tables_read_no_other_file(inspect: Inspect, tmp_path: Path) -> None:
    """A table that names files of the machine gets those beside it; others are refused, whether they exist or not."""
    secret = write(tmp_path / "secret.png", encoded(picture(seed=99)))
    write(tmp_path / "set" / "beside.png", encoded(picture(seed=98)))
    names = ["beside.png", str(secret), "../secret.png", "../missing.png", "/etc/passwd"]
    path = write_parquet(tmp_path / "set" / "a.parquet", image=cells_naming(*names))
    data, _ = inspect(path, max_refused_share=0.5)
    assert (data.num_images, data.counts) == (9, {"refused": 4})
    reason = "names a file outside the data set's folder"
    assert [(finding.path, finding.reason) for finding in data.images] == [(name, reason) for name in names[1:]]


def test_data_sets_of_the_hub_read_no_other_file(tmp_path: Path) -> None:
    """Images that lie on the Hub as files or in a zip are found; a table there gets at no file outside of the cache."""
    secret = write(tmp_path / "secret.png", png(9))
    zipped, table = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for number in range(3):
            archive.writestr(f"train/{number}.png", png(number))
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    evil = pa.table({"image": cells_naming(str(secret), f"zip://a.png::{secret}")})
    pq.write_table(evil.replace_schema_metadata({"huggingface": json.dumps(features)}), table)
    inspect = """
import sys
from openddpm.cli.main import main
for name in ("files", "zipped", "evil"):
    options = ["--resolution", "4", "--max_refused_share", "0.5", "--page", f"{sys.argv[1]}/{name}.html"]
    print(main(["inspect", f"tester/{name}", "--json", *options]))
"""
    with HubStandIn() as hub:
        hub.add_dataset("tester/files", {f"train/{number}.png": png(number) for number in range(3)})
        hub.add_dataset("tester/zipped", {"data/train.zip": zipped.getvalue()})
        hub.add_dataset("tester/evil", {"data/train.parquet": table.getvalue()})
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment = inherited | client_environment(hub.endpoint, str(tmp_path / "home"))
        command = [sys.executable, "-c", inspect, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    files, status_of_files, in_zip, status_of_zip, hostile, status = map(json.loads, done.stdout.splitlines())
    assert (files["num_images"], status_of_files) == (3, 0)
    assert (in_zip["num_images"], status_of_zip) == (3, 0)
    assert (hostile["num_images"], hostile["counts"], status) == (8, {"refused": 2}, 0)
    assert {finding["reason"] for finding in hostile["images"]} == {"names a file outside the data set's folder"}
