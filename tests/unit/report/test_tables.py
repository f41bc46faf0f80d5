from pathlib import Path

from made_up_run import write_made_up_run
from openddpm.analysis.text import duration, short_count, significant, utc_text
from openddpm.config import TrainConfig
from openddpm.record.reader import read_run_folder
from openddpm.report.tables import all_tables, config_rows


def test_only_changed_options_come_first(tmp_path: Path) -> None:
    """The first table holds exactly the options that differ from the defaults, with both values and the help text."""
    tables = all_tables(read_run_folder(write_made_up_run(tmp_path)))
    rows = {row.name: row for row in tables.changed_options}
    assert (rows["learning_rate"].value, rows["learning_rate"].default) == ("0.008", "0.0001")
    assert rows["learning_rate"].help == "Highest learning rate of the schedule."
    assert "adam_weight_decay" not in rows
    assert "adam_weight_decay" in [row.name for row in tables.options]


def test_a_token_in_the_record_is_not_shown() -> None:
    """A secret that somebody wrote into run.json does not get into the report."""
    rows = config_rows({**TrainConfig().model_dump(), "hub_token": "hf_secret"})
    assert "hf_secret" not in [row.value for row in rows]
    assert "dataset" in [row.name for row in rows]


def test_nested_environment_is_flat(tmp_path: Path) -> None:
    """Nested entries of the environment become rows named by their path."""
    tables = all_tables(read_run_folder(write_made_up_run(tmp_path)))
    assert ("packages.openddpm", "0.1.0") in [(row.name, row.value) for row in tables.environment]


def test_numbers_read_as_people_write_them() -> None:
    """Durations, counts, losses and times keep two or three figures that matter."""
    durations = {0: "0 s", 42: "42 s", 300: "5 min", 112: "1 min 52 s", 11220: "3 h 7 min", 200000: "2 d 7 h"}
    assert {seconds: duration(seconds) for seconds in durations} == durations
    assert [short_count(n) for n in (12, 652_419, 231_440_643)] == ["12", "652 k", "231 M"]
    assert [significant(n) for n in (0.0831234, 0.1, 1.0, 0.0000123)] == ["0.0831", "0.100", "1.00", "1.23e-05"]
    assert utc_text("2026-03-14T09:26:53+01:00") == "2026-03-14 08:26 UTC"
    assert utc_text("some day") == "some day"
