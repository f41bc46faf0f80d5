"""Collects what in the lines of a record does not fit."""

import math
from collections.abc import Sequence

from openddpm.analysis.text import listed

SHOWN = 4  # steps named in one sentence


class Checker:
    """Collects what does not fit."""

    def __init__(self) -> None:
        self.num_numbers = 0
        self.problems: list[str] = []
        self._wrong: set[str] = set()

    def same(self, what: str, step: int, found: float | None, expected: float | None, relative: float = 0.0) -> None:
        """Note a number that is not what it has to be."""
        self.num_numbers += 1
        if found is None or expected is None:
            fits = found is expected
        else:
            fits = math.isclose(found, expected, rel_tol=relative, abs_tol=relative * 1e-3)
        if not fits:
            if what not in self._wrong:  # the first tells enough
                self.problems.append(f"{what}: {_shown(found)} at step {step:,}, {_shown(expected)} expected")
            self._wrong.add(what)

    def steps(self, file: str, found: Sequence[int], expected: Sequence[int]) -> None:
        """Note lines that are missing, out of order, or of steps that have none."""
        self.num_numbers += len(expected)
        if list(found) != sorted(set(found)):
            self.problems.append(f"{file}: its steps are not in increasing order")
        missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        if missing:
            self.problems.append(f"{file}: no line of {_steps(missing)}")
        if extra:
            self.problems.append(f"{file}: a line of {_steps(extra)}, at which a run with these options writes none")

    def holds(self, condition: bool, problem: str) -> None:
        """Note `problem` unless the condition holds."""
        self.num_numbers += 1
        if not condition:
            self.problems.append(problem)


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.10g}"


def _steps(steps: Sequence[int]) -> str:
    more = f" and {len(steps) - SHOWN:,} more" if len(steps) > SHOWN else ""
    return f"step{'s' * (len(steps) > 1)} " + listed([f"{step:,}" for step in steps[:SHOWN]]) + more
