"""Keeps count of what a source passes over, reason by reason."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from openddpm.names import as_text
from openddpm.record.schema import LeftOut

NUM_EXAMPLES = 3
MAX_LINES = 6


@dataclass
class LeftOutCounts:
    """What a source holds and does not take, each reason once, with the names of the first few."""

    _by_reason: dict[str, LeftOut] = field(default_factory=dict)

    def add(
        self, reason: str, names: Iterable[str], is_data: bool, count: int | None = None, is_text: bool = False
    ) -> None:
        """Count what is called `names`, or `count` images of it.

        Args:
            is_data: whether these may be images that were meant.
            is_text: whether they are texts, of which people need not be told.
        """
        names = list(names)
        reason = as_text(reason)
        known = self._by_reason.get(reason, LeftOut(reason=reason, count=0, is_data=is_data, is_text=is_text))
        examples = [*known.examples, *map(as_text, names[:NUM_EXAMPLES])][:NUM_EXAMPLES]
        total = known.count + (len(names) if count is None else count)
        if total:
            self._by_reason[reason] = known.model_copy(update={"count": total, "examples": examples})

    def extend(self, others: Iterable[LeftOut]) -> None:
        """Add what another source passes over."""
        for other in others:
            self.add(other.reason, other.examples, other.is_data, other.count, other.is_text)

    def listed(self) -> tuple[LeftOut, ...]:
        """Return all of it: what may be images that were meant first, then the most."""
        return tuple(sorted(self._by_reason.values(), key=lambda one: (not one.is_data, -one.count, one.reason)))

    def summary(self) -> str:
        """Return what there is and why it is not taken, in lines for an error."""
        told = [one for one in self.listed() if not one.is_text] or self.listed()
        return "".join(f"\n  {one.count:,}  {one.reason}" for one in told[:MAX_LINES])
