"""Statistics of the newest samples and of the training images, as a table."""

from dataclasses import dataclass

from openddpm.analysis.samples import differences, level
from openddpm.record.schema import SamplesRow, StatisticName, Weights


@dataclass(frozen=True)
class ComparedRow:
    """A statistic, named by its key in TERMS; `word` says how the samples differ, if they do: "darker"."""

    term: StatisticName
    samples: str
    data: str
    chance: str
    word: str


@dataclass(frozen=True)
class Compared:
    """The table, and the samples that it is about."""

    step: int
    weights: Weights
    num_samples: int
    rows: list[ComparedRow]


def compared_samples(row: SamplesRow | None) -> Compared | None:
    """Return a row of samples.jsonl as a table."""
    if row is None:
        return None
    words = {one.name: one.word for one in differences(row)}
    rows = [
        ComparedRow(
            term=name,
            samples=level(one.samples),
            data=level(one.data),
            chance=f"{level(one.low)} to {level(one.high)}",
            word=words.get(name, ""),
        )
        for name, one in row.statistics.items()
    ]
    return Compared(row.step, row.weights, row.num_samples, rows)
