"""Checks of the images of a planned run."""

import math
import re
from collections.abc import Iterator

from openddpm.analysis.finding import Finding, Severity
from openddpm.analysis.text import number_of, significant
from openddpm.record.data_record import CUT_MUCH, DataRecord, LabelsRecord, NearDuplicateRecord
from openddpm.record.schema import RunRecord

FEW_IMAGES = 200  # assumed: a hundred images are memorized (Kadkhodaie et al., 2024)
MEMORIZING_EPOCHS = 300  # assumed, with the next: DDPM's CIFAR-10 (2048 epochs, 0.2 weights a value) learned to
MEMORIZING_WEIGHTS_PER_VALUE = 10  # generalise; weights divided by all pixel values of the training images
FEW_HELDOUT = 48  # assumed: the standard error of a mean over fewer hides most of what training gains late
DUPLICATE_SHARE = 0.02  # assumed
NEAR_DUPLICATE_SHARE = 0.02  # measured: in sets without near duplicates up to 1 % are taken for some
MIN_CHARACTER_CLASSES = 3  # assumed: 0 and 1 alone are more often no and yes
NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CHARACTER_NAMES = re.compile(
    r"mnist|(^|[^a-z])(svhn|ocr|omniglot|captchas?|digits?|letters?|fonts?|glyphs?|alphabets?|numerals?|text|texts|"
    r"handwriting|handwritten|kanji|hiragana|katakana|hanzi|hangul|typography)([^a-z]|$)"
)
MAX_NAMED, MAX_LABELS_NAMED = 3, 12  # images, and labels, in a sentence
UPSCALED_SHARE = 0.25  # assumed
DARK_MAX = 20  # 12-bit images in 16-bit files end at 4095 / 257 = 15.9, and resizing overshoots by a tenth
CUT_SHARE, CUT_MEAN = 0.25, 0.5  # assumed: share of images cut by a quarter; mean area lost (16 by 9 loses 0.44)
FEW_BITS_MAX = 2**14 - 1  # assumed: 16-bit images with smaller values are from cameras or scanners with 14 bits
LOW_CONTRAST_STD = 12.75  # assumed: a tenth of the range on either side of gray; photographs have 50 to 80


def check_images(run: RunRecord, data: DataRecord | None, total_images: int) -> Iterator[Finding]:
    """Check the number of images, without duplicates, for a run that consumes `total_images`."""
    dataset, num_weights = run.dataset, run.model.num_parameters
    num_distinct, distinct = dataset.num_train, ""
    if data is not None and data.num_duplicates:
        num_distinct = max(1, round(dataset.num_train * (1 - data.num_duplicates / data.num_images)))
        distinct = f" (about {num_distinct:,} distinct)"
    epochs = total_images / num_distinct
    weights_per_value = num_weights / (num_distinct * math.prod(dataset.image_shape))
    memorizes = epochs >= MEMORIZING_EPOCHS and weights_per_value >= MEMORIZING_WEIGHTS_PER_VALUE
    if num_distinct < FEW_IMAGES or memorizes:
        judge = "; let the held-out loss decide when to stop" if dataset.num_heldout else ""
        yield Finding(
            "memorizing",
            "warning",
            f"{number_of(dataset.num_train, 'training image')}{distinct}, each seen "
            f"{number_of(max(1, round(epochs)), 'time')}, for {num_weights:,} weights "
            f"({num_weights / num_distinct:,.0f} per image)",
            "So few images can be memorized: samples would be copies of them, while the training loss looks fine.",
            f"Use more images, a smaller --model or fewer steps{judge}.",
        )
    if dataset.num_heldout < FEW_HELDOUT:
        yield Finding(
            "heldout",
            "note" if dataset.num_heldout else "warning",
            number_of(dataset.num_heldout, "held-out image") if dataset.num_heldout else "no held-out images",
            "Only images that are never trained on can show memorization, and few of them give an uncertain answer.",
            f"Hold out {FEW_HELDOUT} or more, if there are enough: --heldout_images N.",
        )


def check_pixels(run: RunRecord, data: DataRecord) -> Iterator[Finding]:
    """Check what decoding found: duplicates, conversions, brightness."""
    if data.num_duplicates:
        yield _duplicates(data, data.num_duplicates)
    elif data.num_duplicates_left_out:
        yield Finding(
            "duplicates",
            "note",
            f"{number_of(data.num_duplicates_left_out, 'exact duplicate')} left out",
            "An equal image of each is in the data set.",
            "To train on them, too, give --duplicates keep.",
        )
    yield from _changed(run, data)
    if num_gray := data.counts.get("gray to colour", 0):
        yield Finding(
            "gray",
            "note",
            f"{num_gray:,} of {data.num_images:,} images are gray and converted to colour",
            "Some samples will be gray and others coloured, like the images.",
            "Remove them if they should not be there; --image_mode gray makes all images gray.",
        )
    if data.counts.get(CUT_MUCH):
        yield _cropped(data, data.counts[CUT_MUCH])
    upscaled = data.counts.get("upscaled", 0)
    if upscaled > UPSCALED_SHARE * data.num_images:
        yield Finding(
            "upscaled",
            "warning",
            f"{upscaled:,} of {number_of(data.num_images, 'image')} {'is' if upscaled == 1 else 'are'} smaller than "
            f"{min(run.dataset.image_shape[1:])} pixels and {'was' if upscaled == 1 else 'were'} enlarged",
            "The model learns their blur, and spends time on pixels without content.",
            "Use a lower --resolution, or larger images.",
        )
    yield from _brightness(data)


