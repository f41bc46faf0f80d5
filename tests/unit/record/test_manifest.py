"""The manifest of a run folder: its layout, what it lists, and what it tells of files that are not as they were."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from made_up_run import write_made_up_run
from openddpm.errors import UserError
from openddpm.record.files import file_sha256
from openddpm.record.manifest import (
    ManifestCheck,
    check_manifest,
    manifest_renewed,
    manifest_text,
    read_manifest,
    write_manifest,
)
from openddpm.record.public import published_names
from openddpm.record.reader import read_checkpoint_rows

NAMES = ("README.md", "metrics.jsonl", "run.json", "samples.jsonl", "samples/step-00000020-ema.png")
"""Of files that a made-up run has, or that `folder` adds."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder with a manifest of five files."""
    run = write_made_up_run(tmp_path / "run", steps=20, rows=4, previews=1, evaluations=4)
    (run / "README.md").write_text("# a card", "utf-8")
    write_manifest(run, NAMES)
    return run


def change(run: Path, place: tuple[Any, ...], value: Any) -> None:
    """Put `value` in the manifest."""
    statement = inner = json.loads((run / "manifest.json").read_text("utf-8"))
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (run / "manifest.json").write_text(json.dumps(statement), "utf-8")


def test_the_layout_is_that_of_model_signing() -> None:
    """The statement is what model_signing 1.1.1 signs of the same files: names by folders, and their root digest."""
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a/c.txt", "a.txt", "b.txt")}
    root = hashlib.sha256(b"".join(hashlib.sha256(name).digest() for name in (b"a/c.txt", b"a.txt", b"b.txt")))
    assert json.loads(manifest_text("mine", dict(reversed(digests.items())))) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "mine", "digest": {"sha256": root.hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": ["manifest.json"],
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digests[name]} for name in ("a/c.txt", "a.txt", "b.txt")
            ],
        },
    }


def test_model_signing_makes_the_same_statement(folder: Path) -> None:
    """model_signing itself, where it is installed, hashes the listed files to the very statement of the manifest."""
    pytest.importorskip("model_signing")
    from google.protobuf import json_format
    from model_signing import hashing
    from model_signing._signing.signing import Payload

    how = hashing.Config().set_ignored_paths(paths=["manifest.json"], ignore_git_paths=False)
    theirs = Payload(how.hash(folder, files_to_hash=[folder / name for name in NAMES])).statement
    ours = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert json.loads(json_format.MessageToJson(theirs.pb)) == ours


