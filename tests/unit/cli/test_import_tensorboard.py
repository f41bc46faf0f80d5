"""openddpm import-tensorboard, and what the other commands do with an imported record."""

import json
from pathlib import Path

import pytest

from event_logs import example_log, plain_log
from made_up_run import write_made_up_run
from openddpm.cli.main import main
from openddpm.references import open_reference


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """An imported record of a seed of digits-8, in the default folder."""
    monkeypatch.chdir(tmp_path)
    losses = {row.step: row.train_loss for row in open_reference("digits-8").runs[0].metrics}
    plain_log(tmp_path / "logs" / "theirs", losses, rates={10: 1e-4}, pictures=[400, 800])
    assert main(["import-tensorboard", "logs", "--batch_size", "32"]) == 0
    assert "openddpm compare runs/imported-theirs" in capsys.readouterr().out
    return Path("runs/imported-theirs")


def test_what_was_taken_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tags, points, pictures, what was ignored and what is missing are printed, with the next command."""
    monkeypatch.chdir(tmp_path)
    example_log(tmp_path / "logs", epochs=2, steps_per_epoch=600)
    assert main(["import-tensorboard", "logs", "--output-dir", "some where"]) == 0
    out = capsys.readouterr().out
    assert "loss:     1,200 points of 'loss', steps 1 to 1,200\n" in out
    assert "rate:     'lr'\npictures: 2 of 'test_samples'\nignored:  ema_decay, step\n" in out
    assert "held-out loss" in out
    assert "openddpm report 'some where'" in out
    assert "--batch_size" in out.splitlines()[-1]
    assert main(["compare", "some where", "digits-8"]) == 2
    assert "Import the log again with --batch_size." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["logs", "--batch_size", "0"], "--batch_size is 0"),
        (["logs", "--batch_size", str(10**18)], "from 1 to 9,007,199,254,740,992"),
        (["nowhere"], "does not exist"),
        (["logs", "--loss_tag", "los"], "no numbers with the tag 'los'"),
        (["logs", "--output_dir", "logs"], "holds more than an imported record"),
    ],
)
def test_wrong_uses_are_explained(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What cannot be done ends with status 2, the reason and what to do, and writes nothing."""
    monkeypatch.chdir(tmp_path)
    plain_log(tmp_path / "logs", {1: 0.5, 2: 0.4})
    before = {*tmp_path.rglob("*")}
    assert main(["import-tensorboard", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "->" in error
    assert {*tmp_path.rglob("*")} == before


def test_report_and_compare_read_it(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both write their page into its folder; compare answers as it does for runs, and an import replaces all of it."""
    assert main(["report", str(imported)]) == 0
    assert main(["compare", str(imported), "digits-8"]) == 0
    out = capsys.readouterr().out
    assert "Inside: over 25,600 images" in out
    assert f"page: {imported / 'compare.html'}" in out
    assert all((imported / name).is_file() for name in ("report.html", "compare.html"))
    assert main(["compare", str(imported), "digits-8", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    keys = {"verdict", "sentence", "first_difference", "left_band_at", "detectable", "explanations"}
    assert answer.keys() == keys
    assert (answer["verdict"], answer["first_difference"], answer["explanations"]) == ("inside", None, [])
    assert main(["import-tensorboard", "logs"]) == 0
    assert not (imported / "compare.html").exists()


@pytest.mark.parametrize(
    "command",
    [["sample", "RUN"], ["resume", "RUN"], ["push", "RUN", "--hub_model_id", "a/b"], ["compare", "ANOTHER", "RUN"]]
    + [["references", "RUN"], ["train", "--recipe", "digits-8", "--output_dir", "RUN"]],
)
def test_other_commands_say_that_it_is_no_run(
    command: list[str], imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that needs a run, a reference among them, ends with status 2 and says what the folder holds."""
    write_made_up_run(Path("another"), rows=4, previews=0, evaluations=6)
    before = (imported / "imported.json").read_bytes()
    assert main([{"RUN": str(imported), "ANOTHER": "another"}.get(word, word) for word in command]) == 2
    error = capsys.readouterr().err
    assert "imported record" in error or "imported.json" in error
    assert (imported / "imported.json").read_bytes() == before


def test_the_page_of_many_runs_does_not_read_it(imported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Among runs it is named with the reason, and its folder is left alone."""
    write_made_up_run(Path("runs/mine"), rows=4, previews=1, evaluations=6)
    assert main(["report", "runs"]) == 0
    reason = "it holds an imported record, which has only a training loss and pictures"
    assert reason in capsys.readouterr().out
    assert reason in Path("runs/index.html").read_text("utf-8")
    assert not (imported / "report.html").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", 3),
        ("step", list(range(80, 0, -1))),
        ("step", [1]),
        ("step", list(range(80))),
        ("not_finite_steps", [0]),
        ("not_finite_steps", [10]),
        ("not_finite_steps", [5, 5]),
        ("train_loss", [0.5]),
        ("pictures", [{"step": 1, "tag": "a", "file": "samples/../../secret.png"}]),
        ("created", None),
    ],
)
def test_a_damaged_record_is_named(
    field: str, value: object, imported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record that another program wrote wrongly, or that points outside its folder, is refused with its field."""
    record = json.loads((imported / "imported.json").read_bytes())
    (imported / "imported.json").write_text(json.dumps({**record, field: value}), "utf-8")
    for command in (["report", str(imported)], ["compare", str(imported), "digits-8"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "imported.json" in error
        assert {"schema_version": "version 3"}.get(field, "is damaged") in error
