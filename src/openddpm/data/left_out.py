"""Counts of what a source leaves out, by reason."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from openddpm.names import as_text
from openddpm.record.data_record import LeftOut

NUM_EXAMPLES = 3
MAX_LINES = 6
MAX_REASONS = 64  # assumed: for data and for other files each; an archive can have as many reasons as files


@dataclass
class _Count:
    is_data: bool
    is_text: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class LeftOutCounts:
    """Counts of what a source holds but does not take, each reason once, with the names of the first few."""

    _by_reason: dict[str, _Count] = field(default_factory=dict)

    def add(
        self, reason: str, names: Iterable[str], is_data: bool, count: int | None = None, is_text: bool = False
    ) -> None:
        """Count the files called `names`, or `count` images in them.

        Args:
            is_data: whether the user may have meant them as images.
            is_text: whether they are texts, which need not be mentioned.
        """
        names = list(names)
        total = len(names) if count is None else count
        if total:
            entry = self._by_reason.setdefault(as_text(reason), _Count(is_data, is_text))
            entry.count += total
            entry.examples += map(as_text, names[: NUM_EXAMPLES - len(entry.examples)])

    def extend(self, others: Iterable[LeftOut]) -> None:
        """Add what another source leaves out."""
        for other in others:
            self.add(other.reason, other.examples, other.is_data, other.count, other.is_text)

    def listed(self) -> tuple[LeftOut, ...]:
        """Return all counts: data first, then by number; beyond MAX_REASONS the rest in one entry."""
        known = [LeftOut(reason=reason, **vars(entry)) for reason, entry in self._by_reason.items()]
        known.sort(key=lambda one: (-one.count, one.reason))
        return tuple(
            one
            for is_data in (True, False)
            for one in _with_rest_in_sum([one for one in known if one.is_data is is_data])
        )

    def summary(self) -> str:
        """Return counts and reasons, in lines for an error."""
        shown = [one for one in self.listed() if not one.is_text] or self.listed()
        return "".join(f"\n  {one.count:,}  {one.reason}" for one in shown[:MAX_LINES])


def _with_rest_in_sum(reasons: list[LeftOut]) -> list[LeftOut]:
    if len(reasons) <= MAX_REASONS:
        return reasons
    rest = reasons[MAX_REASONS - 1 :]
    examples = [name for one in rest[:NUM_EXAMPLES] for name in one.examples][:NUM_EXAMPLES]
    in_sum = LeftOut(
        reason=f"for {len(rest):,} other reasons",
        count=sum(one.count for one in rest),
        examples=examples,
        is_data=rest[0].is_data,
        is_text=all(one.is_text for one in rest),
    )
    return [*reasons[: MAX_REASONS - 1], in_sum]
