"""The loss curves as a picture for the model card."""

import warnings
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from openddpm.record.reader import RunFolder
from openddpm.report.series import MAX_POINTS, Column, smooth, thin
from openddpm.report.weights import drawn_weights

SIZE_INCHES, DOTS_PER_INCH = (8.0, 10 / 3), 150  # 1200 x 500 pixels
SMOOTHING = 0.02  # share of the curve that the running mean covers
INK, QUIET, LINE = "#1c1f24", "#5a616c", "#e2e2dd"
TRAINING = "#7a828e"
THIN, THICK = 1.6, 2.2  # thick: the exported weights


def curves_png(run: RunFolder) -> bytes:
    """Draw training loss and held-out loss over the training images seen; return a PNG of 1200 x 500 pixels."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    buffer = BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of losses that no logarithmic scale can show
        _draw_training_loss(axes, run)
        _draw_heldout_losses(axes, run)
        _style(axes)
        canvas.print_png(buffer)
    return buffer.getvalue()


def _draw_training_loss(axes: Axes, run: RunFolder) -> None:
    columns = {
        "images": np.array([row.images_seen for row in run.metrics], dtype=np.float64),
        "loss": np.array([row.train_loss for row in run.metrics], dtype=np.float64),
    }
    columns = thin(columns, MAX_POINTS)
    images, loss = columns["images"], columns["loss"]
    smoothed = smooth(loss, max(1.0, SMOOTHING * len(loss)))
    axes.plot(images, loss, color=TRAINING, linewidth=0.6, alpha=0.4)
    axes.plot(images, smoothed, color=TRAINING, linewidth=1.8, label="training loss", marker=_marker(loss))


def _draw_heldout_losses(axes: Axes, run: RunFolder) -> None:
    measured = [row for row in run.evaluations if row.heldout_loss is not None]
    drawn = drawn_weights(row.weights for row in measured)
    for one in reversed(drawn):
        rows = [row for row in measured if row.weights == one.name]
        images = np.array([row.images_seen for row in rows], dtype=np.float64)
        loss = np.array([row.heldout_loss for row in rows], dtype=np.float64)
        width, label = THICK if one is drawn[0] else THIN, f"held-out loss, {one.term.name}"
        axes.plot(images, loss, color=one.colour, linewidth=width, label=label, marker=_marker(loss))


def _marker(values: Column) -> str:
    return "o" if len(values) == 1 else ""


def _style(axes: Axes) -> None:
    """Set scales, labels and colours; without a curve, say so."""
    axes.set_xlabel("training images seen", color=QUIET)
    axes.set_ylabel("mean squared error of the noise", color=QUIET)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[:].set_visible(False)
    axes.grid(color=LINE, linewidth=0.8)
    axes.tick_params(colors=QUIET, length=0, which="both")
    if any(len(line.get_xdata()) for line in axes.lines):  # type: ignore[arg-type]
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False, labelcolor=INK, loc="upper right")
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no step logged yet", color=QUIET, ha="center", transform=axes.transAxes)
