"""The figures of docs/what-slows-ddpm-training.md."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from openddpm.record.reader import RunFolder

INK, QUIET, LINE = "#1c1f24", "#5a616c", "#e2e2dd"
PRINTED, HELDOUT, CONTROL = "#c2570c", "#2457d6", "#9aa1ab"
COLUMNS = 3
LOWEST_SKILL = -1.0  # of the axis: below it a curve leaves the picture


def draw_figures(runs: Mapping[str, RunFolder], rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write what-slows-skill.png, what-slows-loss.png and what-slows-samples.png; the first two runs are without bug.

    Args:
        runs: by what is wrong with them.
        rows: the same runs in numbers, in the same order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save(_skill_figure(runs), folder / "what-slows-skill.png")
    _save(_loss_figure(rows, runs[next(iter(runs))]), folder / "what-slows-loss.png")
    _save(_samples_figure(runs, rows), folder / "what-slows-samples.png")


def _skill_figure(runs: Mapping[str, RunFolder]) -> Figure:
    """Draw a panel a bug: the skill of its EMA weights beside that of the runs without bug."""
    names = list(runs)
    faulty = names[2:]
    figure = _figure(9.0, 2.5 * -(-len(faulty) // COLUMNS))
    panels = figure.subplots(-(-len(faulty) // COLUMNS), COLUMNS, sharex=True, sharey=True).flat
    for axes, name in zip(panels, faulty, strict=False):
        for control in names[:2]:
            (without,) = axes.plot(*_skills(runs[control]), color=CONTROL, linewidth=1.4)
        images, skills = _skills(runs[name])
        (with_bug,) = axes.plot(images, skills, color=HELDOUT, linewidth=2.2)
        axes.text(images[-1], LOWEST_SKILL + 0.06, f"ends at {skills[-1]:+.2f}", color=HELDOUT, fontsize=9, ha="right")
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_title(textwrap.fill(name, 38), fontsize=9, color=INK, loc="left")
        axes.set_ylim(LOWEST_SKILL, 0.35)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        _dress(axes)
    labels = ["without bug, two runs", "with the bug"]
    figure.legend([without, with_bug], labels, loc="outside upper left", ncols=2, frameon=False, labelcolor=INK)
    figure.supxlabel("training images seen", color=QUIET, fontsize=10)
    figure.supylabel("skill on held-out images (0: a linear denoiser)", color=QUIET, fontsize=10)
    return figure


def _loss_figure(rows: Sequence[dict[str, Any]], control: RunFolder) -> Figure:
    """Draw a line a run, from the training loss that the script prints to the held-out loss that it hides."""
    figure = _figure(9.0, 0.42 * len(rows) + 1.2)
    axes = figure.add_subplot()
    places = np.arange(len(rows))[::-1]
    printed = np.array([row["printed_loss"] for row in rows])
    heldout = np.array([row["heldout_loss_ema"] for row in rows])
    axes.hlines(places, np.minimum(printed, heldout), np.maximum(printed, heldout), color=LINE, linewidth=5)
    axes.scatter(printed, places, color=PRINTED, s=55, zorder=3, label="training loss, as the script prints it")
    axes.scatter(heldout, places, color=HELDOUT, s=55, zorder=3, label="loss on held-out images, EMA weights")
    if control.baselines is not None:
        baseline = float(np.dot(control.baselines.linear, control.baselines.shares))
        axes.axvline(baseline, color=INK, linewidth=1, linestyle=":", label="a linear denoiser, held-out images")
    axes.set_yticks(places, [row["bug"] for row in rows])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("mean squared error of the noise", color=QUIET)
    axes.legend(frameon=False, labelcolor=INK, loc="lower center", bbox_to_anchor=(0.3, 1), ncols=3, fontsize=8.5)
    _dress(axes)
    return figure


def _samples_figure(runs: Mapping[str, RunFolder], rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the last preview of every run, all from the same noise."""
    columns = 4
    figure = _figure(9.0, 2.75 * -(-len(runs) // columns))
    panels = list(figure.subplots(-(-len(runs) // columns), columns).flat)
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, run), row in zip(panels, runs.items(), rows, strict=False):
        with Image.open(run.previews[-1].pictures["ema"]) as image:
            axes.imshow(image.convert("L"), cmap="gray")
        axes.set_title(f"{textwrap.fill(name, 30)}\nskill {row['skill_ema']:+.2f}", fontsize=8, color=INK, loc="left")
    return figure


def _skills(run: RunFolder) -> tuple[list[int], list[float]]:
    rows = [row for row in run.evaluations if row.weights == "ema" and row.skill is not None]
    return [row.images_seen for row in rows], [row.skill for row in rows if row.skill is not None]


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=130, facecolor="white", layout="constrained")


def _dress(axes: Axes) -> None:
    axes.spines[:].set_visible(False)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, length=0, which="both", labelsize=8.5)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure).print_png(path)
