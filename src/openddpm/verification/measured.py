"""The rungs that measure the weights that are there: evaluation and previews."""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from openddpm.analysis.text import number_of
from openddpm.comparison.rounding import NEGLIGIBLE, Forward, limit_of_a_measurement, limits_of_pixels
from openddpm.comparison.same_run import COARSE_LOSS, computes_coarsely, relative_difference
from openddpm.diffusion.denoiser import denoiser
from openddpm.evaluation.previews import draw_preview
from openddpm.pictures import image_grid
from openddpm.record.reader import RunFolder
from openddpm.record.schema import BaselinesRecord, EvaluationRow, SamplesRow, SampleStatistic, StatisticName
from openddpm.record.verification import Rung, RungName
from openddpm.training.evaluate import PRECISIONS
from openddpm.verification.materials import Measuring, NoPicture, NotHere, pixels_of
from openddpm.verification.rungs import failed, not_checked, rung
from openddpm.verification.weights import WeightsFile

COARSE_STATISTIC = 1e-2  # assumed: the same of a statistic of samples, which are from 0 to 1
OF_STATISTICS = 1e-4  # assumed: rounding moves the mean of all pixels of a preview by less

Shown = Callable[[int, int], None]
"""Called with what is done and what is to be done."""


def evaluation(record: RunFolder, weights: Sequence[WeightsFile], measuring: Measuring, shown: Shown) -> Rung:
    """Measure the baselines and the weights that are there again, on the same fixed samples."""
    worst = _Worst(computes_coarsely(record))
    if record.baselines is not None:
        _compare_baselines(worst, measuring.baselines, record.baselines)
    rows = {(row.step, row.weights): row for row in record.evaluations}
    found = [file for file in weights if (file.step, file.name) in rows]
    for number, file in enumerate(found):
        shown(number, len(found))
        try:
            tensors = _load(file, measuring)
        except NotHere as error:
            worst.problems.append(str(error))
            continue
        errors = measuring.evaluation.squared_errors(denoiser(measuring.frozen_unet, tensors))
        row = measuring.evaluation.row(errors, file.name, file.step, rows[file.step, file.name].images_seen, 0.0)
        _compare_rows(worst, row, rows[file.step, file.name])
    what = "the baselines"
    if found:
        steps = len({file.step for file in found})
        what += f" and the losses of {number_of(len(found), 'file')} of weights ({number_of(steps, 'step')})"
    else:
        what += ", measured again (there are no weights of a step that was evaluated),"
    if not worst.num_numbers and not worst.problems:
        return not_checked("evaluation", "the record has no baselines, and there are no weights that were evaluated")
    return worst.rung("evaluation", f"{what}", f"{worst.num_numbers:,} numbers")


def previews(
    record: RunFolder,
    weights: Sequence[WeightsFile],
    measuring: Measuring,
    shown: Shown,
    is_time: Callable[[], bool],
) -> Rung:
    """Draw previews again from the weights that are there, and compare them pixel by pixel."""
    pictures = {(one.step, name): path for one in record.previews for name, path in one.pictures.items()}
    rows = {(row.step, row.weights): row for row in record.samples}
    found = [file for file in weights if (file.step, file.name) in pictures]
    if not pictures:
        return not_checked("previews", "the record holds no previews")
    if not found:
        return not_checked("previews", "there are no weights of a step that has a preview")
    worst, drawn = _Worst(computes_coarsely(record)), 0
    if record.run.status == "finished":  # else it was killed before it could write the line
        alone = [path.name for at, path in pictures.items() if at not in rows]
        worst.problems += [f"{name} is of a step without a preview" for name in alone]
    for number, file in enumerate(found):
        if drawn and not is_time():
            break
        shown(number, len(found))
        path = pictures[file.step, file.name]
        try:
            tensors = _load(file, measuring)
        except NotHere as error:
            worst.problems.append(str(error))
            continue
        precision = PRECISIONS[measuring.config.mixed_precision]
        denoise = denoiser(measuring.frozen_unet, tensors, precision)
        shape = record.run.dataset.image_shape
        images = draw_preview(denoise, measuring.process, measuring.config, shape, measuring.device)
        try:
            grid = np.asarray(image_grid(images))
            _compare_pixels(worst, path.name, grid, pixels_of(path, grid))
        except NoPicture as error:
            worst.problems.append(str(error))
        if (file.step, file.name) in rows:
            _compare_statistics(worst, rows[file.step, file.name], measuring.data_statistics.compare(images))
        drawn += 1
    left = f" of {len(pictures)}" if drawn < len(pictures) else ""
    return worst.rung("previews", f"{number_of(drawn, 'preview')}{left} drawn again", f"{worst.num_numbers:,} pixels")


