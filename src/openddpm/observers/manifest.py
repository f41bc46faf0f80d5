"""Writes manifest.json when the run ends."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from openddpm.record.kept import recorded_sha256
from openddpm.record.manifest import write_manifest
from openddpm.record.public import published_names
from openddpm.record.reader import read_checkpoint_rows
from openddpm.record.schema import RunRecord
from openddpm.record.writer import MANIFEST_FILE
from openddpm.training.observer import Observer


class ManifestObserver(Observer):
    """Lists what the run leaves to be published, however it ended; a failure never ends a run."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._folder: Path | None = None

    def started(self, run: RunRecord, folder: Path) -> None:
        self._folder = folder

    def ended(self, run: RunRecord) -> None:
        if self._folder is None:
            return
        try:
            rows = read_checkpoint_rows(self._folder)
            names = published_names(self._folder, rows, run.config.get("keep_every"))
            write_manifest(self._folder, names, recorded_sha256(rows))
        except Exception as error:
            what = f"{MANIFEST_FILE} could not be written ({type(error).__name__}: {error})"
            line = f"[bold red]warning:[/] {escape(what)}; without it nobody can tell whether the files were changed"
            self._console.print(line, soft_wrap=True)
