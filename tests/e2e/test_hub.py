"""Data from the Hub and runs to the Hub, against a local stand-in."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from diffusers import UNet2DModel
from PIL import Image

from hub_stand_in import DEFAULT_TOKEN, HubStandIn, client_environment, lfs_oid
from made_up_run import write_made_up_run
from openddpm.record.reader import read_run_record
from openddpm.record.schema import RunRecord
from tiny import TINY_UNET

Flags = Callable[..., list[str]]
Command = Callable[..., Any]
PARQUET = "data/train-00000-of-00001.parquet"
DEAD_ENDPOINT = "http://127.0.0.1:9"  # the discard port, where nobody listens
MARKUP_NAME = "a <b>run</b> & [link](x)"
ALLOWED = {
    *("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"),
    *("scheduler/scheduler_config.json", "run.json", "metrics.jsonl", "evaluations.jsonl", "samples.jsonl"),
    *("checkpoints.jsonl", "data.json", "baselines.json", "verdict.json"),
    *("report.html", "README.md", "curves.png", "samples/training-data.png", "manifest.json"),
}


def parquet_bytes(num_images: int, seed: int = 0) -> bytes:
    """Return a parquet file with an image column, as the datasets library writes it."""
    random = np.random.default_rng(seed)
    cells = []
    for index in range(num_images):
        stream = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(stream, "PNG")
        cells.append({"bytes": stream.getvalue(), "path": f"{index}.png"})
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    table = pa.table({"image": pa.array(cells)}).replace_schema_metadata({"huggingface": json.dumps(features)})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def environment_for(endpoint: str, home: Path, token: str | None = DEFAULT_TOKEN) -> dict[str, str]:
    """Return the environment of a process that knows no other Hub than `endpoint`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return inherited | client_environment(endpoint, str(home), token) | {"NO_COLOR": "1", "COLUMNS": "200"}


class Server:
    """A process that runs one command after the other, so that torch is imported once."""

    def __init__(self, environment: dict[str, str]) -> None:
        command = [sys.executable, str(Path(__file__).with_name("command_server.py"))]
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __call__(self, *arguments: str | Path) -> Any:
        """Run one command; return its exit status, its output and its errors."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.terminate()
        self._process.wait(timeout=60)


@pytest.fixture(scope="module")
def hub_of_module() -> Iterator[HubStandIn]:
    """The stand-in for all tests here."""
    with HubStandIn() as stand_in:
        stand_in.add_dataset("huggan/pokemon", {PARQUET: parquet_bytes(24)})
        yield stand_in


@pytest.fixture
def hub(hub_of_module: HubStandIn) -> Iterator[HubStandIn]:
    """The stand-in, which serves huggan/pokemon; failures that a test sets end with it."""
    yield hub_of_module
    hub_of_module.failures.clear()


@pytest.fixture(scope="module")
def command(hub_of_module: HubStandIn, workshop: Path) -> Iterator[Command]:
    """`openddpm` with the stand-in's token, in a process of its own."""
    server = Server(environment_for(hub_of_module.endpoint, workshop / "hf_home"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def untrusted_command(hub_of_module: HubStandIn, workshop: Path) -> Iterator[Command]:
    """`openddpm` with a token that the stand-in does not know."""
    server = Server(environment_for(hub_of_module.endpoint, workshop / "hf_home", "hf_wrong"))
    yield server
    server.close()


def assert_one_message(answer: Any, *words: str) -> None:
    """Check that a command ended with exit status 2 and one message with `words` and what to do."""
    assert answer["status"] == 2, answer
    assert "Traceback" not in answer["err"]
    assert answer["err"].count("openddpm: ") == 1, answer["err"]
    assert "  -> " in answer["err"]
    assert [word for word in words if word not in answer["err"]] == [], answer["err"]


def test_the_seed_command_and_its_push(
    hub: HubStandIn, workshop: Path, flags: Flags, tmp_path: Path, command: Command
) -> None:
    """main.py trains on huggan/pokemon from HF_ENDPOINT, records the commit, and pushes the allowed files alone."""
    folder, token = tmp_path / "pokemon-ddpm-fixed", DEFAULT_TOKEN
    arguments = flags(dataset="huggan/pokemon", output_dir=folder, logging_dir=tmp_path / "logs", hub_token=token)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[2] / "main.py"), *arguments, "--push_to_hub"],
        env=environment_for(hub.endpoint, workshop / "hf_home", token=None),
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    run = read_run_record(folder)
    assert (run.dataset.source, run.dataset.split) == ("huggan/pokemon", "train")
    assert run.dataset.revision == hub.head("datasets", "huggan/pokemon")
    assert f"pushed: {hub.endpoint}/tester/pokemon-ddpm-fixed/commit/" in done.stderr

    pushed = hub.repos["models", "tester/pokemon-ddpm-fixed"]
    previews = {f"samples/step-{step:08d}-{kind}.png" for step in (6, 11) for kind in ("ema", "raw")}
    assert pushed.keys() - {".gitattributes"} == ALLOWED | previews
    public = RunRecord.model_validate_json(pushed["run.json"])
    assert (public.status, public.config["output_dir"]) == ("finished", folder.name)
    assert [path for path, content in pushed.items() if str(tmp_path).encode() in content] == []
    optimizer = folder / "checkpoints" / "step-00000011" / "optimizer.safetensors"
    assert hashlib.sha256(optimizer.read_bytes()).hexdigest() not in str([request.path for request in hub.requests])

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("tfevents" in path.name for path in written)
    assert [path for path in written if token.encode() in path.read_bytes()] == []
    assert [path for path, content in pushed.items() if token.encode() in content] == []
    assert [request.path for request in hub.requests if token.encode() in request.body] == []
    assert token not in done.stdout + done.stderr


