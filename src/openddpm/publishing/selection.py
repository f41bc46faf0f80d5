"""What of a run is published: an allow-list, checked against the record, without paths of this machine."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from openddpm.errors import UserError
from openddpm.record.files import file_sha256, json_text, parse_json
from openddpm.record.kept import (
    PublishedWeights,
    milestone_name,
    milestones_among,
    recorded_sha256,
    step_name,
)
from openddpm.record.manifest import manifest_renewed, manifest_text, read_manifest, sha256_in
from openddpm.record.public import (
    PAGES,
    RECORD_FILES,
    VERIFICATION_FILES,
    WEIGHTS_FILE,
    WEIGHTS_FILES,
    files_matching,
    published,
    published_checkpoints,
    published_milestones,
    published_verification,
    without_paths,
)
from openddpm.record.reader import RunFolder, read_checkpoint_rows, read_run_folder
from openddpm.record.verification import read_verification
from openddpm.record.writer import (
    DATA_FILE,
    MANIFEST_FILE,
    RUN_FILE,
    SCHEMAS,
    VERIFICATION_FILE,
    VERIFICATION_PAGE,
)
from openddpm.report.build import render_report
from openddpm.report.card import write_card
from openddpm.report.verification import render_verification

Kind = Literal["record", "weights", "milestones", "checkpoints"]


@dataclass
class Commit:
    """Files that are published together: afterwards all of them are there, or none."""

    message: str
    kinds: dict[str, Kind] = field(default_factory=dict)
    """Kind of each file, by its path in the repository."""
    content: dict[str, bytes | Path] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    """Of each content: a large file is hashed once."""

    def add(self, kind: Kind, name: str, content: bytes | Path, sha256: str | None = None) -> None:
        """Add a file, or replace its content; `sha256` is that of the content, if it is known."""
        self.kinds[name], self.content[name] = kind, content
        if sha256 is None:
            sha256 = file_sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        self.sha256[name] = sha256


def select(folder: Path, repository: str, choice: PublishedWeights | None) -> list[Commit]:
    """Return what is to be published of a run, the record and the exported weights first.

    Args:
        choice: None for milestones, if there are any.

    Raises:
        UserError: no run, a damaged record, nothing of what is chosen, weights that are not those of the record, or a
            record that was changed after the run.
    """
    weights = folder / WEIGHTS_FILE
    exported = file_sha256(weights) if weights.is_file() else None  # a run may still write checkpoints: rows come first
    run = read_run_folder(folder)
    if exported is not None and exported not in {row.exported_sha256 for row in run.checkpoints}:
        hint = "Restore them from a checkpoint: openddpm resume continues from the newest valid one."
        raise UserError(f"'{weights}' has not the weights of any checkpoint in checkpoints.jsonl", hint)
    _check_unchanged(folder)
    first = Commit(f"openddpm run {folder.resolve().name}")
    for name in files_matching(folder, WEIGHTS_FILES):
        if name == WEIGHTS_FILE:
            first.add("weights", name, folder / name, exported)
        else:
            first.add("weights", name, _without_paths(folder / name))
    earlier = list(_earlier_weights(run, choice))
    milestones = milestones_among(name for commit in earlier for name in commit.content)
    for name, content in _record(run, repository, milestones):
        first.add("record", name, content)
    return [first, *earlier]


def left_over(folder: Path, commits: Sequence[Commit], there: Mapping[str, str | None]) -> list[str]:
    """Return files that an earlier push left in the repository and that do not belong to this run as it is now.

    Weights of this run stay, also if they are not among what is published this time; manifest.json is replaced.

    Args:
        there: files of the repository, with their sha256 where the Hub knows it.
    """
    if RUN_FILE not in there:
        return []  # whatever is there, no run was pushed before
    rows = {row.step: row for row in read_checkpoint_rows(folder)}
    known = recorded_sha256(rows.values())
    differing = {name.rpartition("/")[0] for name, sha256 in there.items() if sha256 and known.get(name) != sha256}
    own_checkpoints = {f"checkpoints/{step_name(step)}" for step in rows} - differing  # each is whole, or it goes
    stay = {name for commit in commits for name in commit.content}
    if there.get(WEIGHTS_FILE) in {row.exported_sha256 for row in rows.values()}:
        stay.update(WEIGHTS_FILES)  # a folder without weights, as a fetched record, takes none away
    found = []
    for name in set(there) - stay:
        path, patterns = PurePosixPath("/", name), (*WEIGHTS_FILES, *RECORD_FILES, *VERIFICATION_FILES, DATA_FILE)
        is_always_published = any(path.match(f"/{pattern}") for pattern in patterns)
        is_other_milestone = bool(milestones_among([name])) and known.get(name) != there[name]
        is_other_checkpoint = name.startswith("checkpoints/step-") and name.rpartition("/")[0] not in own_checkpoints
        if is_always_published or is_other_milestone or is_other_checkpoint:
            found.append(name)
    return sorted(found)


def manifest_of(
    folder: Path, repository: str, commits: Sequence[Commit], there: Mapping[str, str | None], gone: Collection[str]
) -> bytes:
    """Return the manifest of a repository after these commits: of all that is sent, and of this run's weights in it.

    Args:
        there: files of the repository, with their sha256 where the Hub knows it; those in `gone` are removed.
    """
    known = {**(read_manifest(folder) or {}), **recorded_sha256(read_checkpoint_rows(folder))}
    stay = {
        name: sha256 or known.get(name)
        for name, sha256 in there.items()
        if RUN_FILE in there and name not in gone and (name in WEIGHTS_FILES or name in known)
    }
    sha256 = {name: digest for name, digest in stay.items() if digest}
    for commit in commits:
        sha256 |= commit.sha256
    return manifest_text(repository.rpartition("/")[2], sha256).encode()


def _check_unchanged(folder: Path) -> None:
    """Refuse a record that is not as the run left it; pages are made anew, and checkpoints.jsonl tells of weights.

    Raises:
        UserError: naming the files.
    """
    listed = read_manifest(folder)
    if listed is None:
        return
    others = {name for name in listed if not name.endswith(".safetensors") and not name.startswith("checkpoints/")}
    now = {name: sha256_in(folder, name) for name in sorted({*SCHEMAS, *others} - {*PAGES, *VERIFICATION_FILES})}
    changed = [
        f"'{name}'" for name, sha256 in now.items() if sha256 != listed.get(name) and (sha256 or name in SCHEMAS)
    ]
    if changed:
        raise UserError(
            f"the record in '{folder}' was changed after the run ended; not as its {MANIFEST_FILE} says: "
            + ", ".join(changed),
            f"Restore it from a copy. If you mean to publish it as it is, remove {MANIFEST_FILE}: the push makes a new "
            "one. Nothing was sent.",
        )


def _record(run: RunFolder, repository: str, milestones: Collection[int]) -> Iterator[tuple[str, bytes | Path]]:
    """Yield the name and content of each file of the record; text as it is at this moment."""
    with manifest_renewed(run.folder, PAGES[1:]):
        write_card(run.folder, run, repository, milestones)
    public = published(run)
    changed = {RUN_FILE: json_text(public.run.model_dump()).encode()}
    if public.data is not None:
        changed[DATA_FILE] = json_text(public.data.model_dump()).encode()
    yield from changed.items()
    yield from _verification(run, public, {name: hashlib.sha256(text).hexdigest() for name, text in changed.items()})
    yield "report.html", render_report(public, datetime.now(UTC)).encode()
    yield "README.md", (run.folder / "README.md").read_bytes()
    for name in files_matching(run.folder, RECORD_FILES):
        path = run.folder / name
        yield name, path if path.suffix == ".png" else path.read_bytes()


def _verification(run: RunFolder, public: RunFolder, sha256: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield what was checked of the record as it is now, and its page if there is one; nothing if nothing was.

    Args:
        sha256: of files that are published with changes.
    """
    found = read_verification(run.folder, run.run.run_id)
    if found is None:
        return
    found = published_verification(found, sha256)
    yield VERIFICATION_FILE, json_text(found.model_dump()).encode()
    if (run.folder / VERIFICATION_PAGE).is_file():
        yield VERIFICATION_PAGE, render_verification(found, datetime.now(UTC), public).encode()


