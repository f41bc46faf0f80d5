"""The lowest rungs of the ladder: files, data, initial weights."""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np

from openddpm.analysis.text import number_of
from openddpm.comparison.same_run import relative_difference
from openddpm.config import recorded_config
from openddpm.errors import UserError
from openddpm.record.files import file_sha256
from openddpm.record.manifest import check_manifest, read_manifest
from openddpm.record.public import published_names
from openddpm.record.reader import RunFolder
from openddpm.record.schema import RunRecord
from openddpm.record.verification import Rung, RungName, RungStatus
from openddpm.record.writer import SCHEMAS, TRAINING_DATA_PICTURE
from openddpm.training.initial_weights import initial_unet, weights_to_start_from
from openddpm.training.run_folder import training_data_picture
from openddpm.training.state import describe_weights
from openddpm.verification.materials import Images, NoPicture, pixels_of
from openddpm.verification.record_lines import check_lines
from openddpm.verification.scores import OF_A_SUM
from openddpm.verification.weights import DigestOf, foreign_weights, other_pipeline

MAX_DETAILS = 20
OF_INITIAL_WEIGHTS = 1e-8  # relative, of the norm; measured: 1e-10 without fused multiply-add, 1e-4 for another seed
CARD = "README.md"  # which its owner may edit at any time


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
    problems = [*altered, *foreign_weights(record, digest_of), *lines.problems, *other_pipeline(record)]
    what = f"{listed}; {lines.num_numbers:,} numbers of the record that follow from its options and other lines"
    if lines.since:
        what += f" (after step {lines.since:,}: the record keeps no earlier options)"
    note = f"; {lines.left_out}" if lines.left_out else ""
    if problems:
        return failed("files", problems)
    return rung("files", "exact", f"{what} are as they have to be{note}")


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
    problems += [f"{name} is not what the manifest says" for name in found.altered if name != CARD]
    problems += [f"{name} is not in the manifest" for name in found.unlisted]
    kept = [name for name in found.missing if name in SCHEMAS]  # weights and previews may be left out of a copy
    problems += [f"{name} is missing, which the manifest lists" for name in kept]
    missing = f" ({len(found.missing):,} more are not here)" if found.missing else ""
    edited = f" ({CARD} was edited)" if CARD in found.altered else ""
    number = number_of(len(sha256) - len(found.missing) - bool(edited), "file")
    return f"{number} as the manifest says{missing}{edited}", problems


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
    if images.source is not None:
        pairs += [("source", images.source.name, dataset.source), ("split", images.source.split, dataset.split)]
    if near is not None and store.sha256 == dataset.sha256:
        pairs += [
            ("held-out images that nearly are training images", len(near.pairs), dataset.num_near_duplicates),
            ("held-out images that were compared", near.num_compared, dataset.num_compared),
        ]
    if record.data is not None:
        names = ("num_duplicates", "pixel_min", "pixel_max", "pixel_mean", "pixel_std")
        pairs += [(f"{name} of data.json", getattr(store.data, name), getattr(record.data, name)) for name in names]
    problems = [f"{what}: {here} here, {there} in the record" for what, here, there in pairs if not _same(here, there)]
    picture = record.folder / TRAINING_DATA_PICTURE
    if not problems and picture.is_file():
        try:
            shown = np.asarray(training_data_picture(store, split))
            is_same = np.array_equal(pixels_of(picture, shown), shown)
        except NoPicture as error:
            problems.append(str(error))
        else:
            problems += [] if is_same else [f"{TRAINING_DATA_PICTURE} does not show the training images"]
    if problems:
        return failed("data", problems)
    split_text = f"{dataset.num_train:,} for training, {dataset.num_heldout:,} held out"
    return rung("data", "exact", f"{number_of(dataset.num_images, 'image')} ({split_text}) are those of the record")


def are_those_of(run: RunRecord, images: Images) -> bool:
    """Tell whether a run was trained on these images, with this split."""
    here = images.store.sha256[:16], len(images.split.train), len(images.split.heldout)
    return here == (run.dataset.sha256[:16], run.dataset.num_train, run.dataset.num_heldout)


def _same(here: object, there: object) -> bool:
    """Tell whether two values are equal, floats to the rounding of a sum."""
    if isinstance(here, float) and isinstance(there, float):
        return math.isclose(here, there, rel_tol=OF_A_SUM)
    return here == there


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
    if difference > OF_INITIAL_WEIGHTS:
        problems.append(f"the weights that seed {run.seed} gives are not those that the run began with")
    if problems:
        return failed("initial_weights", problems)
    text = f"{unet.num_parameters():,} weights made from seed {run.seed} have the"
    if here.sha256 != there.sha256:
        text += f" norm in the record but for rounding, {difference:.1g} apart, and another digest"
        return rung("initial_weights", "rounding", text)
    return rung("initial_weights", "exact", f"{text} digest in the record")


def failed(name: RungName, problems: Sequence[str]) -> Rung:
    """Return a rung that failed, with the first problem as its text."""
    more = f"; and {number_of(len(problems) - 1, 'more problem')}" if len(problems) > 1 else ""
    return rung(name, "failed", problems[0] + more, problems)
