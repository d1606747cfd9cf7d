/* Charts as SVG: lines and points over two axes, drawn anew when their width changes, so that text keeps its size. */
"use strict";

const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [300, 58, 16, 38, 46];
const compact = (value) => Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 }).format(value);

function svg(tag, attributes, ...inside) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  made.append(...inside);
  return made;
}

/* Return an axis over values: {place(value): 0 to 1, ticks: at most `most`}. Logarithmic ticks are 1, 2, 5, 10, ..., or
   powers of ten where these would be too many; linear axes begin at 0. */
function makeAxis(values, log, most) {
  const largest = values.reduce((a, b) => Math.max(a, b), 0);
  if (!log) {
    const unit = 10 ** Math.floor(Math.log10((largest || 1) / most));
    const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => (largest || 1) / size <= most);
    const ticks = Array.from({ length: Math.floor((largest || 1) / step * 1.0001) + 1 }, (_, i) => i * step);
    return { place: (value) => value / (largest || 1), ticks };
  }
  const low = Math.log10(values.reduce((a, b) => Math.min(a, b), Infinity));
  const high = Math.max(Math.log10(largest), low + 0.3);
  const first = Math.floor(low), decades = Array.from({ length: Math.ceil(high) - first + 1 }, (_, i) => first + i);
  const within = (value) => Math.log10(value) >= low - 1e-9 && Math.log10(value) <= high + 1e-9;
  const choices = [
    ...[[1, 2, 5], [1, 3], [1]].map((digits) => decades.flatMap((power) => digits.map((digit) => digit * 10 ** power))),
    ...[2, 3, 4, 6, 9].map((step) => decades.filter((power) => power % step === 0).map((power) => 10 ** power)),
  ].map((ticks) => ticks.filter(within));
  return { place: (value) => (Math.log10(value) - low) / (high - low), ticks: choices.find((ticks) => ticks.length <= most) ?? [] };
}

/* Draw lines over two axes. `lines` are {points: [[x, y], ...], name, className, dots}; `x` and `y` are axes {name, log,
   format}; `marks` are dashed lines across, {x or y: value, label}. A logarithmic axis leaves out what is not above 0. */
function chart({ title, description, lines, x, y, marks = [] }) {
  const visible = ([a, b]) => (a > 0 || !x.log) && (b > 0 || !y.log);
  const drawn = lines.map((line) => ({ ...line, points: line.points.filter(visible) }));
  const all = drawn.flatMap((line) => line.points);
  if (!all.length) return element("p", { className: "note" }, `${title}: nothing to draw.`);
  const values = (i, name) => [...all.map((point) => point[i]), ...marks.map((mark) => mark[name]).filter((value) => value > 0)];
  const draw = (width) => {
    const axes = [makeAxis(values(0, "x"), x.log, (width - LEFT) / 60), makeAxis(values(1, "y"), y.log, 7)];
    const right = width - RIGHT, bottom = HEIGHT - BOTTOM;
    const across = (value) => LEFT + (right - LEFT) * axes[0].place(value), up = (value) => bottom - (bottom - TOP) * axes[1].place(value);
    const made = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": description });
    for (const value of axes[0].ticks) made.append(svg("line", { class: "grid", x1: across(value), x2: across(value), y1: TOP, y2: bottom }),
      svg("text", { x: across(value), y: bottom + 17, "text-anchor": "middle" }, (x.format ?? compact)(value)));
    for (const value of axes[1].ticks) made.append(svg("line", { class: "grid", x1: LEFT, x2: right, y1: up(value), y2: up(value) }),
      svg("text", { x: LEFT - 7, y: up(value) + 4, "text-anchor": "end" }, (y.format ?? compact)(value)));
    made.append(svg("text", { class: "name", x: (LEFT + right) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, x.name),
      svg("text", { class: "name", x: 0, y: 12 }, y.name));
    for (const { points, className = "", dots } of drawn) {
      if (dots) made.append(...points.map(([a, b]) => svg("circle", { class: `dot ${className}`, cx: across(a).toFixed(1), cy: up(b).toFixed(1), r: 2.5 })));
      else made.append(svg("polyline", { class: `line ${className}`, points: points.map(([a, b]) => `${across(a).toFixed(1)},${up(b).toFixed(1)}`).join(" ") }));
    }
    for (const { label, ...at } of marks) {
      const left = at.x > 0 && axes[0].place(at.x) < 0.75;
      if (at.x > 0) made.append(svg("line", { class: "mark", x1: across(at.x), x2: across(at.x), y1: TOP - 4, y2: bottom }),
        svg("text", { class: "label", x: across(at.x) + (left ? -4 : 4), y: TOP - 7, "text-anchor": left ? "start" : "end" }, label));
      if (at.y > 0) made.append(svg("line", { class: "mark", x1: LEFT, x2: right, y1: up(at.y), y2: up(at.y) }),
        svg("text", { class: "label", x: right - 4, y: up(at.y) - 6, "text-anchor": "end" }, label));
    }
    return made;
  };
  const place = element("div", { className: "plot" });
  let width = 0;
  const fit = () => {
    const room = Math.round(place.clientWidth);
    if (room && room !== width) place.replaceChildren(draw(width = room));
  };
  place.append(draw(640));
  new ResizeObserver(fit).observe(place);
  const legend = drawn.length > 1 ? [element("ul", { className: "legend" }, ...drawn.map(({ name, className = "" }) => element("li", {},
    svg("svg", { width: 26, height: 10, "aria-hidden": "true" }, svg("line", { class: `line ${className}`, x1: 0, x2: 26, y1: 5, y2: 5 })), name)))] : [];
  return element("figure", {}, element("figcaption", {}, title), ...legend, place);
}
