"""The run in trackers: TensorBoard's events, and every other tracker that Accelerate has a class for."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType
from PIL import Image
from rich.console import Console
from rich.markup import escape

from openddpm.config import SECRET_OPTIONS, TrainConfig
from openddpm.errors import UserError, closest
from openddpm.observers.tensorboard import TensorBoard
from openddpm.record.files import TEMPORARY, replace_path
from openddpm.record.reader import Preview
from openddpm.record.schema import EvaluationRow, MetricsRow, RunRecord, SamplesRow, Verdict
from openddpm.record.writer import TRACKERS_FILE
from openddpm.training.observer import Observer

PROJECT = "openddpm"
"""The project of all runs, in trackers that have projects."""


class Tracker(Protocol):
    """A tracker, which gets the numbers, texts and pictures of a run by the same names as every other."""

    name: str
    replaces_steps: bool
    """Whether a resumed run may send steps again, because the tracker drops those after the step it resumes from."""

    def start(self, run: RunRecord, folder: Path, options: dict[str, bool | int | float | str]) -> None:
        """Begin a run in the tracker, or continue the one that belongs to this run."""

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add a point to each curve."""

    def text(self, name: str, text: str, step: int) -> None:
        """Add a text, if the tracker supports texts."""

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Add an RGB picture, if the tracker supports pictures."""

    def finish(self, run: RunRecord) -> None:
        """Send what is left, and end the tracker's run."""


