"""Pushes the run to the Hub when it ends; a failed push never ends a run."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.publishing.hub import prepare_repository, push_run
from openddpm.record.schema import RunRecord
from openddpm.training.observer import Observer


class PushObserver(Observer):
    """Checks the repository at the start (else HubError) and uploads a finished run at its end."""

    def __init__(self, config: TrainConfig, console: Console) -> None:
        self._config = config
        self._console = console
        self._repository = prepare_repository(config)

    def started(self, run: RunRecord, folder: Path) -> None:
        self._folder = folder

    def ended(self, run: RunRecord) -> None:
        if run.status != "finished":
            return
        say = self._console.print
        try:
            address = push_run(
                self._folder,
                self._repository,
                self._config.hub_token,
                private=self._config.hub_private_repo,
                tell=lambda line: say(escape(line), soft_wrap=True),
            )
            say(f"pushed: {escape(address)}", soft_wrap=True)
        except UserError as error:
            again = f"openddpm push {shlex.quote(str(self._folder))} --hub_model_id {self._repository}"
            say(f"[bold red]not pushed:[/] {escape(error.found)}", soft_wrap=True)
            say(f"Nothing is lost. {escape(error.hint)} Try again: {escape(again)}", soft_wrap=True)
