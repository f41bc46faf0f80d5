"""Texts about an inspection, for the page and the terminal."""

from openddpm.analysis import left_out
from openddpm.analysis.data_checks import DARK_MAX, LOW_CONTRAST_STD, labels_text, seen_characters
from openddpm.analysis.text import count, number_of, significant
from openddpm.data.dataset_statistics import DUPLICATE, GRAY_TO_COLOUR
from openddpm.data.deep_pixels import BEYOND_RANGE, SCALED_16_BITS, SCALED_BY_RANGE
from openddpm.inspection.gallery import Section, Size
from openddpm.inspection.survey import Inspection
from openddpm.record.data_record import CUT_MUCH, DataRecord

__all__ = ["left_out"]  # the page's template uses it

TITLES = {"refused": "Refused", "dropped": "Dropped", DUPLICATE: "Exact duplicates"}
UNUSED = ("refused", "dropped")
ORDER = (*UNUSED, CUT_MUCH, DUPLICATE)  # conversions follow, the most frequent first


def verdict_sentence(inspection: Inspection) -> str:
    """Return whether training would begin with these images."""
    return f"Training would {'not ' if inspection.objections else ''}accept these images."


def facts(inspection: Inspection) -> dict[str, str]:
    """Return counts and measurements by name."""
    data, gallery = inspection.data, inspection.gallery
    num_unused = {name: gallery.sections[name].num_images for name in UNUSED if name in gallery.sections}
    total = data.num_images + sum(num_unused.values()) + data.num_duplicates_left_out
    of_all = f" of {count(total)}" if total > data.num_images else ""
    stated = {"usable": f"{count(data.num_images)}{of_all}"}
    stated |= {TITLES[name].lower(): f"{count(number)} ({number / total:.1%})" for name, number in num_unused.items()}
    if data.num_duplicates:
        stated["duplicates"] = f"{count(data.num_duplicates)}, kept (--duplicates drop leaves them out)"
    elif data.num_duplicates_left_out:
        stated["duplicates"] = f"{count(data.num_duplicates_left_out)}, left out"
    if data.labels is not None:
        stated["labels"] = labels_text(data.labels)
    if characters := seen_characters(inspection.source.name, data.labels):
        stated["mirroring"] = f"{characters}: if these are digits, letters or text, train with --no-random_flip"
    if inspection.num_by_mode:
        stated["channels"] = _channels(inspection.num_by_mode)
    if gallery.smallest and gallery.largest:
        span = [size_text(size) for size in (gallery.smallest, gallery.largest)]
        stated["originals"] = span[0] if span[0] == span[1] else f"{span[0]} to {span[1]}"
    if data.counts.get(CUT_MUCH):
        num_cut, most = f"{count(data.counts[CUT_MUCH])} of {count(data.num_images)}", data.most_cut[0]
        stated["cropped"] = f"{CUT_MUCH}: {num_cut}, most {most.path} ({most.share:.0%})"
    if data.pixel_mean is not None and data.pixel_std is not None:
        stated["brightness"] = (
            f"{data.pixel_min} to {data.pixel_max}, mean {significant(data.pixel_mean)}, "
            f"deviation {significant(data.pixel_std)}{_hint(data)}"
        )
    return stated


def ordered_sections(inspection: Inspection) -> list[tuple[str, Section]]:
    """Return names and sections: those of ORDER first, then the most frequent."""
    names = list(ORDER)
    return sorted(
        inspection.gallery.sections.items(),
        key=lambda entry: (names.index(entry[0]) if entry[0] in names else len(names), -entry[1].num_images),
    )


def converted(inspection: Inspection) -> list[tuple[str, Section]]:
    """Return names and sections of conversions, the most frequent first."""
    return [(name, section) for name, section in ordered_sections(inspection) if name not in ORDER]


def title(name: str) -> str:
    """Return a section's title."""
    return TITLES.get(name, name[0].upper() + name[1:])


def explanation(name: str, inspection: Inspection) -> str:
    """Return what a section's images have in common, and what can be done about it."""
    options = inspection.options
    match name:
        case "refused":
            return "These cannot be used; training continues without them if they are few (--max_refused_share)."
        case "dropped":
            asked = "accepts none" if options.small_images == "error" else "leaves them out"
            return f"Smaller than {options.resolution} pixels, and --small_images {options.small_images} {asked}."
        case "upscaled":
            return (
                f"Smaller than {options.resolution} pixels and enlarged: the model learns their blur. A lower "
                "--resolution avoids it; --small_images drop leaves them out."
            )
        case "alpha composited":
            return f"Transparent pixels become the background, {options.background}; --background COLOUR changes it."
        case _ if name == SCALED_16_BITS:
            return (
                f"White is 65535, the greatest value here {inspection.data.raw_max or 0:g}: images that use fewer bits "
                f"come out dark without {inspection.data.range_option}. The original is shown from its own darkest to "
                "its own brightest."
            )
        case _ if name == SCALED_BY_RANGE and options.pixel_range:
            low, high = options.pixel_range
            return f"Values from {low:g}, black, to {high:g}, white, as --pixel_range asks."
        case _ if name == BEYOND_RANGE:
            return "Values outside the range become plain black or white."
        case _ if name == CUT_MUCH:
            return "Only the middle is kept; the model never sees the rest. --fit pad shrinks the whole image instead."
        case "padded to a square":
            return f"Shrunk as a whole; around it is the background, {options.background}, as --fit pad asks."
        case "EXIF orientation applied":
            return "Turned or mirrored upright, as the camera recorded."
        case "damaged EXIF ignored":
            return "The orientation that the camera recorded cannot be read, so these may lie on their side."
        case "first frame of several":
            return "Only the first frame or page is used."
        case "gray by its column's mode" | "colour by its column's mode":
            return "The mode of the column's Image feature asks for it."
        case "one of several in its row":
            return "Each image of a row's list counts as one image."
        case _ if name == GRAY_TO_COLOUR and options.image_mode == "auto":
            return "Gray among images in colour: all three channels are equal. --image_mode gray makes all images gray."
        case "gray to colour" | "colour to gray":
            return f"As --image_mode {options.image_mode} asks."
    if name.endswith(" to RGB"):
        return "Stored in another colour space."
    if name == DUPLICATE:
        if options.duplicates == "drop":
            return "Equal pixel for pixel once decoded, and left out."
        return (
            "Equal pixel for pixel once decoded. They are trained on more often than the rest; --duplicates drop "
            "leaves them out."
        )
    return ""


def size_text(size: Size) -> str:
    """Return a size as text: (640, 480) -> 640x480."""
    return f"{size[0]}x{size[1]}"


def summary(inspection: Inspection) -> str:
    """Return one line about the data set."""
    images = number_of(inspection.source.num_items, "image")
    if inspection.image_shape is None:
        return f"{images}, none of them usable at {inspection.options.resolution}"
    _, height, width = inspection.image_shape
    return f"{images}, used at {size_text((width, height))}"


def _channels(num_by_mode: dict[str, int]) -> str:
    if len(num_by_mode) == 1:
        return next(iter(num_by_mode))
    return f"colour; {count(num_by_mode['gray'])} of {count(sum(num_by_mode.values()))} are gray and become colour"


def _hint(data: DataRecord) -> str:
    if data.pixel_max is not None and data.pixel_max <= DARK_MAX:
        return ": nearly black" + (f", try {data.range_option}" if data.raw_max is not None else "")
    return ": hardly any contrast" if (data.pixel_std or 0) < LOW_CONTRAST_STD else ""