class _Worst:
    """The largest difference of what was compared.

    Args:
        is_coarse: whether what is compared was computed in less than float32.
    """

    def __init__(self, is_coarse: bool) -> None:
        self.is_coarse = is_coarse
        self.num_numbers = 0
        self.largest = 0.0
        self.problems: list[str] = []
        self.notes: list[str] = []

    def take(self, what: str, here: float | None, there: float | None, quantity: Forward) -> None:
        """Compare two numbers."""
        self.num_numbers += 1
        if here == there:
            return
        difference = relative_difference(here, there)
        self.largest = max(self.largest, difference)
        limit = max(limit_of_a_measurement(quantity), COARSE_LOSS if self.is_coarse else 0.0)
        if difference > limit and (here is None or there is None or abs(here - there) > NEGLIGIBLE):
            self.problems.append(f"{what}: {_shown(here)} here, {_shown(there)} in the record")

    def rung(self, name: RungName, what: str, numbers: str) -> Rung:
        """Return the result."""
        if self.problems:
            return failed(name, self.problems)
        if self.largest == 0:
            return rung(name, "exact", f"{what} are the same: {numbers}, to the bit")
        text = f"{what} are the same but for rounding: {numbers}, {self._how_far()}"
        return rung(name, "rounding", text, self.notes)

    def _how_far(self) -> str:
        return self.notes[0] if self.notes else f"apart by {self.largest:.1g} at most"


def _compare_baselines(worst: _Worst, here: BaselinesRecord, there: BaselinesRecord) -> None:
    for name in BaselinesRecord.model_fields:
        if name == "seconds":
            continue
        ours, theirs = getattr(here, name), getattr(there, name)
        if not isinstance(ours, list):
            ours, theirs = [ours], [theirs]
        if len(ours) != len(theirs):
            worst.problems.append(f"{name} of baselines.json has {len(theirs)} entries, {len(ours)} expected")
            continue
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            place = f" of group {index}" if len(ours) > 1 else ""
            worst.take(f"{name} in baselines.json{place}", *pair, "baselines")


def _compare_rows(worst: _Worst, here: EvaluationRow, there: EvaluationRow) -> None:
    where = f"of the {here.weights} weights at step {here.step:,}"
    for name in ("heldout_loss", "fixed_train_loss", "skill_error"):
        worst.take(f"{name} {where}", getattr(here, name), getattr(there, name), "losses")
    for index, pair in enumerate(zip_longest(here.by_timestep, there.by_timestep)):
        worst.take(f"loss of group {index} of timesteps, {where}", *pair, "losses_of_groups")


def _compare_statistics(worst: _Worst, row: SamplesRow, here: Mapping[StatisticName, SampleStatistic]) -> None:
    """Compare the statistics of the samples in a preview, which the pixels give, with those in samples.jsonl."""
    least = COARSE_STATISTIC if worst.is_coarse else OF_STATISTICS
    for name in here.keys() | row.statistics.keys():
        ours, theirs = here.get(name), row.statistics.get(name)
        pairs = [] if ours is None or theirs is None else [(value, getattr(theirs, field)) for field, value in ours]
        if not pairs or any(abs(value - other) > least for value, other in pairs):
            worst.problems.append(f"{name} of step {row.step:,} in samples.jsonl is not the {row.weights} preview's")


def _compare_pixels(worst: _Worst, name: str, here: np.ndarray, there: np.ndarray) -> None:
    worst.num_numbers += here.size
    differences = here.astype(int) - there
    if not differences.any():
        return
    share, largest = float((differences != 0).mean()), int(np.abs(differences).max())
    worst.largest = max(worst.largest, share)
    text = f"{100 * share:.2g} % of the values of {name} differ, by up to {number_of(largest, 'level')}"
    most, levels = limits_of_pixels()
    if not worst.is_coarse and (share > most or largest > levels):
        worst.problems.append(text)
    else:
        worst.notes.append(text)


def _load(file: WeightsFile, measuring: Measuring) -> dict[str, torch.Tensor]:
    """Return weights that fit the UNet.

    Raises:
        NotHere: they cannot be read, or are those of another UNet.
    """
    shapes = {name: tensor.shape for name, tensor in measuring.frozen_unet.state_dict().items()}
    try:
        tensors = load_file(file.path)
    except (OSError, SafetensorError) as error:
        raise NotHere(f"{file.path.name} of step {file.step:,} cannot be read: {error}") from error
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        raise NotHere(f"{file.path.name} of step {file.step:,} has other tensors than the UNet of the run")
    return {name: tensor.to(measuring.device) for name, tensor in tensors.items()}


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.8g}" if isinstance(value, float) else str(value)
