"""The rungs of the ladder that train nothing: files, data, initial weights, evaluation, previews."""

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from openddpm.analysis.text import number_of
from openddpm.comparison.rounding import NEGLIGIBLE, Forward, limit_of_a_measurement, limits_of_pixels
from openddpm.comparison.same_run import computes_coarsely, relative_difference
from openddpm.config import recorded_config
from openddpm.diffusion.denoiser import denoiser
from openddpm.errors import UserError
from openddpm.evaluation.previews import draw_preview
from openddpm.pictures import image_grid
from openddpm.record.files import file_sha256
from openddpm.record.manifest import check_manifest, read_manifest
from openddpm.record.public import published_names
from openddpm.record.reader import RunFolder
from openddpm.record.schema import BaselinesRecord, EvaluationRow
from openddpm.record.verification import Rung, RungName, RungStatus
from openddpm.record.writer import SCHEMAS, TRAINING_DATA_PICTURE
from openddpm.training.evaluate import PRECISIONS
from openddpm.training.initial_weights import initial_unet, weights_to_start_from
from openddpm.training.run_folder import training_data_picture
from openddpm.training.state import describe_weights
from openddpm.verification.materials import Images, Measuring, NotHere
from openddpm.verification.record_lines import check_lines
from openddpm.verification.weights import DigestOf, WeightsFile, foreign_weights

MAX_DETAILS = 20
OF_INITIAL_WEIGHTS = 1e-8  # relative, of the norm; measured: 1e-10 without fused multiply-add, 1e-4 for another seed
COARSE_LOSS = 2e-2  # assumed: the smallest limit of a loss in TF32, bfloat16 or float16, where nothing is measured

Shown = Callable[[int, int], None]
"""Called with what is done and what is to be done."""


def rung(name: RungName, status: RungStatus, text: str, details: Sequence[str] = ()) -> Rung:
    """Return a rung with the first of its details."""
    more = [f"and {len(details) - MAX_DETAILS:,} more"] if len(details) > MAX_DETAILS else []
    return Rung(name=name, status=status, text=text, details=[*details[:MAX_DETAILS], *more])


def not_checked(name: RungName, reason: str) -> Rung:
    """Return a rung that could not be checked."""
    return rung(name, "not_checked", f"not checkable here, because {reason}")


def files(record: RunFolder, digest_of: DigestOf = file_sha256) -> Rung:
    """Check the files against the manifest and checkpoints.jsonl, and the lines of the record against each other."""
    lines = check_lines(record)
    listed, altered = _by_manifest(record, digest_of)
    problems = [*altered, *foreign_weights(record, digest_of), *lines.problems]
    what = f"{listed}; {lines.num_numbers:,} numbers of the record that follow from its options and other lines"
    if lines.since:
        what += f" (after step {lines.since:,}: the record keeps no earlier options)"
    if problems:
        return _failed("files", problems)
    return rung("files", "exact", f"{what} are as they have to be")


def _by_manifest(record: RunFolder, digest_of: DigestOf) -> tuple[str, list[str]]:
    """Return what the manifest covers, as a part of a sentence, and which files are not what it says."""
    folder, problems = record.folder, list[str]()
    try:
        sha256 = read_manifest(folder)
    except UserError as error:
        return "", [error.found]
    if sha256 is None:
        why = "the run has not ended" if record.run.status == "running" else "it was not written"
        return f"there is no manifest ({why})", []
    names = published_names(folder, record.checkpoints, record.run.config.get("keep_every"))
    found = check_manifest(folder, sha256, names, digest_of)
    problems += [f"{name} is not what the manifest says" for name in found.altered]
    problems += [f"{name} is not in the manifest" for name in found.unlisted]
    kept = [name for name in found.missing if name in SCHEMAS]  # weights and previews may be left out of a copy
    problems += [f"{name} is missing, which the manifest lists" for name in kept]
    missing = f" ({len(found.missing):,} more are not here)" if found.missing else ""
    return f"{number_of(len(sha256) - len(found.missing), 'file')} as the manifest says{missing}", problems


def data(record: RunFolder, images: Images) -> Rung:
    """Compare the images, decoded again, with what the record says of them."""
    dataset, store, split, near = record.run.dataset, images.store, images.split, images.near
    pairs = [
        ("sha256 of the decoded images", store.sha256[:16], dataset.sha256[:16]),
        ("images", len(store.images), dataset.num_images),
        ("training images", len(split.train), dataset.num_train),
        ("held-out images", len(split.heldout), dataset.num_heldout),
        ("shape of an image", store.image_shape, dataset.image_shape),
        ("names of labels", list(store.label_names), dataset.label_names),
    ]
    if near is not None and store.sha256 == dataset.sha256:
        pairs += [
            ("held-out images that nearly are training images", len(near.pairs), dataset.num_near_duplicates),
            ("held-out images that were compared", near.num_compared, dataset.num_compared),
        ]
    if record.data is not None:
        pairs.append(("exact duplicates", store.data.num_duplicates, record.data.num_duplicates))
    problems = [f"{what}: {here} here, {there} in the record" for what, here, there in pairs if here != there]
    picture = record.folder / TRAINING_DATA_PICTURE
    if not problems and picture.is_file():
        is_same = np.array_equal(_pixels(picture), np.asarray(training_data_picture(store, split)))
        problems += [] if is_same else [f"{TRAINING_DATA_PICTURE} does not show the training images"]
    if problems:
        return _failed("data", problems)
    split_text = f"{dataset.num_train:,} for training, {dataset.num_heldout:,} held out"
    return rung("data", "exact", f"{number_of(dataset.num_images, 'image')} ({split_text}) are those of the record")


