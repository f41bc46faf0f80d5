// The plots, drawn again whenever a choice, the width or the colour scheme changes.
"use strict";

(() => {
  const X_AXES = {
    images: { title: "training images seen", hover: "%{x:,.0f} images" },
    step: { title: "step", hover: "step %{x:,.0f}" },
    hours: { title: "hours of training", hover: "%{x:.2f} hours" },
  };
  const SMOOTHING = { off: 0, light: 0.005, medium: 0.02, strong: 0.06 }; // share of the curve that a mean looks back over
  const FEW_POINTS = 40; // curves of fewer points show them
  const { metrics, evaluations } = reportData;
  const bandEvaluations = evaluations.ema.step.length ? evaluations.ema : evaluations.raw;
  const settings = { x: "images", y: "log", smoothing: "medium" };

  const PLOTS = {
    "plot-loss": {
      isLoss: true,
      curves: [
        { key: "train_loss", name: "training loss", from: metrics, values: "train_loss", colour: "--training", isNoisy: true },
        { key: "fixed_ema", name: "fixed images, EMA", from: evaluations.ema, values: "train_loss", colour: "--ema", dash: "dot" },
        { key: "fixed_raw", name: "fixed images, raw", from: evaluations.raw, values: "train_loss", colour: "--raw", dash: "dot" },
        { key: "heldout_raw", name: "held-out, raw", from: evaluations.raw, values: "heldout_loss", colour: "--raw" },
        { key: "heldout_ema", name: "held-out, EMA", from: evaluations.ema, values: "heldout_loss", colour: "--ema", width: 3 },
      ],
    },
    "plot-learning_rate": {
      startsAtZero: true,
      curves: [{ name: "learning rate", from: metrics, values: "learning_rate", colour: "--ink" }],
    },
    "plot-grad_norm": {
      startsAtZero: true,
      curves: [{ name: "gradient norm", from: metrics, values: "grad_norm", colour: "--ink", isNoisy: true }],
    },
    "plot-images_per_second": {
      startsAtZero: true,
      curves: [{ name: "images per second", from: metrics, values: "images_per_second", colour: "--ink" }],
    },
    "plot-ema_decay": { curves: [{ name: "EMA decay", from: metrics, values: "ema_decay", colour: "--ink" }] },
    "plot-bands": {
      isLoss: true,
      curves: ["layout", "shape", "detail"].map((band) => (
        { key: band, name: band, from: bandEvaluations, values: band, colour: `--${band}`, width: 2.5 }
      )),
    },
  };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const button = (curve) => curve.key && document.querySelector(`[data-curve="${curve.key}"]`);
  const hasValues = (curve) => curve.from[curve.values].some((value) => value !== null);

  // The same as `smooth` in series.py: an exponential mean, looking back less far while the loss still plunges.
  function smooth(values, timeConstant) {
    let mean = 0;
    let weight = 0;
    return values.map((value, index) => {
      if (value === null) return null;
      const keep = Math.exp(-1 / Math.min(timeConstant, 1 + index / 10));
      mean = keep * mean + (1 - keep) * value;
      weight = keep * weight + (1 - keep);
      return mean / weight;
    });
  }

  function trace(curve, values, look) {
    return {
      type: "scatter",
      mode: values.length <= FEW_POINTS ? "lines+markers" : "lines",
      name: curve.name,
      x: curve.from[settings.x],
      y: values,
      marker: { size: values.length === 1 ? 9 : 5 },
      hovertemplate: "%{y:.4~g}",
      ...look,
      line: { color: colour(curve.colour), width: curve.width ?? 2, dash: curve.dash, ...look.line },
    };
  }

  // A noisy curve is two traces: the values, faint and thin, and their running mean.
  function traces(curve) {
    if (!hasValues(curve) || button(curve)?.getAttribute("aria-pressed") === "false") return [];
    const values = curve.from[curve.values];
    const timeConstant = SMOOTHING[settings.smoothing] * values.length;
    if (!curve.isNoisy || timeConstant < 1) return [trace(curve, values, {})];
    const faint = { opacity: 0.35, line: { width: 1 }, mode: "lines", hoverinfo: "skip", hovertemplate: null };
    return [trace(curve, values, faint), trace(curve, smooth(values, timeConstant), { mode: "lines" })];
  }

  // Label 1, 2 and 5 of each power of ten, unless the curves span so little that no such tick might be in sight.
  function logTicks(drawn) {
    const values = drawn.flatMap((one) => one.y.filter((value) => value > 0));
    const span = values.reduce((most, value) => Math.max(most, value), 0) / values.reduce((least, value) => Math.min(least, value), Infinity);
    return span > 4 ? { dtick: "D2" } : {};
  }

  function layout(plot, drawn) {
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, automargin: true };
    const isLog = plot.isLoss && settings.y === "log";
    return {
      font: { family: colour("--font"), size: 12, color: colour("--quiet") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 8, r: 12, t: 8, b: 8 },
      showlegend: false,
      hovermode: "x unified",
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      xaxis: {
        ...axis,
        title: { text: X_AXES[settings.x].title, standoff: 8 },
        unifiedhovertitle: { text: X_AXES[settings.x].hover },
        spikecolor: colour("--quiet"),
        spikethickness: 1,
        rangemode: "tozero",
        nticks: 6,
      },
      yaxis: {
        ...axis,
        type: isLog ? "log" : "linear",
        minorloglabels: "complete",
        tickformat: isLog ? "~g" : "",
        exponentformat: "power",
        rangemode: plot.startsAtZero ? "tozero" : "normal",
        nticks: 6,
        ...(isLog ? logTicks(drawn) : {}),
      },
    };
  }

  function draw(id) {
    const element = document.getElementById(id);
    if (!element) return;
    const plot = PLOTS[id];
    const drawn = plot.curves.flatMap(traces);
    Plotly.react(element, drawn, layout(plot, drawn), { displayModeBar: false, responsive: true });
  }

  const drawAll = () => Object.keys(PLOTS).forEach(draw);

  function listen(name, setting) {
    for (const radio of document.querySelectorAll(`input[name="${name}"]`)) {
      radio.addEventListener("change", () => {
        settings[setting] = radio.value;
        drawAll();
      });
    }
  }

  for (const [id, plot] of Object.entries(PLOTS)) {
    for (const curve of plot.curves) {
      const toggle = button(curve);
      if (!toggle) continue;
      toggle.hidden = !hasValues(curve);
      toggle.addEventListener("click", () => {
        toggle.setAttribute("aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
        draw(id);
      });
    }
  }
  listen("y-scale", "y");
  listen("x-axis", "x");
  listen("smoothing", "smoothing");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  drawAll();
})();
