"""The record of a run as it is published: without the paths of the machine that it ran on."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from openddpm.record.data_record import DataRecord
from openddpm.record.reader import RunFolder
from openddpm.record.schema import RunRecord
from openddpm.record.verification import VerificationRecord

_ABSOLUTE = r"(?:/|~|\\\\|[A-Za-z]:[\\/])"
_PATH = re.compile(rf"{_ABSOLUTE}.*", re.DOTALL)
_QUOTED = re.compile(rf"""(?P<quote>['"])(?P<path>{_ABSOLUTE}.*?)(?P=quote)""", re.DOTALL)


def published(run: RunFolder) -> RunFolder:
    """Return a run as it is published: each absolute path is reduced to its last part."""
    return replace(run, run=_published_run(run.run), data=run.data and _published_data(run.data))


def published_verification(found: VerificationRecord, sha256: Mapping[str, str]) -> VerificationRecord:
    """Return what was checked of a run as it is published: without paths, and without the files that are changed.

    Args:
        sha256: of files as they are published; a file that is not among them is published as it is.
    """
    rungs = [
        rung.model_copy(
            update={"text": _with_last_parts(rung.text), "details": [_with_last_parts(line) for line in rung.details]}
        )
        for rung in found.rungs
    ]
    files = {name: digest for name, digest in found.files.items() if sha256.get(name, digest) == digest}
    return found.model_copy(update={"source": last_part(found.source), "rungs": rungs, "files": files})


def last_part(text: str) -> str:
    """Return the last part of an absolute path of any system, or one in a home folder; other text as it is."""
    if not _PATH.fullmatch(text):
        return text
    parts = [part for part in re.split(r"[\\/]+", text) if part]
    return parts[-1] if parts else text


def without_paths(value: Any) -> Any:
    """Return a value of JSON with the absolute paths in it reduced to their last parts."""
    if isinstance(value, dict):
        return {key: without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [without_paths(entry) for entry in value]
    return last_part(value) if isinstance(value, str) else value


def _published_run(run: RunRecord) -> RunRecord:
    init = run.model.init_from
    return run.model_copy(
        update={
            "config": without_paths(run.config),
            "dataset": run.dataset.model_copy(update={"source": last_part(run.dataset.source)}),
            "model": run.model.model_copy(
                update={"init_from": init and init.model_copy(update={"source": last_part(init.source)})}
            ),
            "resumptions": [
                entry.model_copy(
                    update={
                        "changes": [_with_last_parts(line) for line in entry.changes],
                        "skipped_checkpoints": [_with_last_parts(line) for line in entry.skipped_checkpoints],
                    }
                )
                for entry in run.resumptions
            ],
            "failure_text": run.failure_text and _with_last_parts(run.failure_text),
        }
    )


def _published_data(data: DataRecord) -> DataRecord:
    """Return the record of the data: tables may name their images by the paths that these had."""
    return data.model_copy(
        update={
            "images": [image.model_copy(update={"path": last_part(image.path)}) for image in data.images],
            "most_cut": [image.model_copy(update={"path": last_part(image.path)}) for image in data.most_cut],
            "left_out": [
                entry.model_copy(update={"examples": [last_part(name) for name in entry.examples]})
                for entry in data.left_out
            ],
            "near_duplicates": [
                pair.model_copy(update={"heldout": last_part(pair.heldout), "train": last_part(pair.train)})
                for pair in data.near_duplicates
            ],
        }
    )


def _with_last_parts(text: str) -> str:
    """Return a message with the quoted paths in it reduced."""
    return _QUOTED.sub(lambda match: match["quote"] + last_part(match["path"]) + match["quote"], text)