def test_a_later_run_needs_no_hub(flags: Flags, tmp_path: Path, hub: HubStandIn, command: Command) -> None:
    """What was downloaded once trains again while the Hub is down, as the same commit."""
    common = {"dataset": "huggan/pokemon", "max_train_steps": 1}
    assert command("train", *flags(**common, output_dir=tmp_path / "first"))["status"] == 0
    hub.failures["/api/"] = 503
    answer = command("train", *flags(**common, output_dir=tmp_path / "second"))
    assert answer["status"] == 0, answer["err"]
    first, second = (read_run_record(tmp_path / name).dataset for name in ("first", "second"))
    assert first.revision == second.revision == hub.head("datasets", "huggan/pokemon")
    other = flags(**common, output_dir=tmp_path / "third", dataset_revision="0" * 40)
    assert_one_message(command("train", *other), "could not be asked", "503")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, ("has no data set of that name", "hf auth login")),
        (401, ("lets you read no data set", "HF_TOKEN")),
        (503, ("could not be asked", "503", "HF_ENDPOINT")),
    ],
    ids=str,
)
def test_a_hub_that_says_no(
    status: int, words: tuple[str, ...], hub: HubStandIn, command: Command, flags: Flags, tmp_path: Path
) -> None:
    """404, 401 and 503 are each one message; only a 404 claims that there is no such data set."""
    hub.failures["/api/datasets/huggan/others"] = status
    answer = command("train", *flags(dataset="huggan/others", output_dir=tmp_path / "run"))
    assert_one_message(answer, "huggan/others", *words)
    if status != 404:
        assert "no data set of that name that" not in answer["err"]
        assert "find" not in answer["err"]
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.slow
def test_a_hub_that_fails_halfway(hub: HubStandIn, command: Command, flags: Flags, tmp_path: Path) -> None:
    """A Hub that answers for the data set but does not deliver its files is not taken for a missing data set."""
    hub.add_dataset("huggan/half", {PARQUET: parquet_bytes(24)})
    hub.failures["/datasets/huggan/half"] = 503
    answer = command("train", *flags(dataset="huggan/half", output_dir=tmp_path / "run"))
    assert_one_message(answer, "did not deliver the data set 'huggan/half'", "503")


def test_missing_parts_are_listed(hub: HubStandIn, command: Command, flags: Flags, tmp_path: Path) -> None:
    """A missing configuration, split or revision is told with those that there are; no data at all is told too."""
    folder = tmp_path / "run"
    common = {"dataset": "huggan/pokemon", "output_dir": folder}
    assert_one_message(command("train", *flags(**common, dataset_split="trian")), "trian", "did you mean 'train'")
    assert_one_message(command("train", *flags(**common, dataset_config="big")), "big", "known: default")
    assert_one_message(command("train", *flags(**common, dataset_revision="v9")), "v9", "--dataset_revision")
    listing = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in ("big", "small")
    )
    hub.add_dataset("huggan/two", {"README.md": f"---\n{listing}---\n".encode(), "big.parquet": parquet_bytes(5)})
    two = command("train", *flags(dataset="huggan/two", output_dir=folder))
    assert_one_message(two, "--dataset_config is needed: there are several", "known: big, small")
    hub.add_dataset("huggan/nothing", {"README.md": b"# nothing"})
    empty = command("train", *flags(dataset="huggan/nothing", output_dir=folder))
    assert_one_message(empty, "cannot be loaded", "data files")


