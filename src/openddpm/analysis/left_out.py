"""What a data set's source holds and does not take, in words: for the terminal, inspect, doctor and pages."""

from collections.abc import Iterator

from openddpm.analysis.finding import Finding
from openddpm.analysis.text import count, number_of
from openddpm.record.schema import DataRecord, LeftOut

MAX_LINES = 6


def num_meant(data: DataRecord) -> int:
    """Return the number of what was left out though it may be images that were meant."""
    return sum(one.count for one in data.left_out if one.is_data)


def is_more_than_taken(data: DataRecord) -> bool:
    """Whether more was left out, of what may be images that were meant, than there are images."""
    return num_meant(data) > data.num_images


def to_tell(data: DataRecord) -> list[LeftOut]:
    """Return what people are told of: all but texts."""
    return [one for one in data.left_out if not one.is_text]


WARNING = "more was left out than taken: check that this is the data set you mean"


def headline(data: DataRecord) -> str:
    """Return what the lines are about."""
    num_left_out = sum(one.count for one in to_tell(data))
    return f"left out, beside {number_of(data.num_images, 'image')}: {count(num_left_out)}"


def lines(data: DataRecord, max_lines: int = MAX_LINES) -> list[tuple[str, bool]]:
    """Return a line for each kind of what was left out, what may be meant first, the last ones in sum.

    Returns:
        the line, and whether it is of what may be images that were meant.
    """
    reasons = to_tell(data)
    shown = reasons if len(reasons) <= max_lines else reasons[: max_lines - 1]
    told = [(f"{count(one.count):>7}  {one.reason}", one.is_data) for one in shown]
    if rest := reasons[len(shown) :]:
        num_rest = count(sum(one.count for one in rest))
        told.append((f"{num_rest:>7}  for {number_of(len(rest), 'other reason')}", any(one.is_data for one in rest)))
    return told


def check_left_out(data: DataRecord) -> Iterator[Finding]:
    """Check whether the source holds more than was taken of it."""
    if not to_tell(data):
        return
    named = "; ".join(line.strip() for line, _ in lines(data))
    if is_more_than_taken(data):
        yield Finding(
            "left_out",
            "warning",
            f"more was left out ({count(num_meant(data))}) than taken ({number_of(data.num_images, 'image')}): {named}",
            "The model will learn from the smaller part of what lies there.",
            "Check that this is the data set you mean; data.json and openddpm inspect --json give examples.",
        )
    else:
        yield Finding(
            "left_out",
            "note",
            f"beside {number_of(data.num_images, 'image')} there were left out: {named}",
            "None of these is trained on.",
            "Nothing, if that is what you mean; data.json and openddpm inspect --json give examples.",
        )
