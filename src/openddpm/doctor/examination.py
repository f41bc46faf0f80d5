"""Will a planned run work? Its plan, its folders, its machine, and one batch memorized."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openddpm.analysis.checks import check_plan, preview_cost
from openddpm.analysis.finding import Finding, Severity, by_severity
from openddpm.analysis.text import number_of
from openddpm.config import TrainConfig, average_names
from openddpm.data.stream import Transform
from openddpm.doctor.measured_checks import Measurements, check_measurements, refuted
from openddpm.doctor.one_batch import MemorizingProbe, own_settings
from openddpm.errors import UserError
from openddpm.observers.trackers import check_trackers
from openddpm.record.reader import read_run_folder
from openddpm.record.schema import RunRecord
from openddpm.training.earlier_run import find_earlier_run
from openddpm.training.milestones import milestone_steps
from openddpm.training.performance import with_fast_precision
from openddpm.training.run import Training
from openddpm.training.run_folder import check_output_folder
from openddpm.training.setup import prepare

if TYPE_CHECKING:
    from diffusers import UNet2DModel

FIT_STEPS, FIT_SECONDS, FIT_IMAGES = 40, 30.0, 16  # at most, each of the two times that a batch is memorized
WEIGHT_BYTES = 4


@dataclass(frozen=True)
class Examination:
    """What the doctor found."""

    run: RunRecord
    """The plan."""
    findings: list[Finding]
    """The most severe first, one per name."""
    measurements: Measurements

    def count(self, severity: Severity) -> int:
        """Return the number of findings of `severity`."""
        return sum(finding.severity == severity for finding in self.findings)


def examine(
    config: TrainConfig,
    *,
    dataset: Any = None,
    transform: Transform | None = None,
    unet: "UNet2DModel | None" = None,
    tell: Callable[[str], None] = lambda stage: None,
) -> Examination:
    """Examine the run that `train` would start with the same arguments, without touching its folders.

    Args:
        tell: called with the name of each stage as it begins.

    Raises:
        UserError: as `train`, for what in the config or the data has to be fixed first.
    """
    tell("reading the images and building the model")
    measured = Measurements()
    with tempfile.TemporaryDirectory(prefix="openddpm-doctor-", ignore_cleanup_errors=True) as aside:
        elsewhere = {"output_dir": str(Path(aside) / "run"), "overwrite_output_dir": False}
        planned = config.model_copy(update={**elsewhere, "resume_from_checkpoint": None})
        training = prepare(planned, dataset, transform, unet, times_steps=False)
        try:
            run, data = training.recorder.run, read_run_folder(training.recorder.folder).data
            measured.signal_left = run.model.signal_left
            _measure_disk(config, run, measured)
            _measure_training(training, measured, tell)
        finally:
            training.close()
    from_plan = [finding for finding in check_plan(run, data) if finding.name not in refuted(measured)]
    findings = [*from_plan, *_check_folders(config), *check_measurements(run, measured)]
    return Examination(run, by_severity({finding.name: finding for finding in findings}.values()), measured)


def _check_folders(config: TrainConfig) -> Iterator[Finding]:
    """Check that the run can write to its folders, and that no other run is in the way."""
    for option in ("output_dir", "logging_dir") if config.trackers else ("output_dir",):
        folder = Path(getattr(config, option)).expanduser()
        place = _nearest_existing(folder)
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            what, why = f"--{option} '{folder}' is not writable", f"'{place}' is not a folder that you may write to."
            yield Finding(option, "error", what, why, f"Choose another --{option}.")
    try:
        check_trackers(config.trackers)
    except UserError as error:
        yield Finding("report_to", "error", error.found, "`openddpm train` would stop at this.", error.hint)
    try:
        check_output_folder(config)
    except UserError as error:
        yield Finding("output_folder", "error", error.found, "The run would write among its images.", error.hint)
    try:
        find_earlier_run(with_fast_precision(config), num_processes=1)
    except UserError as error:
        yield Finding("earlier_run", "warning", error.found, "`openddpm train` would stop at this.", error.hint)


def _measure_disk(config: TrainConfig, run: RunRecord, measured: Measurements) -> None:
    """Compute the most disk space that checkpoints take, one more than are kept being written, and what is free."""
    milestones = milestone_steps(config.milestones, run.total_steps)
    num_kept = run.total_steps // config.keep_every if config.keep_every else 0
    num_written = -(-run.total_steps // config.checkpointing_steps) + len(milestones)
    num_checkpoints = min(config.checkpoints_total_limit + 1, num_written) + num_kept
    num_copies = 3 + len(average_names(config.model_dump()))  # weights and AdamW's two moments
    num_copies = num_checkpoints * num_copies + len(milestones)
    measured.disk_needed_bytes = num_copies * WEIGHT_BYTES * run.model.num_parameters
    measured.disk_free_bytes = shutil.disk_usage(_nearest_existing(Path(config.output_dir))).free


def _nearest_existing(path: Path) -> Path:
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _measure_training(training: Training, measured: Measurements, tell: Callable[[str], None]) -> None:
    """Run the measurements that need the model; none beyond memory if no batch fits."""
    config, run = training.config, training.recorder.run
    parameters = training.state.unet.parameters()
    measured.num_frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    tell(f"one step of {number_of(config.train_batch_size, 'image')}")
    probe = MemorizingProbe(training)
    measured.batch_size = probe.fit_memory()
    measured.out_of_memory = measured.batch_size != config.train_batch_size
    if measured.batch_size is None:
        return
    tell("timing steps")
    measured.step_seconds = probe.seconds_a_step()
    measured.memory_bytes = probe.memory_bytes()
    rate = measured.images_per_second = measured.batch_size / measured.step_seconds
    measured.training_seconds = run.total_steps * training.global_batch_size / rate
    measured.preview_seconds = preview_cost(run) / rate
    num_images = max(1, min(FIT_IMAGES, measured.batch_size, int(rate * FIT_SECONDS / FIT_STEPS)))
    tell("memorizing one batch")
    measured.careful_fit = probe.memorize_batch(probe.careful_settings(), num_images, FIT_STEPS, FIT_SECONDS)
    tell("memorizing it again with your optimizer settings")
    measured.own_fit = probe.memorize_batch(own_settings(config), num_images, FIT_STEPS, FIT_SECONDS)
    measured.epsilon_share = probe.epsilon_share()
