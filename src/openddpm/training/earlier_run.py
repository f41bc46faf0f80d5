"""The run to resume, and how far the requested config may differ from it."""

from dataclasses import dataclass, replace
from pathlib import Path

from openddpm.analysis.text import number_of
from openddpm.config import DataOptions, TrainConfig, config_differences, recorded_config
from openddpm.data.store import ImageStore
from openddpm.errors import UserError
from openddpm.recipes import RECIPES
from openddpm.record.files import read_json_lines
from openddpm.record.reader import read_run_record
from openddpm.record.schema import RunRecord
from openddpm.record.writer import CHECKPOINTS_FILE, IMPORTED_FILE, RUN_FILE, RUN_FILES
from openddpm.training.checkpoint import Checkpoint, load_checkpoint

_FIXED = ("model", "resolution", "use_ema", "optimizer", "init_from", "zero_init_residuals", "prediction_type")
"""Options that determine the training state, or the meaning of the weights in every checkpoint."""


@dataclass(frozen=True)
class Earlier:
    """A run to resume."""

    record: RunRecord
    checkpoint: Checkpoint | None
    """None if it ended before its first checkpoint."""
    config: TrainConfig
    """The requested one, with the global batch spread over the present processes."""
    changes: list[str]
    """What differs from the recorded run, a line each."""

    @property
    def position(self) -> tuple[int, int]:
        """Steps and images done so far."""
        return (self.checkpoint.scalars["step"], self.checkpoint.scalars["images_seen"]) if self.checkpoint else (0, 0)

    @property
    def data_options(self) -> DataOptions:
        """The config, at the commit that the run recorded unless it now names another data set or revision."""
        recorded = self.record.dataset.source, self.record.config.get("dataset_revision")
        if (self.config.dataset, self.config.dataset_revision) != recorded:
            return self.config
        return self.config.model_copy(update={"dataset_revision": self.record.dataset.revision})


def find_earlier_run(config: TrainConfig, num_processes: int) -> Earlier | None:
    """Return the run to resume, or None to start a new one.

    Raises:
        UserError: the folder holds a run that must not be overwritten, that differs, or that cannot be resumed.
    """
    folder = Path(config.output_dir)
    resume = config.resume_from_checkpoint
    if not (folder / RUN_FILE).exists():
        taken = [name for name in (*RUN_FILES, IMPORTED_FILE) if _holds_something(folder / name)]
        if resume not in (None, "latest"):
            raise UserError(f"nothing to resume: no run in '{folder}'", "Give the run's folder as --output_dir.")
        if taken:
            raise UserError(
                f"'{folder}' is not a run folder, but has {', '.join(taken)}, which a run would overwrite",
                "Choose another --output_dir, or move them elsewhere.",
            )
        return None
    if resume is None and config.overwrite_output_dir:
        return None
    record = read_run_record(folder)
    config, changes = _adapted(config, record, num_processes)
    if resume is None:
        raise UserError(
            f"'{folder}' already holds this run ({record.status}, step {record.progress.step})",
            f"Resume it: openddpm resume {folder}. Or add --overwrite_output_dir to replace it.",
        )
    checkpoint = load_checkpoint(folder, record.run_id, resume)
    if checkpoint is None and read_json_lines(folder / CHECKPOINTS_FILE):
        raise UserError(
            f"the checkpoints of the run in '{folder}' are gone: it would begin again, and its record would be lost",
            "Restore its folder 'checkpoints', or train again with --overwrite_output_dir.",
        )
    return Earlier(record, checkpoint, config, changes)