def test_splits_of_the_hub_have_several_spellings(hub: HubStandIn, command: Command, tmp_path: Path) -> None:
    """`--dataset_split val` finds the split validation of the Hub or its cache; other splits' images are counted."""
    files = {
        f"data/{name}-00000-of-00001.parquet": parquet_bytes(num) for name, num in (("train", 6), ("validation", 4))
    }
    hub.add_dataset("huggan/splits", files)
    answer = command(
        *("inspect", "huggan/splits", "--dataset_split", "val", "--resolution", "8", "--json"),
        *("--page", tmp_path / "page.html"),
    )
    data = json.loads(answer["out"])
    assert data["num_images"] == 4
    assert [(one["count"], one["is_data"]) for one in data["left_out"]] == [(6, False)]
    assert "'train'" in data["left_out"][0]["reason"]
    hub.failures["/api/"] = 503
    asked = ("inspect", "huggan/splits", "--resolution", "8", "--json", "--page", tmp_path / "page.html")
    offline = command(*asked, "--dataset_split", "valid")
    assert json.loads(offline["out"])["num_images"] == 4
    assert_one_message(command(*asked, "--dataset_split", "dev"), "'dev' does not exist", "known: train, validation")


def test_data_sets_made_by_a_program_are_told_with_the_way_on(
    hub: HubStandIn, command: Command, tmp_path: Path
) -> None:
    """A data set that is a Python script is refused with the converted branch, which then trains, by configuration."""
    hub.add_dataset("huggan/script", {"script.py": b"import datasets", "README.md": b"# made by script.py"})
    asked = ["inspect", "huggan/script", "--resolution", "4", "--page", tmp_path / "page.html"]
    way = ["--dataset_revision", "refs/convert/parquet"]
    assert_one_message(command(*asked), "loading script", "script.py", " ".join(way))
    assert_one_message(command(*asked, *way), "has no revision 'refs/convert/parquet'", "not converted it to parquet")
    files = {f"{name}/train/0000.parquet": parquet_bytes(number) for name, number in (("big", 24), ("small", 9))}
    hub.add_branch("huggan/script", "refs/convert/parquet", files)
    assert_one_message(command(*asked, *way), "--dataset_config is needed: there are several", "known: big, small")
    answer = command(*asked, *way, "--dataset_config", "small", "--json")
    assert answer["status"] == 0, answer["err"]
    assert json.loads(answer["out"])["num_images"] == 9


def test_a_dead_endpoint(workshop: Path, flags: Flags, tmp_path: Path) -> None:
    """Where nobody listens, training and pushing are each one message that names the endpoint, without retries."""
    dead = Server(environment_for(DEAD_ENDPOINT, workshop / "hf_home_unused"))
    try:
        common = {"output_dir": tmp_path / "run", "cache_dir": tmp_path / "cache"}
        answer = dead("train", *flags(**common, dataset="huggan/pokemon"))
        assert_one_message(answer, "'huggan/pokemon'", DEAD_ENDPOINT, "could not be asked", "HF_ENDPOINT")
        assert "Retrying" not in answer["err"]
        assert_one_message(dead("train", *flags(**common), "--push_to_hub"), DEAD_ENDPOINT, "HF_ENDPOINT")
        assert not (tmp_path / "run" / "run.json").exists()
    finally:
        dead.close()


def test_a_wrong_token_is_told_first(hub: HubStandIn, untrusted_command: Command, flags: Flags, tmp_path: Path) -> None:
    """--push_to_hub with a wrong token ends before training starts, and never shows the token."""
    answer = untrusted_command("train", *flags(output_dir=tmp_path / "run"), "--push_to_hub")
    assert_one_message(answer, "cannot push", "hf auth login")
    assert "hf_wrong" not in answer["err"]
    assert not (tmp_path / "run" / "run.json").exists()
    reading = untrusted_command("train", *flags(output_dir=tmp_path / "run", dataset="huggan/pokemon"))
    assert_one_message(reading, "'huggan/pokemon'", "token")


