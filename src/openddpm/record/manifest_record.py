"""Schema of manifest.json, in the layout of what OpenSSF model-signing signs.

That is an in-toto statement (in-toto attestation framework, v1) with the predicate of model_signing 1.1.1: one subject,
whose digest is the sha256 of the digests of all files, in the order of their names compared folder by folder.
"""

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from openddpm.record.schema import RecordModel

_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"  # never "..": a name leads out of no folder
Name = Annotated[str, StringConstraints(pattern=rf"^{_PART}(?:/{_PART})*$", max_length=1000)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Serialization(RecordModel):
    """How the files were hashed, in the terms of model_signing."""

    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool
    ignore_paths: list[str]
    """Files that are not listed: manifest.json cannot hold its own digest."""


class Resource(RecordModel):
    """A published file."""

    name: Name
    """Path in the run folder, with / between its parts."""
    algorithm: Literal["sha256"]
    digest: Sha256
    """sha256 of its bytes."""


class Predicate(RecordModel):
    """The files, and how they were hashed."""

    serialization: Serialization
    resources: list[Resource]
    """In the order of their names, compared folder by folder: samples/a.png comes before samples.jsonl."""


class Subject(RecordModel):
    """What the statement is about."""

    name: str
    """Name of the run folder, or of the repository."""
    digest: dict[Literal["sha256"], Sha256] = Field(min_length=1)
    """The root digest: sha256 of the digests of all resources, as bytes and in their order."""


class Manifest(RecordModel):
    """manifest.json: the sha256 of every published file of a run, as an in-toto statement."""

    statement_type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: Annotated[list[Subject], Field(min_length=1, max_length=1)]
    predicate_type: Literal["https://model_signing/signature/v1.0"] = Field(alias="predicateType")
    predicate: Predicate

    @model_validator(mode="after")
    def _is_consistent(self) -> "Manifest":
        resources = self.predicate.resources
        if len({one.name for one in resources}) < len(resources):
            raise ValueError("a file is listed twice")
        if self.subject[0].digest["sha256"] != root_digest(one.digest for one in resources):
            raise ValueError("the root digest is not that of the files in the list")
        return self


def root_digest(digests: Iterable[str]) -> str:
    """Return the sha256 of these digests, as bytes."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()
