"""openddpm references: what it prints of a folder of runs."""

import os
from pathlib import Path

import pytest

from made_up_run import write_made_up_run
from openddpm.cli.main import main


@pytest.mark.skipif(os.name == "nt", reason="names of files have no such characters")
def test_names_of_folders_send_nothing_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in a folder's name are printed as escapes, in notes, too."""
    for name in ("plain", "red\x1b[31m"):
        write_made_up_run(tmp_path / name, rows=4, previews=1, evaluations=6)
    assert main(["references", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "red\\x1b[31m" in printed