def test_a_failing_push_can_be_repeated(hub: HubStandIn, command: Command, flags: Flags, tmp_path: Path) -> None:
    """A push that fails at the end leaves exit status 0 and the command that repeats it, which then works."""
    folder = tmp_path / "my run"
    hub.failures["/api/models/tester/unlucky/commit"] = 500
    options = flags(output_dir=folder, max_train_steps=2, hub_model_id="unlucky")
    answer = command("train", *options, "--push_to_hub", "--hub_private_repo")
    assert answer["status"] == 0, answer["err"]
    assert read_run_record(folder).status == "finished"
    assert "not pushed: could not push to 'tester/unlucky'" in answer["err"]
    assert f"openddpm push '{folder}' --hub_model_id tester/unlucky" in answer["err"]
    assert "report.html" in answer["out"]

    hub.failures.clear()
    for stranger in ("samples/ddim-50-seed-0/00000.png", "samples/step-7/00000.png", "unet/backup/old.safetensors"):
        (folder / stranger).parent.mkdir()
        (folder / stranger).write_bytes(b"a stranger")
    (folder / "notes.txt").write_text("not for the public", encoding="utf-8")
    before = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    answer = command("push", folder)
    assert answer["status"] == 0, answer["err"]
    assert answer["out"].startswith(f"pushed: {hub.endpoint}/tester/unlucky/commit/")
    previews = {f"samples/step-00000002-{kind}.png" for kind in ("ema", "raw")}
    assert hub.repos["models", "tester/unlucky"].keys() - {".gitattributes"} == ALLOWED | previews
    assert before == {path: path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_a_push_that_is_refused(
    untrusted_command: Command, command: Command, finished_run: Path, hub: HubStandIn
) -> None:
    """`openddpm push` without permission, or to an impossible name, is one message with what to do."""
    assert_one_message(untrusted_command("push", finished_run, "--hub_model_id", "x"), "'x'", "token", "hf auth login")
    assert_one_message(command("push", finished_run), f"'{finished_run.name}'", "--hub_model_id")


def test_markup_in_the_name_stays_text(hub: HubStandIn, command: Command, finished_run: Path, tmp_path: Path) -> None:
    """A run's name full of markup is the title of the pushed card as text, and adds nothing to its front matter."""
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    record = json.loads((folder / "run.json").read_text("utf-8"))
    record["name"] = MARKUP_NAME + "\n---\nlicense: mit\n"
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "manifest.json").unlink()  # it says that the name was another
    assert command("push", folder, "--hub_model_id", "tester/markup")["status"] == 0
    card = hub.repos["models", "tester/markup"]["README.md"].decode()
    title = r"# a &lt;b&gt;run&lt;/b&gt; &amp; \[link\](x) --- license: mit"
    assert title in card.splitlines()
    assert "license" not in yaml.safe_load(card.split("\n---\n")[0])


