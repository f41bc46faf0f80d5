"""openddpm compare: what it prints, where its page is, and its exit status."""

import json
from pathlib import Path

import pytest

from made_up_run import write_made_up_run
from openddpm.cli.main import main


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a reference of four seeds in `reference`, and `mine`, another seed."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(1, 5):
        write_made_up_run(folder / "reference" / f"seed-{seed}", seed=seed, rows=4, previews=1, evaluations=6)
    write_made_up_run(folder / "mine", seed=9, rows=4, previews=1, evaluations=6)
    return folder


@pytest.mark.parametrize(
    ("run", "status", "verdict"),
    [
        ({"seed": 1}, 0, "same_bits"),
        ({"seed": 9}, 0, "inside"),
        ({"seed": 9, "loss_factor": 2.0}, 1, "outside"),
        ({"seed": 9, "num_heldout": 9}, 2, "not_comparable"),
    ],
)
def test_the_exit_status_is_the_answer(
    run: dict[str, object], status: int, verdict: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 is inside, 1 outside, 2 not comparable; --json prints JSON alone, and writes no page."""
    write_made_up_run(tmp_path / "run", rows=4, previews=1, evaluations=6, **run)  # type: ignore[arg-type]
    assert main(["compare", str(tmp_path / "run"), str(runs / "reference"), "--json"]) == status
    printed = capsys.readouterr()
    assert (json.loads(printed.out)["verdict"], printed.err) == (verdict, "")
    assert not (tmp_path / "run" / "compare.html").exists()


def test_the_page_lies_in_the_candidates_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence, a table and where the page is are printed; the page is in the folder of the run."""
    assert main(["compare", str(runs / "mine"), str(runs / "reference")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "Inside: over 76,800 images nothing tells it from another seed of the reference's 4 runs."
    )
    assert lines[1].startswith("after ") and lines[3].startswith("held-out loss ")
    assert lines[-1] == f"page: {runs / 'mine' / 'compare.html'}"
    assert "<title>" in (runs / "mine" / "compare.html").read_text("utf-8")


def test_a_page_that_cannot_be_written_is_one_message(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page below a file ends with status 2 and what to do."""
    page = runs / "mine" / "run.json" / "page.html"
    assert main(["compare", str(runs / "mine"), str(runs / "reference"), "--page", str(page)]) == 2
    assert f"'{page}' cannot be written" in capsys.readouterr().err


def test_a_row_of_another_evaluation_says_so(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss that the last evaluation lacks is shown with the images of the one before, uncut in a narrow terminal."""
    monkeypatch.setenv("COLUMNS", "40")
    folder = write_made_up_run(tmp_path / "run", seed=9, rows=4, previews=1, evaluations=6)
    rows = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text("utf-8").splitlines()]
    for row in rows[-2:]:
        row["fixed_train_loss"] = None
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    main(["compare", str(folder), str(runs / "reference")])
    lines = capsys.readouterr().out.splitlines()
    assert "after 76,800 images; reference: reference" in lines
    assert len([line for line in lines if line.startswith("loss on fixed training samples, after 64,000 ")]) == 1