class TrackersObserver(Observer):
    """Sends a run to trackers; one that fails is named once and gets nothing more.

    The last step that was sent to each is kept in the run folder, so that a resumed run sends no step twice.
    """

    def __init__(self, trackers: Sequence[Tracker], console: Console | None = None) -> None:
        self._ready = list(trackers)
        self._trackers: list[Tracker] = []
        self._console = console or Console(stderr=True, highlight=False)
        self._sent: dict[str, dict[str, int]] = {}
        self._has_news = False

    def started(self, run: RunRecord, folder: Path) -> None:
        self._file, self._trackers = folder / TRACKERS_FILE, self._ready
        with suppress(OSError, ValueError):
            self._sent = json.loads(self._file.read_bytes())
        options = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in run.config.items()
        }
        self._each(lambda tracker: tracker.start(run, folder, options))
        for tracker in self._trackers:
            last = max(self._sent.get(tracker.name, {}).values(), default=0)
            if not tracker.replaces_steps and last > run.progress.step:
                self._say(f"{tracker.name} keeps steps {run.progress.step + 1:,} to {last:,} as they were sent before")

    def logged(self, row: MetricsRow) -> None:
        names = ("train_loss", "learning_rate", "grad_norm", "ema_decay", "images_per_second", "epoch")
        self._scalars("train", {name: getattr(row, name) for name in names}, row.step)

    def evaluated(self, row: EvaluationRow) -> None:
        scores = {"heldout_loss": row.heldout_loss, "train_loss": row.fixed_train_loss, "skill": row.skill}
        scores |= {f"{band}_loss": score.loss for band, score in row.bands.items()}
        scores |= {f"{band}_skill": score.skill for band, score in row.bands.items()}
        self._scalars(f"evaluation_{row.weights}", scores, row.step)
        self._has_news = True

    def sampled(self, row: SamplesRow) -> None:
        self._scalars(f"samples_{row.weights}", {k: one.samples for k, one in row.statistics.items()}, row.step)

    def judged(self, verdict: Verdict) -> None:
        """Send a verdict as text and, after a new evaluation, the numbers that it is based on."""
        text = f"**{verdict.code}** {verdict.sentence}"
        again = self._behind("verdict", verdict.step + 1)  # the end of a session judges its last evaluation again
        self._each(lambda tracker: tracker.text("verdict", text, verdict.step), again)
        if not self._has_news:
            return
        self._has_news = False
        self._scalars("verdict", {entry.name: entry.value for entry in verdict.evidence}, verdict.step)

    def previewed(self, preview: Preview) -> None:
        for weights, path in preview.pictures.items():
            with Image.open(path) as picture:
                self._picture(f"samples/{weights}", picture.convert("RGB"), preview.step)

    def ended(self, run: RunRecord) -> None:
        self._each(lambda tracker: tracker.finish(run))
        self._trackers = []

    def _scalars(self, group: str, values: dict[str, float | None], step: int) -> None:
        known = {f"{group}/{name}": value for name, value in values.items() if value is not None}
        self._once(group, step, lambda tracker: tracker.scalars(known, step))

    def _picture(self, name: str, picture: Image.Image, step: int) -> None:
        self._once(name, step, lambda tracker: tracker.picture(name, picture, step))

    def _once(self, what: str, step: int, send: Callable[[Tracker], None]) -> None:
        """Send a group of curves or a picture to all trackers except those that have this step or a later one of it."""
        new = self._behind(what, step)
        kept = [one for one in new if not one.replaces_steps]
        for tracker in kept:
            self._sent.setdefault(tracker.name, {})[what] = step
        if kept:
            with suppress(OSError):  # a full disk; the next step is noted again
                temporary = self._file.with_name(f".{self._file.name}{TEMPORARY}")
                temporary.write_text(json.dumps(self._sent), "utf-8")  # not synced: that would hold up every log line
                replace_path(temporary, self._file)
        self._each(send, new)

    def _behind(self, what: str, step: int) -> list[Tracker]:
        """Return the trackers that have no `what` from `step` on, and those that replace steps."""
        last = {one.name: self._sent.get(one.name, {}).get(what, -1) for one in self._trackers}
        return [one for one in self._trackers if one.replaces_steps or step > last[one.name]]

    def _each(self, send: Callable[[Tracker], None], trackers: Sequence[Tracker] | None = None) -> None:
        for tracker in list(self._trackers if trackers is None else trackers):
            try:
                send(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                self._say(f"{tracker.name} failed, and gets no more of this run: {type(error).__name__}: {error}")

    def _say(self, warning: str) -> None:
        self._console.print(f"[bold red]warning:[/] {escape(warning)}", soft_wrap=True)


class AccelerateTracker:
    """A tracker used through Accelerate's class for it."""

    replaces_steps = False

    def __init__(self, name: str, config: TrainConfig) -> None:
        self.name = name
        self._logging_dir = config.logging_dir
        self._secrets = [value for option in SECRET_OPTIONS if (value := getattr(config, option))]
        self._tracker: Any = None

    def start(self, run: RunRecord, folder: Path, options: dict[str, bool | int | float | str]) -> None:
        kind = LOGGER_TYPE_TO_CLASS[self.name]
        place = (self._logging_dir,) if kind.requires_logging_directory else ()
        self._tracker = kind(PROJECT, *place, **self.arguments(run))
        with _without(self._secrets):
            self._tracker.start()
        self._tracker.store_init_configuration(options)

    def arguments(self, run: RunRecord) -> dict[str, Any]:
        """Return the arguments of the tracker's class that identify the run."""
        return {}

    def scalars(self, values: dict[str, float], step: int) -> None:
        self._tracker.log(values, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """Do nothing: most trackers support numbers only."""

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Add a picture, if Accelerate's class for the tracker supports pictures."""
        if hasattr(self._tracker, "log_images"):
            takes_one = self.name in ("aim", "clearml")
            self._tracker.log_images({name: picture if takes_one else [picture]}, step=step)

    def finish(self, run: RunRecord) -> None:
        self._tracker.finish()


class WandB(AccelerateTracker):
    """Weights & Biases, with the run's steps as x axis: its own steps can never go back."""

    def start(self, run: RunRecord, folder: Path, options: dict[str, bool | int | float | str]) -> None:
        super().start(run, folder, options)
        self._tracker.tracker.define_metric("*", step_metric="step")

    def arguments(self, run: RunRecord) -> dict[str, Any]:
        """Return the id and name; W&B does not capture the output, as the live view would fill its log."""
        return {"id": run.run_id, "name": run.name, "resume": "allow", "settings": {"console": "off"}}

    def scalars(self, values: dict[str, float], step: int) -> None:
        self._tracker.log({**values, "step": step})

    def text(self, name: str, text: str, step: int) -> None:
        self._tracker.log({name: text, "step": step})

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        import wandb

        self._tracker.log({name: wandb.Image(picture), "step": step})


class Trackio(AccelerateTracker):
    """trackio, which identifies a run by its name only, so the name contains a part of the run id."""

    def arguments(self, run: RunRecord) -> dict[str, Any]:
        return {"name": f"{run.name}-{run.run_id[:6]}", "resume": "allow"}

    def text(self, name: str, text: str, step: int) -> None:
        self._tracker.log({name: text}, step=step)

    def picture(self, name: str, picture: Image.Image, step: int) -> None:
        import trackio

        self._tracker.log({name: trackio.Image(picture)}, step=step)


_SPECIAL_CLASSES: dict[str, type[AccelerateTracker]] = {"wandb": WandB, "trackio": Trackio}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that Accelerate does not know, or that are not installed.

    Raises:
        UserError: naming the known ones, or the command that installs what is missing.
    """
    known, available = list(LOGGER_TYPE_TO_CLASS), [str(one) for one in get_available_trackers()]
    for name in names:
        if name not in known:
            hint = f"Give --report_to some of these, separated by commas: {closest(name, [*known, 'none'])}"
            raise UserError(f"--report_to: unknown tracker '{name}'", hint)
    missing = [name for name in names if name in LoggerType.list() and name not in available]
    if missing:
        found = f"--report_to {','.join(names)}: not installed: {', '.join(missing)}"
        raise UserError(found, f"Install: pip install 'openddpm[{','.join(missing)}]'. Or leave it out of --report_to.")


def build_trackers(config: TrainConfig) -> list[Tracker]:
    """Return the trackers that `--report_to` names, not yet started.

    Raises:
        UserError: one is not known or not installed, or the logging folder cannot be written.
    """
    check_trackers(config.trackers)
    return [
        TensorBoard(Path(config.logging_dir))
        if name == TensorBoard.name
        else _SPECIAL_CLASSES.get(name, AccelerateTracker)(name, config)
        for name in config.trackers
    ]


@contextmanager
def _without(secrets: Sequence[str]) -> Iterator[None]:
    """Mask secrets in the command line while trackers start, since they record it."""
    original = sys.argv
    sys.argv = [_masked(argument, secrets) for argument in original]
    try:
        yield
    finally:
        sys.argv = original


def _masked(argument: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        argument = argument.replace(secret, "...")
    return argument
