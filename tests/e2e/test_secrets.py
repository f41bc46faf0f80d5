"""A token, however it is given, is nowhere to be found afterwards, in whatever spelling."""

import base64
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from hub_stand_in import HubStandIn, client_environment

CANARY = "hf_canary/Kq8+vTz3=Wm1"  # with what URLs and base64 spell otherwise
ZLIB_HEADS = re.compile(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08")  # the third is gzip's
MAX_INFLATED = 1_000_000
CRASH = """
import sys
from openddpm import TrainConfig, train
from openddpm.training.observer import Observer

class Crash(Observer):
    def started(self, run, folder):
        raise RuntimeError(f"{config} {config!r} {config.model_dump()} {run}")

config = TrainConfig(**__import__("json").loads(sys.argv[1]))
train(config, observers=[Crash()])
"""

Flags = Callable[..., list[str]]


def spellings(secret: str) -> list[bytes]:
    """Return a secret as it is, in a URL, in JSON, and in base64 wherever in the encoded text it begins."""
    inside = [base64.b64encode(b"\0" * before + secret.encode())[4:-4] for before in range(3)]
    turned = [part.replace(b"+", b"-").replace(b"/", b"_") for part in inside]
    return [secret.encode(), quote(secret, safe="").encode(), secret.replace("/", "\\/").encode(), *inside, *turned]


def holds_secret(content: bytes, secret: str = CANARY) -> bool:
    """Say whether a secret stands in `content`, or in what is compressed in it."""
    words = spellings(secret)
    return any(word in text for text in (content, *_inflated(content)) for word in words)


def _inflated(content: bytes) -> Iterator[bytes]:
    """Yield what is compressed in PNG, zip and the like, wherever a stream seems to begin."""
    for head in ZLIB_HEADS.finditer(content):
        try:
            yield zlib.decompressobj(47).decompress(content[head.start() :], MAX_INFLATED)
        except zlib.error:
            continue


@pytest.mark.parametrize("before", [b"", b"a", b"ab"])
def test_every_spelling_is_found(before: bytes) -> None:
    """The search finds a token as it is, URL-encoded, in base64 and compressed, and not where there is none."""
    text = before + CANARY.encode() + b" and more"
    for hidden in (text, base64.b64encode(text), base64.urlsafe_b64encode(text), quote(text, safe="").encode()):
        assert holds_secret(b"x" + hidden)
        assert holds_secret(b"x" + zlib.compress(hidden))
        assert not holds_secret(b"x" + hidden[:10])


@pytest.fixture(scope="module")
def hub() -> Iterator[HubStandIn]:
    """The stand-in, which knows the canary alone."""
    with HubStandIn(token=CANARY) as stand_in:
        yield stand_in


class Commands:
    """`openddpm` in one process after the other, with the token given in one way; notes all that was printed."""

    def __init__(self, route: str, endpoint: str, folder: Path) -> None:
        self.given = ["--hub_token", CANARY] if route == "--hub_token" else []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_"))}
        named = {} if self.given else {route: CANARY}
        self._environment = inherited | client_environment(endpoint, str(folder / "hf_home"), None) | named
        self._folder = folder
        self.printed = b""

    def start(self, code: str, *arguments: str) -> int:
        """Run Python code; return its exit status."""
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command, env=self._environment, cwd=self._folder, check=False, capture_output=True, timeout=120
        )
        self.printed += done.stdout + done.stderr
        return done.returncode

    def all(self, *lines: list[str]) -> list[int]:
        """Run commands in one process; return their exit statuses."""
        code = "import sys, json; from openddpm.cli.main import main; "
        code += "print('statuses', [main(line) for line in json.loads(sys.argv[1])])"
        before = len(self.printed)
        assert self.start(code, json.dumps(lines)) == 0, self.printed
        statuses = re.search(rb"statuses (\[.*\])", self.printed[before:])
        assert statuses
        return json.loads(statuses[1])


@pytest.mark.slow
@pytest.mark.parametrize("route", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "--hub_token"])
def test_no_trace_of_a_token(
    route: str, hub: HubStandIn, options: dict[str, Any], flags: Flags, tmp_path: Path
) -> None:
    """Runs, pushes that work or fail, reports, checks and crashes leave no token in files, uploads or printed text."""
    commands = Commands(route, hub.endpoint, tmp_path)
    given, cache = commands.given, str(tmp_path / "cache")
    kept = {"cache_dir": cache, "logging_dir": str(tmp_path / "logs")}
    name = route.strip("-").lower()
    for status in (401, 500):
        hub.failures[f"/api/models/tester/{name}-{status}/commit"] = status
    trained = [
        ["train", *flags(**kept, output_dir=tmp_path / repository, max_train_steps=2), "--push_to_hub", *given]
        for repository in (name, f"{name}-401", f"{name}-500")
    ]
    folder = str(tmp_path / name)
    pushed_again = ["push", folder, "--hub_model_id", f"tester/{name}-401", *given]
    misnamed = ["--push_to_hub", "--hub_model_id", "a/b/c", *given]
    refused = ["train", *flags(**kept, output_dir=tmp_path / "refused"), *misnamed]
    doctor = ["doctor", *flags(**kept, output_dir=tmp_path / "planned"), "--json", *given]
    others = [["report", folder], ["push", folder, *given], pushed_again, refused, doctor]
    assert commands.all(*trained, *others)[:-1] == [0, 0, 0, 0, 0, 2, 2]

    config = {**options, **kept, "output_dir": str(tmp_path / "crashed"), "hub_token": CANARY}
    assert commands.start(CRASH, json.dumps(config)) == 1
    assert b"RuntimeError" in commands.printed

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"run.json", "report.html", "README.md", "unet.safetensors"} <= {path.name for path in files}
    assert any("tfevents" in path.name for path in files)
    assert [path for path in files if holds_secret(path.read_bytes())] == []
    assert not holds_secret(commands.printed)
    uploads = hub.repos["models", f"tester/{name}"]
    assert "report.html" in uploads
    assert [path for path, content in uploads.items() if holds_secret(content)] == []
    bodies = [(request.path, request.query) for request in hub.requests if holds_secret(request.body)]
    assert bodies == []
    assert [request.path for request in hub.requests if holds_secret(request.path.encode())] == []