def initial_weights(record: RunFolder, images: Images) -> Rung:
    """Compare the initial weights, made again from the seed, with their digest in the record."""
    run, config = record.run, recorded_config({**record.run.config, "cache_dir": None})
    if "unet" in run.user_supplied:
        return not_checked("initial_weights", "the UNet was given from Python")
    if any(line.startswith("seed:") for entry in run.resumptions for line in entry.changes):
        return not_checked("initial_weights", "the seed was changed on the way")
    try:
        pretrained = weights_to_start_from(config, None, None)
        if pretrained is not None and run.model.init_from is not None:
            found, wanted = pretrained.record().sha256, run.model.init_from.sha256
            if found != wanted:
                text = f"the file of --init_from has sha256 {found[:12]} here, {wanted[:12]} in the record"
                return rung("initial_weights", "failed", text)
        unet = initial_unet(config, run.model.config, None, pretrained, images.store.image_shape)
    except UserError as error:
        return not_checked("initial_weights", f"the weights that it started from are not here ({error.found})")
    problems = []
    if unet.num_parameters() != run.model.num_parameters:
        problems.append(f"{unet.num_parameters():,} parameters, {run.model.num_parameters:,} in the record")
    names = dict(chain(unet.named_parameters(), unet.named_buffers()))
    here, there = describe_weights(names), run.model.initial_weights
    difference = relative_difference(here.norm, there.norm) if here.norm != there.norm else 0.0
    if here.sha256 != there.sha256 and difference > OF_INITIAL_WEIGHTS:
        problems.append(f"the weights that seed {run.seed} gives are not those that the run began with")
    if problems:
        return _failed("initial_weights", problems)
    text = f"{unet.num_parameters():,} weights made from seed {run.seed} have the"
    if here.sha256 != there.sha256:
        text += f" norm in the record but for rounding, {difference:.1g} apart, and another digest"
        return rung("initial_weights", "rounding", text)
    return rung("initial_weights", "exact", f"{text} digest in the record")


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
            tensors = _load(file, measuring.device)
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
        what += ", measured again (there are no weights to evaluate),"
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
    found = [file for file in weights if (file.step, file.name) in pictures]
    if not pictures:
        return not_checked("previews", "the record holds no previews")
    if not found:
        return not_checked("previews", "there are no weights of a step that has a preview")
    worst, drawn = _Worst(computes_coarsely(record)), 0
    for number, file in enumerate(found):
        if drawn and not is_time():
            break
        shown(number, len(found))
        path = pictures[file.step, file.name]
        try:
            tensors = _load(file, measuring.device)
        except NotHere as error:
            worst.problems.append(str(error))
            continue
        precision = PRECISIONS[measuring.config.mixed_precision]
        denoise = denoiser(measuring.frozen_unet, tensors, precision)
        shape = record.run.dataset.image_shape
        images = draw_preview(denoise, measuring.process, measuring.config, shape, measuring.device)
        _compare_pixels(worst, path.name, np.asarray(image_grid(images)), _pixels(path))
        drawn += 1
    left = f", of {len(found)}" if drawn < len(found) else ""
    return worst.rung("previews", f"{number_of(drawn, 'preview')} drawn again{left}", f"{worst.num_numbers:,} pixels")


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
            return _failed(name, self.problems)
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
    for index, pair in enumerate(zip(here.by_timestep, there.by_timestep, strict=False)):
        worst.take(f"loss of group {index} of timesteps, {where}", *pair, "losses_of_groups")


def _compare_pixels(worst: _Worst, name: str, here: np.ndarray, there: np.ndarray) -> None:
    if here.shape != there.shape:
        worst.problems.append(f"{name} has another size than a preview")
        return
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


def _load(file: WeightsFile, device: torch.device) -> dict[str, torch.Tensor]:
    try:
        return {name: tensor.to(device) for name, tensor in load_file(file.path).items()}
    except (OSError, SafetensorError) as error:
        raise NotHere(f"{file.path.name} of step {file.step:,} cannot be read: {error}") from error


def _pixels(path: object) -> np.ndarray:
    with Image.open(path) as picture:  # type: ignore[arg-type]
        return np.asarray(picture)


def _failed(name: RungName, problems: Sequence[str]) -> Rung:
    """Return a rung that failed, with the first problem as its text."""
    more = f"; and {number_of(len(problems) - 1, 'more problem')}" if len(problems) > 1 else ""
    return rung(name, "failed", problems[0] + more, problems)


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.8g}" if isinstance(value, float) else str(value)