def test_what_a_manifest_lists(tmp_path: Path) -> None:
    """It lists what may be published and is there: no stranger, other checkpoint, temporary file or link out of it."""
    run = write_made_up_run(tmp_path / "run", steps=20, rows=4, previews=1, findings=[], config={"keep_every": 20})
    listed = {
        *("run.json", "data.json", "metrics.jsonl", "evaluations.jsonl", "samples.jsonl", "checkpoints.jsonl"),
        *("baselines.json", "samples/step-00000020-ema.png", "samples/step-00000020-raw.png"),
        *("samples/training-data.png", "milestones/step-00000020.safetensors", "unet/config.json", "report.html"),
        *(f"checkpoints/step-00000020/{name}" for name in ("state.json", "unet.safetensors", "manifest.json")),
    }
    others = {
        *("manifest.json", "verification.json", "verify.html", "compare.html", "trackers.json", ".lock", "notes.txt"),
        *(".run.json.7.openddpm-tmp", "samples/.step-00000020-ema.png.openddpm-tmp", "logs/events.out.tfevents.1"),
        *("generated/step-00000020-ema/00000.png", "samples/step-1/a.png", "milestones/step-00000007.safetensors"),
        *("checkpoints/step-00000020/notes.txt", "checkpoints/step-00000010/unet.safetensors"),
    }
    row = json.loads((run / "checkpoints.jsonl").read_text("utf-8").splitlines()[-1])
    rows = [row | {"step": step, "sha256": {"unet.safetensors": "0", "state.json": "0"}} for step in (10, 20)]
    (run / "checkpoints.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for name in listed | others:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    (tmp_path / "secret").write_text("secret", "utf-8")
    (run / "verdict.json").symlink_to(tmp_path / "secret")
    names = published_names(run, read_checkpoint_rows(run), keep_every=20)
    assert {*names} == listed | {"verdict.json"}
    write_manifest(run, names)
    manifest = read_manifest(run)
    assert manifest == {name: file_sha256(run / name) for name in listed}


def test_a_folder_as_it_was_has_nothing_to_tell(folder: Path) -> None:
    """Files that are listed and unchanged are neither missing nor altered; without a manifest there is None."""
    manifest = read_manifest(folder)
    assert manifest is not None and manifest.keys() == {*NAMES}
    assert check_manifest(folder, manifest, NAMES) == ManifestCheck([], [], [])
    (folder / "manifest.json").unlink()
    assert read_manifest(folder) is None


def test_files_that_are_not_as_they_were_are_told(folder: Path) -> None:
    """A changed byte, a file removed or replaced by a folder, and a published one that is not listed are each told."""
    manifest = read_manifest(folder)
    assert manifest is not None
    with (folder / "metrics.jsonl").open("r+b") as file:
        file.seek(10)
        file.write(b"7")
    (folder / "README.md").unlink()
    (folder / "samples.jsonl").unlink()
    (folder / "samples.jsonl").mkdir()
    check = check_manifest(folder, manifest, [*NAMES, "verdict.json"])
    assert check == ManifestCheck(["README.md", "samples.jsonl"], ["metrics.jsonl"], ["verdict.json"])


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("_type",), "https://in-toto.io/Statement/v0.1", "_type"),
        (("predicateType",), "https://slsa.dev/provenance/v1", "predicateType"),
        (("subject",), [], "subject"),
        (("subject", 0, "digest", "sha256"), "0" * 64, "root digest"),
        (("subject", 0, "digest"), {}, "digest"),
        (("predicate", "resources", 1, "digest"), "0" * 64, "root digest"),
        (("predicate", "resources", 1, "digest"), "0" * 63, "digest"),
        (("predicate", "resources", 1, "algorithm"), "md5", "algorithm"),
        (("predicate", "resources", 1, "name"), "README.md", "listed twice"),
        (("predicate", "resources", 1, "name"), "../metrics.jsonl", "name"),
        (("predicate", "resources", 1, "name"), "/etc/passwd", "name"),
        (("predicate", "resources", 1, "name"), "samples/../../a", "name"),
        (("predicate", "resources", 1, "name"), "..\\a", "name"),
        (("predicate", "resources", 1, "name"), "C:a", "name"),
        (("predicate", "resources", 1, "name"), "a\n", "name"),
        (("predicate", "resources"), [], "root digest"),
    ],
)
def test_a_damaged_manifest_is_refused(place: tuple[Any, ...], value: Any, told: str, folder: Path) -> None:
    """Another layout, a list that is not that of its root digest, and names that lead elsewhere are a UserError."""
    change(folder, place, value)
    with pytest.raises(UserError, match=r"manifest.json' is damaged: ") as error:
        read_manifest(folder)
    assert told in error.value.found


def test_renewing_blesses_no_other_file(folder: Path) -> None:
    """Rewritten files have their new digests; one that somebody changed still differs from its entry."""
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")
    with manifest_renewed(folder, ["README.md", "report.html", "nowhere"]):
        (folder / "README.md").write_text("# another card", "utf-8")
        (folder / "report.html").write_text("a new page", "utf-8")
    manifest = read_manifest(folder)
    assert manifest is not None and manifest.keys() == {*NAMES, "report.html"}
    assert check_manifest(folder, manifest) == ManifestCheck([], ["metrics.jsonl"], [])


def test_renewing_that_fails_leaves_nothing_false(folder: Path) -> None:
    """While a file is rewritten, and after a failure, it is not listed; all others are."""
    with pytest.raises(OSError, match="full"), manifest_renewed(folder, ["README.md", "report.html"]):
        (folder / "README.md").write_text("# another card", "utf-8")
        assert read_manifest(folder) is not None and "README.md" not in (read_manifest(folder) or {})
        raise OSError("the disk is full")
    manifest = read_manifest(folder)
    assert manifest is not None and manifest.keys() == {*NAMES} - {"README.md"}
    assert check_manifest(folder, manifest) == ManifestCheck([], [], [])


@pytest.mark.parametrize("content", [None, "{}"], ids=["none", "damaged"])
def test_renewing_makes_no_manifest(content: str | None, folder: Path) -> None:
    """Where there is no manifest, as of a run that was killed, or a damaged one, rewriting a page makes none."""
    (folder / "manifest.json").unlink()
    if content is not None:
        (folder / "manifest.json").write_text(content, "utf-8")
    with manifest_renewed(folder, ["README.md"]):
        (folder / "README.md").write_text("# another card", "utf-8")
    path = folder / "manifest.json"
    assert (path.read_text("utf-8") if path.exists() else None) == content
