"""What is published of a verification: in a push, and as a line of the model card."""

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from made_up_run import write_made_up_run
from openddpm.publishing.selection import left_over, select
from openddpm.record.files import file_sha256
from openddpm.record.verification import Rung, VerificationRecord
from openddpm.record.writer import DATA_FILE, RUN_FILE, VERIFICATION_FILE, VERIFICATION_PAGE
from openddpm.report.card import write_card
from report_page import HOSTILE
from verifications import a_verification, write_verification_of

SECRET = "/home/secret/place"


def content_of(run: Path) -> dict[str, bytes]:
    """Return what would be pushed of a run."""
    (first,) = select(run, "me/model", None)
    return {
        name: content.read_bytes() if isinstance(content, Path) else content for name, content in first.content.items()
    }


def test_a_push_sends_what_was_checked_of_the_record_as_it_is(tmp_path: Path) -> None:
    """verification.json goes with its page; once the record has grown, neither does, and both are removed there."""
    run = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1, findings=[])
    found = write_verification_of(run)
    (run / VERIFICATION_PAGE).write_text("an old page", "utf-8")
    sent = content_of(run)
    assert VerificationRecord.model_validate_json(sent[VERIFICATION_FILE]) == found
    assert b"Verification of" in sent[VERIFICATION_PAGE]
    last = (run / "samples.jsonl").read_text("utf-8").splitlines(keepends=True)[-1]
    with (run / "samples.jsonl").open("a") as file:
        file.write(last)
    assert not {VERIFICATION_FILE, VERIFICATION_PAGE} & content_of(run).keys()
    there = dict.fromkeys([*sent, "notes.txt"])
    assert left_over(run, select(run, "me/model", None), there) == [VERIFICATION_FILE, VERIFICATION_PAGE]


def test_a_statement_without_its_page_is_sent_alone(tmp_path: Path) -> None:
    """Where the page was written elsewhere, none is sent, and the card links to none."""
    run = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1)
    write_verification_of(run)
    sent = content_of(run)
    assert VERIFICATION_FILE in sent and VERIFICATION_PAGE not in sent
    assert b"openddpm verify" in sent["README.md"] and VERIFICATION_PAGE.encode() not in sent["README.md"]


def test_a_statement_is_published_without_paths_and_digests_of_what_is_changed(tmp_path: Path) -> None:
    """Paths in source and rungs are reduced; a file that loses paths itself is not among those with a digest."""
    config = {"dataset": SECRET, "recipe": None}
    run = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1, findings=[], config=config)
    reason = f"the images are not here ('{SECRET}/images' is no folder)"
    rung = Rung(name="data", status="not_checked", text=reason, details=[reason])
    files = write_verification_of(run, source=f"{SECRET}/run", rungs=[rung]).files
    (run / VERIFICATION_PAGE).touch()
    sent = content_of(run)
    found = VerificationRecord.model_validate_json(sent[VERIFICATION_FILE])
    assert found.source == "run"
    assert {*files} - {*found.files} == {RUN_FILE}
    assert DATA_FILE in found.files
    for text in (sent[VERIFICATION_FILE], sent[VERIFICATION_PAGE]):
        assert b"secret" not in text and b"images" in text
    for name, content in sent.items():
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / name).write_bytes(content)
    assert found.files == {name: file_sha256(tmp_path / "there" / name) for name in found.files}


def test_the_card_says_what_was_checked(tmp_path: Path) -> None:
    """One paragraph: the conclusion, when, on what machine, by which rungs; none if the record has changed since."""
    run = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1)
    write_verification_of(run)
    (run / VERIFICATION_PAGE).touch()
    (line,) = (line for line in write_card(run).read_text("utf-8").splitlines() if "openddpm verify" in line)
    assert line == (
        "Verified as far as the ladder was climbed: the record is what its options produce, but for rounding; 60 of "
        "400 training steps computed again. Checked by openddpm verify, 2026-03-14 09:26 UTC on a device: exact: "
        "files, data, initial weights and evaluation; equal to rounding: first steps and previews; not checked: "
        "segments. The ladder: [verify.html](verify.html)."
    )
    record = json.loads((run / RUN_FILE).read_text("utf-8"))
    (run / RUN_FILE).write_text(json.dumps({**record, "status": "running"}), "utf-8")
    assert "openddpm verify" not in write_card(run).read_text("utf-8")


@pytest.mark.parametrize("hostile", [HOSTILE, "[x](javascript:alert(1)) ![x](http://e.example/x.png)", "a\n\n# b\n---"])
def test_names_of_machines_cannot_break_out_of_the_card(hostile: str, tmp_path: Path) -> None:
    """Whatever the device of a statement is called, the card has the elements of any other."""
    run = write_made_up_run(tmp_path / "run", steps=10, rows=2, previews=1)
    cards = []
    for name in ("plain", hostile):
        here = a_verification().environment
        assert here is not None
        write_verification_of(run, environment=here.model_copy(update={"device": name}), time=name)
        body = write_card(run).read_text("utf-8").split("---\n", 2)[2]
        tokens = MarkdownIt("commonmark").enable("table").parse(body)
        cards.append([(one.type, one.tag) for token in tokens for one in (token, *(token.children or []))])
    assert [one for one in cards[0] if one[0] != "text"] == [one for one in cards[1] if one[0] != "text"]
