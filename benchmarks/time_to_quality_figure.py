"""The figure of time_to_quality.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

INK, QUIET, LINE = "#1c1f24", "#5a616c", "#e2e2dd"
COLOURS = {"copied": "#c2570c", "plain": "#9aa1ab", "ours": "#2457d6"}


def draw_figure(runs: Sequence[dict[str, Any]], names: Mapping[str, str], path: Path) -> None:
    """Draw the held-out loss of the EMA weights against seconds of training, a line a run, both logarithmic."""
    figure = Figure(figsize=(7.5, 4.5), dpi=130, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    named = set()
    for run in runs:
        label = None if run["name"] in named else names[run["name"]]
        named.add(run["name"])
        seconds, losses = zip(*((point["seconds"], point["ema"]) for point in run["points"]), strict=True)
        axes.plot(seconds, losses, color=COLOURS[run["name"]], linewidth=1.6, label=label)
        axes.plot(seconds[-1], losses[-1], "o", color=COLOURS[run["name"]], markersize=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
    axes.yaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("seconds of training, previews included", color=QUIET)
    axes.set_ylabel("loss on held-out images, EMA weights", color=QUIET)
    axes.legend(frameon=False, labelcolor=INK)
    axes.spines[:].set_visible(False)
    axes.grid(color=LINE, linewidth=0.8)
    axes.tick_params(colors=QUIET, length=0, which="both", labelsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
