// The plots, drawn again whenever a choice, the width or the colour scheme changes.
"use strict";

(() => {
  const X_AXES = {
    images_seen: { title: "training images seen", hover: "%{x:,.0f} images" },
    step: { title: "step", hover: "step %{x:,.0f}" },
    hours: { title: "hours of training", hover: "%{x:.2f} hours" },
    snr: { title: "signal-to-noise ratio (noise → image)", hover: "signal-to-noise ratio %{x:.2~g}", isLog: true },
  };
  const SMOOTHING = { off: 0, light: 0.005, medium: 0.02, strong: 0.06 }; // share of the curve that the moving average covers
  const FEW_POINTS = 40; // curves with fewer points show them as dots
  const { metrics, evaluations, reference, noise, bands } = reportData; // bands: log10 of the ends of each, null if open
  const bandEvaluations = evaluations[reportData.measured] ?? {};
  const LEAST_SKILL = -1; // worse values, early on, would only flatten the rest
  const settings = { x: "images_seen", y: "log", smoothing: "medium" };

  // A curve for each set of weights; that of the exported weights, the first, is thick and on top.
  function curvesOfWeights(prefix, name, source, values, look) {
    const curves = reportData.weights.map((one, index) => ({
      key: `${prefix}_${one.name}`,
      name: name ? `${name}, ${one.label}` : one.label,
      from: source(one.name),
      values: values ?? one.name,
      colour: one.variable,
      ...(index === 0 && one.name !== "raw" ? { width: 3 } : {}),
      ...look,
    }));
    return curves.reverse();
  }

  const PLOTS = {
    "plot-loss": {
      isLoss: true,
      curves: [
        { key: "reference", name: "other seeds", from: reference, values: "mean", colour: "--quiet", isBand: true, isBaseline: true, width: 1.5, dash: "dash" },
        { key: "train_loss", name: "training loss", from: metrics, values: "train_loss", colour: "--training", isNoisy: true },
        ...curvesOfWeights("fixed", "fixed images", (name) => evaluations[name], "fixed_train_loss", { dash: "dot", width: 2 }),
        ...curvesOfWeights("heldout", "held-out", (name) => evaluations[name], "heldout_loss"),
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
    "plot-noise": {
      x: "snr",
      isLog: true,
      frame: noiseFrame,
      curves: [
        { key: "zero", name: "knows nothing", from: noise, values: "zero", colour: "--ink", isBaseline: true, width: 1.5, dash: "dot" },
        { key: "linear", name: "linear filter", from: noise, values: "linear", colour: "--ink", isBaseline: true, width: 1.5, dash: "dash" },
        { key: "memorizing_train", name: "memorizes", from: noise, values: "memorizing_train", colour: "--memorizing", isBaseline: true, width: 1.5, dash: "dash" },
        { key: "memorizing_heldout", name: "memorizes, new images", from: noise, values: "memorizing_heldout", colour: "--memorizing", isBaseline: true, width: 1.5, dash: "dot" },
        ...curvesOfWeights("noise", "", () => noise),
      ],
    },
    "plot-skill": {
      frame: skillFrame,
      curves: [
        ...Object.keys(bands).map((band) => ({ key: band, name: band, from: bandEvaluations, values: band, colour: `--${band}` })),
        ...curvesOfWeights("skill", "", (name) => evaluations[name], "skill"),
      ],
    },
  };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const button = (curve) => curve.key && document.querySelector(`[data-curve="${curve.key}"]`);
  const hasValues = (curve) => (curve.from[curve.values] ?? []).some((value) => value !== null);
  const finite = (drawn) => drawn.flatMap((one) => one.y.filter((value) => value !== null));
  const xAxisOf = (plot) => X_AXES[plot.x ?? settings.x];
  const isLogPlot = (plot) => plot.isLog || (plot.isLoss && settings.y === "log");

  // The same as `smooth` in series.py: an exponential moving average, shorter while the loss still falls steeply.
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

  function trace(plot, curve, values, look) {
    return {
      type: "scatter",
      mode: values.length <= FEW_POINTS && !curve.isBaseline ? "lines+markers" : "lines",
      name: curve.name,
      x: curve.from[plot.x ?? settings.x],
      y: values,
      marker: { size: values.length === 1 ? 9 : 5 },
      hovertemplate: "%{y:.4~g}",
      ...look,
      line: { color: colour(curve.colour), width: curve.width ?? 2, dash: curve.dash, ...look.line },
    };
  }

  // Where other seeds lie: the area between `low` and `high`, and their mean.
  function bandTraces(plot, curve) {
    const edge = { mode: "lines", line: { width: 0 }, hoverinfo: "skip", hovertemplate: null };
    const area = { ...edge, fill: "tonexty", fillcolor: `${colour(curve.colour)}40` }; // hexadecimal, a quarter opaque
    return [trace(plot, curve, curve.from.low, edge), trace(plot, curve, curve.from.high, area), trace(plot, curve, curve.from.mean, {})];
  }

  // A noisy curve has two traces: the values, faint and thin, and their moving average.
  function traces(plot, curve) {
    if (!hasValues(curve) || button(curve)?.getAttribute("aria-pressed") === "false") return [];
    const values = curve.from[curve.values];
    if (curve.isBand) return bandTraces(plot, curve);
    const timeConstant = SMOOTHING[settings.smoothing] * values.length;
    if (!curve.isNoisy || timeConstant < 1) return [trace(plot, curve, values, {})];
    const faint = { opacity: 0.35, line: { width: 1 }, mode: "lines", hoverinfo: "skip", hovertemplate: null };
    return [trace(plot, curve, values, faint), trace(plot, curve, smooth(values, timeConstant), { mode: "lines" })];
  }

  // The noise bands as shaded areas with their names. The y axis fits the model and the linear filter: at little noise the loss
  // of the memorizing denoiser is almost 0, and on new images hundreds.
  function noiseFrame(drawn) {
    const leading = finite(drawn.filter((one) => !one.name.startsWith("memorizes"))).filter((value) => value > 0);
    const snr = noise.snr.map(Math.log10);
    const [least, most] = [snr[0], snr[snr.length - 1]];
    const shown = Object.entries(bands).map(([band, [low, high]]) => ({ band, low: Math.max(low ?? least, least), high: Math.min(high ?? most, most) }));
    return {
      xaxis: { range: [least, most], dtick: 1, tickformat: "~g" },
      yaxis: { range: [Math.log10(leading.reduce((one, other) => Math.min(one, other), 1)) - 0.3, 0.3], dtick: 1 },
      shapes: shown.map(({ band, low, high }) => (
        { type: "rect", xref: "x", yref: "paper", x0: 10 ** low, x1: 10 ** high, y0: 0, y1: 1, line: { width: 0 }, fillcolor: colour(`--${band}`), opacity: 0.08, layer: "below" }
      )),
      annotations: shown.map(({ band, low, high }) => (
        { text: band, x: (low + high) / 2, y: 1, yref: "paper", yanchor: "bottom", showarrow: false, font: { color: colour(`--${band}`) } }
      )),
    };
  }

  // The line of the linear filter, always visible, however good or bad the model is.
  function skillFrame(drawn) {
    const values = finite(drawn);
    const best = values.reduce((one, other) => Math.max(one, other), -Infinity);
    const least = Math.min(LEAST_SKILL, 1.5 * best);
    const low = Math.max(least, values.reduce((one, other) => Math.min(one, other), 0));
    const high = Math.max(best, 0.1);
    const margin = 0.08 * (high - low);
    return {
      yaxis: { range: [low - margin, high + margin], tickformat: "~g" },
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0, line: { color: colour("--ink"), isBaseline: true, width: 1.5, dash: "dash" } }],
      annotations: [{ text: "a linear filter", xref: "paper", x: 0.01, xanchor: "left", y: 0, yanchor: "bottom", showarrow: false }],
    };
  }

  // Label 1, 2 and 5 of each power of ten, unless the curves span so little that no such tick might be visible.
  function logTicks(drawn) {
    const values = drawn.flatMap((one) => one.y.filter((value) => value > 0));
    const span = values.reduce((most, value) => Math.max(most, value), 0) / values.reduce((least, value) => Math.min(least, value), Infinity);
    return span > 4 ? { dtick: "D2" } : {};
  }

  function layout(plot, drawn) {
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, automargin: true };
    const isLog = isLogPlot(plot);
    const x = xAxisOf(plot);
    const frame = plot.frame?.(drawn) ?? {};
    return {
      font: { family: colour("--font"), size: 12, color: colour("--quiet") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 8, r: 12, t: plot.x === "snr" ? 24 : 8, b: 8 },
      showlegend: false,
      hovermode: "x unified",
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      xaxis: {
        ...axis,
        type: x.isLog ? "log" : "linear",
        title: { text: x.title, standoff: 8 },
        unifiedhovertitle: { text: x.hover },
        spikecolor: colour("--quiet"),
        spikethickness: 1,
        rangemode: "tozero",
        nticks: 6,
        ...frame.xaxis,
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
        ...frame.yaxis,
      },
      shapes: frame.shapes ?? [],
      annotations: frame.annotations ?? [],
    };
  }

  function draw(id) {
    const element = document.getElementById(id);
    if (!element) return;
    const plot = PLOTS[id];
    const drawn = plot.curves.flatMap((curve) => traces(plot, curve));
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
