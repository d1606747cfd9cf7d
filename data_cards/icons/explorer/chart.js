/* Charts: lines over logarithmic axes, as SVG. */
"use strict";

/* Draw lines over logarithmic axes, with a mark at x. `lines` are {points: [[x, y], ...], className, name}. */
function chart(lines, xName, yName, mark, description) {
  const [width, height, left, bottom, top, right] = [640, 300, 70, 44, 12, 16];
  const drawn = lines.map((line) => ({ ...line, points: line.points.filter(([x, y]) => x > 0 && y > 0) }));
  const all = drawn.flatMap((line) => line.points);
  if (!all.length) return element("p", { className: "note" }, "Nothing to draw.");
  const axis = (values, from, to) => {
    const low = Math.floor(Math.log10(Math.min(...values))), high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
    const place = (value) => from + (to - from) * (Math.log10(value) - low) / (high - low);
    const step = Math.ceil((high - low) / 6);
    return { place, ticks: Array.from({ length: high - low + 1 }, (_, i) => low + i).filter((i) => (i - low) % step === 0).map((i) => 10 ** i) };
  };
  const x = axis(all.map((point) => point[0]), left, width - right), y = axis(all.map((point) => point[1]), height - bottom, top);
  const make = (tag, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    made.append(text);
    return made;
  };
  const short = (value) => Intl.NumberFormat("en-US", { notation: "compact" }).format(value);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": description });
  for (const value of x.ticks) svg.append(make("line", { class: "grid", x1: x.place(value), x2: x.place(value), y1: top, y2: height - bottom }),
    make("text", { x: x.place(value), y: height - bottom + 16, "text-anchor": "middle" }, short(value)));
  for (const value of y.ticks) svg.append(make("line", { class: "grid", x1: left, x2: width - right, y1: y.place(value), y2: y.place(value) }),
    make("text", { x: left - 6, y: y.place(value) + 4, "text-anchor": "end" }, short(value)));
  if (mark > 0) svg.append(make("line", { class: "mark", x1: x.place(mark), x2: x.place(mark), y1: top, y2: height - bottom }));
  for (const { points, className = "" } of drawn) {
    svg.append(make("polyline", { class: `line ${className}`, points: points.map(([a, b]) => `${x.place(a).toFixed(1)},${y.place(b).toFixed(1)}`).join(" ") }));
  }
  svg.append(make("text", { x: width - right, y: height - 6, "text-anchor": "end" }, xName));
  return element("figure", {}, element("figcaption", {}, yName), svg);
}
