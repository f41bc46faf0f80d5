"""Writes, reads, checks and renews manifest.json: the sha256 of every published file of a run."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openddpm.errors import UserError
from openddpm.names import as_text
from openddpm.record.files import file_sha256, json_text, write_atomically
from openddpm.record.manifest_record import Manifest, root_digest
from openddpm.record.reader import read_record
from openddpm.record.writer import MANIFEST_FILE


@dataclass(frozen=True)
class ManifestCheck:
    """How the files in a folder compare with its manifest; names in order."""

    missing: list[str]
    """Listed, but not there."""
    altered: list[str]
    """Listed with another sha256."""
    unlisted: list[str]
    """Published files that are there, but not listed."""


def manifest_text(name: str, sha256: Mapping[str, str]) -> str:
    """Return the content of a manifest.

    Args:
        name: of the folder or repository.
        sha256: of each file, by its path.
    """
    paths = sorted(sha256, key=_parts)
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [MANIFEST_FILE]}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root_digest(sha256[path] for path in paths)}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": how,
            "resources": [{"name": path, "algorithm": "sha256", "digest": sha256[path]} for path in paths],
        },
    }
    return json_text(Manifest.model_validate(statement).model_dump(by_alias=True))


def write_manifest(folder: Path, names: Iterable[str], known: Mapping[str, str] | None = None) -> None:
    """Write the manifest of these files of a folder, without those that are not there, or lie outside of it by a link.

    Args:
        known: sha256 of files that were hashed when they were written, by name: large ones are not read again.

    Raises:
        OSError: a file cannot be read, or the disk is full.
    """
    home = folder.resolve()
    inside = (name for name in names if (folder / name).resolve().is_relative_to(home))
    known = known or {}
    digests = {name: known[name] if name in known else sha256_in(folder, name) for name in inside}
    _write(folder, {name: digest for name, digest in digests.items() if digest})


def read_manifest(folder: Path) -> dict[str, str] | None:
    """Return the sha256 of each file that the manifest of a folder lists; None without a manifest.

    Raises:
        UserError: it is damaged, or its root digest is not that of its list.
    """
    manifest = read_record(folder / MANIFEST_FILE, Manifest)
    return None if manifest is None else {one.name: one.digest for one in manifest.predicate.resources}


def check_manifest(
    folder: Path,
    sha256: Mapping[str, str],
    names: Iterable[str] = (),
    digest_of: Callable[[Path], str] = file_sha256,
) -> ManifestCheck:
    """Hash the files in a folder, and return how they compare with its manifest.

    Args:
        sha256: what `read_manifest` returned.
        names: published files that are in the folder.
        digest_of: returns the sha256 of a file.
    """
    found = {name: sha256_in(folder, name, digest_of) for name in sorted(sha256, key=_parts)}
    return ManifestCheck(
        missing=[name for name, digest in found.items() if digest is None],
        altered=[name for name, digest in found.items() if digest not in (None, sha256[name])],
        unlisted=sorted(set(names) - set(sha256), key=_parts),
    )


@contextmanager
def manifest_renewed(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Rewrite files of a run that has ended: their entries leave the manifest before, and return renewed afterwards.

    All other entries stay as they are, so that a file that somebody changed still differs. If rewriting fails or is
    killed, the entries stay out: the manifest lists less, but nothing false. A missing or damaged one stays as it is.
    """
    names = list(names)
    _update(folder, dict.fromkeys(names))
    yield
    _update(folder, {name: sha256_in(folder, name) for name in names})


def sha256_in(folder: Path, name: str, digest_of: Callable[[Path], str] = file_sha256) -> str | None:
    """Return the sha256 of a file in a folder; None if it is not there, or is no file."""
    path = folder / name
    return digest_of(path) if path.is_file() else None


def _update(folder: Path, changes: Mapping[str, str | None]) -> None:
    try:
        before = read_manifest(folder)
    except UserError:
        return
    if before is not None:
        _write(folder, {name: digest for name, digest in {**before, **changes}.items() if digest})


def _write(folder: Path, sha256: Mapping[str, str]) -> None:
    write_atomically(folder / MANIFEST_FILE, manifest_text(as_text(folder.resolve().name), sha256))


def _parts(name: str) -> list[str]:
    return name.split("/")
