"""Pushes the run to the Hub when it ends; a failing push never ends a run."""

from pathlib import Path

from rich.console import Console

from openddpm.config import TrainConfig
from openddpm.publishing.hub import HubError, prepare_repository, push_run
from openddpm.record.schema import RunRecord
from openddpm.training.observers import Observer


class PushObserver(Observer):
    """Checks the repository when made, raising a HubError, and uploads at the end of a finished run."""

    def __init__(self, config: TrainConfig, console: Console) -> None:
        self._config = config
        self._console = console
        self._repository = prepare_repository(config)

    def started(self, run: RunRecord, folder: Path) -> None:
        self._folder = folder

    def ended(self, run: RunRecord) -> None:
        if run.status != "finished":
            return
        try:
            address = push_run(
                self._folder, self._repository, self._config.hub_token, private=self._config.hub_private_repo
            )
            self._console.print(f"pushed: {address}")
        except HubError as error:
            self._console.print(f"[bold red]not pushed:[/] {error.found}", markup=True)
            self._console.print(f"Nothing is lost. Try again: openddpm push {self._folder} --hub_model_id {self._repository}")
