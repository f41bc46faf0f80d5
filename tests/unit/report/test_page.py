"""Pages are written where a user says, and destroy nothing there."""

import os
from pathlib import Path

import pytest

from made_up_run import write_made_up_run
from openddpm.cli.main import main
from openddpm.errors import UserError
from openddpm.report.page import MARK, write_page


def test_only_a_page_of_openddpm_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record or a text named as the page is refused with status 2 and left alone; pages and empty files are not."""
    for name in ("one", "two"):
        write_made_up_run(tmp_path / name, rows=4, previews=1, evaluations=6)
    (tmp_path / "thesis.html").write_text("<!doctype html><title>mine</title>", "utf-8")
    record, one, two = tmp_path / "one" / "run.json", str(tmp_path / "one"), str(tmp_path / "two")
    commands = [["compare", one, two, "--page"], ["report", one, two, "--output"]]
    for command in commands:
        for file in (record, tmp_path / "thesis.html"):
            before = file.read_bytes()
            assert main([*command, str(file)]) == 2
            assert f"'{file}' is there already, and is no page of openddpm" in capsys.readouterr().err
            assert file.read_bytes() == before
        page = tmp_path / "page.html"
        page.touch()
        for _ in range(2):  # the second replaces a page
            main([*command, str(page)])
            assert MARK in page.read_bytes()[:4096]
        page.unlink()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_what_is_no_file_is_not_replaced() -> None:
    """A device is no page to replace."""
    with pytest.raises(UserError, match="is there already"):
        write_page(Path("/dev/null"), "")