def _changed(run: RunRecord, data: DataRecord) -> Iterator[Finding]:
    """Name conversions that may not be intended."""
    background = run.config["background"]
    reasons = {
        "alpha composited": (
            f"Transparent pixels get the background colour, {background}, and the model learns it.",
            "Look at samples/training-data.png in the run's folder; choose another --background if these look wrong.",
        ),
        "16 bits scaled to 8": (
            f"White is 65535, the largest value here {data.raw_max or 0:g}: images that use fewer bits become dark.",
            f"Look at samples/training-data.png in the run's folder; if these are dark, give {data.range_option}.",
        ),
        "one of several in its row": (
            "Each image in a row's list is trained on as a separate image.",
            "If only one of them should be, write it to a separate column.",
        ),
        "gray by its column's mode": (
            "The column declares its images as gray: Image(mode='L').",
            "To keep their colours, redeclare it: dataset.cast_column(NAME, datasets.Image()).",
        ),
        "colour by its column's mode": (
            "The column declares its images as colour: Image(mode='RGB').",
            "If all are gray, redeclare it: dataset.cast_column(NAME, datasets.Image()).",
        ),
        "as the data set's transform gives it": (
            "The data set's transform makes these images, once before training.",
            "If it is for another program, remove it: dataset.reset_format().",
        ),
    }
    changed = [reason for reason in reasons if data.counts.get(reason)]
    if changed:
        counted = ", ".join(f"{reason}: {data.counts[reason]:,}" for reason in changed)
        why, hint = (" ".join(texts) for texts in zip(*(reasons[reason] for reason in changed), strict=True))
        is_dim = data.raw_max is not None and 0 < data.raw_max <= FEW_BITS_MAX and (data.pixel_max or 0) > DARK_MAX
        severity: Severity = "warning" if is_dim and data.counts.get("16 bits scaled to 8") else "note"
        yield Finding("converted", severity, f"images were converted: {counted}", why, hint)


def counts_text(data: DataRecord) -> str:
    """Return the counts of images by reason as text; empty if there are none."""
    num_unused = data.counts.get("refused", 0) + data.counts.get("dropped", 0) + data.num_duplicates_left_out
    total = data.num_images + num_unused
    counted = ", ".join(f"{reason} {number:,}" for reason, number in data.counts.items() if number)
    return f"of {number_of(total, 'image')}: {counted}" if counted else ""


def _cropped(data: DataRecord, num_cut: int) -> Finding:
    most = ", ".join(f"{image.path} ({image.share:.0%})" for image in data.most_cut[:MAX_NAMED])
    is_grave = num_cut > CUT_SHARE * data.num_images and (data.cut_mean or 0) > CUT_MEAN
    return Finding(
        "cropped",
        "warning" if is_grave else "note",
        f"{CUT_MUCH}: {num_cut:,} of {data.num_images:,} images; most of all {most}",
        "Images are cropped to their middle square; the model never sees the rest.",
        "Look at samples/training-data.png in the run's folder; --fit pad shrinks whole images into the square.",
        tuple(image.path for image in data.most_cut),
    )


def check_split(run: RunRecord, data: DataRecord | None) -> Iterator[Finding]:
    """Check how many held-out images are nearly a training image."""
    share = near_duplicate_share(run)
    if not share:
        return
    pairs = [] if data is None else data.near_duplicates
    named = "; ".join(_pair_text(pair) for pair in pairs[:MAX_NAMED])
    yield Finding(
        "near_duplicates",
        "warning" if share >= NEAR_DUPLICATE_SHARE else "note",
        near_duplicates_text(run) + (f": {named}{'; ...' * (len(pairs) > MAX_NAMED)}" if named else ""),
        "On these, memorization looks like learning: the held-out loss is better than on new images.",
        "Hold out whole groups of images that belong together by training on a set without them, or read the held-out "
        "loss with care. data.json in a run's folder lists all pairs.",
        tuple(pair.heldout for pair in pairs),
    )


def near_duplicate_share(run: RunRecord) -> float:
    """Return the share of held-out images that are nearly a training image; 0 without held-out images."""
    return run.dataset.num_near_duplicates / max(run.dataset.num_compared, 1)


def near_duplicates_text(run: RunRecord) -> str:
    """Return how many held-out images are nearly a training image, as the start of a sentence."""
    number, total = run.dataset.num_near_duplicates, run.dataset.num_compared
    of_all = f" (of {run.dataset.num_heldout:,})" if total < run.dataset.num_heldout else ""
    verb = "is" if number == 1 else "are"
    return (
        f"{number:,} of {number_of(total, 'held-out image')}{of_all} ({number / max(total, 1):.1%}) {verb} nearly a "
        "training image: the same picture shifted, mirrored, recompressed or recoloured"
    )


