"""The real clients, each in a process of its own, against the stand-in of the Hub."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hub_stand_in import DEFAULT_TOKEN, HubStandIn, client_environment

NUM_IMAGES = 12
PARQUET = "data/train-00000-of-00001.parquet"
README = b"""---
dataset_info:
  features:
  - name: image
    dtype: image
  splits:
  - name: train
    num_examples: 12
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""
RunClient = Callable[..., Any]


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with HubStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def run_client(hub: HubStandIn, tmp_path: Path) -> RunClient:
    """Run Python source in a fresh process whose Hub is the stand-in; return the JSON of its last line."""

    def run(source: str, *arguments: str, token: str | None = None) -> Any:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment = inherited | client_environment(hub.endpoint, str(tmp_path / "hf_home"), token)
        command = [sys.executable, "-c", source, *arguments]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def png_bytes(index: int) -> bytes:
    """Encode a small image that no other index has."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (index * 20, 255 - index * 20, 7)).save(stream, "PNG")
    return stream.getvalue()


def parquet_bytes(images: list[bytes]) -> bytes:
    """Encode an image column as the datasets library does: a struct of bytes and path."""
    column = pa.array([{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)])
    features = {"image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": column}).replace_schema_metadata(metadata)
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


IMAGES = [png_bytes(i) for i in range(NUM_IMAGES)]
DATASET = {PARQUET: parquet_bytes(IMAGES)}

LOAD_DATASET = """
import hashlib, json, sys
import datasets
revision = sys.argv[1] or None
rows = datasets.load_dataset("huggan/pokemon", split="train", revision=revision)
rows = rows.cast_column("image", datasets.Image(decode=False))
print(json.dumps({
    "images": [hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows],
    "splits": datasets.get_dataset_split_names("huggan/pokemon", revision=revision),
    "configs": datasets.get_dataset_config_names("huggan/pokemon", revision=revision),
}))
"""


@pytest.mark.parametrize("readme", [True, False], ids=["readme", "no_readme"])
@pytest.mark.parametrize("revision", ["", "main", "sha"])
def test_load_dataset_returns_the_images_to_the_byte(
    hub: HubStandIn, run_client: RunClient, readme: bool, revision: str
) -> None:
    """datasets loads the images to the byte, the split and the config, by default, by branch and by commit."""
    sha = hub.add_dataset("huggan/pokemon", DATASET | ({"README.md": README} if readme else {}))
    if revision == "sha":
        hub.add_dataset("huggan/pokemon", {PARQUET: parquet_bytes(IMAGES[:1])})
    seen = run_client(LOAD_DATASET, sha if revision == "sha" else revision)
    assert seen["images"] == [hashlib.sha256(image).hexdigest() for image in IMAGES]
    assert seen["splits"] == ["train"]
    assert seen["configs"] == ["default"]


STREAM_DATASET = """
import hashlib, json, datasets
rows = datasets.load_dataset("huggan/pokemon", split="train", streaming=True)
rows = rows.cast_column("image", datasets.Image(decode=False))
print(json.dumps([hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows]))
"""


def test_streaming_reads_the_images_in_ranges(hub: HubStandIn, run_client: RunClient) -> None:
    """datasets streams the images to the byte, reading the storage by ranges and without the token."""
    hub.add_dataset("huggan/pokemon", DATASET)
    seen = run_client(STREAM_DATASET, token=DEFAULT_TOKEN)
    assert seen == [hashlib.sha256(image).hexdigest() for image in IMAGES]
    reads = [request for request in hub.requests if request.headers["host"].startswith("localhost:")]
    assert any("range" in request.headers for request in reads)
    assert not any("authorization" in request.headers for request in reads)


PUSH = """
import json, sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("tester/ddpm", exist_ok=True)
commit = api.upload_folder(
    repo_id="tester/ddpm", folder_path=sys.argv[1],
    allow_patterns=["*.json", "README.md", "*.safetensors", "samples/*.png"],
)
print(json.dumps({"oid": commit.oid, "repo": commit.repo_url.repo_id, "user": api.whoami()["name"]}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to push: regular files, LFS files, and one file that the allow list leaves out."""
    root = tmp_path / "folder"
    (root / "samples").mkdir(parents=True)
    (root / "model_index.json").write_text("{}")
    (root / "README.md").write_text("---\nlicense: mit\n---\n# ddpm\n")
    (root / "unet.safetensors").write_bytes(bytes(range(256)) * 64)
    (root / "samples" / "0.png").write_bytes(IMAGES[0])
    (root / "secret.txt").write_text("stays here")
    return root


def allowed_files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "secret.txt")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_push_stores_the_allowed_files_to_the_byte(hub: HubStandIn, run_client: RunClient, folder: Path) -> None:
    """upload_folder stores the allowed regular and LFS files to the byte, and a token never reaches the storage."""
    pushed = run_client(PUSH, str(folder), token=DEFAULT_TOKEN)
    assert hub.repos == {("models", "tester/ddpm"): allowed_files(folder)}
    assert pushed == {"oid": hub.head("models", "tester/ddpm"), "repo": "tester/ddpm", "user": "tester"}
    uploads = [request for request in hub.requests if request.method == "PUT"]
    assert {request.body for request in uploads} == {(folder / "unet.safetensors").read_bytes(), IMAGES[0]}
    assert all(request.headers["host"].startswith("localhost:") for request in uploads)
    assert not any("authorization" in request.headers for request in uploads)


def test_second_push_sends_only_what_changed(hub: HubStandIn, run_client: RunClient, folder: Path) -> None:
    """A push after a change stores the change and uploads no unchanged file again; one without makes no commit."""
    run_client(PUSH, str(folder), token=DEFAULT_TOKEN)
    (folder / "unet.safetensors").write_bytes(b"trained on")
    hub.requests.clear()
    changed = run_client(PUSH, str(folder), token=DEFAULT_TOKEN)
    assert hub.repos["models", "tester/ddpm"] == allowed_files(folder)
    assert [request.body for request in hub.requests if request.method == "PUT"] == [b"trained on"]
    assert run_client(PUSH, str(folder), token=DEFAULT_TOKEN)["oid"] == changed["oid"]


def test_pipeline_loads_from_the_stand_in(hub: HubStandIn, run_client: RunClient, tmp_path: Path) -> None:
    """DDIMPipeline.from_pretrained gives back the weights that were pushed, and samples with them."""
    saved = tmp_path / "pipeline"
    seen = run_client(
        """
import json, sys
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from huggingface_hub import HfApi
torch.set_num_threads(1)
unet = UNet2DModel(
    sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=2,
    down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
)
DDIMPipeline(unet, DDIMScheduler()).save_pretrained(sys.argv[1])
HfApi().create_repo("tester/ddpm", exist_ok=True)
HfApi().upload_folder(repo_id="tester/ddpm", folder_path=sys.argv[1])
loaded = DDIMPipeline.from_pretrained("tester/ddpm")
same = all(torch.equal(a, b) for a, b in zip(unet.parameters(), loaded.unet.parameters(), strict=True))
image = loaded(num_inference_steps=2).images[0]
print(json.dumps({"same": same, "size": image.size}))
""",
        str(saved),
        token=DEFAULT_TOKEN,
    )
    assert seen == {"same": True, "size": [8, 8]}
    assert hub.repos["models", "tester/ddpm"] == allowed_files(saved)


RAISED = """
import json, sys
try:
    {statement}
except Exception as error:
    print(json.dumps([[kind.__name__ for kind in type(error).__mro__], str(error)]))
else:
    print(json.dumps([[], "nothing raised"]))
"""
PUSH_STATEMENT = "exec(sys.argv[2])"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import datasets; datasets.load_dataset('huggan/missing')", "DatasetNotFoundError"),
        ("import datasets; datasets.get_dataset_split_names('huggan/missing')", "DatasetNotFoundError"),
        ("import datasets; datasets.load_dataset('huggan/pokemon', revision='v9')", "DatasetNotFoundError"),
        ("from huggingface_hub import *; HfApi().dataset_info('huggan/missing')", "RepositoryNotFoundError"),
        (
            "from huggingface_hub import *; HfApi().dataset_info('huggan/pokemon', revision='v9')",
            "RevisionNotFoundError",
        ),
        (
            "from huggingface_hub import *; hf_hub_download('huggan/pokemon', 'x', repo_type='dataset')",
            "RemoteEntryNotFoundError",
        ),
    ],
)
def test_what_is_missing_is_named(hub: HubStandIn, run_client: RunClient, statement: str, expected: str) -> None:
    """A missing repo, revision or file raises the client's own exception for it."""
    hub.add_dataset("huggan/pokemon", DATASET)
    kinds, message = run_client(RAISED.format(statement=statement))
    assert expected in kinds, message


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_push_without_the_token_is_refused(
    hub: HubStandIn, run_client: RunClient, folder: Path, token: str | None
) -> None:
    """A push with no token or a wrong one raises an HfHubHTTPError that says 401, and stores nothing."""
    kinds, message = run_client(RAISED.format(statement=PUSH_STATEMENT), str(folder), PUSH, token=token)
    assert "HfHubHTTPError" in kinds
    assert "401" in message
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("start", "status", "expected"),
    [
        ("/api/repos/create", 503, "HfHubHTTPError"),
        ("/api/models/tester/ddpm/commit", 503, "HfHubHTTPError"),
        ("/api/models/tester/ddpm/preupload", 401, "HfHubHTTPError"),
        ("/api/models/tester/ddpm/preupload", 404, "RepositoryNotFoundError"),
    ],
)
def test_push_raises_the_failure_that_a_test_asks_for(
    hub: HubStandIn, run_client: RunClient, folder: Path, start: str, status: int, expected: str
) -> None:
    """A failure set for a path makes the push raise, with the status in its message, and store no file."""
    hub.failures[start] = status
    kinds, message = run_client(RAISED.format(statement=PUSH_STATEMENT), str(folder), PUSH, token=DEFAULT_TOKEN)
    assert expected in kinds, message
    assert str(status) in message
    assert not hub.repos.get(("models", "tester/ddpm"))


def test_push_to_hub_comes_back(hub: HubStandIn, run_client: RunClient) -> None:
    """A dataset pushed by datasets in two splits, the second by a commit on the first, loads with both."""
    seen = run_client(
        """
import json, datasets
rows = datasets.Dataset.from_dict({"x": [3, 1, 2]})
rows.push_to_hub("tester/numbers")
rows.push_to_hub("tester/numbers", split="test")
loaded = datasets.load_dataset("tester/numbers")
print(json.dumps({split: loaded[split]["x"][:] for split in loaded}))
""",
        token=DEFAULT_TOKEN,
    )
    assert seen == {"train": [3, 1, 2], "test": [3, 1, 2]}
    assert any(path.endswith(".parquet") for path in hub.repos["datasets", "tester/numbers"])


def test_nothing_answers_after_the_context(run_client: RunClient) -> None:
    """Leaving the context frees the port, so a client that is still pointed at it fails at once."""
    with HubStandIn() as closed:
        endpoint = closed.endpoint
    statement = f"from huggingface_hub import *; HfApi(endpoint={endpoint!r}).model_info('tester/ddpm')"
    kinds, message = run_client(RAISED.format(statement=statement))
    assert "ConnectError" in kinds, message
