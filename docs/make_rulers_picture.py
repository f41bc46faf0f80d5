"""Draws what docs/baselines.md shows of real runs: `python docs/make_baselines_picture.py RUN ... PICTURE.png`."""

import sys
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from openddpm.analysis.verdict import judge
from openddpm.record.reader import RunFolder, read_run_folder
from openddpm.record.schema import Weights

COLOURS: dict[Weights, str] = {"ema": "#2457d6", "raw": "#c2570c"}
NAMES: dict[Weights, str] = {"ema": "EMA weights", "raw": "raw weights"}


def draw(runs: list[RunFolder], path: Path) -> None:
    """Write a picture with a row a run: its skill over images, its loss by noise level, its last samples."""
    figure = Figure(figsize=(13, 3.6 * len(runs)), dpi=100, layout="constrained")
    rows = figure.subplots(len(runs), 3, width_ratios=(4, 4, 2.6), squeeze=False)
    for (skill, levels, samples), run in zip(rows, runs, strict=True):
        _draw_skill(skill, run)
        _draw_levels(levels, run)
        preview = run.previews[-1]
        samples.imshow(np.asarray(Image.open(preview.pictures["ema"]).convert("RGB")), interpolation="nearest")
        samples.set_title("last samples", fontsize=10)
        samples.set_axis_off()
        verdict = judge(run.run, run.metrics, run.evaluations, run.baselines)
        skill.set_title(run.run.name, loc="left", fontweight="bold")
        levels.set_title(fill(verdict.sentence, 75), loc="left", fontsize=9)
    figure.savefig(path)


def _draw_skill(axes: Axes, run: RunFolder) -> None:
    for weights in ("raw", "ema"):
        rows = [row for row in run.evaluations if row.weights == weights and row.skill is not None]
        images = [row.images_seen for row in rows]
        axes.plot(images, [row.skill for row in rows], color=COLOURS[weights], label=f"held-out, {NAMES[weights]}")
        if weights == "ema":
            axes.plot(images, [row.train_skill for row in rows], "--", color=COLOURS[weights], label="training images")
    axes.axhline(0, color="black", linewidth=0.8)
    last = run.evaluations[-1].skill
    axes.set_ylim(-1.2 if last is None or last > -1 else last - 1, 1)
    axes.set_xlabel("training images seen")
    axes.set_ylabel("skill")
    axes.legend(fontsize=8, frameon=False)


def _draw_levels(axes: Axes, run: RunFolder) -> None:
    baselines = run.baselines
    assert baselines is not None
    last = {row.weights: row for row in run.evaluations}
    for name, values, style in (
        ("zero", baselines.zero, {"color": "#999999"}),
        ("gaussian", baselines.gaussian, {"color": "black"}),
        ("memory, training images", baselines.memorizing_train, {"color": "#7c3aad", "linestyle": ":"}),
        ("memory, held-out images", baselines.memorizing_heldout, {"color": "#7c3aad"}),
    ):
        axes.plot(baselines.snr, np.maximum(values, 1e-9), label=name, linewidth=1.2, **style)
    loss = [np.nan if value is None else value for value in last["ema"].by_timestep]
    axes.plot(baselines.snr, loss, "o-", color=COLOURS["ema"], label="EMA weights, held-out")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1e-5, 30)
    axes.set_xlabel("signal-to-noise ratio (left: much noise, right: little)")
    axes.set_ylabel("loss")
    axes.legend(fontsize=7, frameon=False, loc="lower right")


if __name__ == "__main__":
    draw([read_run_folder(Path(folder)) for folder in sys.argv[1:-1]], Path(sys.argv[-1]))