def test_the_pushed_run_is_a_pipeline(hub: HubStandIn, workshop: Path, command: Command, finished_run: Path) -> None:
    """DDIMPipeline.from_pretrained of the repository downloads it and has the run's weights."""
    assert command("push", finished_run, "--hub_model_id", "tester/pipeline")["status"] == 0
    source = """
import sys
from diffusers import DDIMPipeline
pipeline = DDIMPipeline.from_pretrained("tester/pipeline")
print(len(pipeline(batch_size=2, num_inference_steps=2).images), pipeline.unet.num_parameters())
"""
    done = subprocess.run(
        [sys.executable, "-c", source],
        env=environment_for(hub.endpoint, workshop / "hf_home"),
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", str(read_run_record(finished_run).model.num_parameters)]


def test_a_data_set_that_moved_on_is_resumed_at_its_commit(
    hub: HubStandIn, command: Command, flags: Flags, tmp_path: Path
) -> None:
    """A run is resumed on the commit that it recorded, whatever was pushed since, until another one is asked for."""
    hub.add_dataset("huggan/moving", {PARQUET: parquet_bytes(24)})
    folder = tmp_path / "run"
    assert command("train", *flags(dataset="huggan/moving", output_dir=folder, max_train_steps=2))["status"] == 0
    record = json.loads((folder / "run.json").read_text("utf-8"))
    (folder / "run.json").write_text(json.dumps({**record, "status": "interrupted"}), encoding="utf-8")
    hub.add_dataset("huggan/moving", {PARQUET: parquet_bytes(24, seed=1)})
    answer = command("resume", folder)
    assert answer["status"] == 0, answer["err"]
    assert read_run_record(folder).dataset.revision == record["dataset"]["revision"]

    head = hub.head("datasets", "huggan/moving")
    changes = ["--dataset_revision", head, "--max_train_steps", "3"]
    answer = command("resume", folder, *changes, "--accept_changes")
    assert answer["status"] == 0, answer["err"]
    assert read_run_record(folder).dataset.revision == head


def model_files(folder: Path, weights: str = "diffusion_pytorch_model.safetensors") -> dict[str, bytes]:
    """Return the files of a small UNet as the models of the paper lie on the Hub: all in one folder, pickles beside."""
    unet = UNet2DModel(**{**TINY_UNET, "sample_size": 16})
    unet.save_pretrained(folder)
    files = {
        "config.json": (folder / "config.json").read_bytes(),
        "scheduler_config.json": json.dumps({"_class_name": "DDPMScheduler", "beta_schedule": "linear"}).encode(),
        "model_index.json": json.dumps({"_class_name": "DDPMPipeline", "unet": [], "scheduler": []}).encode(),
        "diffusion_pytorch_model.bin": b"a pickle",
    }
    return files | {weights: (folder / "diffusion_pytorch_model.safetensors").read_bytes()}


def test_weights_from_the_hub(hub: HubStandIn, command: Command, flags: Flags, tmp_path: Path) -> None:
    """--init_from takes a model of the Hub, its safetensors alone, records which they were, and later needs no Hub."""
    files = model_files(tmp_path / "made")
    head = hub.commit("models", "google/ddpm-small", files)
    common = {"model": "default", "init_from": "google/ddpm-small", "max_train_steps": 1, "save_images_epochs": 9}
    answer = command("train", *flags(**common, output_dir=tmp_path / "run"))
    assert answer["status"] == 0, answer["err"]
    assert "made for images of 16 pixels; trained here on 8" in answer["err"]
    init_from = read_run_record(tmp_path / "run").model.init_from
    assert init_from is not None
    weights = files["diffusion_pytorch_model.safetensors"]
    assert (init_from.source, init_from.revision, init_from.resolution) == ("google/ddpm-small", head, 16)
    assert init_from.sha256 == hashlib.sha256(weights).hexdigest()
    assert not [request.path for request in hub.requests if request.path.endswith("model.bin")]
    hub.failures["/api/models/"] = 503
    assert command("train", *flags(**common, output_dir=tmp_path / "again"))["status"] == 0


def test_weights_that_the_hub_has_only_as_a_pickle(
    hub: HubStandIn, command: Command, flags: Flags, tmp_path: Path
) -> None:
    """A model with nothing but pickled weights is refused with the reason, and none of its files is fetched."""
    hub.commit("models", "google/pickled", model_files(tmp_path / "made", "other.safetensors"))
    answer = command("train", *flags(model="default", init_from="google/pickled", output_dir=tmp_path / "run"))
    assert_one_message(answer, "diffusion_pytorch_model.bin", "pickle", "save_pretrained")
    assert not [request.path for request in hub.requests if "/google/pickled/resolve/" in request.path]
    missing = flags(model="default", init_from="google/missing", output_dir=tmp_path / "run")
    assert_one_message(command("train", *missing), "google/missing", "no model of that name", "hf auth login")
    assert not (tmp_path / "run").exists()


RECORD = {
    *("run.json", "metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "checkpoints.jsonl"),
    *("data.json", "baselines.json", "verdict.json", "manifest.json"),
}


def fetched(hub: HubStandIn, repository: str) -> set[str]:
    """Return the files of a repository whose content was asked for, of the Hub or of its storage."""
    asked = [request.path for request in hub.requests if request.method == "GET"]
    names = {path.partition(f"/{repository}/resolve/")[2].partition("/")[2] for path in asked}
    files = hub.repos["models", repository]
    return names - {""} | {name for name, content in files.items() if f"/{lfs_oid(content)}" in asked}


def test_the_record_of_a_run_is_fetched_without_its_weights(hub: HubStandIn, command: Command, tmp_path: Path) -> None:
    """Of a run on the Hub the record and a few previews are fetched, once, also by a commit or without the Hub."""
    folder = write_made_up_run(tmp_path / "run", steps=2000, rows=200, previews=20, resolution=8, findings=[])
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files |= {f"samples/{name}": b"not a preview" for name in ("step-1.png", "holiday.png", "step-x-ema.png")}
    files |= {"unet/diffusion_pytorch_model.safetensors": bytes(3_000_000), "report.html": bytes(1_000_000)}
    files |= {"checkpoints/step-00000500/optimizer.safetensors": bytes(3_000_000), "verdict.json": b"{}"}
    files["manifest.json"] = b"{ }"
    head = hub.commit("models", "tester/published", files)
    answer = command("references", "tester/published", "--json")
    assert answer["status"] == 0, answer["err"]
    reference = json.loads(answer["out"])["references"][0]
    assert (reference["name"], len(reference["runs"]), reference["runs"][0]["step"]) == ("tester/published", 1, 2000)
    names = fetched(hub, "tester/published")
    steps = (100, 200, 400, 600, 900, 1300, 2000)  # of 8 even places on a logarithmic scale two have the same nearest
    assert names == RECORD | {f"samples/step-{step:08d}-ema.png" for step in steps}
    assert sum(len(files[name]) for name in names) < 300_000
    hub.requests.clear()
    assert command("references", f"tester/published@{head}", "--json")["status"] == 0
    hub.failures["/api/models/"] = 503
    assert command("references", "tester/published", "--json")["out"] == answer["out"]
    assert fetched(hub, "tester/published") == set()


def test_what_is_no_run_on_the_hub(hub: HubStandIn, command: Command, untrusted_command: Command) -> None:
    """A missing repository or revision, one without a record, a wrong token and a silent Hub are each one message."""
    hub.commit("models", "tester/model", {"config.json": b"{}"})
    missing = command("references", "tester/missing")
    assert_one_message(missing, "no folder 'tester/missing'", "no model", "(404)", "hf auth login")
    assert_one_message(command("references", "tester/model@nowhere"), "'tester/model@nowhere'", "no such revision")
    assert_one_message(command("references", "tester/model"), "has no run.json", "openddpm push")
    assert_one_message(untrusted_command("references", "tester/model"), "(401)", "hf auth login")
    assert_one_message(command("references", "tester/a--b"), "no model 'tester/a--b'")
    hub.failures["/api/models/"] = 503
    assert_one_message(command("references", "tester/unseen"), "could not fetch", hub.endpoint, "HF_HUB_OFFLINE")


@pytest.fixture(scope="module")
def long_run(command: Command, flags: Flags, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 8 steps with milestones of the steps 1, 2, 3 and 8, and the checkpoints 4 and 8 kept."""
    folder = tmp_path_factory.mktemp("kept") / "long run"
    kept = {"milestones": 4, "keep_every": 4, "checkpoints_total_limit": 1}
    answer = command("train", *flags(output_dir=folder, max_train_steps=8, hub_model_id="tester/long", **kept))
    assert answer["status"] == 0, answer["err"]
    assert sorted(path.name[-1] for path in (folder / "checkpoints").iterdir()) == ["3", "4", "8"]
    return folder


MILESTONES = [f"milestones/step-{step:08d}.safetensors" for step in (1, 2, 3, 8)]
KEPT = [
    f"checkpoints/step-{step:08d}/{name}"
    for step in (4, 8)
    for name in ("ema.safetensors", "unet.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
]


def listed(files: dict[str, bytes]) -> dict[str, str]:
    """Return the sha256 of each file in the manifest of a repository."""
    resources = json.loads(files["manifest.json"])["predicate"]["resources"]
    return {resource["name"]: resource["digest"] for resource in resources}


def hashed(files: dict[str, bytes]) -> dict[str, str]:
    """Return the sha256 of each file of a repository that a manifest lists."""
    others = ("manifest.json", ".gitattributes")
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name not in others}


def test_an_interrupted_push_goes_on(
    hub: HubStandIn, command: Command, long_run: Path, workshop: Path, tmp_path: Path
) -> None:
    """A push that breaks off leaves whole milestones; the same command sends the rest, once, and no path of here."""
    folder = tmp_path / "run"
    shutil.copytree(long_run, folder)
    content = {name: (folder / name).read_bytes() for name in (*MILESTONES, *KEPT)}
    optimizer = hashlib.sha256(content["checkpoints/step-00000008/optimizer.safetensors"]).hexdigest()
    third = hashlib.sha256(content[MILESTONES[2]]).hexdigest()
    asked = ("push", folder, "--checkpoints", "kept", "--hub_private_repo")

    hub.failures[f"/{third}"] = 400
    answer = command(*asked)
    assert_one_message(answer, "after 3 of 7 commits", "the same command goes on")
    assert "sending to tester/long:\n  record " in answer["err"]
    assert "  milestones    4 files, " in answer["err"] and "  checkpoints  10 files, " in answer["err"]
    there = hub.repos["models", "tester/long"]
    assert ALLOWED | set(MILESTONES[:2]) <= there.keys()
    assert not {*MILESTONES[2:], *KEPT} & there.keys()
    manifest = listed(there)
    assert manifest.keys() - there.keys() == {*MILESTONES[2:], *KEPT}  # a reader is told that they are missing
    assert {name: manifest[name] for name in hashed(there)} == hashed(there)

    hub.failures.clear()
    answer = command(*asked)
    assert answer["status"] == 0, answer["err"]
    assert "  milestones    2 files, " in answer["err"] and "; there already: 2 files" in answer["err"]
    there = hub.repos["models", "tester/long"]
    assert {name: there[name] for name in content} == content
    assert listed(there) == hashed(there)
    uploads = [request.path for request in hub.requests if request.method == "PUT"]
    assert len([path for path in uploads if path == f"/{optimizer}"]) == 1
    assert len(set(uploads)) == len(uploads) - 1  # the one that was refused
    places = [str(place).encode() for place in (workshop, tmp_path, long_run.parent, Path.home())]
    assert [name for name, text in there.items() if any(place in text for place in places)] == []
    made = [json.loads(one.body) for one in hub.requests if one.path == "/api/repos/create" and b"long" in one.body]
    assert made and all(one["visibility"] == "private" for one in made)

    answer = command(*asked)
    assert "  milestones    0 files, 0 kB; there already: 4 files" in answer["err"], answer["err"]
    assert len([request for request in hub.requests if request.method == "PUT"]) == len(uploads)
    card = there["README.md"].decode()
    assert "openddpm sample tester/long --at IMAGES" in card and "openddpm compare YOUR-RUN tester/long" in card


def test_nothing_of_an_earlier_run_stays_in_its_repository(
    hub: HubStandIn, command: Command, long_run: Path, finished_run: Path
) -> None:
    """Another run in the same repository takes the place of all of the first, milestones too; strangers stay."""
    named = ("--hub_model_id", "tester/shared")
    assert command("push", long_run, *named, "--checkpoints", "kept")["status"] == 0
    assert command("push", long_run, *named, "--checkpoints", "none")["status"] == 0
    there = hub.repos["models", "tester/shared"]
    assert {*MILESTONES, *KEPT} <= there.keys()  # they are still those of this run
    assert listed(there) == hashed(there)
    strangers = {"notes.md": b"mine", "samples/step-1/a.png": b"mine", "checkpoints/mine.txt": b"mine"}
    hub.commit("models", "tester/shared", {**there, "reference_band.json": b"{}", **strangers})

    answer = command("push", finished_run, *named)
    assert answer["status"] == 0, answer["err"]
    previews = {f"samples/{path.name}" for path in (finished_run / "samples").glob("step-*.png")}
    assert hub.repos["models", "tester/shared"].keys() - {".gitattributes"} == ALLOWED | previews | strangers.keys()
    assert "files from an earlier push, not of this run as it is now" in answer["err"]
    assert "removed" not in command("push", finished_run, *named)["err"]
    there = {name: text for name, text in hub.repos["models", "tester/shared"].items() if name not in strangers}
    assert listed(there) == hashed(there)


def test_a_record_that_was_edited_is_not_pushed(
    hub: HubStandIn, command: Command, finished_run: Path, tmp_path: Path
) -> None:
    """`openddpm push` of a run whose record was changed after it ended names the file, and makes no repository."""
    folder = tmp_path / "edited"
    shutil.copytree(finished_run, folder)
    text = (folder / "evaluations.jsonl").read_text("utf-8")
    (folder / "evaluations.jsonl").write_text(text.replace('"heldout_loss": 1.', '"heldout_loss": 0.'), "utf-8")
    answer = command("push", folder, "--hub_model_id", "tester/edited")
    assert_one_message(answer, "changed after the run ended", ": 'evaluations.jsonl'", "Nothing was sent")
    assert ("models", "tester/edited") not in hub.repos


def images_of(folder: Path) -> list[bytes]:
    """Return the content of the images in a folder, in their order."""
    return [path.read_bytes() for path in sorted(folder.glob("*.png"))]


def test_sampling_from_a_pushed_milestone(hub: HubStandIn, command: Command, long_run: Path, tmp_path: Path) -> None:
    """`sample --at` of a pushed run draws what it draws of the run itself, and fetches the one file of weights."""
    assert command("push", long_run, "--hub_model_id", "tester/drawn")["status"] == 0
    assert not [name for name in hub.repos["models", "tester/drawn"] if name.startswith("checkpoints/")]
    how = ("--num_images", "3", "--num_inference_steps", "2", "--solver", "ddpm")
    hub.requests.clear()
    answers = {}
    for name, run, at in (
        ("local", long_run, ("--at", "11")),
        ("pushed", "tester/drawn", ("--at", "11")),
        ("checkpoint", long_run, ("--checkpoint", "8")),
        ("local end", long_run, ()),
        ("pushed end", "tester/drawn", ()),
    ):
        answers[name] = command("sample", run, *at, *how, "--output_dir", tmp_path / name)
        assert answers[name]["status"] == 0, answers[name]["err"]
        if name == "pushed":
            got = {request.path.split("/resolve/")[-1].partition("/")[2] for request in hub.requests}
            assert {name for name in got if name.endswith(".safetensors")} == {MILESTONES[2]}
            assert not {"report.html", "metrics.jsonl"} & got
    images = {name: images_of(tmp_path / name) for name in answers}
    assert len(images["local"]) == 3 and images["local"] == images["pushed"] != images["local end"]
    assert images["local end"] == images["pushed end"] == images["checkpoint"]
    for name in ("local", "pushed"):
        assert "milestone of step 3, 12 images seen; the nearest to 11" in answers[name]["err"]
    settings = [json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("local", "pushed")]
    assert settings[0] == settings[1]

    hub.failures["/api/"] = 503
    again = command("sample", "tester/drawn", "--at", "11", *how, "--output_dir", tmp_path / "cached")
    assert again["status"] == 0 and images_of(tmp_path / "cached") == images["local"], again["err"]


def test_no_path_of_what_a_run_began_with_is_pushed(
    hub: HubStandIn, command: Command, flags: Flags, long_run: Path, tmp_path: Path
) -> None:
    """A run that starts from weights in a folder, changes, and is resumed shows that folder nowhere on the Hub."""
    options = flags(output_dir=tmp_path / "tuned", max_train_steps=2, hub_model_id="tester/tuned", model="default")
    assert command("train", *options, "--init_from", long_run)["status"] == 0
    moved = ("--dataset", Path(flags()[1]).parent / "images", "--logging_dir", tmp_path / "logs")
    longer = command("resume", tmp_path / "tuned", *moved, "--accept_changes", "--max_train_steps", "3")
    assert longer["status"] == 0, longer["err"]
    assert str(long_run) in (tmp_path / "tuned" / "run.json").read_text("utf-8")
    answer = command("push", tmp_path / "tuned")
    assert answer["status"] == 0, answer["err"]
    pushed = hub.repos["models", "tester/tuned"]
    places = [str(place).encode() for place in (long_run.parent, tmp_path, Path(flags()[1]).parent)]
    assert [name for name, text in pushed.items() if any(place in text for place in places)] == []
    assert "changed on its way" in pushed["README.md"].decode()


def test_pushed_weights_that_are_not_to_be_had(hub: HubStandIn, command: Command, long_run: Path) -> None:
    """Weights that differ from the record, that are missing, and names that the Hub does not know are each told."""
    assert command("push", long_run, "--hub_model_id", "tester/odd", "--checkpoints", "none")["status"] == 0
    files = hub.repos["models", "tester/odd"]
    assert not [name for name in files if name.startswith("milestones/")]
    assert_one_message(command("sample", "tester/odd", "--at", "4"), "'tester/odd'", "has no milestones")
    hub.commit("models", "tester/odd", files | {MILESTONES[0]: b"other weights"})
    assert_one_message(command("sample", "tester/odd", "--at", "4"), MILESTONES[0], "differs from its sha256")
    assert_one_message(command("sample", "tester/odd", "--weights", "raw"), "cannot be chosen", "--at")
    hub.commit("models", "tester/odd", {"run.json": files["run.json"]})
    assert_one_message(command("sample", "tester/odd"), "diffusion_pytorch_model.safetensors is missing")
    hub.commit("models", "tester/odd", {"README.md": b"# a model"})
    assert_one_message(command("sample", "tester/odd"), "it is not a run that openddpm pushed")
    assert_one_message(command("sample", "tester/none"), "'tester/none' is no folder here", "that you may read")
    hub.failures["/api/models/tester/slow"] = 503
    assert_one_message(command("sample", "tester/slow"), "'tester/slow' is no folder here", "503", "HF_ENDPOINT")
