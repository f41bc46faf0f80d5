"""What the check of a GPU consists of, in its order, and how long each part takes: the plan that check.sh shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from measures import MEASURES


@dataclass(frozen=True)
class Part:
    """Something to measure, in a process of its own."""

    name: str
    step: str
    """What the command line calls it and its like."""
    seconds: int
    """Expected on an H100 or H200: measured there where it has run, else assumed."""
    most: int
    """Seconds after which it is ended; what it has written by then counts."""
    what: str
    measures: tuple[str, ...] = ()
    """Of the plain loop."""

    shortest: int | None = None
    """Seconds that it can do with, if it can be shortened."""

    @property
    def least(self) -> float:
        """Seconds without which it is not begun: a case has its rate after 0.8 of what is expected."""
        return 0.8 * self.seconds if self.shortest is None else self.shortest


LADDER = [name for name in MEASURES if name not in ("workers", "half-previews")]
SLOW_MEASURES = {"tf32": 50, "bf16": 50, "compile": 140}  # cuDNN tries its algorithms, the compiler works: seconds


def _ladder() -> list[Part]:
    seconds = [SLOW_MEASURES.get(name, 25) for name in LADDER]
    return [
        Part(f"ladder-{name}", "ladder", took, 2 * took, f"plain loop: + {name}", tuple(LADDER[: number + 1]))
        for number, (name, took) in enumerate(zip(LADDER, seconds, strict=True))
    ]


PARTS = (
    Part("tests", "tests", 60, 110, "tests that need a GPU, and what must be exact under --speed exact"),
    Part("plain", "batch-16", 30, 70, "plain loop"),
    Part("max-16", "batch-16", 135, 220, "ours, --speed max; before it, what the GPU gives"),
    Part("auto-16", "batch-16", 135, 220, "ours, --speed auto"),
    Part("max-128", "batch-128", 140, 220, "ours, --speed max, batch 128"),
    Part("exact", "exact", 60, 110, "ours, --speed exact, batches of 16 and 128"),
    *_ladder(),
    Part("run", "run", 240, 330, "a run of minutes, whose record is kept, and samples of it", shortest=150),
    Part("near", "near", 110, 170, "tests of what is near --speed exact: auto, bf16, fp16, Muon, compiled"),
    Part("auto-128", "rest", 140, 220, "ours, --speed auto, batch 128"),
    Part("muon-16", "rest", 150, 240, "ours, --speed max --optimizer muon"),
    Part("workers", "rest", 45, 90, "plain loop: workers and bf16", ("workers", "bf16")),
)
STEPS = tuple(dict.fromkeys(part.step for part in PARTS))


def chosen(steps: Sequence[str]) -> list[Part]:
    """Return the parts of steps, in the plan's order; all without any."""
    return [part for part in PARTS if not steps or part.step in steps]


def plan() -> str:
    """Return the plan as text: a line a part, with the expected seconds, alone and up to there."""
    lines, total = [f"{'step':10} {'part':21} {'s':>4} {'up to':>6}"], 0
    for part in PARTS:
        total += part.seconds
        lines.append(f"{part.step:10} {part.name:21} {part.seconds:4d} {total:6d}  {part.what}")
    return "\n".join(lines)