def _adapted(config: TrainConfig, record: RunRecord, num_processes: int) -> tuple[TrainConfig, list[str]]:
    """Return the config that keeps the run's global batch with these processes, and what differs.

    Raises:
        UserError: it differs in more than is allowed.
    """
    recorded = recorded_config(record.config)
    if config.resume_from_checkpoint and config.init_from is None:  # the checkpoint has the weights
        config = config.model_copy(update={"init_from": recorded.init_from})
    if config.resume_from_checkpoint and config.follow in (None, RECIPES.get(config.recipe or "", {}).get("follow")):
        config = config.model_copy(update={"follow": recorded.follow})  # none was asked for in its place
    if config.max_minutes is not None:  # only for planning a new run
        length = {name: getattr(recorded, name) for name in ("max_train_steps", "num_epochs")}
        config = config.model_copy(update={**length, "max_minutes": None})
    before = record.session.num_processes
    num_micro_batches = recorded.gradient_accumulation_steps * before
    accumulation = num_micro_batches // num_processes
    resized = []
    if num_processes != before:
        resized = [f"number of processes: {num_processes}, but {before} in the run"]
    batch_before = recorded.global_batch_size(before)
    keeps_batch = num_micro_batches % num_processes == 0
    if keeps_batch and config.gradient_accumulation_steps in (recorded.gradient_accumulation_steps, accumulation):
        spread = {"gradient_accumulation_steps": accumulation}
        config, recorded = config.model_copy(update=spread), recorded.model_copy(update=spread)
    batch = config.global_batch_size(num_processes)
    if batch != batch_before:
        resized.append(f"images per step: {batch}, but {batch_before} in the run")
    changed = config_differences(config, recorded)
    if keeps_batch and not changed:
        return config, resized
    fits = all(getattr(config, name) == getattr(recorded, name) for name in _FIXED)
    has_its_length = all(getattr(config, name) == getattr(recorded, name) for name in ("max_train_steps", "num_epochs"))
    is_over = record.status == "finished" and config.resume_from_checkpoint == "latest" and has_its_length
    if fits and config.accept_changes and not is_over:
        return config, resized + changed
    hint = "Choose another --output_dir, give the options of that run, or accept the changes: --accept_changes."
    if is_over:
        hint = f"It finished after {number_of(record.total_steps, 'step')}: give it more, such as --max_train_steps N."
    if not fits:
        names = " or ".join(f"--{name}" for name in _FIXED)
        hint = f"Choose another --output_dir, or give the options of that run: its weights fit no other {names}."
    if not config.resume_from_checkpoint:
        hint += " Or replace it: --overwrite_output_dir."
    listed = "\n".join(f"  {line}" for line in resized + changed)
    raise UserError(f"'{config.output_dir}' holds a run with another config:\n{listed}", hint)


def check_images(earlier: Earlier, store: ImageStore) -> Earlier:
    """Return `earlier`, with other images added to its changes if they are accepted.

    Raises:
        UserError: the images are not those of the run, and this is not accepted.
    """
    ours, theirs = store.sha256, earlier.record.dataset.sha256
    if ours == theirs:
        return earlier
    found = f"the images are not those of the run: sha256 {ours[:12]}, {theirs[:12]} in the run"
    shape = store.image_shape
    if shape != earlier.record.dataset.image_shape:
        raise UserError(f"{found}, with {number_of(shape[0], 'channel')}", "Train on them in another --output_dir.")
    if not earlier.config.accept_changes:
        raise UserError(
            found,
            "Restore the data set, start a new run in another --output_dir, or add --accept_changes: new held-out "
            "images are then chosen, and some of them may have been trained on.",
        )
    return replace(earlier, changes=[*earlier.changes, f"images: sha256 {ours}, but {theirs} in the run"])


def check_user_supplied(given: list[str], recorded: list[str]) -> None:
    """Check that the same user-supplied objects are given as in the recorded run.

    Raises:
        UserError: they are not the same.
    """
    if given != recorded:
        raise UserError(
            f"the run was trained with these objects given from Python: {', '.join(recorded) or 'none'}; "
            f"this call gives: {', '.join(given) or 'none'}",
            "Call train() with the same objects and resume_from_checkpoint='latest'.",
        )


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
