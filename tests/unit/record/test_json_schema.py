"""The JSON Schemas in docs/schema are those of the code, and a run's files fit them."""

import json
from pathlib import Path

import pytest

from made_up_run import write_made_up_run
from openddpm.cli.main import main
from openddpm.record.data_record import ImageFinding
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import Evidence, QuantityBand, ReferenceBandRecord, Verdict
from openddpm.record.writer import IMPORTED_FILE, MANIFEST_FILE, SCHEMAS, VERIFICATION_FILE, RunWriter

COMMITTED = Path(__file__).parents[3] / "docs" / "schema"


def test_the_committed_schemas_are_those_of_the_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`openddpm schema` writes what is committed, a file for each of the record; where it does not, it has to run."""
    assert main(["schema", "--output_dir", str(tmp_path / "new")]) == 0
    assert str(tmp_path / "new") in capsys.readouterr().out
    written = {path.name: path.read_text("utf-8") for path in (tmp_path / "new").iterdir()}
    assert written == {path.name: path.read_text("utf-8") for path in COMMITTED.iterdir()}
    others = (MANIFEST_FILE, VERIFICATION_FILE, IMPORTED_FILE)
    assert written.keys() == {f"{name.split('.')[0]}.schema.json" for name in (*SCHEMAS, *others)}


def test_a_schema_says_what_the_code_says() -> None:
    """Descriptions are the docstrings, limits are those of the reader, and all that is written is required."""
    schema = json.loads((COMMITTED / "run.schema.json").read_text("utf-8"))
    assert (schema["title"], schema["description"]) == ("run.json", "run.json: the run as a whole.")
    assert schema["properties"]["schema_version"]["const"] == 2
    assert schema["properties"]["sessions"]["description"] == "Starts of the run, the latest one last."
    assert schema["$defs"]["Session"]["properties"]["num_processes"]["minimum"] == 1
    assert {"sessions", "previews", "failure"} <= set(schema["required"])
    manifest = json.loads((COMMITTED / "manifest.schema.json").read_text("utf-8"))
    assert manifest["required"] == ["_type", "subject", "predicateType", "predicate"]  # names as in the file


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_run_fits_the_schemas(name: str, tmp_path: Path) -> None:
    """Each line that a run writes has all fields of its schema and no others, of the right types."""
    finding = ImageFinding(path="a.png", reason="cannot be decoded", action="refused")
    folder = write_made_up_run(tmp_path, steps=1200, rows=3, previews=2, findings=[finding])
    evidence = Evidence(name="skill", kind="good", text="Better.", value=0.1)
    verdict = Verdict(code="learning", sentence="It learns.", evidence=[evidence], step=1200, images_seen=38_400)
    RunWriter(folder).write(verdict)
    band = QuantityBand(field="heldout_loss", images_seen=[320], mean=[0.5], low=[0.4], high=[0.6])
    RunWriter(folder).write(ReferenceBandRecord(reference="digits-8", seeds=[0, 1], bands=[band]))
    assert read_run_folder(folder).verdict == verdict
    text = (folder / name).read_text("utf-8")
    for record in map(json.loads, text.splitlines() if name.endswith(".jsonl") else [text]):
        assert SCHEMAS[name].model_validate_json(json.dumps(record), strict=True).model_dump(mode="json") == record
