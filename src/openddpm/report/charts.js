// Line charts as SVG, drawn again whenever the width, a choice or the curves shown change; charts.py says what is in them.
// Colours are variables of the style sheet, so they follow the colour scheme by themselves.
"use strict";

const charts = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT_OF_TEXT = 16; // px
  const WIDTH_OF_CHARACTER = 7; // px, of a digit
  const HEIGHT_OF_BAR = 12; // px
  const specs = reportData.charts;
  let hidden = new Set(); // keys of curves
  let isLinear = false; // y axes that are logarithmic otherwise

  const container = (id) => document.getElementById(`chart-${id}`);
  const isShown = (line) => !hidden.has(line.key);

  function add(parent, name, attributes, text = "") {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    parent.append(node);
    return node;
  }

  function short(value, unit) {
    const size = Math.abs(value);
    const [divisor, suffix] = size >= 1e9 ? [1e9, "B"] : size >= 1e6 ? [1e6, "M"] : size >= 1e3 ? [1e3, "k"] : [1, ""];
    const digits = size && size < 1e-4 ? size.toExponential(1).replace(".0", "") : String(Number((size / divisor).toPrecision(3)));
    const sign = value < 0 ? "\u2212" : unit === "%" && value > 0 ? "+" : "";
    return `${sign}${digits}${suffix}${unit && ` ${unit}`}`;
  }

  // An axis: from values to pixels, and back to ticks.
  function axis(values, isLog, startsAtZero, from, to) {
    const usable = values.filter((value) => value !== null && (!isLog || value > 0));
    if (!usable.length) return null;
    const scale = isLog ? Math.log10 : Number;
    let low = usable.reduce((one, other) => Math.min(one, other));
    let high = usable.reduce((one, other) => Math.max(one, other));
    if (startsAtZero) low = Math.min(0, low);
    let [first, last] = [scale(low), scale(high)];
    const margin = (last - first || Math.abs(last) || 1) * 0.05;
    if (!startsAtZero) first -= margin;
    if (!startsAtZero || first === last) last += margin;
    const place = (value) => from + ((scale(value) - first) / (last - first)) * (to - from);
    const ends = isLog ? [10 ** first, 10 ** last] : [first, last];
    return { place, ends, isLog, allows: (value) => value !== null && (!isLog || value > 0) };
  }

  function evenTicks([low, high], count) {
    const rough = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
    const first = Math.ceil(low / step - 1e-9);
    const number = Math.floor(high / step + 1e-9) - first + 1;
    return Array.from({ length: number }, (_, index) => Number(((first + index) * step).toPrecision(12)));
  }

  // 1, 2 and 5 of each power of ten, 1 and 3 over more powers, powers alone over many; evenly spaced ticks where that
  // leaves less than three within one power.
  function ticks({ ends, isLog }, count) {
    if (!isLog) return evenTicks(ends, count);
    const [low, high] = ends.map(Math.log10);
    const skipped = Math.max(1, Math.ceil((high - low) / count));
    const factors = [[1, 2, 5], [1, 3], [1]].find((some) => some.length === 1 || (high - low) * some.length <= count);
    const found = [];
    for (let power = Math.floor(low); power <= high; power += skipped) {
      found.push(...factors.map((factor) => Number(`${factor}e${power}`)));
    }
    const inside = found.filter((value) => value >= ends[0] && value <= ends[1]);
    return inside.length > 2 || (inside.length === 2 && high - low > 1) ? inside : evenTicks(ends, count).filter((value) => value > 0);
  }

  function path(xs, ys, x, y) {
    let isNew = true;
    return xs.map((value, index) => {
      if (!x.allows(value) || !y.allows(ys[index])) {
        isNew = true;
        return "";
      }
      const command = isNew ? "M" : "L";
      isNew = false;
      return `${command}${x.place(value).toFixed(1)} ${y.place(ys[index]).toFixed(1)}`;
    }).join("");
  }

  function drawArea(svg, area, x, y) {
    const known = area.x.map((_, index) => index).filter((index) => y.allows(area.low[index]) && y.allows(area.high[index]));
    const corner = (index, values) => `${x.place(area.x[index]).toFixed(1)} ${y.place(values[index]).toFixed(1)}`;
    const corners = [...known.map((index) => corner(index, area.high)), ...known.reverse().map((index) => corner(index, area.low))];
    add(svg, "path", { class: "chart-area", d: `M${corners.join("L")}Z` });
  }

  function drawLine(svg, line, x, y) {
    const group = add(svg, "g", { class: "chart-line", "data-line": line.key || line.name, style: `stroke: var(${line.colour}); fill: var(${line.colour})` });
    add(group, "path", { d: path(line.x, line.y, x, y), "stroke-width": line.width, "stroke-dasharray": line.dash, fill: "none" });
    const points = line.x.map((_, index) => index).filter((index) => x.allows(line.x[index]) && y.allows(line.y[index]));
    if (!line.has_dots && points.length > 1) return;
    for (const index of points) add(group, "circle", { cx: x.place(line.x[index]), cy: y.place(line.y[index]), r: 2.5 });
  }

  // A bar is never too narrow to be seen.
  function drawSpan(svg, span, x, top) {
    const [from, to] = [x.place(span.first), x.place(span.last)];
    const width = Math.max(3, to - from);
    const at = { x: Math.min(from, x.place(x.ends[1]) - width), y: top + 4 + span.row * (HEIGHT_OF_BAR + 4), rx: 2 };
    add(svg, "rect", { class: "chart-span", ...at, width, height: HEIGHT_OF_BAR, style: `fill: var(${span.colour})` });
  }

  // The words of a mark stand to the side with more room, and never beyond the chart.
  function drawMark(svg, mark, row, x, y, top, bottom, width) {
    const at = x.place(mark.x);
    add(svg, "line", { class: "chart-mark", x1: at, x2: at, y1: top, y2: bottom });
    if (y?.allows(mark.y)) add(svg, "circle", { class: "chart-dot", cx: at, cy: y.place(mark.y), r: 5 });
    const words = add(svg, "text", { class: "chart-words", y: top + 12 + row * HEIGHT_OF_TEXT }, mark.text);
    const length = words.getComputedTextLength();
    const wanted = at > width / 2 ? at - 6 - length : at + 6;
    words.setAttribute("x", Math.max(4, Math.min(wanted, width - length - 4)));
  }

  function draw(id) {
    const element = container(id);
    const spec = specs[id];
    const [width, height] = [element.clientWidth, element.clientHeight];
    element.replaceChildren();
    if (!width) return;
    const lines = spec.lines.filter(isShown);
    const numBars = Math.max(0, ...spec.spans.map((span) => span.row + 1));
    const [top, foot, right] = [6, height - 2.6 * HEIGHT_OF_TEXT, width - 14];
    const bottom = foot - numBars * (HEIGHT_OF_BAR + 4);
    const isLogY = spec.is_log_y && !isLinear;
    const heights = [...lines.flatMap((line) => line.y), ...spec.areas.flatMap((area) => [...area.low, ...area.high]), ...(spec.unit === "%" ? [0] : [])];
    const y = axis(heights, isLogY, false, bottom, top);
    const svg = add(element, "svg", { width, height, "aria-hidden": "true" });
    if (!y && !numBars) return void add(svg, "text", { class: "chart-words", x: width / 2, y: height / 2, "text-anchor": "middle" }, "no curve to show");
    const yTicks = y ? ticks(y, height / 38) : [];
    const left = 10 + WIDTH_OF_CHARACTER * Math.max(0, ...yTicks.map((value) => short(value, spec.unit).length));
    const x = axis([...lines.flatMap((line) => line.x), ...spec.areas.flatMap((area) => area.x), ...spec.spans.map((span) => span.last)], spec.is_log_x, !spec.is_log_x, left, right);
    if (!x) return;
    for (const value of yTicks) {
      const at = y.place(value);
      add(svg, "line", { class: value === 0 && spec.unit === "%" ? "chart-zero" : "chart-grid", x1: left, x2: right, y1: at, y2: at });
      add(svg, "text", { x: left - 6, y: at + 4, "text-anchor": "end" }, short(value, spec.unit));
    }
    for (const value of ticks(x, width / 75)) {
      add(svg, "line", { class: "chart-grid", x1: x.place(value), x2: x.place(value), y1: top, y2: foot });
      add(svg, "text", { x: x.place(value), y: foot + 16, "text-anchor": "middle" }, short(value, ""));
    }
    add(svg, "text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, spec.x_title);
    for (const area of spec.areas) drawArea(svg, area, x, y);
    for (const line of y ? lines : []) drawLine(svg, line, x, y);
    for (const span of spec.spans) drawSpan(svg, span, x, bottom);
    spec.marks.forEach((mark, row) => drawMark(svg, mark, row, x, y, top, foot, width));
    element.onpointermove = element.onpointerdown = (event) => point(element, svg, spec, lines, x, y, top, bottom, event);
    element.onpointerleave = () => element.querySelectorAll(".chart-pointer, .chart-tip").forEach((one) => one.remove());
  }

  // The height of a drawn line at a place on the x axis; null beside its ends and in its gaps.
  function heightAt(line, value, x, y) {
    const next = line.x.findIndex((one) => one >= value);
    if (next < 0) return null;
    const [from, to] = [Math.max(0, next - 1), next].map((index) => ({ x: line.x[index], y: line.y[index] }));
    if (to.x === value && y.allows(to.y)) return to.y;
    if (next === 0 || !x.allows(from.x) || !y.allows(from.y) || !y.allows(to.y)) return null;
    const share = (x.place(value) - x.place(from.x)) / (x.place(to.x) - x.place(from.x));
    return y.isLog ? from.y * (to.y / from.y) ** share : from.y + (to.y - from.y) * share;
  }

  // The heights of the curves at the point of any of them that is nearest to the pointer.
  function point(element, svg, spec, lines, x, y, top, bottom, event) {
    element.onpointerleave();
    const at = event.clientX - element.getBoundingClientRect().left;
    const named = lines.filter((line) => line.is_named);
    const known = !y ? [] : named.flatMap((line) => line.x.filter((value, index) => x.allows(value) && y.allows(line.y[index])));
    if (!known.length) return;
    const distance = (value) => Math.abs(x.place(value) - at);
    const value = known.reduce((best, one) => (distance(one) < distance(best) ? one : best));
    const place = x.place(value);
    add(svg, "line", { class: "chart-pointer", x1: place, x2: place, y1: top, y2: bottom });
    const tip = document.createElement("div");
    tip.className = "chart-tip";
    const unit = { "training images seen": " images" }[spec.x_title];
    tip.append(Object.assign(document.createElement("p"), { textContent: unit ? value.toLocaleString("en") + unit : `${spec.x_title} ${value.toLocaleString("en")}` }));
    for (const line of named) {
      const height = heightAt(line, value, x, y);
      if (height === null) continue;
      const row = document.createElement("p");
      const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
      swatch.style.borderColor = `var(${line.colour})`;
      row.append(swatch, `${line.name} ${short(height, spec.unit)}`);
      tip.append(row);
    }
    element.append(tip);
    tip.style.left = `${place > element.clientWidth / 2 ? Math.max(0, place - tip.offsetWidth - 10) : place + 10}px`;
  }

  const drawAll = () => Object.keys(specs).forEach(draw);

  function hide(keys) {
    hidden = new Set(keys);
    drawAll();
  }

  for (const radio of document.querySelectorAll("input[name='y-scale']")) {
    radio.addEventListener("change", () => {
      isLinear = radio.value === "linear";
      drawAll();
    });
  }
  window.addEventListener("resize", drawAll);
  drawAll();
  return { hide };
})();
