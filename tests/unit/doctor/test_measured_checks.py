"""What is made of measurements."""

import math
from typing import Any

import pytest

from made_up_run import write_made_up_run
from openddpm.analysis.text import byte_size
from openddpm.doctor.measured_checks import Fit, Measurements, check_measurements, refuted
from openddpm.record.reader import read_run_record
from openddpm.record.schema import RunRecord

FELL, STOOD = Fit(16, 40, 1.0, 0.05), Fit(16, 40, 1.0, 0.99)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A run of batches of 16."""
    return read_run_record(write_made_up_run(tmp_path_factory.mktemp("runs") / "run", steps=10, rows=1, previews=1))


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({"careful_fit": FELL, "own_fit": FELL, "epsilon_share": 0.999}, {}),
        ({"careful_fit": STOOD, "own_fit": STOOD, "epsilon_share": 0.999}, {"one_batch": "error"}),
        ({"careful_fit": Fit(16, 3, 1.0, math.nan)}, {"one_batch": "error"}),
        ({"careful_fit": Fit(1, 3, 1.0, 0.9)}, {"one_batch": "note"}),
        ({"careful_fit": FELL, "own_fit": STOOD}, {"own_settings": "error"}),
        ({"careful_fit": FELL, "own_fit": Fit(16, 40, 1.0, 1.2)}, {"own_settings": "error"}),
        ({"careful_fit": FELL, "own_fit": Fit(16, 3, 1.0, math.inf)}, {"own_settings": "error"}),
        ({"careful_fit": FELL, "own_fit": Fit(16, 40, 1.0, 0.9)}, {"own_settings": "warning"}),
        ({"careful_fit": FELL, "own_fit": Fit(1, 3, 1.0, 0.9)}, {}),
        ({"careful_fit": FELL, "own_fit": FELL, "epsilon_share": 0.16}, {"adam_epsilon": "error"}),
        ({"num_frozen": 10}, {"frozen": "warning"}),
        ({"disk_needed_bytes": 100, "disk_free_bytes": 99}, {"disk": "error"}),
        ({"disk_needed_bytes": 99, "disk_free_bytes": 100}, {}),
        ({"training_seconds": 9e5, "preview_seconds": 9e4, "images_per_second": 1.0}, {"duration": "warning"}),
        ({"training_seconds": 9e4, "preview_seconds": 9e3, "images_per_second": 1.0}, {}),
    ],
    ids=str,
)
def test_measurements_are_judged(measured: dict[str, Any], expected: dict[str, str], run: RunRecord) -> None:
    """Each bad measurement is reported once, with its severity; good and missing ones are not."""
    found = check_measurements(run, Measurements(**measured))
    assert {finding.name: finding.severity for finding in found} == expected


@pytest.mark.parametrize(
    ("batch_size", "words"),
    [(4, "--train_batch_size 4 --gradient_accumulation_steps 8 "), (None, "--gradient_checkpointing")],
)
def test_a_batch_too_large_names_one_that_fits(batch_size: int | None, words: str, run: RunRecord) -> None:
    """Where memory is short, the options named make steps of as many images; where nothing fits, they save memory."""
    (finding,) = check_measurements(run, Measurements(out_of_memory=True, batch_size=batch_size))
    assert finding.severity == "error"
    assert words in finding.hint


@pytest.mark.parametrize(("training", "previews", "is_named"), [(8e5, 1e5, False), (1e5, 8e5, True)])
def test_a_long_run_names_previews_where_they_are_why(
    training: float, previews: float, is_named: bool, run: RunRecord
) -> None:
    """A run that takes days because of its previews is reported, with what makes them fewer; another is not."""
    measured = Measurements(training_seconds=training, preview_seconds=previews, images_per_second=1.0)
    (finding,) = check_measurements(run, measured)
    assert ("previews" in finding.what, "--save_images_epochs" in finding.hint) == (is_named, is_named)


@pytest.mark.parametrize(("share", "names"), [(None, set()), (0.7, set()), (0.97, {"adam_epsilon"})])
def test_measured_steps_refute_the_plan(share: float | None, names: set[str]) -> None:
    """Steps of nearly their full length refute what the plan's epsilon made one fear; shorter ones do not."""
    assert refuted(Measurements(epsilon_share=share)) == names


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(140, "0.14 kB"), (16_400_000, "16.4 MB"), (999_600_000, "1 GB"), (2.5e12, "2.5 TB")]
)
def test_sizes_are_readable(num_bytes: float, text: str) -> None:
    """A number of bytes is written in the unit that leaves it few digits."""
    assert byte_size(num_bytes) == text
