"""verification.json: which steps were computed again, and of which record it is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from made_up_run import write_made_up_run
from openddpm.record.reader import read_run_record
from openddpm.record.verification import VerificationRecord, num_steps_in, read_verification
from openddpm.record.writer import VERIFICATION_FILE
from verifications import a_verification, write_verification_of


@pytest.mark.parametrize(
    ("stretches", "number"),
    [
        ([], 0),
        ([(1, 60)], 60),
        ([(41, 60), (1, 40)], 60),
        ([(1, 60), (21, 40), (41, 60)], 60),
        ([(1, 10), (5, 20), (31, 31)], 21),
        ([(7, 9), (7, 9)], 3),
    ],
)
def test_each_step_counts_once(stretches: list[tuple[int, int]], number: int) -> None:
    """Steps that were computed again twice, from the seed and from a checkpoint, count once."""
    assert num_steps_in(stretches) == number
    assert a_verification(replayed=stretches).replayed_steps == number


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The file gives back the same statement, and fits its own schema strictly."""
    folder = write_made_up_run(tmp_path, steps=10, rows=2, previews=1, findings=[])
    written = write_verification_of(folder, replayed=[(1, 10)])
    assert read_verification(folder, read_run_record(folder).run_id) == written
    text = (folder / VERIFICATION_FILE).read_text("utf-8")
    assert VerificationRecord.model_validate_json(text, strict=True) == written


def add_a_line(folder: Path) -> None:
    """Add a line to metrics.jsonl, as a resumed run does."""
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("{}\n")


def damage(folder: Path) -> None:
    """Tear verification.json."""
    (folder / VERIFICATION_FILE).write_text("{", "utf-8")


def name_nothing(folder: Path) -> None:
    """Make a statement of no file."""
    write_verification_of(folder, files={})


def name_another_file(folder: Path) -> None:
    """Make a statement of a file outside of the record."""
    files = json.loads((folder / VERIFICATION_FILE).read_text("utf-8"))["files"]
    write_verification_of(folder, files={**files, "../secret": "0" * 64})


def remove_a_file(folder: Path) -> None:
    """Remove a file that was verified."""
    (folder / "baselines.json").unlink()


def verify_another_run(folder: Path) -> None:
    """Make a statement of another run."""
    write_verification_of(folder, run_id="0" * 16)


@pytest.mark.parametrize(
    "change", [add_a_line, damage, name_nothing, name_another_file, remove_a_file, verify_another_run]
)
def test_a_statement_of_another_record_counts_as_none(change: Callable[[Path], None], tmp_path: Path) -> None:
    """It holds for the files that were verified, all of them, and no others."""
    folder = write_made_up_run(tmp_path, steps=10, rows=2, previews=1, findings=[])
    write_verification_of(folder)
    run_id = read_run_record(folder).run_id
    assert read_verification(folder, run_id) is not None
    change(folder)
    assert read_verification(folder, run_id) is None


def test_a_published_statement_may_leave_out_what_is_published_with_changes(tmp_path: Path) -> None:
    """Without run.json and data.json it still is the statement of that run; without metrics.jsonl it is not."""
    folder = write_made_up_run(tmp_path, steps=10, rows=2, previews=1, findings=[])
    run_id, files = read_run_record(folder).run_id, write_verification_of(folder).files
    for left_out, is_read in (({"run.json", "data.json"}, True), ({"metrics.jsonl"}, False)):
        write_verification_of(folder, files={name: files[name] for name in files.keys() - left_out})
        assert (read_verification(folder, run_id) is not None) == is_read
