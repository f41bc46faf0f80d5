"""Texts about what is left out of a data set's source, for the terminal, inspect, doctor and pages."""

from collections.abc import Iterator

from openddpm.analysis.finding import Finding
from openddpm.analysis.text import count, number_of
from openddpm.record.data_record import DataRecord, LeftOut

MAX_LINES = 6


def num_possible_images(data: DataRecord) -> int:
    """Return how many of the files left out may be images that should be trained on."""
    return sum(one.count for one in data.left_out if one.is_data)


def is_more_than_taken(data: DataRecord) -> bool:
    """Whether more possible images were left out than were used."""
    return num_possible_images(data) > data.num_images


def without_texts(data: DataRecord) -> list[LeftOut]:
    """Return what was left out except texts, which are not shown to people."""
    return [one for one in data.left_out if not one.is_text]


WARNING = "more was left out than used: check that this is the right data set"


def headline(data: DataRecord) -> str:
    """Return the heading of `lines`."""
    num_left_out = sum(one.count for one in without_texts(data))
    return f"left out, beside {number_of(data.num_images, 'image')}: {count(num_left_out)}"


def lines(data: DataRecord, max_lines: int = MAX_LINES) -> list[tuple[str, bool]]:
    """Return a line for each reason why something was left out, possible images first, the last reasons summed up.

    Returns:
        the line, and whether it is about possible images.
    """
    reasons = without_texts(data)
    shown = reasons if len(reasons) <= max_lines else reasons[: max_lines - 1]
    result = [(f"{count(one.count):>7}  {one.reason}", one.is_data) for one in shown]
    if rest := reasons[len(shown) :]:
        num_rest = count(sum(one.count for one in rest))
        result.append((f"{num_rest:>7}  for {number_of(len(rest), 'other reason')}", any(one.is_data for one in rest)))
    return result


def check_left_out(data: DataRecord) -> Iterator[Finding]:
    """Check whether the source holds more than was used."""
    if not without_texts(data):
        return
    named = "; ".join(line.strip() for line, _ in lines(data))
    if is_more_than_taken(data):
        yield Finding(
            "left_out",
            "warning",
            f"more was left out ({count(num_possible_images(data))}) than used "
            f"({number_of(data.num_images, 'image')}): {named}",
            "The model will learn from the smaller part of what is there.",
            "Check that this is the right data set; data.json and openddpm inspect --json give examples.",
        )
    else:
        yield Finding(
            "left_out",
            "note",
            f"left out, beside {number_of(data.num_images, 'image')}: {named}",
            "None of these is trained on.",
            "If that is intended, do nothing; data.json and openddpm inspect --json give examples.",
        )