def _earlier_weights(run: RunFolder, choice: PublishedWeights | None) -> Iterator[Commit]:
    """Yield a commit for each milestone, then for each checkpoint that is kept."""
    rows = {row.step: row for row in run.checkpoints}
    milestones = published_milestones(run.folder, run.checkpoints)
    if choice == "milestones" and not milestones:
        raise UserError(f"the run in '{run.folder}' has no milestones", "Train with --milestones N to keep some.")
    kept = published_checkpoints(run.folder, run.checkpoints, run.run.config.get("keep_every"))
    if choice == "kept" and not kept:
        raise UserError(
            f"the run in '{run.folder}' has no checkpoints that are kept for good",
            "Train with --keep_every STEPS to keep some.",
        )
    for step in () if choice == "none" else milestones:
        name, images = milestone_name(step), rows[step].images_seen
        commit = Commit(f"milestone of step {step:,}, {images:,} images seen")
        _check(run.folder / name, rows[step].exported_sha256)
        commit.add("milestones", name, run.folder / name, rows[step].exported_sha256)
        yield commit
    for step in kept if choice == "kept" else ():
        commit, (*files, manifest) = Commit(f"checkpoint of step {step:,}"), kept[step]
        for name, sha256 in zip(files, rows[step].sha256.values(), strict=True):
            _check(run.folder / name, sha256)
            commit.add("checkpoints", name, run.folder / name, sha256)
        _check_manifest(run.folder / manifest, rows[step].sha256)
        commit.add("checkpoints", manifest, run.folder / manifest)
        yield commit


def _without_paths(path: Path) -> bytes:
    """Return a config without the path that diffusers notes in it: where the weights were loaded from.

    Raises:
        UserError: it is no JSON.
    """
    content = path.read_bytes()
    try:
        value = parse_json(content)
    except ValueError as error:
        hint = "Restore it from a checkpoint: openddpm resume continues from the newest valid one."
        raise UserError(f"'{path}' is damaged: {error}", hint) from error
    return content if without_paths(value) == value else json_text(without_paths(value)).encode()


def _check(path: Path, sha256: str) -> None:
    """Refuse a file that is not the one in the record."""
    if not path.is_file() or file_sha256(path) != sha256:
        raise _not_the_recorded(path)


def _check_manifest(path: Path, sha256: dict[str, str]) -> None:
    try:
        files = parse_json(path.read_bytes())["files"]
        is_same = {name: entry["sha256"] for name, entry in files.items()} == sha256
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        is_same = False
    if not is_same:
        raise _not_the_recorded(path)


def _not_the_recorded(path: Path) -> UserError:
    hint = "Restore it from a copy, or leave such files out: --checkpoints none. Nothing was sent."
    return UserError(f"'{path}' is missing or differs from its sha256 in checkpoints.jsonl", hint)