def _pair_text(pair: NearDuplicateRecord) -> str:
    how = "nearly " if pair.how == "nearly identical" else ""
    return f"{pair.heldout} is {how}{pair.train}{'' if how else f', {pair.how}'}"


def check_mirroring(run: RunRecord, data: DataRecord | None) -> Iterator[Finding]:
    """Check whether images are mirrored at random by default."""
    if "random_flip" in run.chosen_options or not run.config.get("random_flip"):
        return
    why = "A mirrored letter, digit or text is wrong; samples will have mirrored ones, too."
    characters = seen_characters(run.dataset.source, None if data is None else data.labels)
    if characters:
        what = f"half of the images are mirrored at random, and {characters}: they may be digits, letters or text"
        hint = "Give --no-random_flip if left and right mean something, or --random_flip if they do not."
        yield Finding("mirroring", "warning", what, why, hint)
        return
    hint = "Give --no-random_flip if left and right mean something in these images."
    yield Finding("mirroring", "note", "half of the images are mirrored at random, by default", why, hint)


def labels_text(labels: LabelsRecord) -> str:
    """Return the number of images of each label as text, or why there are no labels."""
    if not labels.origin:
        return labels.note
    named = [f"{name} {number:,}" for name, number in labels.counts.items()]
    more = ", ..." if labels.num_labels > MAX_LABELS_NAMED else ""
    return (
        f"{labels.num_labels:,}, from {labels.origin}, of {number_of(labels.num_labelled, 'image')}: "
        f"{', '.join(named[:MAX_LABELS_NAMED])}{more}"
    )


def seen_characters(source: str, labels: LabelsRecord | None) -> str:
    """Return why names suggest images of digits, letters or text; empty if they do not."""
    label_names = [] if labels is None or labels.are_numbers else list(labels.counts)
    names = [name.strip().lower() for name in label_names]
    singles = [name for name in names if (len(name) == 1 and name.isalnum()) or name in NUMERALS]
    if len(singles) >= MIN_CHARACTER_CLASSES and len(singles) == len(names):
        return f"their classes are called {', '.join(label_names[:MAX_NAMED])} ... {label_names[-1]}"
    name = source.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    words = re.sub("text[-_ ]?(to|2)[-_ ]|fashion[-_ ]?mnist", "", name.lower())
    found = CHARACTER_NAMES.search(words)
    return f"the data set's name says '{found[2] or found[0]}'" if found else ""


def _duplicates(data: DataRecord, num_duplicates: int) -> Finding:
    paths = tuple(image.path for image in data.images if image.action == "kept")
    named = f": {', '.join(paths[:MAX_NAMED])}{', ...' * (len(paths) > MAX_NAMED)}" if paths else ""
    hint = "--duplicates drop leaves them out; data.json in a run's folder lists all of them."
    if num_duplicates == data.num_images - 1:
        what = f"all {data.num_images:,} images are the same, pixel for pixel{named}"
        return Finding("duplicates", "error", what, "There is only one image to learn.", hint, paths)
    share = num_duplicates / data.num_images
    are_duplicates = "is an exact duplicate of another" if num_duplicates == 1 else "are exact duplicates of others"
    return Finding(
        "duplicates",
        "warning" if share > DUPLICATE_SHARE else "note",
        f"{num_duplicates:,} of {data.num_images:,} images ({share:.1%}) {are_duplicates}{named}",
        "They are trained on more often than others, or count more among the held-out images.",
        hint,
        paths,
    )


def _brightness(data: DataRecord) -> Iterator[Finding]:
    if data.pixel_max is None or data.pixel_min is None or data.pixel_mean is None or data.pixel_std is None:
        return
    values = f"pixel values from {data.pixel_min} to {data.pixel_max} of 0 to 255, "
    values += f"mean {significant(data.pixel_mean)}, standard deviation {significant(data.pixel_std)}"
    if data.pixel_min == data.pixel_max:
        yield Finding(
            "brightness",
            "error",
            f"every pixel of every image is {data.pixel_min}",
            "There is nothing to learn.",
            "Check how the images were written, and --background if they are transparent.",
        )
    elif data.pixel_max <= DARK_MAX:
        yield Finding(
            "brightness",
            "error",
            f"nearly black images: {values}",
            "They were probably written in another range, such as 0 to 1 or 12 bits; the noise hides them.",
            "Write them again with values from 0 to 255." if data.raw_max is None else f"Try {data.range_option}.",
        )
    elif data.pixel_std < LOW_CONTRAST_STD:
        yield Finding(
            "brightness",
            "warning",
            f"hardly any contrast: {values}",
            "The noise schedule expects images that fill their range; faint ones are hidden by the least noise.",
            "Stretch their contrast, if it has no meaning"
            + ("." if data.raw_max is None else f": {data.range_option}."),
        )
