"""One writer a run folder: what the recorder keeps, judges and tells, and no danger to the run."""

from pathlib import Path

import pytest

from made_up_run import made_up_samples, write_made_up_run
from openddpm.analysis.verdict import judge
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import Verdict
from openddpm.record.writer import RunWriter
from openddpm.training.observer import Observer
from openddpm.training.recorder import Recorder


class Listener(Observer):
    """Keeps the verdicts and warnings that it gets, and in which order they come with the rest."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.warnings: list[str] = []
        self.events: list[str] = []

    def judged(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        self.events.append("judged")

    def record_grown(self) -> None:
        self.events.append("record grown")

    def warned(self, message: str) -> None:
        self.warnings.append(message)

    def ended(self, run: object) -> None:
        self.events.append("ended")


def recorder_of(folder: Path, observer: Observer) -> Recorder:
    """Return the recorder of a run that goes on in `folder`."""
    return Recorder(read_run_folder(folder).run, folder, [observer], RunWriter(folder))


def test_each_evaluation_is_judged_once_both_weights_are_in(tmp_path: Path) -> None:
    """verdict.json always is what the rows so far say, also after a resumption, and observers get each once."""
    folder = write_made_up_run(tmp_path / "run", evaluations=12, status="running")
    recorded = read_run_folder(folder)
    (folder / "evaluations.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in recorded.evaluations[:8]))
    (folder / "samples.jsonl").unlink()
    samples = [made_up_samples(row.step, row.weights) for row in recorded.evaluations]
    listener = Listener()
    recorder = recorder_of(folder, listener)
    recorder.started()
    for index, row in enumerate(recorded.evaluations[8:], 9):
        recorder.evaluated(row)
        recorder.sampled(samples[index - 1])
        if index % 2 == 0:
            recorder.grown(recorded.run.progress)
            rows = recorded.metrics, recorded.evaluations[:index], recorded.baselines, samples[8:index]
            expected = judge(recorded.run, *rows)
            assert listener.verdicts[-1] == expected == read_run_folder(folder).verdict
    recorder.grown(recorded.run.progress)  # a preview without an evaluation
    assert len(listener.verdicts) == 8
    assert listener.events == ["judged", "record grown"] * 8 + ["record grown"]


def test_the_end_is_judged_by_its_status(tmp_path: Path) -> None:
    """The last verdict knows that the run is over, and comes before the end."""
    folder = write_made_up_run(tmp_path / "run", evaluations=12, status="running")
    listener = Listener()
    recorder = recorder_of(folder, listener)
    recorder.started()
    recorder.ended("finished")
    assert listener.events == ["judged", "ended"]
    verdict = read_run_folder(folder).verdict
    assert verdict == listener.verdicts[0] and verdict.code == "finished"


def test_rows_are_judged_that_the_disk_has_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict rests on every row that was measured, and observers get one that cannot be written all the same."""
    folder = write_made_up_run(tmp_path / "run", evaluations=12, status="running")
    recorded = read_run_folder(folder)
    (folder / "evaluations.jsonl").write_text("")
    listener = Listener()
    recorder = recorder_of(folder, listener)
    recorder.started()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    for name in ("append", "write"):
        monkeypatch.setattr(RunWriter, name, full)
    for row in recorded.evaluations:
        recorder.evaluated(row)
    recorder.grown(recorded.run.progress)
    assert [verdict.step for verdict in listener.verdicts] == [recorded.evaluations[-1].step]
    assert sum("verdict.json could not be written" in text for text in listener.warnings) == 1


def test_a_fault_in_judging_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one warning, with its kind, and the run goes on without a verdict."""
    folder = write_made_up_run(tmp_path / "run", status="running")
    (folder / "verdict.json").unlink(missing_ok=True)
    monkeypatch.setattr("openddpm.training.recorder.judge", lambda *_: [][0])
    listener = Listener()
    recorder = recorder_of(folder, listener)
    recorder.started()
    recorder.evaluated(read_run_folder(folder).evaluations[-1])
    recorder.grown(recorder.run.progress)
    recorder.ended("finished")
    assert [text.count("IndexError") for text in listener.warnings] == [1]
    assert listener.events == ["record grown", "ended"] and not (folder / "verdict.json").exists()


def test_a_record_that_cannot_be_read_ends_no_run(tmp_path: Path) -> None:
    """Rows of an earlier session that fit no schema give one warning, and the run goes on without a verdict."""
    folder = write_made_up_run(tmp_path / "run", status="running")
    listener = Listener()
    recorder = recorder_of(folder, listener)
    (folder / "evaluations.jsonl").write_text('{"step": 1}\n')
    recorder.started()
    recorder.ended("finished")
    assert len(listener.warnings) == 1 and "evaluations.jsonl" in listener.warnings[0]
    assert listener.events == ["ended"]
